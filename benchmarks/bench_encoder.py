"""
How fast is only the encoder, next to NeMo, transformers and ONNX Runtime, and how near the limit of the machine?

All have the same random weights of a published shape. Each system runs in a process of its own; they take turns,
round by round, and all but one are stopped meanwhile. The result has the minimum and the median of the passes, the
largest difference of the output from that of a float32 system, and the share of the ceiling: the rate at which
`torch.nn.functional.linear` multiplies matrices of the encoder's shapes in the same dtype, which takes turns too.

    python benchmarks/bench_encoder.py --dtype float32 --folder /tmp/encoders
    python benchmarks/bench_encoder.py --dtype bfloat16 --folder /tmp/encoders
    python benchmarks/bench_encoder.py --dtype int8 --folder /tmp/encoders
    python benchmarks/bench_encoder.py --dtype bfloat16 --device cuda --folder /tmp/encoders

A case is clips x seconds (`1x30`), with lengths from and to (`8x3-30`), with local attention (`local:1x3600`), or the
whole chain from samples to tokens (`chain:128x30`); `longest:full` and `longest:local` look for the longest clip that
fits. NeMo, transformers and onnxruntime take part where they are installed. `--folder` keeps the weights, whose
export to ONNX takes minutes, for the next run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from common.csv_files import write_rows
from common.encoder_shapes import (
    LOCAL_CONTEXT,
    MEL_FRAMES_PER_SECOND,
    PUBLISHED,
    ceiling_flops,
    count_flops,
    count_position_flops,
    our_config,
    shape_name,
)
from common.encoder_systems import DTYPES, FAMILIES, can_export, find_files, split_system
from common.encoder_workers import MissingSystemError, Worker, WorkerError, WorkerPool
from common.folders import RESULTS
from common.machine import GIB, MIB, available_bytes, name_machine
from common.timing import minimum_and_median, take_turns

SYSTEMS = {
    "float32": ["ours_float32", "nemo_float32", "transformers_float32", "onnxruntime_float32"],
    "bfloat16": ["ours_bfloat16", "nemo_bfloat16", "transformers_bfloat16", "nemo_float32"],
    "float16": ["ours_float16", "nemo_float16", "transformers_float16"],
    "int8": ["ours_int8", "onnxruntime_int8", "ours_bfloat16"],
}
CPU_CASES = ["1x10", "1x30", "1x120", "8x12", "8x3-30", "local:1x360", "local:1x3600"]
CASES = {
    ("float32", "cpu"): CPU_CASES,
    ("bfloat16", "cpu"): CPU_CASES,
    ("int8", "cpu"): ["1x10", "1x30", "1x120"],
}
CUDA_CASES = [
    *("1x10", "1x30", "1x120", "32x30", "128x30", "32x12", "32x3-30", "local:1x360", "local:1x3600"),
    *("chain:128x30", "longest:full", "longest:local"),
]
# Positions of the clips of an uneven batch between the shortest and the longest: with 3 to 30 s their mean is 12 s.
UNEVEN_SHARES = (0, 2 / 27, 4 / 27, 6 / 27, 8 / 27, 10 / 27, 15 / 27, 1)
LONGEST_HOURS = (0.5, 1, 2, 4, 8, 11, 12, 14, 16, 20, 24)

COLUMNS = (
    *("shape", "case", "batch", "audio_seconds", "attention", "system", "dtype", "ms_min", "ms_median", "passes"),
    *(
        "seconds_of_audio_a_second",
        "gflop",
        "position_gflop",
        "gflop_a_second",
        "ceiling_gflop_a_second",
        "share_of_ceiling",
    ),
    *("max_error", "relative_error", "reference", "time_over_ours", "peak_mib", "note"),
    *("torch", "threads", "device", "machine"),
)


@dataclass(frozen=True)
class Case:
    """Clips that are encoded in one pass, and the way: `full`, `local` or `chain`."""

    name: str
    clip_seconds: tuple[float, ...]
    kind: str = "full"

    @property
    def mel_lengths(self) -> list[int]:
        return [round(seconds * MEL_FRAMES_PER_SECOND) for seconds in self.clip_seconds]


def parse_case(name: str) -> Case:
    """Read a case such as `1x30`, `8x3-30`, `local:1x3600` or `chain:128x30`."""
    kind, _, batch = name.rpartition(":")
    count, _, seconds = batch.partition("x")
    shortest, _, longest = seconds.partition("-")
    try:
        low = float(shortest)
        high = float(longest or shortest)
        clips = tuple(
            round(low + (high - low) * UNEVEN_SHARES[index % len(UNEVEN_SHARES)], 2) for index in range(int(count))
        )
    except ValueError:
        clips = ()
    if kind not in ("", "local", "chain") or not clips or min(clips) <= 0:
        raise ValueError(
            f"case {name!r} is not known; expected such as '1x30', '8x3-30', 'local:1x360', 'chain:8x30'."
        )
    return Case(name, clips, kind or "full")


class Benchmark:
    """One run: its workers, and the rows that it has written."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, temporary: Path, path: Path) -> None:
        self.arguments = arguments
        self.shape = shape_name(arguments.shape, arguments.layers)
        self.folder, self.temporary, self.path = folder, temporary, path
        self.rows: list[dict[str, Any]] = []
        self.config = our_config(self.shape)
        size, wide = self.config.hidden_size, self.config.intermediate_size
        weights_bytes = 4 * self.config.num_hidden_layers * (4 * size * wide + 8 * size * size)
        self.expected_bytes = 2 * weights_bytes + GIB  # of a worker while it loads
        self.pool = WorkerPool(int(arguments.memory_gib * GIB))
        self.missing: set[str] = set()

    def worker(self, system: str, kind: str) -> Worker:
        options = self.arguments
        worker = Worker(system, self.shape, self.folder, kind, options.device, options.threads)
        return self.pool.find(worker, self.expected_bytes)

    def run_worker(self, system: str, case: Case, notes: dict[str, str], **options: Any) -> dict[str, Any] | None:
        """Give one system its turn; None if it fails, with the reason in `notes`."""
        try:
            return self.worker(system, case.kind).run(
                case.clip_seconds, int(self.arguments.limit_gib * GIB), **options
            )
        except MissingSystemError as error:
            print(f"{system}: left out, {error}", file=sys.stderr)
            self.missing.add(system)
        except WorkerError as error:
            limit = f"over {self.arguments.limit_gib:g} GiB"
            notes[system] = limit if str(error) == "over" else str(error)
        return None

    def run_case(self, case: Case) -> None:
        """Run every system over one batch, in turns, and write their rows."""
        systems = [
            system
            for system in self.arguments.systems
            if system not in self.missing and case.kind in FAMILIES[split_system(system)[0]].kinds
        ]
        spent: dict[str, list[float]] = {}
        notes: dict[str, str] = {}
        peaks: dict[str, int] = {}
        errors: dict[str, tuple[float, float]] = {}
        reference, reference_answer = self.find_reference(case, notes)
        # A first pass by itself, in which fast forms are made and buffers are allocated. A long pass is not repeated.
        for system in systems:
            if system in notes:  # it failed when it was asked for the reference
                continue
            path = self.temporary / f"{system}.safetensors"
            if system == reference:
                answer = reference_answer
                errors[system] = (0.0, 0.0)
            else:
                answer = self.run_worker(system, case, notes, save=str(path))
            if answer is None:
                continue
            spent[system] = answer["milliseconds"] if self.is_enough(answer["milliseconds"]) else []
            peaks[system] = answer["peak_bytes"] - answer["resident_before"]
            if path.exists():
                if reference is not None:
                    errors[system] = compare(path, self.temporary / f"reference-{reference}.safetensors")
                path.unlink()
        ceilings = dict.fromkeys(f"ceiling_{split_system(system)[1]}" for system in spent)
        rates: dict[str, float] = {}
        for number, system in take_turns([*ceilings, *spent], self.arguments.rounds, is_alternating=True):
            is_ceiling = system in ceilings
            if not is_ceiling and self.is_enough(spent[system]):
                continue
            if is_ceiling and number > 0 and all(self.is_enough(times) for times in spent.values()):
                continue
            ceiling_case = Case(case.name, case.clip_seconds) if is_ceiling else case
            answer = self.run_worker(system, ceiling_case, notes, turn_seconds=self.arguments.turn_seconds)
            if answer is None:
                continue
            if is_ceiling:
                rate = ceiling_flops(self.config, case.mel_lengths) / min(answer["milliseconds"]) / 1e6
                rates[system] = max(rate, rates.get(system, 0.0))
            else:
                spent[system] += answer["milliseconds"]
                peaks[system] = max(peaks[system], answer["peak_bytes"] - answer["resident_before"])
                if answer["note"]:
                    notes[system] = answer["note"]
        self.write(case, systems, spent, notes, peaks, errors, rates, reference)

    def is_enough(self, milliseconds: Sequence[float]) -> bool:
        return sum(milliseconds) > 1000.0 * self.arguments.most_seconds

    def find_reference(self, case: Case, notes: dict[str, str]) -> tuple[str | None, dict[str, Any] | None]:
        """Run the float32 system that a case is compared with, whose outputs go to a file; its name and its pass."""
        if case.kind == "chain":
            return None, None
        for system in self.arguments.references:
            if system in self.missing or case.kind not in FAMILIES[split_system(system)[0]].kinds:
                continue
            path = self.temporary / f"reference-{system}.safetensors"
            answer = self.run_worker(system, case, notes, save=str(path))
            if answer is not None:
                return system, answer
        return None, None

    def write(
        self,
        case: Case,
        systems: Sequence[str],
        spent: dict[str, list[float]],
        notes: dict[str, str],
        peaks: dict[str, int],
        errors: dict[str, tuple[float, float]],
        rates: dict[str, float],
        reference: str | None,
    ) -> None:
        window = sum(LOCAL_CONTEXT) + 1 if case.kind == "local" else None
        gflop = count_flops(self.config, case.mel_lengths, window) / 1e9
        position_gflop = count_position_flops(self.config, max(case.mel_lengths), window) / 1e9
        ours = next((min(spent[name]) for name in systems if name.startswith("ours") and spent.get(name)), None)
        for system in systems:
            if system in self.missing:
                continue
            dtype = split_system(system)[1]
            row = self.start_row(case, system) | {"note": notes.get(system, "")}
            row |= {"gflop": f"{gflop:.1f}", "position_gflop": f"{position_gflop:.1f}"}
            if spent.get(system):
                best, median = minimum_and_median(spent[system])
                row |= {"ms_min": f"{best:.2f}", "ms_median": f"{median:.2f}"}
                row |= {"passes": len(spent[system])}
                row["seconds_of_audio_a_second"] = f"{1000.0 * sum(case.clip_seconds) / best:.2f}"
                row["gflop_a_second"] = f"{1000.0 * gflop / best:.1f}"
                ceiling = rates.get(f"ceiling_{dtype}")
                if ceiling is not None:
                    row["ceiling_gflop_a_second"] = f"{ceiling:.1f}"
                    row["share_of_ceiling"] = f"{1000.0 * gflop / best / ceiling:.3f}"
                if system in peaks:
                    row["peak_mib"] = f"{peaks[system] / MIB:.1f}"
                if ours is not None:
                    row["time_over_ours"] = f"{best / ours:.2f}"
            if system in errors:
                row |= {"max_error": f"{errors[system][0]:.2e}", "relative_error": f"{errors[system][1]:.2e}"}
                row["reference"] = reference
            self.finish_row(row)

    def start_row(self, case: Case, system: str) -> dict[str, Any]:
        return {
            **{"shape": self.shape, "case": case.name, "batch": len(case.clip_seconds)},
            **{
                "audio_seconds": f"{sum(case.clip_seconds):g}",
                "attention": "local" if case.kind == "local" else "full",
            },
            **{"system": system, "dtype": split_system(system)[1], "device": self.arguments.device},
            "machine": name_machine(self.arguments.device),
        }

    def finish_row(self, row: dict[str, Any]) -> None:
        about = next((worker.about for worker in self.pool.workers.values() if worker.about), {})
        row |= {"torch": about.get("torch", ""), "threads": about.get("threads", "")}
        self.rows.append(row)
        write_rows(self.path, self.rows, COLUMNS)
        print(
            f"{row['case']:14s} {row['system']:22s} {row.get('ms_min', '-'):>11s} ms (median "
            f"{row.get('ms_median', '-'):>11s})  {row.get('seconds_of_audio_a_second', '-'):>9s} x real time  "
            f"{row.get('share_of_ceiling', '-'):>6s} of the ceiling  error {row.get('max_error', '-')} "
            f"{row.get('note', '')}",
            flush=True,
        )

    def find_longest(self, kind: str) -> None:
        """Encode longer and longer clips, each in a fresh process, until one does not fit."""
        self.pool.stop()
        system = self.arguments.systems[0]
        for hours in self.arguments.longest_hours:
            case = Case(f"longest:{kind}", (3600.0 * hours,), kind)
            notes: dict[str, str] = {}
            worker = self.worker(system, kind)
            self.run_worker(system, Case("first", (10.0,), kind), notes)
            answer = self.run_worker(system, case, notes)
            worker.stop()
            milliseconds = {} if answer is None else {system: answer["milliseconds"]}
            peaks = {} if answer is None else {system: answer["peak_bytes"] - answer["resident_before"]}
            self.write(case, [system], milliseconds, notes, peaks, {}, {}, None)
            if answer is None:
                return


def compare(path: Path, reference_path: Path) -> tuple[float, float]:
    """Largest difference, and root mean square of the difference divided by that of the reference."""
    found, expected = load_file(path)["frames"], load_file(reference_path)["frames"]
    if found.shape != expected.shape:
        raise ValueError(
            f"output of shape {tuple(found.shape)}; expected {tuple(expected.shape)} as of the reference."
        )
    difference = found.sub_(expected)
    return float(difference.abs().max()), float(difference.norm() / expected.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--shape", default="0.6b", choices=(*PUBLISHED, "tiny"))
    parser.add_argument("--layers", type=int, help="another number of layers")
    parser.add_argument("--folder", type=Path, help="where weights are kept for the next run")
    parser.add_argument("--systems", nargs="+", help="such as ours_float32; the first is ours")
    parser.add_argument("--references", nargs="*", default=["nemo_float32", "ours_float32"], help="the first that can")
    parser.add_argument("--cases", nargs="+")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turn-seconds", type=float, default=1.0, help="as many passes as fit into a turn")
    parser.add_argument("--most-seconds", type=float, default=60.0, help="for one system and case")
    parser.add_argument("--threads", type=int, default=0, help="of each system; 0: as many as torch takes")
    parser.add_argument("--memory-gib", type=float, default=0.8 * available_bytes() / GIB, help="for sleeping workers")
    parser.add_argument("--limit-gib", type=float, default=8.0, help="a pass that takes more is ended (CPU)")
    parser.add_argument("--longest-hours", nargs="+", type=float, default=LONGEST_HOURS)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/encoder_<dtype>_<device>.csv")
    arguments = parser.parse_args()
    is_cuda = arguments.device == "cuda"
    names = arguments.cases or (CUDA_CASES if is_cuda else CASES.get((arguments.dtype, "cpu"), CPU_CASES))
    if arguments.systems is None:
        chain = [f"chain_{arguments.dtype}"] if is_cuda and arguments.dtype != "int8" else []
        arguments.systems = [*SYSTEMS[arguments.dtype], *chain]
    cases = [name if name.startswith("longest:") else parse_case(name) for name in names]
    for system in (*arguments.systems, *arguments.references):
        split_system(system)
    path = arguments.output or RESULTS / f"encoder_{arguments.dtype}_{arguments.device}.csv"
    onnx = [split_system(system)[1] for system in arguments.systems if system.startswith("onnxruntime")]
    if onnx and not can_export():
        print("onnxruntime: left out, as its model is exported by nemo and onnx", file=sys.stderr)
        arguments.systems = [system for system in arguments.systems if not system.startswith("onnxruntime")]
        onnx = []
    with tempfile.TemporaryDirectory() as temporary:
        shape = shape_name(arguments.shape, arguments.layers)
        folder = find_files(shape, arguments.folder or Path(temporary), onnx)
        benchmark = Benchmark(arguments, folder, Path(temporary), path)
        try:
            for case in cases:
                if isinstance(case, str):
                    benchmark.find_longest(case.removeprefix("longest:"))
                else:
                    benchmark.run_case(case)
        finally:
            benchmark.pool.stop()
    print(f"written to {path}")


if __name__ == "__main__":
    main()
