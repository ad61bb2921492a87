"""
Are this package's ONNX graphs as fast and small as those that NeMo exports of the same weights?

The encoders run in ONNX Runtime on random features, in turns, in float32 and in dynamic 8 bits by the same tool. The
memory of long audio is measured in processes of their own. Weights are random, of a published shape.

    python benchmarks/bench_onnx.py --folder graphs --archives archives
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.csv_files import read_rows, write_rows
from common.folders import RESULTS
from common.machine import GIB, MIB, name_machine, reset_peak, use_given_threads
from common.nemo_shapes import SHAPES, find_archive
from common.processes import run_limited
from common.timing import minimum_and_median, take_turns
from transformers_fastconformer import export_onnx, load_model
from transformers_fastconformer.export.int8 import QUANTIZED_OPERATIONS, int8_name

SHAPE = "parakeet-tdt_ctc-110m"
SECONDS = (10, 30, 120)
MEMORY_SECONDS = (300, 1200)
MEL_FRAMES_A_SECOND = 100
ENCODER, DECODER = "encoder-model.onnx", "decoder_joint-model.onnx"
TASKS = ("files", "time", "memory")
PRECISIONS = ("float32", "int8")
IDENTITY = ("system", "precision", "task", "seconds")
COLUMNS = ("shape", *IDENTITY, "minimum", "median", "rounds", "added_mib", "files", "megabytes", "error", "machine")
SYSTEMS = ("this package", "NeMo")
# Encoders by system and precision.
Graphs = dict[tuple[str, str], Path]


def export_nemo(archive: str, folder: Path) -> None:
    """NeMo's own export, in a process of its own."""
    from nemo.collections.asr.models import ASRModel

    folder.mkdir(parents=True, exist_ok=True)
    ASRModel.restore_from(archive, map_location="cpu").eval().export(str(folder / "model.onnx"))


def quantize(path: Path, target: Path) -> None:
    """A graph in 8 bits, by the settings of this package."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"op_types_to_quantize": list(QUANTIZED_OPERATIONS), "per_channel": True}
    quantize_dynamic(str(path), str(target), reduce_range=True, weight_type=QuantType.QInt8, **options)


def make_graphs(shape: str, folder: Path, archives: Path) -> Graphs:
    """Export what is not in the folder yet."""
    graphs: Graphs = {}
    for system in SYSTEMS:
        place = folder / shape / system.replace(" ", "-")
        if not (place / ENCODER).exists():
            archive = find_archive(shape, archives)
            if system == "NeMo":
                command = [sys.executable, __file__, "--export_nemo", str(archive), "--folder", str(place)]
                subprocess.run(command, check=True)
            else:
                pair = load_model(archive, device="cpu", dtype="float32")
                export_onnx(pair, place, source=shape, overwrite=True)
        rounded = place.with_name(f"{place.name}-int8")
        for name in (ENCODER, DECODER):
            if not (rounded / int8_name(name)).exists():
                quantize(place / name, rounded / int8_name(name))
        graphs[system, "float32"] = place / ENCODER
        graphs[system, "int8"] = rounded / int8_name(ENCODER)
    return graphs


def open_graph(path: Path) -> Any:
    """A session with as many threads as torch was given."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def make_inputs(seconds: int, num_mels: int) -> dict[str, np.ndarray]:
    num_frames = seconds * MEL_FRAMES_A_SECOND
    features = np.random.default_rng(seconds).standard_normal((1, num_mels, num_frames)).astype(np.float32)
    return {"audio_signal": features, "length": np.array([num_frames], dtype=np.int64)}


def measure_memory(path: Path, seconds: int, num_mels: int) -> dict[str, Any]:
    """Memory that a long recording adds to a loaded graph, in a process of its own."""
    session = open_graph(path)
    session.run(None, make_inputs(1, num_mels))
    inputs = make_inputs(seconds, num_mels)
    before, read_peak = reset_peak()
    try:
        session.run(None, inputs)
    except Exception as error:  # of ONNX Runtime, which has no class of its own for it in Python
        return {"error": f"refused by ONNX Runtime: {str(error).splitlines()[0][:80]}"}
    return {"added_mib": round((read_peak() - before) / MIB)}


def describe(path: Path) -> dict[str, Any]:
    """Files of an export's graphs, the weights next to them included, and their size."""
    files = [entry for entry in path.parent.iterdir() if entry.suffix not in (".json", ".txt")]
    return {"files": len(files), "megabytes": round(sum(entry.stat().st_size for entry in files) / 1e6, 1)}


def run(options: argparse.Namespace) -> None:
    num_mels = SHAPES[options.shape]["mels"]
    graphs = make_graphs(options.shape, options.folder, options.archives)
    path_of_results = RESULTS / f"onnx_{options.shape}_cpu.csv"
    rows: list[dict[str, Any]] = list(read_rows(path_of_results))

    def add(key: tuple[str, str], task: str, seconds: int | str = "", **cells: Any) -> None:
        row = {"system": key[0], "precision": key[1], "task": task, "seconds": seconds, **cells}
        row |= {"shape": options.shape, "machine": name_machine()}
        place = [(key[0], key[1], task, str(seconds))]
        rows[:] = [old for old in rows if [tuple(str(old[name]) for name in IDENTITY)] != place]
        rows.append(row)
        print(row, flush=True)
        write_rows(path_of_results, rows, COLUMNS)

    chosen = {key: path for key, path in graphs.items() if key[1] in options.precisions}
    for key, path in chosen.items() if "files" in options.tasks else ():
        add(key, "files", **describe(path))
    if "time" in options.tasks:
        for precision in options.precisions:
            sessions = {key: open_graph(path) for key, path in chosen.items() if key[1] == precision}
            for seconds in options.seconds:
                inputs = make_inputs(seconds, num_mels)
                for key, values in measure_times(sessions, inputs, options.rounds).items():
                    minimum, median = minimum_and_median(values)
                    cells = {"minimum": round(minimum, 4), "median": round(median, 4), "rounds": options.rounds}
                    add(key, "time", seconds, **cells)
    for key, path in chosen.items() if "memory" in options.tasks else ():
        for seconds in options.memory_seconds:
            command = [sys.executable, __file__, "--measure", str(path), "--memory_seconds", str(seconds)]
            limits = (round(options.most_gigabytes * GIB), options.most_seconds)
            add(key, "memory", seconds, **run_limited([*command, "--shape", options.shape], *limits))


def measure_times(
    sessions: dict[tuple[str, str], Any], inputs: dict[str, np.ndarray], rounds: int
) -> dict[tuple[str, str], list[float]]:
    """Seconds of each session in each round, after one that does not count."""
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in sessions}
    for number, key in take_turns_of(sessions, rounds + 1):
        start = time.perf_counter()
        sessions[key].run(None, inputs)
        if number > 0:
            taken[key].append(time.perf_counter() - start)
    return taken


def take_turns_of(sessions: dict[tuple[str, str], Any], rounds: int) -> Iterator[tuple[int, tuple[str, str]]]:
    """Sessions by turns, every second round the other way around."""
    keys = {key[0]: key for key in sessions}
    for number, name in take_turns(keys, rounds, is_alternating=True):
        yield number, keys[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default=SHAPE, choices=list(SHAPES))
    parser.add_argument("--folder", type=Path, default=Path("onnx-graphs"), help="Folder of the graphs, kept.")
    parser.add_argument("--archives", type=Path, default=Path("archives"), help="Folder of the .nemo files, kept.")
    parser.add_argument("--seconds", type=int, nargs="*", default=list(SECONDS))
    parser.add_argument("--memory_seconds", type=int, nargs="*", default=list(MEMORY_SECONDS))
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most_gigabytes", type=float, default=8)
    parser.add_argument("--most_seconds", type=float, default=900)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # in the processes that are started
    parser.add_argument("--export_nemo", metavar="ARCHIVE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    use_given_threads()
    if options.measure:
        num_mels = SHAPES[options.shape]["mels"]
        print(json.dumps(measure_memory(options.measure, options.memory_seconds[0], num_mels)))
    elif options.export_nemo:
        export_nemo(options.export_nemo, options.folder)
    else:
        run(options)


if __name__ == "__main__":
    main()
