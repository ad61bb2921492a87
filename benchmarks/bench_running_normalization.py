"""
What does normalisation by what was heard so far cost, against that of the whole clip?

The demonstration checkpoint was trained with normalisation over whole clips. Strings of spoken digits (each by one
speaker, as loud as recorded) and read clips (which the checkpoint, knowing only digits, hears as digits) are given to
it with the features of a stream: running normalisation with several options, and statistics of each chunk on its own,
which is what NeMo 3.0.0 streams such checkpoints with. The features are compared with those of the whole clip, the
tokens with those that the whole clip gives, and the words of the digits with what was said.

    python benchmarks/bench_running_normalization.py
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import numpy as np
import torch

from common.batches import split_batches
from common.csv_files import write_rows
from common.folders import RESULTS
from common.speech import SAMPLING_RATE, SPEECH_DIR, read_manifest
from transformers_fastconformer import FastConformerProcessor, load_model, read_audio
from transformers_fastconformer.audio.feature_normalization import FeatureStatistics
from transformers_fastconformer.audio.feature_stream import FeatureStream
from transformers_fastconformer.audio.log_mel import LogMel
from transformers_fastconformer.audio.running_normalization import RunningNormalization
from transformers_fastconformer.demonstration import CHECKPOINT_PATH

DIGITS = 8
PAUSE_SECONDS = 0.2
PIECE_SAMPLES = 1280
BATCH_SIZE = 16
CHUNK_SECONDS = (0.56, 1.12, 2.24)


class Clip(NamedTuple):
    """Samples of a clip, what was said, and who said it."""

    samples: np.ndarray
    text: str
    speaker: str


def join_digits(speech_dir: Path, strings_a_speaker: int, seed: int) -> list[Clip]:
    """Strings of digits of the test part, each by one speaker."""
    spoken = defaultdict(list)
    for entry in read_manifest(speech_dir):
        if entry["audio_filepath"].startswith("digits/") and entry["split"] == "test":
            spoken[entry["speaker"]].append(entry)
    generator = random.Random(seed)
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLING_RATE), dtype=np.float32)
    clips = []
    for speaker, entries in sorted(spoken.items()):
        for _ in range(strings_a_speaker):
            chosen = generator.sample(entries, DIGITS)
            parts = [part for entry in chosen for part in (pause, read_audio(speech_dir / entry["audio_filepath"]))]
            text = " ".join(entry["text"].lower() for entry in chosen)
            clips.append(Clip(np.concatenate([*parts, pause]), text, speaker))
    return clips


def read_clips(speech_dir: Path, share: int) -> list[Clip]:
    """Every `share`-th read clip of LibriSpeech."""
    entries = [entry for entry in read_manifest(speech_dir) if "librispeech" in entry["audio_filepath"]]
    chosen = entries[::share]
    return [Clip(read_audio(speech_dir / item["audio_filepath"]), item["text"], item["speaker"]) for item in chosen]


def stream_features(log_mel: LogMel, samples: np.ndarray, options: RunningNormalization) -> torch.Tensor:
    """(mel frames, mels) of a clip that comes in pieces."""
    stream = FeatureStream(log_mel, normalization=options)
    pieces = [samples[start : start + PIECE_SAMPLES] for start in range(0, len(samples), PIECE_SAMPLES)]
    return torch.cat([*(stream.push(piece) for piece in pieces), stream.finish()])


def log_mels_of(log_mel: LogMel, samples: np.ndarray) -> torch.Tensor:
    """(mels, mel frames) of a clip before normalisation, only those that count."""
    log_mels, state = log_mel.extract_block(torch.from_numpy(samples), is_last=True)
    return log_mels[:, : log_mel.mel_length(state.num_samples)]


def chunk_features(log_mel: LogMel, samples: np.ndarray, chunk_frames: int) -> torch.Tensor:
    """(mel frames, mels) of a clip, each chunk normalised by its own frames."""
    chunks = log_mels_of(log_mel, samples).split(chunk_frames, dim=1)
    return torch.cat([log_mel.normalize_block(chunk.clone(), FeatureStatistics.of(chunk)) for chunk in chunks])


def list_methods(log_mel: LogMel, clips: Sequence[Clip]) -> Iterator[tuple[str, Callable[[Clip], torch.Tensor]]]:
    """Name and features of each method; the prior is of all other speakers."""
    for chunk_seconds in CHUNK_SECONDS:
        chunk_frames = round(chunk_seconds * SAMPLING_RATE / log_mel.settings.hop_length)
        yield (
            f"each chunk of {chunk_seconds:g} s",
            lambda clip, chunk_frames=chunk_frames: chunk_features(log_mel, clip.samples, chunk_frames),
        )
    named = {
        "running": RunningNormalization(hold_seconds=0.0),
        **{f"running, hold {hold:g} s": RunningNormalization(hold_seconds=hold) for hold in (0.5, 1.0, 2.0)},
        "running, hold 1 s, decay 10 s": RunningNormalization(hold_seconds=1.0, decay_seconds=10.0),
    }
    for name, options in named.items():
        yield name, lambda clip, options=options: stream_features(log_mel, clip.samples, options)
    priors = {}
    for speaker in {clip.speaker for clip in clips}:
        others = [log_mels_of(log_mel, clip.samples) for clip in clips if clip.speaker != speaker]
        priors[speaker] = FeatureStatistics.of(torch.cat(others, dim=1))
    for hold in (0.0, 1.0):
        yield (
            f"running, hold {hold:g} s, prior of others for 2 s",
            lambda clip, hold=hold: stream_features(
                log_mel,
                clip.samples,
                RunningNormalization(hold_seconds=hold, prior=priors[clip.speaker], prior_seconds=2.0),
            ),
        )


@torch.inference_mode()
def decode(model: Any, features: Sequence[torch.Tensor]) -> list[list[int]]:
    """Tokens of each clip."""
    rows = []
    for batch in split_batches(features, BATCH_SIZE):
        lengths = torch.tensor([len(item) for item in batch])
        padded = torch.nn.utils.rnn.pad_sequence([torch.nn.functional.pad(item, (0, 0, 0, 1)) for item in batch], True)
        output = model.generate(padded, input_lengths=lengths, return_dict_in_generate=True)
        tokens = zip(output.sequences.tolist(), output.sequence_lengths.tolist(), strict=True)
        rows += [row[:length] for row, length in tokens]
    return rows


def error_percent(expected: Sequence[str], found: Sequence[str]) -> float:
    """Words inserted, left out or replaced, in percent."""
    pairs = [pair for pair in zip(expected, found, strict=True) if pair[0]]
    return round(100 * jiwer.wer([pair[0] for pair in pairs], [pair[1] for pair in pairs]), 2)


def measure(models: dict[str, Any], processor: FastConformerProcessor, sets: dict[str, list[Clip]]) -> None:
    log_mel = processor.feature_extractor.log_mel
    rows: list[dict[str, Any]] = []
    for name, clips in sets.items():
        whole = [log_mel.finish_clip(mels, mels.shape[1]) for mels in (log_mels_of(log_mel, c.samples) for c in clips)]
        reference = {head: decode(model, whole) for head, model in models.items()}
        for method, features_of in [("whole clip", None), *list_methods(log_mel, clips)]:
            features = whole if features_of is None else [features_of(clip) for clip in clips]
            errors = [(a - b).abs() for a, b in zip(features, whole, strict=True)]
            late = [error[round(5 * SAMPLING_RATE / log_mel.settings.hop_length) :] for error in errors]
            for head, model in models.items():
                found = decode(model, features)
                texts = [[" ".join(map(str, row)) for row in side] for side in (reference[head], found)]
                row = {
                    "clips": name,
                    "head": head,
                    "method": method,
                    "minutes": round(sum(len(clip.samples) for clip in clips) / SAMPLING_RATE / 60, 1),
                    "mean_abs_error": f"{float(torch.cat(errors).mean()):.4f}",
                    "mean_abs_error_after_5_s": f"{float(torch.cat(late).mean()):.4f}",
                    "token_error_percent": error_percent(*texts),
                    "word_error_percent": "",
                }
                if name == "digits":
                    said = [clip.text for clip in clips]
                    row["word_error_percent"] = error_percent(said, [processor.tokenizer.decode(r) for r in found])
                rows.append(row)
                print(row, flush=True)
                write_rows(RESULTS / "running_normalization_demo_cpu.csv", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strings", type=int, default=8, help="strings of digits a speaker")
    parser.add_argument("--share", type=int, default=3, help="of the read clips, one of so many")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    models, processor = {}, None
    for head in ("transducer", "ctc"):
        models[head], processor = load_model(CHECKPOINT_PATH, head)
    assert processor is not None
    sets = {
        "digits": join_digits(SPEECH_DIR, arguments.strings, arguments.seed),
        "read": read_clips(SPEECH_DIR, arguments.share),
    }
    measure(models, processor, sets)


if __name__ == "__main__":
    main()
