"""
Plots of speed and memory against the length of the clip.

They show what `bench_encoder.py`, `bench_memory.py`, `bench_longform_memory.py`, `bench_latency.py` and
`bench_live_words.py` have written, the losses of `compare_training.py` and the curves of `bench_from_scratch.py` and
`bench_adaptation.py`.

    pip install 'transformers-fastconformer[bench]'
    python benchmarks/plot_results.py

There is one picture for each shape and device: `docs/images/encoder_speed_<shape>_<device>.png`, for single clips with
full attention, and `docs/images/encoder_memory_<shape>_<dtype>_<device>.png`; for files from a minute to hours, by
strategy, `docs/images/longform_memory_<device>.png`; of live streams the time of a step by the number of streams,
`docs/images/latency_<shape>_<dtype>_<device>.png`, and word errors by latency, `docs/images/live_words_<device>.png`;
losses of the same training in NeMo and here, `docs/images/training_<dtype>_<device>.png`; word errors of small models
that learn from random weights, `docs/images/from_scratch_<dtype>_<device>.png`; word errors of a new speaker while a
checkpoint learns them, `docs/images/adaptation_speaker_<dtype>_<device>.png`; precision, recall and F of boosted
digits in noise by the strength of `bench_search.py`, `docs/images/search_words_demo_<device>.png`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.csv_files import read_rows
from common.folders import RESULTS, ROOT

IMAGES = ROOT / "docs" / "images"

Rows = list[dict[str, str]]
Points = list[tuple[float, float]]

# The colour shows the family, the line and the marker show the dtype; readable without seeing red and green apart.
COLOURS = {"ours": "#0072b2", "nemo": "#d55e00", "transformers": "#009e73", "onnxruntime": "#cc79a7"}
NAMES = {"ours": "this package", "nemo": "NeMo", "transformers": "transformers", "onnxruntime": "ONNX Runtime"}
STYLES = {"float32": ("-", "o"), "bfloat16": ("--", "s"), "float16": ("-.", "D"), "int8": (":", "^")}
STRATEGY_STYLES = {"full": ("#d55e00", "o"), "local": ("#009e73", "v"), "chunked": ("#0072b2", "s")}
HEAD_TITLES = {"ctc": "CTC", "rnnt": "RNN-T", "tdt": "TDT", "tdt-ctc": "TDT and CTC"}
HEAD_STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "v"), ("#cc79a7", "D"))
ADAPTATION_STYLES = {"full": ("all weights", "#0072b2", "o"), "lora": ("LoRA of rank 16", "#d55e00", "s")}
BOOSTING_COLUMNS = {"precision": "precision", "recall": "recall", "f_score": "F"}
SCRATCH_GOAL = 5.0
SHAPES = {
    "0.6b": "0.6B (width 1024, 24 blocks)",
    "0.6b-2layers": "0.6B (width 1024), 2 of its 24 blocks",
    "110m": "110M (width 512, 17 blocks)",
    "110m-2layers": "110M (width 512), 2 of its 17 blocks",
    "114m": "114M (width 512, 17 blocks)",
}


def read_all(paths: Iterable[Path]) -> Rows:
    """Read the rows of some result files, in order."""
    return [row for path in sorted(paths) for row in read_rows(path)]


def label_of(system: str) -> str:
    """Label of a system such as `ours_float32`, in words."""
    family, _, dtype = system.partition("_")
    return f"{NAMES.get(family, family)}, {dtype}"


def collect_speed(rows: Rows) -> dict[str, Points]:
    """For each system (seconds of the clip, seconds of audio a second), of single clips with full attention."""
    lines: dict[str, dict[float, float]] = defaultdict(dict)
    for row in rows:
        if row["batch"] == "1" and row["attention"] == "full" and row["ms_min"] and row["case"].startswith("1x"):
            length, speed = float(row["audio_seconds"]), float(row["seconds_of_audio_a_second"])
            # The best of several runs of a system.
            lines[row["system"]][length] = max(speed, lines[row["system"]].get(length, 0.0))
    return {system: sorted(points.items()) for system, points in lines.items()}


def collect_memory(rows: Rows, attention: str) -> tuple[dict[str, Points], dict[str, float]]:
    """For each system (minutes, MiB), and the minutes at which it was over the limit, if it was."""
    lines: dict[str, Points] = defaultdict(list)
    over: dict[str, float] = {}
    for row in rows:
        if row["attention"] != attention:
            continue
        minutes = float(row["audio_minutes"])
        if row["peak_mib"]:
            lines[row["system"]].append((minutes, float(row["peak_mib"])))
        elif row["note"].startswith(("over", "out of memory")):
            over[row["system"]] = min(minutes, over.get(row["system"], minutes))
    return {system: sorted(points) for system, points in lines.items()}, over


def draw_line(axes: Any, system: str, points: Points, label: str, is_local: bool = False) -> None:
    family, _, dtype = system.partition("_")
    style, marker = STYLES.get(dtype, ("-", "o"))
    axes.plot(
        *zip(*points, strict=True),
        color=COLOURS.get(family, "#555555"),
        linestyle=":" if is_local else style,
        marker="v" if is_local else marker,
        markerfacecolor="white" if is_local else None,
        markersize=6,
        linewidth=2.2 if family == "ours" else 1.5,
        label=label,
        zorder=3 if family == "ours" else 2,
    )


def finish_axes(axes: Any, title: str, x_label: str, y_label: str, x_ticks: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(title, fontsize=12)
    axes.set_xlabel(x_label, fontsize=11)
    axes.set_ylabel(y_label, fontsize=11)
    axes.set_xticks(list(x_ticks), [f"{tick:g}" for tick in x_ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=30))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", alpha=0.3)
    axes.tick_params(labelsize=10)
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def save_figure(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


def describe(rows: Rows) -> str:
    """Machine and threads of some rows."""
    row = next((row for row in rows if row["threads"]), rows[0])
    return row["machine"] + (f", {row['threads']} threads" if row["device"] == "cpu" else "")


def plot_speed(rows: Rows, path: Path) -> bool:
    """Draw the speed of one shape on one device; False where there is nothing to draw."""
    from matplotlib import pyplot

    lines = collect_speed(rows)
    if not lines:
        return False
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for system, points in sorted(lines.items(), key=lambda line: -line[1][-1][1]):
        draw_line(axes, system, points, label_of(system))
    ticks = sorted({length for points in lines.values() for length, _ in points})
    title = f"Encoder {SHAPES.get(rows[0]['shape'], rows[0]['shape'])}, one clip\n{describe(rows)}"
    finish_axes(axes, title, "length of the clip (s)", "speed (seconds of audio per second)", ticks)
    save_figure(figure, path)
    return True


def plot_memory(rows: Rows, path: Path) -> bool:
    """Draw the memory of one shape and dtype on one device; False where there is nothing to draw."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    ticks: set[float] = set()
    for attention in ("full", "local"):
        lines, over = collect_memory(rows, attention)
        for system, points in lines.items():
            label = label_of(system) + (", window of 128 + 128 frames" if attention == "local" else "")
            if system in over:
                label += f"\n(over {float(rows[0]['limit_gib']):g} GiB at {over[system]:g} min)"
            draw_line(axes, system, [(minutes, mib / 1024.0) for minutes, mib in points], label, attention == "local")
            ticks.update(minutes for minutes, _ in points)
    if not ticks:
        pyplot.close(figure)
        return False
    shape = SHAPES.get(rows[0]["shape"], rows[0]["shape"])
    title = f"Peak memory of the encoder above its weights\n{shape}, {rows[0]['dtype']}, one clip"
    finish_axes(axes, title, "length of the clip (minutes)", "peak memory above the weights (GiB)", sorted(ticks))
    save_figure(figure, path)
    return True


def collect_longform(rows: Rows) -> dict[str, Points]:
    """For each strategy (minutes, MiB above the loaded model)."""
    lines: dict[str, Points] = defaultdict(list)
    for row in rows:
        lines[row["strategy"]].append((float(row["minutes"]), float(row["added_mib"])))
    return {strategy: sorted(points) for strategy, points in lines.items()}


def slope_per_minute(points: Points) -> float:
    """MiB for each further minute, from the middle one of two or more lengths to the longest."""
    (start, least), (end, most) = points[(len(points) - 1) // 2], points[-1]
    return (most - least) / (end - start)


def plot_longform(rows: Rows, path: Path) -> None:
    """Draw the memory of whole files by strategy."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    lines = collect_longform(rows)
    for strategy, points in sorted(lines.items(), key=lambda line: -line[1][-1][1]):
        colour, marker = STRATEGY_STYLES[strategy]
        label = strategy
        if len(points) > 1:
            label += f": {slope_per_minute(points):.3g} MiB a minute at the end"
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linewidth=2, label=label)
    ticks = sorted({minutes for points in lines.values() for minutes, _ in points})
    title = (
        "Peak memory of transcribe_file above the loaded model\ndemonstration checkpoint, float32, batches of 8 chunks"
    )
    finish_axes(axes, title, "length of the file (minutes)", "peak memory above the loaded model (MiB)", ticks)
    save_figure(figure, path)


def plot_latency(rows: Rows, path: Path) -> None:
    """Draw the time of a step of live streams against their number, a picture for each length of the chunk."""
    from matplotlib import pyplot

    chunks = sorted({int(row["chunk_ms"]) for row in rows})
    figure, all_axes = pyplot.subplots(1, len(chunks), figsize=(4 * len(chunks), 4), squeeze=False)
    for axes, chunk in zip(all_axes[0], chunks, strict=True):
        lines: dict[str, Points] = defaultdict(list)
        for row in rows:
            if int(row["chunk_ms"]) == chunk:
                lines[row["system"]].append((float(row["streams"]), float(row["ms_median"])))
        for system, points in lines.items():
            draw_line(axes, f"{system}_{rows[0]['dtype']}", sorted(points), NAMES.get(system, system))
        axes.axhline(chunk, color="#555555", linestyle=":", linewidth=1, label="length of the chunk")
        ticks = sorted({streams for points in lines.values() for streams, _ in points})
        finish_axes(axes, f"chunks of {chunk} ms", "streams", "time of a step (ms)", ticks)
        if chunk != chunks[-1]:
            axes.get_legend().remove()
    shape = SHAPES.get(rows[0]["shape"], rows[0]["shape"])
    figure.suptitle(f"Step of live streams, encoder {shape}, {rows[0]['dtype']}\n{describe(rows)}", y=1.06)
    figure.tight_layout()
    save_figure(figure, path)


def plot_live_words(rows: Rows, path: Path) -> None:
    """Draw the share of words that are lost, doubled, added or wrong against the latency of streams."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    lines: dict[str, Points] = defaultdict(list)
    for row in rows:
        if row["latency_ms"]:
            errors = sum(int(row[name]) for name in ("lost", "doubled", "added", "wrong"))
            lines[f"{row['how']}, {row['head']}"].append((float(row["latency_ms"]), 100 * errors / int(row["words"])))
    for (label, points), marker in zip(sorted(lines.items()), "osvD^P", strict=False):
        axes.plot(*zip(*sorted(points), strict=True), marker=marker, linewidth=2, label=label)
    ticks: list[float] = []
    for latency in sorted({latency for points in lines.values() for latency, _ in points}):
        if not ticks or latency > 1.3 * ticks[-1]:  # numbers must not lie on one another
            ticks.append(latency)
    finish_axes(axes, "Word errors of live streams, spoken digits", "latency (ms)", "word errors (%)", ticks)
    # None is an answer too, which a logarithm does not show.
    axes.set_yscale("linear")
    axes.set_ylim(bottom=0)
    save_figure(figure, path)


TRAINING_CASES = {
    ("tdt-ctc", "transducer_loss"): "demonstration: TDT",
    ("tdt-ctc", "ctc_loss"): "demonstration: CTC",
    ("rnnt", "loss"): "RNN-T from scratch",
    ("ctc", "loss"): "CTC from scratch",
}
# Relative difference that is asked for.
TRAINING_LIMIT = 1e-3


def plot_training(rows: Rows, path: Path) -> None:
    """Draw the losses of both systems, one upon the other, and below them their relative difference."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, len(TRAINING_CASES), figsize=(14, 5.5), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    for (key, title), (upper, lower) in zip(TRAINING_CASES.items(), axes.T, strict=True):
        chosen = [row for row in rows if (row["case"], row["loss"]) == key]
        steps = [int(row["step"]) for row in chosen]
        for system, width, style in (("nemo", 5.0, "-"), ("ours", 1.4, "-")):
            colour = COLOURS[system] if system == "ours" else "#f0b080"  # light, to lie under the other
            values = [float(row[system]) for row in chosen]
            upper.plot(steps, values, style, color=colour, linewidth=width, label=NAMES[system])
        upper.set_title(title, fontsize=11)
        upper.set_ylim(bottom=0)
        # A difference of zero has no place on a logarithm.
        differences = [max(float(row["difference_per_million"]), 1e-2) * 1e-6 for row in chosen]
        lower.plot(steps, differences, ".", color=COLOURS["ours"], markersize=3)
        lower.axhline(TRAINING_LIMIT, color="#888888", linestyle="--", linewidth=1)
        lower.set_yscale("log")
        lower.set_ylim(5e-9, 5e-3)
        lower.set_xlabel("step")
        for axis in (upper, lower):
            axis.grid(which="major", alpha=0.3)
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("relative difference\n(dashed: wanted)")
    axes[0, 0].legend(fontsize=9, frameon=False)
    save_figure(figure, path)


def plot_from_scratch(rows: Rows, path: Path) -> None:
    """Draw the word error rate of each head against the time of the processor."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for (head, title), (colour, marker) in zip(HEAD_TITLES.items(), HEAD_STYLES, strict=True):
        if not (chosen := [row for row in rows if row["head"] == head]):
            continue
        minutes = [float(row["processor_seconds"]) / 60 for row in chosen]
        axis.plot(
            minutes, [float(row["wer"]) for row in chosen], marker + "-", color=colour, markersize=3, label=title
        )
    axis.axhline(SCRATCH_GOAL, color="#888888", linestyle="--", linewidth=1)
    axis.set_ylim(0, 105)
    axis.set_xlim(left=0)
    axis.set_xlabel("minutes of the processor")
    axis.set_ylabel("word error rate, % (dashed: wanted)")
    axis.grid(which="major", alpha=0.3)
    axis.legend(fontsize=9, frameon=False)
    save_figure(figure, path)


def plot_adaptation(rows: Rows, path: Path) -> None:
    """Draw the word error rate of a new speaker against the steps: each seed thin, their mean thick."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for method, (title, colour, marker) in ADAPTATION_STYLES.items():
        by_step: dict[int, list[float]] = defaultdict(list)
        for seed in dict.fromkeys(row["seed"] for row in rows):
            chosen = [row for row in rows if (row["method"], row["seed"]) == (method, seed)]
            points = [(int(row["step"]), float(row["wer"])) for row in chosen]
            axis.plot([step for step, _ in points], [wer for _, wer in points], color=colour, linewidth=0.8, alpha=0.5)
            for step, wer in points:
                by_step[step].append(wer)
        means = [sum(values) / len(values) for values in by_step.values()]
        axis.plot(list(by_step), means, marker + "-", color=colour, markersize=4, label=title)
    axis.set_ylim(bottom=0)
    axis.set_xlim(left=0)
    axis.set_xlabel("steps of 30 seconds of audio")
    axis.set_ylabel("word error rate of the new speaker, %")
    axis.grid(which="major", alpha=0.3)
    axis.legend(fontsize=9, frameon=False)
    save_figure(figure, path)


def plot_boosting(rows: Rows, path: Path) -> None:
    """Draw precision, recall and F of boosted words against the strength, a picture for each level of noise."""
    from matplotlib import pyplot

    levels = list(dict.fromkeys(row["snr_db"] for row in rows))
    figure, all_axes = pyplot.subplots(
        1, len(levels), figsize=(3.4 * len(levels), 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, level in zip(all_axes[0], levels, strict=True):
        chosen = [row for row in rows if row["snr_db"] == level]
        strengths = [float(row["strength"]) for row in chosen]
        for (column, title), (colour, marker) in zip(BOOSTING_COLUMNS.items(), HEAD_STYLES, strict=False):
            axis.plot(strengths, [float(row[column]) for row in chosen], marker + "-", color=colour, label=title)
        axis.set_title(f"noise at {float(level):.0f} dB", fontsize=10)
        axis.set_xlabel("strength")
        axis.set_ylim(0, 1.03)
        axis.grid(which="major", alpha=0.3)
    all_axes[0][0].set_ylabel("of the boosted digit")
    all_axes[0][0].legend(fontsize=9, frameon=False)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--images", type=Path, default=IMAGES)
    arguments = parser.parse_args()
    import matplotlib

    matplotlib.use("agg")
    speed: dict[tuple[str, str], Rows] = defaultdict(list)
    for row in read_all(arguments.results.glob("encoder_*.csv")):
        speed[row["shape"], row["device"]].append(row)
    memory: dict[tuple[str, str, str], Rows] = defaultdict(list)
    for row in read_all(arguments.results.glob("memory_*.csv")):
        memory[row["shape"], row["dtype"], row["device"]].append(row)
    for key, rows in speed.items():
        path = arguments.images / f"encoder_speed_{'_'.join(key)}.png"
        if plot_speed(rows, path):
            print(f"written to {path}")
    for memory_key, rows in memory.items():
        path = arguments.images / f"encoder_memory_{'_'.join(memory_key)}.png"
        if plot_memory(rows, path):
            print(f"written to {path}")
    for source in sorted(arguments.results.glob("latency_*.csv")):
        path = arguments.images / f"{source.stem}.png"
        plot_latency(read_rows(source), path)
        print(f"written to {path}")
    if words := read_all(arguments.results.glob("live_words_demo*_cpu.csv")):
        path = arguments.images / "live_words_cpu.png"
        plot_live_words(words, path)
        print(f"written to {path}")
    for source in sorted(arguments.results.glob("from_scratch_*.csv")):
        plot_from_scratch(read_rows(source), arguments.images / f"{source.stem}.png")
    for source in sorted(arguments.results.glob("curve_adaptation_*.csv")):
        path = arguments.images / f"{source.stem.removeprefix('curve_')}.png"
        plot_adaptation(read_rows(source), path)
        print(f"written to {path}")
    for source in sorted(arguments.results.glob("search_words_*.csv")):
        path = arguments.images / f"{source.stem}.png"
        plot_boosting(read_rows(source), path)
        print(f"written to {path}")
    for source in sorted(arguments.results.glob("training_*.csv")):
        path = arguments.images / f"{source.stem}.png"
        plot_training(read_rows(source), path)
        print(f"written to {path}")
    for source in sorted(arguments.results.glob("longform_memory_*.csv")):
        path = arguments.images / f"{source.stem}.png"
        plot_longform(read_rows(source), path)
        print(f"written to {path}")


if __name__ == "__main__":
    main()
