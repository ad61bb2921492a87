"""
How long does it take until a published shape is ready, and how much memory, next to NeMo?

Each run is a process of its own that imports, loads and then reads every weight once (ours are mapped from the file,
so that they are not in memory before). Two kinds take turns: `nemo` (`restore_from`) and `cached` (`from_pretrained`
of the `.nemo` that was converted before); `first` is one run with an empty cache, conversion included. The result has
the minimum of the repeats, in seconds by the clock and of the processor; the archive is always in the page cache.

Memory is the peak of resident memory (`ru_maxrss`), including pages of mapped files; the result also has the anonymous
and the file pages after everything is loaded and read.

    python benchmarks/bench_loading.py --shape parakeet-tdt-0.6b-v2 --folder /tmp/shapes
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from common.csv_files import write_rows
from common.folders import RESULTS
from common.machine import name_machine
from common.nemo_shapes import find_archive
from common.timing import take_turns

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


def run_child(load: str, archive: Path, cache: Path, options: dict[str, str]) -> dict[str, float]:
    """Measure one fresh process: its own figures, and its time from start to end."""
    environment = {**os.environ, "TRANSFORMERS_FASTCONFORMER_CACHE": str(cache)}
    command = [sys.executable, "-c", CHILD.format(load=load), str(archive), json.dumps(options)]
    start = time.perf_counter()
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return {**json.loads(output.splitlines()[-1]), "process_seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="parakeet-tdt-0.6b-v2", help="name in benchmarks/common/nemo_shapes.py")
    parser.add_argument("--folder", type=Path, help="where the archive and the cache are kept for the next run")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        archive = find_archive(options.shape, folder)
        with tempfile.TemporaryDirectory(dir=folder) as cache_name:
            cache = Path(cache_name)
            runs = {"first": [run_child(OURS, archive, cache, {})], **{kind: [] for kind in KINDS}}
            for _, kind in take_turns(KINDS, options.repeats):
                load, load_options = KINDS[kind]
                runs[kind].append(run_child(load, archive, cache, load_options))
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
