"""
How much memory does the encoder take above its weights, and how does it grow, next to NeMo and transformers?

Every point is a process of its own with the same random weights of a published shape. It loads, reads every weight
once, and then makes one pass over one clip. The result is the peak of resident (on a CUDA device: allocated) memory in
that pass above the memory before it. It includes the output and everything that is made of the weights in the first
pass, but not the features. `kept_mib` is the memory that was still taken afterwards. Libraries that are initialised in
the first pass take about 20 MiB in every system.

    python benchmarks/bench_memory.py --shape 110m --folder /tmp/encoders
    python benchmarks/bench_memory.py --shape 0.6b --folder /tmp/encoders

A system that would exceed `--limit-gib` is ended, "over" is written for it, and it is not asked for longer clips.
`--layers 2` shortens long runs: every block uses the memory of the one before again, so that the peak is about the
same, but without the forms of the weights of the blocks left out.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from common.csv_files import write_rows
from common.encoder_shapes import PUBLISHED, shape_name
from common.encoder_systems import DTYPES, FAMILIES, can_export, find_files, split_system
from common.encoder_workers import MissingSystemError, Worker, WorkerError
from common.folders import RESULTS
from common.machine import GIB, MIB, available_bytes, name_machine

COLUMNS = (
    *("shape", "attention", "system", "dtype", "audio_minutes", "peak_mib", "kept_mib", "over_ours", "weights_mib"),
    *("seconds", "note", "limit_gib", "torch", "threads", "device", "machine"),
)
CASES = ("full:1", "full:5", "full:10", "full:20", "full:60", "local:6", "local:60")


def parse_case(name: str) -> tuple[str, float]:
    """Read attention and minutes of a case such as `full:10` or `local:60`."""
    kind, _, minutes = name.partition(":")
    try:
        length = float(minutes)
    except ValueError:
        length = 0.0
    if kind not in ("full", "local") or length <= 0:
        raise ValueError(f"case {name!r} is not known; expected such as 'full:10' or 'local:60', in minutes.")
    return kind, length


def measure(worker: Worker, minutes: float, max_bytes: int) -> dict[str, Any]:
    """Measure one pass in a fresh process; the row has the reason if it fails."""
    try:
        answer = worker.run([60.0 * minutes], max_bytes)
    except MissingSystemError:
        raise
    except WorkerError as error:
        return {"note": str(error)}
    finally:
        worker.stop()
    row: dict[str, Any] = {
        "peak_mib": round((answer["peak_bytes"] - answer["resident_before"]) / MIB, 1),
        "kept_mib": round((answer["resident_after"] - answer["resident_before"]) / MIB, 1),
        "weights_mib": round(worker.about["weights_bytes"] / MIB, 1) or "",
        "seconds": f"{answer['milliseconds'][0] / 1000.0:.2f}",
        "torch": worker.about["torch"],
        "threads": worker.about["threads"],
    }
    if row["peak_mib"] * MIB > max_bytes:
        row["note"] = "over"  # the pass ended before the limit was checked
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="0.6b", choices=(*PUBLISHED, "tiny"))
    parser.add_argument("--layers", type=int, help="another number of layers")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--folder", type=Path, help="where weights are kept for the next run")
    parser.add_argument("--systems", nargs="+", default=["ours", "transformers", "nemo"], choices=tuple(FAMILIES))
    parser.add_argument("--cases", nargs="+", default=CASES, help="attention and minutes")
    parser.add_argument("--limit-gib", type=float, default=0.8 * available_bytes() / GIB, help="above the weights")
    parser.add_argument("--threads", type=int, default=0, help="of each system; 0: as many as torch takes")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/memory_<shape>_<dtype>_<device>.csv")
    arguments = parser.parse_args()
    systems = [f"{family}_{arguments.dtype}" for family in arguments.systems]
    if any(split_system(system)[0] == "onnxruntime" for system in systems) and not can_export():
        parser.error("onnxruntime needs nemo and onnx, which export its model")
    cases = [parse_case(name) for name in arguments.cases]
    shape = shape_name(arguments.shape, arguments.layers)
    path = arguments.output or RESULTS / f"memory_{shape}_{arguments.dtype}_{arguments.device}.csv"
    # Systems that did not fit, or are not installed, are not run again.
    left_out: set[tuple[str, str]] = set()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        onnx = [arguments.dtype] if "onnxruntime" in arguments.systems else []
        folder = find_files(shape, arguments.folder or Path(temporary), onnx)
        for kind, minutes in sorted(cases):
            ours = None
            for system in systems:
                family, dtype = split_system(system)
                if kind not in FAMILIES[family].kinds or (system, "") in left_out:
                    continue
                row: dict[str, Any] = {"note": "over, as a shorter clip was"}
                if (system, kind) not in left_out:
                    worker = Worker(system, shape, folder, kind, arguments.device, arguments.threads)
                    try:
                        row = measure(worker, minutes, int(arguments.limit_gib * GIB))
                    except MissingSystemError as error:
                        print(f"{system}: left out, {error}")
                        left_out.add((system, ""))
                        continue
                if row.get("note"):
                    left_out.add((system, kind))
                if family == "ours":
                    ours = row.get("peak_mib")
                if ours and row.get("peak_mib"):
                    row["over_ours"] = f"{row['peak_mib'] / ours:.2f}"
                row |= {"shape": shape, "attention": kind, "system": system, "dtype": dtype}
                row |= {"audio_minutes": f"{minutes:g}", "limit_gib": f"{arguments.limit_gib:.1f}"}
                row |= {"device": arguments.device, "machine": name_machine(arguments.device)}
                rows.append(row)
                write_rows(path, rows, COLUMNS)
                print(
                    f"{shape} {kind:6s} {minutes:5g} min {system:22s} {row.get('peak_mib', '-'):>9} MiB above the "
                    f"weights, {row.get('kept_mib', '-')} kept, {row.get('seconds', '-')} s  {row.get('note', '')}",
                    flush=True,
                )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
