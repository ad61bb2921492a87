"""
How does the memory for a file grow with its length?

Files of noise and digits from one minute to ten hours, each length and strategy in a process of its own. One pass is
left out if it would take more than `--most_gigabytes`, by the estimate that "auto" uses, and with full attention
beyond `--most_full_minutes`, since its time grows with the square of the length.

    python benchmarks/bench_longform_memory.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from common.csv_files import write_rows
from common.folders import RESULTS
from common.machine import GIB, MIB, resident_bytes, use_given_threads
from common.speech import SAMPLING_RATE, write_long_file
from transformers_fastconformer import load_model, transcribe_file
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.inference.estimates import estimate_one_pass_bytes

MINUTES = (1, 5, 20, 60, 180, 600)


def measure_one(path: str, strategy: str, minutes: float, batch_size: int) -> dict[str, Any]:
    """Measure, in a process of its own, the memory that one file adds to that of a loaded model."""
    model, processor = load_model(CHECKPOINT_PATH)
    transcribe_file(model, processor, CLIP_PATHS[0], strategy=strategy)
    before = resident_bytes()
    start = time.perf_counter()
    transcript = transcribe_file(model, processor, path, strategy=strategy, timestamps=["word"], batch_size=batch_size)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "strategy": transcript.strategy,
        "minutes": minutes,
        "loaded_mib": round(before / MIB),
        "peak_mib": round(peak / MIB),
        "added_mib": round((peak - before) / MIB),
        "seconds": round(seconds, 1),
        "words": len(transcript.text.split()),
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def measure_memory(max_gigabytes: float, max_full_minutes: float, batch_size: int, lengths: list[float]) -> None:
    model, processor = load_model(CHECKPOINT_PATH)
    hop_samples = processor.feature_extractor.hop_length
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for strategy in ("chunked", "local", "full"):
            for minutes in lengths:
                mel_length = round(60 * minutes * SAMPLING_RATE) // hop_samples
                estimate = estimate_one_pass_bytes(model.config, mel_length, is_local=strategy == "local")
                is_left_out = estimate > max_gigabytes * GIB or (strategy == "full" and minutes > max_full_minutes)
                if strategy != "chunked" and is_left_out:
                    print(f"{strategy:8} {minutes:5} min: left out, about {estimate / GIB:.1f} GiB", flush=True)
                    continue
                path = Path(folder) / f"{minutes}.flac"
                if not path.exists():
                    write_long_file(path, 60 * minutes)
                arguments = ["--measure", str(path), "--strategy", strategy, "--minutes", str(minutes)]
                output = subprocess.run(
                    [sys.executable, __file__, *arguments, "--batch_size", str(batch_size)],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                ).stdout
                row = json.loads(output.splitlines()[-1])
                row["estimated_mib"] = "" if strategy == "chunked" else round(estimate / MIB)
                rows.append(row)
                print(
                    f"{strategy:8} {minutes:5} min: {row['added_mib']:5} MiB more than {row['loaded_mib']} MiB, "
                    f"{row['seconds']:.1f} s, {row['words']} words",
                    flush=True,
                )
                write_rows(RESULTS / "longform_memory_cpu.csv", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=list(MINUTES))
    parser.add_argument("--most_gigabytes", type=float, default=2.5)
    parser.add_argument("--most_full_minutes", type=float, default=20)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)  # in the processes that are started
    parser.add_argument("--strategy", help=argparse.SUPPRESS)
    options = parser.parse_args()
    use_given_threads()
    if options.measure:
        print(json.dumps(measure_one(options.measure, options.strategy, options.minutes[0], options.batch_size)))
    else:
        measure_memory(options.most_gigabytes, options.most_full_minutes, options.batch_size, options.minutes)


if __name__ == "__main__":
    main()
