"""
How much longer does a whole transcription take with phrases, a language model and beams?

    python benchmarks/bench_search_overhead.py --output benchmarks/results/search_overhead_float32_cpu.csv

The encoder has the shape of 0.6B models and random weights; the decoder is that of `bench_decoding.py`, on frames that
are drawn so that it writes as many tokens as speech has. A round times the encoder and each decoding of as many frames
in turn; a transcription is the least time of the encoder and that of the decoding. Reading audio and features are not
in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.csv_files import write_rows
from common.decoding_systems import build_model, draw_weights
from common.encoder_shapes import MEL_FRAMES_PER_SECOND, our_options
from common.machine import name_machine
from common.search_lists import list_scores
from common.search_runs import draw_batch, ours_with
from common.timing import take_turns
from transformers_fastconformer import BeamOptions, DecodingOptions, FastConformerConfig, FastConformerModel

COLUMNS = (
    *("shape", "family", "vocabulary", "batch", "seconds", "decoding", "encoder_ms_min", "decoding_ms_min", "tokens"),
    *("rounds", "over_greedy", "torch", "threads", "machine"),
)


def make_encoder(shape: str, batch: int, seconds: float) -> Callable[[], Any]:
    """A pass of an encoder with random weights over random features of full length."""
    config = FastConformerConfig(**our_options(shape))
    model = FastConformerModel(config).eval()
    features = torch.randn(batch, round(seconds * MEL_FRAMES_PER_SECOND), config.num_mel_bins)
    mask = torch.ones(features.shape[:2], dtype=torch.bool)

    def encode() -> Any:
        with torch.inference_mode():
            return model(features, attention_mask=mask)

    return encode


def measure(arguments: argparse.Namespace, batch: int) -> list[dict[str, Any]]:
    family, vocabulary, seconds = arguments.family, arguments.vocabulary, arguments.seconds
    model = build_model(family, vocabulary)
    draw_weights(model, family, vocabulary)
    kinds = {name: DecodingOptions(**options) for name, options in list_scores(vocabulary).items()}
    kinds["4 beams"] = DecodingOptions(beam=BeamOptions(num_beams=4))
    frames, lengths = draw_batch(batch, seconds)
    calls: dict[str, Callable[[], Any]] = {"encoder": make_encoder(arguments.shape, batch, seconds)}
    calls |= {name: ours_with(model, decoding, frames, lengths) for name, decoding in kinds.items()}
    tokens = {name: call() for name, call in calls.items()}  # warms up
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _, name in take_turns(calls, arguments.rounds, is_alternating=True):
        # Of the processor, on one thread: other work of the machine adds little to it.
        start = time.process_time()
        calls[name]()
        spent[name].append(1000.0 * (time.process_time() - start))
    best = {name: min(values) for name, values in spent.items()}
    rows = []
    for name in kinds:
        over = (best["encoder"] + best[name]) / (best["encoder"] + best["none"])
        values = (
            arguments.shape, family, vocabulary, batch, seconds, name, f"{best['encoder']:.1f}", f"{best[name]:.1f}",
            sum(map(len, tokens[name])), arguments.rounds, f"{over:.4f}", torch.__version__, arguments.threads,
            name_machine(),
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
        print(*values[:11], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="0.6b")
    parser.add_argument("--family", default="tdt", choices=("tdt", "rnnt"))
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = []
    for batch in arguments.batches:
        rows += measure(arguments, batch)
        if arguments.output is not None:
            write_rows(arguments.output, rows, COLUMNS)


if __name__ == "__main__":
    main()
