"""Parts of the benchmarks of decoding options: batches of frames, digits in noise, and their command lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.csv_files import write_rows
from common.decoding_systems import make_frames
from common.speech import SAMPLING_RATE, SPEECH_DIR, read_manifest
from transformers_fastconformer import DecodingOptions, read_audio

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Decode = Callable[[], list[list[int]]]
Measure = Callable[[argparse.Namespace], Iterator[list[dict[str, Any]]]]

# Frames


def draw_batch(batch: int, seconds: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Random frames of clips of 80 to 100 % of a length, and how many each clip has."""
    generator = torch.Generator().manual_seed(batch)
    frames = make_frames(batch, seconds, generator)
    lengths = torch.randint(round(0.8 * frames.shape[1]), frames.shape[1] + 1, (batch,), generator=generator)
    lengths[0] = frames.shape[1]
    return frames, lengths


def ours_with(model: Any, decoding: DecodingOptions, frames: torch.Tensor, lengths: torch.Tensor) -> Decode:
    """Our decoding of a batch with these options."""
    return lambda: rows_of(model.decode_frames(frames, lengths, decoding)[0])


def run_nemo(decoder: Any, frames: torch.Tensor, lengths: torch.Tensor) -> Decode:
    """The decoding of a batch by an object of NeMo's."""

    def decode() -> list[list[int]]:
        with torch.inference_mode():
            (found,) = decoder(encoder_output=frames.transpose(1, 2), encoded_lengths=lengths)
        return [[int(token) for token in hypothesis.y_sequence] for hypothesis in found]

    return decode


def rows_of(found: Any) -> list[list[int]]:
    """Tokens of each text without padding."""
    return [row[:count] for row, count in zip(found.tokens.tolist(), found.token_lengths.tolist(), strict=True)]


# Digits in noise


def read_test_digits(speech_dir: Path) -> list[tuple[str, np.ndarray]]:
    """Word and samples of every digit of the test speakers."""
    return [
        (entry["text"].lower(), read_audio(speech_dir / entry["audio_filepath"]))
        for entry in read_manifest(speech_dir)
        if entry["audio_filepath"].startswith("digits/") and entry.get("split") == "test"
    ]


def add_noise(waveform: np.ndarray, snr_db: float, generator: np.random.Generator) -> np.ndarray:
    """Add white noise at so many decibels below the mean power."""
    level = float(np.sqrt(np.mean(waveform.astype(np.float64) ** 2))) * 10 ** (-snr_db / 20)
    return (waveform + level * generator.standard_normal(len(waveform))).astype(np.float32)


def encode(model: Any, processor: Any, waveforms: Sequence[np.ndarray], batch_size: int = 16) -> list[Any]:
    """Frames and lengths of the clips, batch by batch."""
    encoded = []
    for start in range(0, len(waveforms), batch_size):
        features = processor(
            list(waveforms[start : start + batch_size]), sampling_rate=SAMPLING_RATE, return_tensors="pt"
        )
        with torch.inference_mode():
            found = model.encode(features["input_features"], features["attention_mask"])
        encoded.append((found.last_hidden_state, found.encoder_lengths))
    return encoded


def decode_all(model: Any, encoded: list[Any], decoding: DecodingOptions) -> list[list[int]]:
    """Tokens of each clip of all batches."""
    return [row for frames, lengths in encoded for row in rows_of(model.decode_frames(frames, lengths, decoding)[0])]


# The command line


def make_parser(description: str | None, seconds: float) -> argparse.ArgumentParser:
    """A parser with the arguments that both parts, `time` and `words`, have in every one of these benchmarks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("time", "words"))
    parser.add_argument("--family", default="tdt", choices=("tdt", "rnnt"))
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only_ours", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--speech_dir", type=Path, default=SPEECH_DIR)
    parser.add_argument("--snr_db", nargs="+", type=float, default=[20.0, 5.0, 0.0])
    parser.add_argument("--output", type=Path)
    return parser


def run(measure: Measure, columns: Sequence[str], arguments: argparse.Namespace) -> None:
    """Measure, and write the rows that are there after each step."""
    torch.set_num_threads(arguments.threads)
    written: list[dict[str, Any]] = []
    for rows in measure(arguments):
        written += rows
        if arguments.output is not None:
            write_rows(arguments.output, written, columns)
