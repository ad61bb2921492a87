"""
How fast is greedy transducer decoding, next to NeMo, transformers, nano-parakeet and ONNX Runtime?

All get the same weights (0.6B shapes) and the same encoder outputs, and must return the same tokens. The blank's bias
is chosen so that 3 to 4 tokens come a second, as in speech. Each implementation has a process of its own, so that
idle threads that spin do not slow down another, and reads weights and encoder outputs from the same files. Every round
runs each once, one after another, so that other load of the machine affects all of them; the minimum and the median of
the rounds are written.

    python benchmarks/bench_decoding.py --dtype float32 --output benchmarks/results/decoding_float32_cpu.csv

NeMo, transformers and onnxruntime are used where installed; nano-parakeet where its wheel is on the path
(`pip install --no-deps nano-parakeet`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from common.csv_files import write_rows
from common.decoding_systems import (
    DECODER_SIZE,
    DURATIONS,
    JOINT_SIZE,
    NUM_LAYERS,
    Tokens,
    Worker,
    build_model,
    draw_weights,
    make_frames,
)
from common.machine import name_machine
from common.timing import minimum_and_median, seconds_of, take_turns

COLUMNS = (
    *("family", "vocabulary", "dtype", "batch", "seconds", "implementation", "clips_ms_min", "clips_ms_median"),
    *(
        "ms_per_clip",
        "ms_per_token",
        "tokens",
        "rounds",
        "same_tokens",
        "ratio_to_ours",
        "torch",
        "threads",
        "machine",
    ),
)
CLIP_BY_CLIP = ("onnxruntime", "nano")


def list_implementations(family: str, dtype: str, only: list[str]) -> list[str]:
    names = ["nemo_float32", "transformers_float32", "onnxruntime_float32"]
    if family == "tdt":
        names.append("nano_parakeet_float32")
    if dtype != "float32":
        names.append(f"nemo_{dtype}")
    return [*(name for name in names if not only or name.split("_")[0] in only), f"ours_{dtype}"]


def run_case(
    workers: dict[str, Worker], rounds: int, max_seconds: float
) -> tuple[dict[str, list[float]], dict[str, Tokens]]:
    """Measure milliseconds of each round; an implementation that has used up `max_seconds` stops after two rounds."""
    milliseconds: dict[str, list[float]] = {name: [] for name in workers}
    tokens: dict[str, Tokens] = {}
    for _, name in take_turns(workers, rounds):
        spent = milliseconds[name]
        if len(spent) >= 2 and sum(spent) > 1000.0 * max_seconds:
            continue
        latest, tokens[name] = workers[name].decode()
        spent.append(latest)
    return milliseconds, tokens


def read_rate(family: str, vocabulary: int, dtype: torch.dtype) -> str:
    """Bytes that a step at batch 1 reads, and the rate at which a call that only reads gets through memory."""
    read = DECODER_SIZE * (4 * DECODER_SIZE + (NUM_LAYERS - 1) * 8 * DECODER_SIZE + JOINT_SIZE)
    head = JOINT_SIZE * (vocabulary + 1 + (len(DURATIONS) if family == "tdt" else 0))
    size = torch.tensor([], dtype=dtype).element_size()
    large = torch.ones(64 << 20)
    best = min(seconds_of(large.sum) for _ in range(5))
    return (
        f"{family} {vocabulary} {dtype}: {read * size / 1e6:.1f} MB a token and {head * size / 1e6:.1f} MB a look of "
        f"the joint; memory read at {large.numel() * 4 / best / 1e9:.1f} GB/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--families", nargs="+", default=["tdt", "rnnt"])
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[1024, 8192])
    parser.add_argument("--cases", nargs="+", default=["1x10", "1x30", "1x60", "8x10", "8x30", "32x30", "128x30"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--most-seconds", type=float, default=8.0, help="for one implementation and case")
    parser.add_argument("--most-clip-by-clip", type=int, default=8, help="largest batch for those without batches")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", default=[], help="implementations to compare with")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    written: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for family in arguments.families:
            for vocabulary in arguments.vocabularies:
                for rows in compare(arguments, family, vocabulary, Path(folder)):
                    written += rows
                    if arguments.output is not None:
                        write_rows(arguments.output, written, COLUMNS)


def compare(
    arguments: argparse.Namespace, family: str, vocabulary: int, folder: Path
) -> Iterator[list[dict[str, Any]]]:
    """The lines of each case."""
    model = build_model(family, vocabulary)
    draw_weights(model, family, vocabulary)
    weights, case_file = folder / "weights.safetensors", folder / "case.safetensors"
    save_file(model.state_dict(), weights)
    print(read_rate(family, vocabulary, getattr(torch, arguments.dtype)))
    workers = {
        name: Worker(name, family, vocabulary, arguments.threads, weights)
        for name in list_implementations(family, arguments.dtype, arguments.only)
    }
    for name, worker in workers.items():
        if worker.missing is not None:
            print(f"{name}: left out, {worker.missing}", file=sys.stderr)
    workers = {name: worker for name, worker in workers.items() if worker.missing is None}
    for case in arguments.cases:
        batch, seconds = (int(part) for part in case.split("x"))
        generator = torch.Generator().manual_seed(batch * 1000 + seconds)
        frames = make_frames(batch, seconds, generator)
        lengths = torch.randint(round(0.8 * frames.shape[1]), frames.shape[1] + 1, (batch,), generator=generator)
        lengths[0] = frames.shape[1]
        save_file({"frames": frames, "lengths": lengths}, case_file)
        # The time of systems that go clip by clip just grows with the number of clips, so larger batches are left out.
        fitting = {
            name: worker
            for name, worker in workers.items()
            if batch <= arguments.most_clip_by_clip or not name.startswith(CLIP_BY_CLIP)
        }
        for worker in fitting.values():
            worker.read(case_file)
        milliseconds, tokens = run_case(fitting, arguments.rounds, arguments.most_seconds)
        yield describe(arguments, family, vocabulary, batch, seconds, milliseconds, tokens)
    for worker in workers.values():
        worker.close()


def describe(
    arguments: argparse.Namespace,
    family: str,
    vocabulary: int,
    batch: int,
    seconds: int,
    milliseconds: dict[str, list[float]],
    tokens: dict[str, Tokens],
) -> list[dict[str, Any]]:
    ours = f"ours_{arguments.dtype}"
    reference = tokens.get("nemo_float32", tokens[ours])
    rows = []
    for name, spent in milliseconds.items():
        count = sum(map(len, tokens[name]))
        same = sum(found == expected for found, expected in zip(tokens[name], reference, strict=True))
        best, median = minimum_and_median(spent)
        ratio = best / min(milliseconds[ours])
        values = (
            family, vocabulary, name.split("_")[-1], batch, seconds, name, f"{best:.2f}", f"{median:.2f}",
            f"{best / batch:.3f}", f"{best / max(count, 1):.4f}", count, len(spent), f"{same}/{batch}", f"{ratio:.2f}",
            torch.__version__, arguments.threads, name_machine(),
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
        print(
            f"{family} {vocabulary} {batch} x {seconds} s {name:24s} {best:9.1f} ms (median "
            f"{median:9.1f}) {count} tokens, same {same}/{batch}, {ratio:.2f} x ours",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
