"""
How much do reading, features, decoding and writing add to the encoder in `fastconformer transcribe`?

The command runs in a process of its own, with a checkpoint of a published shape and random weights, on 30 s and 5
minutes of the recording of stories, the half hour of it, 2 hours of it again and again, and a folder of files of 2 to
30 s. The shapes of the encoder's inputs are noted, and afterwards only the encoder runs on inputs of these shapes
again, in the same process; with `--replays` only so many times for each shape, whose mean counts for the others. With
`--before` another revision takes turns with this one. The minimum of the rounds counts.

    pip install 'transformers-fastconformer[nemo]'
    python benchmarks/bench_command.py --shape parakeet-tdt-0.6b-v2 --dtype int8 --folder /tmp/shapes --before main
    python benchmarks/bench_command.py --shape parakeet-tdt_ctc-110m --cases 30s files --num_files 100

Rows of other cases in `results/command_<shape>_<dtype>_cpu.csv` stay as they are. `ratio` is the time of the command
after loading to that of the encoder, and `cpu_ratio` the same of the processor's time, which other load of the machine
changes little. System time and page faults are those after loading; `peak_mib` is of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch

from common.csv_files import read_rows, write_rows
from common.folders import RESULTS, ROOT
from common.machine import MIB, name_machine, process_seconds, read_memory, resident_bytes, use_given_threads
from common.nemo_shapes import find_archive
from common.revisions import write_sources
from common.speech import SAMPLING_RATE, SPEECH_DIR, STORIES, write_long_file
from common.timing import take_turns
from transformers_fastconformer.audio.files import load_waveform

# Seconds of one file; None: the recording of stories as it is. `files` are many short ones.
CASES: dict[str, float | None] = {"30s": 30.0, "5min": 300.0, "30min": None, "2h": 7200.0, "files": None}
FILE_SECONDS = (2.0, 30.0)

# In the process that is measured


class Usage(NamedTuple):
    """Time and page faults of this process up to now."""

    wall_seconds: float
    user_seconds: float
    system_seconds: float
    minor_faults: int

    @classmethod
    def now(cls) -> Usage:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(time.time(), used.ru_utime, used.ru_stime, used.ru_minflt)


class EncoderCall(NamedTuple):
    """A call of the encoder, with the shape of its features in their place."""

    encoder: Any
    shape: torch.Size
    given: tuple[Any, ...]
    named: dict[str, Any]


def run_command(report: Path, replays: int, arguments: list[str]) -> None:
    """Run the command, and after it only the encoder on inputs of the same shapes; figures go to `report`."""
    from transformers_fastconformer.cli import transcribe_run
    from transformers_fastconformer.cli.main import main as run_entry_point
    from transformers_fastconformer.modeling.encoder import FastConformerEncoder

    figures: dict[str, Any] = {}
    calls: list[EncoderCall] = []
    load_model, forward = transcribe_run.load_model, FastConformerEncoder.forward

    def load_and_note(*given: Any) -> Any:
        loaded = load_model(*given)
        figures["loaded"], figures["loaded_bytes"] = Usage.now(), resident_bytes()
        return loaded

    def encode_and_note(encoder: FastConformerEncoder, input_features: torch.Tensor, *given: Any, **named: Any) -> Any:
        calls.append(EncoderCall(encoder, input_features.shape, given, named))
        return forward(encoder, input_features, *given, **named)

    transcribe_run.load_model = load_and_note
    FastConformerEncoder.forward = encode_and_note  # type: ignore[method-assign]
    sys.argv = ["fastconformer", *arguments]
    # The entry point and not only its application: it decides what becomes of memory that is freed.
    try:
        run_entry_point()
    except SystemExit as end:
        if end.code:
            raise
    figures["ended"], figures["peak_bytes"] = Usage.now(), read_memory(os.getpid(), "VmHWM")
    figures["whole_seconds"] = process_seconds()
    FastConformerEncoder.forward = forward  # type: ignore[method-assign]
    figures |= {"encoder": replay(calls, forward, replays), "encoder_passes": len(calls)}
    figures |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    report.write_text(json.dumps(figures), encoding="utf-8")


@torch.inference_mode()
def replay(calls: list[EncoderCall], forward: Callable[..., Any], replays: int) -> list[float]:
    """What all calls of the encoder use, by `replays` calls of each shape (0: all of them)."""
    of_shapes: dict[torch.Size, list[EncoderCall]] = {}
    for call in calls:
        of_shapes.setdefault(call.shape, []).append(call)
    used = [0.0] * len(Usage._fields)
    for same in of_shapes.values():
        chosen = same[:replays] if replays else same
        for call in chosen:
            features = torch.randn(call.shape).to(call.encoder.dtype)
            start = Usage.now()
            forward(call.encoder, features, *call.given, **call.named)
            counted = len(same) / len(chosen)
            used = [total + counted * more for total, more in zip(used, subtract(Usage.now(), start), strict=True)]
    return used


def subtract(after: Usage, before: Usage) -> Usage:
    """What was used between two moments."""
    return Usage(*(value - start for value, start in zip(after, before, strict=True)))


# In the process that measures


def write_case(name: str, folder: Path, speech_dir: Path, num_files: int) -> tuple[Path, float]:
    """Audio of a case, made from the recording of stories if it exists: the file or folder, and its seconds."""
    recording = speech_dir / STORIES
    if name == "30min" and recording.is_file():
        return recording, soundfile.info(recording).duration
    seconds = CASES[name] or 1800.0
    path = folder / f"{name}.flac"
    if not recording.is_file():
        write_long_file(path, seconds)
        if name != "files":
            return path, seconds
    waveform = load_waveform(path if name == "files" and path.is_file() else recording, SAMPLING_RATE)
    if name == "files":
        return write_files(waveform, folder / name, num_files)
    with soundfile.SoundFile(path, "w", SAMPLING_RATE, 1, format="FLAC", subtype="PCM_16") as file:
        missing = round(seconds * SAMPLING_RATE)
        while missing:
            block = waveform[:missing]
            file.write(block)
            missing -= len(block)
    return path, seconds


def write_files(waveform: np.ndarray, folder: Path, num_files: int) -> tuple[Path, float]:
    """Many short files, cut at random from a recording: the folder, and their seconds together."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    num_samples = 0
    for number in range(num_files):
        length = round(generator.uniform(*FILE_SECONDS) * SAMPLING_RATE)
        start = int(generator.integers(len(waveform) - length))
        soundfile.write(folder / f"{number:04}.flac", waveform[start : start + length], SAMPLING_RATE)
        num_samples += length
    return folder, num_samples / SAMPLING_RATE


def measure(path: Path, archive: Path, dtype: str, sources: Path, replays: int) -> dict[str, Any]:
    """Figures of one run of the command with the package in `sources`."""
    with tempfile.TemporaryDirectory() as folder:
        report, output = Path(folder) / "report.json", Path(folder) / "output"
        command = ["transcribe", str(path), "--model", str(archive), "--output_dir", str(output), "--device", "cpu"]
        command += ["--format", "json,srt"]
        subprocess.run(
            [sys.executable, __file__, "--report", str(report), str(replays), *command, "--dtype", dtype],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(sources)},
        )
        figures = json.loads(report.read_text(encoding="utf-8"))
        transcripts = [json.loads(found.read_text(encoding="utf-8")) for found in sorted(output.glob("*.json"))]
    loaded, ended, encoder = (Usage(*figures[name]) for name in ("loaded", "ended", "encoder"))
    work = subtract(ended, loaded)
    strategies = Counter(transcript["strategy"] for transcript in transcripts)
    tokens = [transcript["timestamps"]["token"] for transcript in transcripts]
    return {
        "strategy": " ".join(strategies),
        "files": len(transcripts),
        "encoder_passes": figures["encoder_passes"],
        "whole_seconds": figures["whole_seconds"],
        "work_seconds": work.wall_seconds,
        "encoder_seconds": encoder.wall_seconds,
        "work_cpu_seconds": work.user_seconds + work.system_seconds,
        "encoder_cpu_seconds": encoder.user_seconds + encoder.system_seconds,
        "system_percent": 100 * work.system_seconds / (work.user_seconds + work.system_seconds),
        "minor_faults": work.minor_faults,
        "loaded_mib": round(figures["loaded_bytes"] / MIB),
        "peak_mib": round(figures["peak_bytes"] / MIB),
        "tokens": sum(map(len, tokens)),
        # Random weights give no words, but they take all steps.
        "is_in_order": all(
            (starts := [token["start"] for token in found]) == sorted(starts)
            and (not starts or starts[-1] <= transcript["duration_seconds"])
            for found, transcript in zip(tokens, transcripts, strict=True)
        ),
        "threads": figures["threads"],
        "torch": figures["torch"],
    }


def join_rounds(runs: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """A row from the runs of one side: times are the minimum of all, the rest is of the run that took the shortest."""
    row = dict(min(runs, key=lambda run: run["work_seconds"]))
    for name in ("whole", "work", "encoder", "work_cpu", "encoder_cpu"):
        row[f"{name}_seconds"] = round(min(run[f"{name}_seconds"] for run in runs), 2)
    row["ratio"] = round(row["work_seconds"] / row["encoder_seconds"], 3)
    row["cpu_ratio"] = round(row["work_cpu_seconds"] / row["encoder_cpu_seconds"], 3)
    row["system_percent"] = round(row["system_percent"], 1)
    row["faults_a_second"] = round(row["minor_faults"] / seconds, 1)
    return row


def write_results(path: Path, new: list[dict[str, Any]]) -> None:
    """Put rows in the place of those of the same cases and sides, in the order of the cases."""
    measured = {(row["case"], row["side"]) for row in new}
    kept = [row for row in read_rows(path) if row.get("case") in CASES and (row["case"], row["side"]) not in measured]
    rows = sorted([*kept, *new], key=lambda row: (list(CASES).index(row["case"]), row["side"]))
    write_rows(path, rows, list(new[0]))


def main() -> None:
    if sys.argv[1:2] == ["--report"]:
        use_given_threads()
        run_command(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="parakeet-tdt-0.6b-v2", help="name in benchmarks/common/nemo_shapes.py")
    parser.add_argument("--folder", type=Path, help="where the archive is kept for the next run")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "int8"))
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--num_files", type=int, default=300)
    parser.add_argument("--before", metavar="REVISION", help="a revision that takes turns with this one")
    parser.add_argument("--sides", nargs="+", default=["before", "now"], choices=("before", "now"))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--replays", type=int, default=0, help="passes of each shape that are replayed; 0: all")
    parser.add_argument("--speech_dir", type=Path, default=SPEECH_DIR)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        archive = find_archive(options.shape, folder)
        os.environ["TRANSFORMERS_FASTCONFORMER_CACHE"] = str(folder / "conversions")
        sources = {"now": ROOT / "src"}
        if options.before:
            sources = {"before": write_sources(options.before, Path(temporary)), **sources}
        sources = {side: path for side, path in sources.items() if side in options.sides}
        convert(archive, options.dtype, sources)
        target = RESULTS / f"command_{options.shape}_{options.dtype}_cpu.csv"
        for case in options.cases:
            path, seconds = write_case(case, Path(temporary), options.speech_dir, options.num_files)
            runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sources}
            for _, side in take_turns(sources, options.rounds, is_alternating=True):
                runs[side].append(measure(path, archive, options.dtype, sources[side], options.replays))
                print(json.dumps({"case": case, "side": side, **runs[side][-1]}), flush=True)
            known = {"shape": options.shape, "dtype": options.dtype, "case": case, "seconds": round(seconds, 1)}
            last = {"rounds": options.rounds, "machine": name_machine()}
            rows = [{"side": side, **known, **join_rounds(runs[side], seconds), **last} for side in sources]
            write_results(target, rows)


def convert(archive: Path, dtype: str, sources: dict[str, Path]) -> None:
    """Load the checkpoint once with each side, which converts it; a dtype that this machine lacks is told here."""
    load = "import sys; from transformers_fastconformer import load_model; load_model(*sys.argv[1:])"
    for path in sources.values():
        subprocess.run(
            [sys.executable, "-c", load, str(archive), "auto", "cpu", dtype],
            check=True,
            env={**os.environ, "PYTHONPATH": str(path)},
        )


if __name__ == "__main__":
    main()
