"""
How long does it take until a published shape is ready, and how much memory, next to NeMo?

Each run is a process of its own that imports, loads and then reads every weight once (ours are mapped from the file,
so that they are not in memory before). Two kinds take turns: `nemo` (`restore_from`) and `cached` (`from_pretrained`
of the `.nemo` that was converted before); `first` is one run with an empty cache, conversion included. The result has
the minimum of the repeats, in seconds by the clock and of the processor; the archive is always in the page cache.

Memory is the peak of resident memory (`ru_maxrss`), including pages of mapped files; the result also has the anonymous
and the file pages after everything is loaded and read.

    python benchmarks/bench_loading.py --shape parakeet-tdt-0.6b-v2 --folder /tmp/shapes

With `--transcript` the question is how long it takes, and how much memory, until a fresh process has the first
transcript, of 10 s of noise, with `load_model` and weights in float32, bfloat16 and 8 bits: rounded in that process
(from a folder, which has no entry in the cache), and stored (from the archive, whose 8-bit form the cache holds);
and with onnx-asr, if it is installed, and the same weights in 8 bits, exported by `export_onnx(..., int8=True)`.
Memory is told after the imports, after loading and after the transcript.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from common.csv_files import write_rows
from common.folders import RESULTS
from common.machine import name_machine
from common.nemo_shapes import find_archive
from common.timing import take_turns
from transformers_fastconformer.checkpoints.int8_form import is_int8_checkpoint

OURS = """
import transformers_fastconformer as package
imported = time.perf_counter()
model = package.FastConformerForTDT.from_pretrained(sys.argv[1], **json.loads(sys.argv[2]))
"""
NEMO = """
import logging
import nemo.collections.asr as nemo_asr
imported = time.perf_counter()
model = nemo_asr.models.ASRModel.restore_from(sys.argv[1], map_location="cpu")
"""
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "cached": (OURS, {}),
    "cached, bfloat16": (OURS, {"dtype": "bfloat16"}),
    "nemo": (NEMO, {}),
}
CHILD = """
import json, resource, sys, time
start = time.perf_counter()
{load}
import torch
loaded = time.perf_counter()
tensors = list(model.state_dict().values())
for tensor in tensors:
    tensor.reshape(-1).view(torch.uint8)[::4096].sum()  # one byte of each page
done = time.perf_counter()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({{
    "import_seconds": imported - start,
    "load_seconds": loaded - imported,
    "read_seconds": done - loaded,
    "processor_seconds": usage.ru_utime + usage.ru_stime,
    "peak_bytes": usage.ru_maxrss * 1024,
    "anonymous_bytes": int(status["RssAnon"].split()[0]) * 1024,
    "file_bytes": int(status["RssFile"].split()[0]) * 1024,
    "weights_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
}}))
"""

# Kinds of weights: where they are loaded from, and the dtype of `load_model`.
TRANSCRIPT_KINDS = {
    "float32": ("archive", "float32"),
    "bfloat16": ("archive", "bfloat16"),
    "8 bits, rounded": ("folder", "int8"),
    "8 bits, stored": ("archive", "int8"),
}
ONNX_ASR = "onnx-asr, 8 bits"
OUR_STEPS = {
    "imports": "import transformers_fastconformer as package",
    "load": 'pair = package.load_model(sys.argv[1], device="cpu", dtype=json.loads(sys.argv[2])["dtype"])',
    "transcribe": "package.transcribe(noise, pair)",
}
ONNX_ASR_STEPS = {
    "imports": "import onnx_asr, onnxruntime",
    "load": """options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(json.loads(sys.argv[2])["threads"])
kind = json.load(open(sys.argv[1] + "/config.json"))["model_type"]
model = onnx_asr.load_model(kind, sys.argv[1], quantization="int8", sess_options=options)""",
    "transcribe": "model.recognize(noise)",
}
TRANSCRIPT_CHILD = """
import json, os, resource, sys, time
def resident():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmRSS"].split()[0]) * 1024
start = time.perf_counter()
import numpy as np
{imports}
imported, imported_bytes = time.perf_counter(), resident()
{load}
loaded, loaded_bytes = time.perf_counter(), resident()
noise = np.random.default_rng(0).standard_normal(10 * 16000).astype(np.float32) * 0.05
{transcribe}
done, done_bytes = time.perf_counter(), resident()
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({{
    "import_seconds": imported - start,
    "load_seconds": loaded - imported,
    "transcript_seconds": done - loaded,
    "processor_seconds": usage.ru_utime + usage.ru_stime,
    "imported_bytes": imported_bytes,
    "loaded_bytes": loaded_bytes,
    "transcript_bytes": done_bytes,
    "peak_bytes": usage.ru_maxrss * 1024,
}}))
"""
# Makes the folder that onnx-asr loads, in a process that gives its memory back.
EXPORT_CHILD = """
import sys
from pathlib import Path
import transformers_fastconformer as package
pair = package.load_model(sys.argv[1], device="cpu", dtype="float32")
package.export_onnx(pair, Path(sys.argv[2]), int8=True, overwrite=True)
"""


def run_child(code: str, archive: Path, cache: Path, options: dict[str, str]) -> dict[str, float]:
    """Measure one fresh process: its own figures, and its time from start to end."""
    environment = {**os.environ, "TRANSFORMERS_FASTCONFORMER_CACHE": str(cache)}
    command = [sys.executable, "-c", code, str(archive), json.dumps(options)]
    start = time.perf_counter()
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return {**json.loads(output.splitlines()[-1]), "process_seconds": time.perf_counter() - start}


def find_graphs(shape: str, archive: Path, folder: Path) -> Path | None:
    """The folder of 8-bit graphs for onnx-asr, made if it is not there; None where onnx-asr is not installed."""
    if find_spec("onnx_asr") is None:
        return None
    graphs = folder / f"{shape}-onnx-asr-int8"
    if not graphs.exists():
        subprocess.run([sys.executable, "-c", EXPORT_CHILD, str(archive), str(graphs)], check=True)
    return graphs


def measure_transcripts(shape: str, archive: Path, folder: Path, cache: Path, repeats: int) -> None:
    """Write the table of first transcripts; what the cache holds is made before."""
    ours = TRANSCRIPT_CHILD.format(**OUR_STEPS)
    run_child(ours, archive, cache, {"dtype": "int8"})
    graphs = find_graphs(shape, archive, folder)
    entries = {is_int8_checkpoint(path.parent): path.parent for path in cache.glob("v*/*/config.json")}
    sources = {"archive": archive, "folder": entries[False]}
    kinds = [*TRANSCRIPT_KINDS, *([] if graphs is None else [ONNX_ASR])]
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _, kind in take_turns(kinds, repeats):
        if kind == ONNX_ASR:
            assert graphs is not None
            theirs = TRANSCRIPT_CHILD.format(**ONNX_ASR_STEPS)
            runs[kind].append(run_child(theirs, graphs, cache, {"threads": str(torch.get_num_threads())}))
            continue
        source, dtype = TRANSCRIPT_KINDS[kind]
        runs[kind].append(run_child(ours, sources[source], cache, {"dtype": dtype}))
    rows = []
    for kind, results in runs.items():
        row: dict[str, object] = {"shape": shape, "kind": kind, "repeats": repeats}
        for name in results[0]:
            is_bytes = name.endswith("_bytes")
            value = (max if is_bytes else min)(result[name] for result in results)
            row[name] = int(value) if is_bytes else round(value, 2)
        stored = entries[kind == "8 bits, stored"].glob("*.safetensors")
        if kind == ONNX_ASR:
            assert graphs is not None
            stored = graphs.glob("*.onnx*")
        row["stored_bytes"] = sum(path.stat().st_size for path in stored)
        rows.append(row | {"torch": torch.__version__, "cpu": name_machine()})
    path = RESULTS / f"first_transcript_{shape}_cpu.csv"
    write_rows(path, rows)
    for row in rows:
        print("  ".join(f"{name}={value}" for name, value in row.items()))
    print(f"written to {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="parakeet-tdt-0.6b-v2", help="name in benchmarks/common/nemo_shapes.py")
    parser.add_argument("--folder", type=Path, help="where the archive and the cache are kept for the next run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--transcript", action="store_true", help="measure until the first transcript")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        archive = find_archive(options.shape, folder)
        with tempfile.TemporaryDirectory(dir=folder) as cache_name:
            cache = Path(cache_name)
            if options.transcript:
                measure_transcripts(options.shape, archive, folder, cache, options.repeats)
                return
            first = run_child(CHILD.format(load=OURS), archive, cache, {})
            runs = {"first": [first], **{kind: [] for kind in KINDS}}
            for _, kind in take_turns(KINDS, options.repeats):
                load, load_options = KINDS[kind]
                runs[kind].append(run_child(CHILD.format(load=load), archive, cache, load_options))
    rows = []
    for kind, results in runs.items():
        row: dict[str, object] = {"shape": options.shape, "kind": kind, "repeats": len(results)}
        for name in results[0]:
            is_bytes = name.endswith("_bytes")
            value = (max if is_bytes else min)(result[name] for result in results)
            row[name] = int(value) if is_bytes else round(value, 2)
        row["peak_over_weights"] = round(max(result["peak_bytes"] / result["weights_bytes"] for result in results), 3)
        rows.append(row)
    nemo = next(row for row in rows if row["kind"] == "nemo")
    for row in rows:
        for name in ("process_seconds", "processor_seconds"):
            row[f"nemo_over_this_{name}"] = round(float(str(nemo[name])) / float(str(row[name])), 2)
        row |= {"torch": torch.__version__, "cpu": name_machine()}
    path = RESULTS / f"loading_{options.shape}_cpu.csv"
    write_rows(path, rows)
    for row in rows:
        print("  ".join(f"{name}={value}" for name, value in row.items()))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
