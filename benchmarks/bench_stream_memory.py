"""
Does the memory of a live stream grow with its age?

Digits are given to one stream again and again, a chunk at a time: to the streaming demonstration checkpoint in steps
with a cache, and to the other one in buffered windows. The memory of the process is read after 100, 1000 and 10,000
chunks. Text and words are not kept, as a program that sends them on does not. Each kind is a process of its own.

    python benchmarks/bench_stream_memory.py
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch

from common.csv_files import write_rows
from common.folders import RESULTS
from common.machine import MIB, name_machine, resident_bytes, use_given_threads
from common.speech import SAMPLING_RATE
from transformers_fastconformer import EngineOptions, StreamingEngine, load_model, read_audio
from transformers_fastconformer.demonstration import CLIP_PATHS

# Checkpoint, head and options of each kind; windows with little context, which leaves the machine time for so many.
KINDS: dict[str, tuple[str, str, EngineOptions]] = {
    "cached": ("demo-streaming", "ctc", EngineOptions(latency_ms=80)),
    "buffered": ("demo", "transducer", EngineOptions(left_seconds=2.0, chunk_seconds=0.32, right_seconds=0.64)),
}
CHUNKS = (100, 1000, 10_000)


def read_pieces(num_samples: int) -> Iterator[np.ndarray]:
    """The demonstration clips again and again, in pieces."""
    clips = np.concatenate([np.pad(read_audio(path), (0, SAMPLING_RATE)) for path in CLIP_PATHS])
    position = 0
    while True:
        yield np.take(clips, range(position, position + num_samples), mode="wrap").astype(np.float32)
        position = (position + num_samples) % len(clips)


def measure(kind: str, chunks: list[int]) -> None:
    """Print the memory after numbers of chunks, a line of JSON each."""
    name, head, options = KINDS[kind]
    model, processor = load_model(name, head)
    engine = StreamingEngine(model, processor, options)
    plan = getattr(engine.encoder, "plan", None)
    chunk_frames = engine.encoder.latency_frames if plan is None else plan.chunk_frames
    chunk_seconds = chunk_frames * processor.frame_seconds
    stream = engine.open()
    num_words = 0
    start = time.perf_counter()
    pieces = itertools.islice(read_pieces(round(chunk_seconds * SAMPLING_RATE)), max(chunks))
    for number, samples in enumerate(pieces, start=1):
        num_words += len(engine.step({stream: samples})[stream].words)
        if number in chunks:
            gc.collect()
            row = {
                "how": engine.encoder.name,
                "model": name,
                "head": head,
                "chunk_ms": round(1000 * chunk_seconds),
                "chunks": number,
                "audio_s": round(number * chunk_seconds, 1),
                "words": num_words,
                "resident_mib": round(resident_bytes() / MIB, 2),
                "seconds": round(time.perf_counter() - start, 1),
            }
            print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--chunks", type=int, nargs="+", default=list(CHUNKS), help="numbers after which to look")
    options = parser.parse_args()
    use_given_threads()
    if options.kind:
        measure(options.kind, options.chunks)
        return
    common = {"threads": torch.get_num_threads(), "machine": name_machine(), "torch": torch.__version__}
    rows = []
    for kind in options.kinds:
        command = [sys.executable, __file__, "--kind", kind, "--chunks", *map(str, options.chunks)]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows += [{**json.loads(line), **common} for line in found.splitlines() if line.startswith("{")]
        for row in rows:
            print(json.dumps(row), flush=True)
    write_rows(RESULTS / "stream_memory_cpu.csv", rows)


if __name__ == "__main__":
    main()
