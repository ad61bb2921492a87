"""
Which strategy is the fastest for a clip of a length, and does the estimate by which `"auto"` chooses know it?

The encoder of a shape with random weights sees noise of each length in one pass, with local attention in windows of
two minutes, and in windows of a minute with full attention, in turns; the minimum of the rounds counts. `measured` and
`estimated` are times as multiples of that of the strategy that was measured to be the fastest.

    python benchmarks/bench_strategies.py --shapes 110m-4layers 0.6b-2layers
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any

import torch

from common.csv_files import write_rows
from common.encoder_shapes import MEL_FRAMES_PER_SECOND, our_options
from common.folders import RESULTS
from common.machine import name_machine, use_given_threads
from common.timing import minimum_and_median, seconds_of, take_turns
from transformers_fastconformer import FastConformerCTCConfig, FastConformerForCTC
from transformers_fastconformer.cli.allocator import keep_freed_memory
from transformers_fastconformer.inference.chunk_plan import WindowPlan
from transformers_fastconformer.inference.estimates import LOCAL_BAND_FRAMES, estimate_encoder_work
from transformers_fastconformer.inference.options import ChunkOptions, TranscriptionOptions
from transformers_fastconformer.inference.strategy import (
    DEFAULT_CHUNK_SECONDS,
    DEFAULT_LOCAL_CHUNK_SECONDS,
    ChosenStrategy,
    choose_strategy,
)

STRATEGIES = {
    "full": ChunkOptions("full"),
    "local": ChunkOptions("local", DEFAULT_LOCAL_CHUNK_SECONDS),
    "chunked": ChunkOptions("chunked", DEFAULT_CHUNK_SECONDS),
}


def encode(chosen: ChosenStrategy, features: torch.Tensor) -> None:
    """Run the encoder over a clip, (mel frames, mels), in the batches in which `transcribe_file` does."""
    config: Any = chosen.model.config
    num_frames = config.count_encoder_frames(features.shape[0])
    plan = chosen.plan or WindowPlan(num_frames + 1, 0, 0)
    windows = list(plan.windows(num_frames))
    for first in range(0, len(windows), chosen.batch_size):
        pieces = []
        for window in windows[first : first + chosen.batch_size]:
            is_last = window is windows[-1]
            start, stop = window.mel_range(config.mel_frames_per_encoder_frame, features.shape[0], is_last)
            pieces.append(features[start:stop])
        lengths = torch.tensor([len(piece) for piece in pieces])
        batch = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        chosen.model.encoder(batch, input_lengths=lengths)  # type: ignore[attr-defined]


@torch.inference_mode()
def measure(model: FastConformerForCTC, shape: str, seconds: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of a shape for clips of a length."""
    config: Any = model.config
    frame_seconds = config.mel_frames_per_encoder_frame / MEL_FRAMES_PER_SECOND
    mel_length = seconds * MEL_FRAMES_PER_SECOND
    features = torch.randn(mel_length, config.num_mel_bins)
    chosen = {
        name: choose_strategy(model, mel_length, frame_seconds, TranscriptionOptions(chunking=chunking))
        for name, chunking in STRATEGIES.items()
    }
    works = {
        name: estimate_encoder_work(
            config,
            config.count_encoder_frames(mel_length),
            one.plan,
            LOCAL_BAND_FRAMES if name == "local" else None,
            one.batch_size,
        )
        for name, one in chosen.items()
    }
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for _, name in take_turns(chosen, rounds, is_alternating=True):
        times[name].append(seconds_of(partial(encode, chosen[name], features)))
    fastest = min(times, key=lambda name: min(times[name]))
    auto = choose_strategy(model, mel_length, frame_seconds, TranscriptionOptions())
    rows = []
    for name in chosen:
        shortest, median = minimum_and_median(times[name])
        row = {
            "shape": shape,
            "dtype": "float32",
            "seconds": seconds,
            "strategy": name,
            "ms_per_second": round(1000 * shortest / seconds, 2),
            "ms_per_second_median": round(1000 * median / seconds, 2),
            "measured": round(shortest / min(times[fastest]), 3),
            "estimated": round(works[name] / works[fastest], 3),
            "is_chosen": auto.name == name,
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "machine": name_machine(),
            "torch": torch.__version__,
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["110m-4layers", "0.6b-2layers"])
    parser.add_argument("--seconds", type=int, nargs="+", default=[30, 60, 120, 180, 300, 600])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    use_given_threads()
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    for shape in options.shapes:
        torch.manual_seed(0)
        model = FastConformerForCTC(FastConformerCTCConfig(**our_options(shape), vocab_size=1025)).eval()
        for seconds in options.seconds:
            rows += measure(model, shape, seconds, options.rounds)
            write_rows(RESULTS / "strategies_float32_cpu.csv", rows)


if __name__ == "__main__":
    main()
