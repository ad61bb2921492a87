"""
How long does a conversion take, and how much memory?

Builds a checkpoint of a published shape with random weights in NeMo (once, in a folder that may be kept), converts it
in a process of its own and reads that process's peak resident memory. The memory for the imports of torch and
transformers is measured in the same way, since every figure includes it.

    python benchmarks/bench_conversion.py --shape parakeet-tdt-0.6b-v2 --folder /tmp/shapes
"""

from __future__ import annotations

import argparse
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

CHILD = """
import resource, sys, time
start = time.perf_counter()
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
imported = time.perf_counter()
if len(sys.argv) > 1:
    convert_nemo_checkpoint(sys.argv[1], sys.argv[2])
scale = 1 if sys.platform == "darwin" else 1024
print(time.perf_counter() - imported, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale)
"""


def run_child(*arguments: str) -> tuple[float, int]:
    """Measure a fresh process that converts, or only imports: seconds after the imports and peak resident bytes."""
    output = subprocess.run([sys.executable, "-c", CHILD, *arguments], check=True, capture_output=True, text=True)
    seconds, peak = output.stdout.split()[-2:]
    return float(seconds), int(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="parakeet-tdt-0.6b-v2", help="name in benchmarks/common/nemo_shapes.py")
    parser.add_argument("--folder", type=Path, help="where the archive is kept for the next run")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        archive = find_archive(options.shape, folder)
        _, import_bytes = run_child()
        runs = []
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory(dir=folder) as output:
                target = Path(output) / "converted"
                start = time.perf_counter()
                seconds, peak_bytes = run_child(str(archive), str(target))
                runs.append((seconds, time.perf_counter() - start, peak_bytes))
                weight_bytes = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    seconds, process_seconds, _ = min(runs)
    peak_bytes = max(run[2] for run in runs)
    row = {
        "shape": options.shape,
        "weights_bytes": weight_bytes,
        "convert_seconds_min": round(seconds, 2),
        "process_seconds_min": round(process_seconds, 2),
        "peak_rss_bytes_max": peak_bytes,
        "import_rss_bytes": import_bytes,
        "peak_over_weights": round(peak_bytes / weight_bytes, 3),
        "repeats": options.repeats,
        "torch": torch.__version__,
        "cpu": name_machine(),
    }
    path = RESULTS / f"conversion_{options.shape}_float32_cpu.csv"
    write_rows(path, [row])
    for name, value in row.items():
        print(f"{name:22} {value}")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
