"""
How many words does the demonstration checkpoint get wrong?

The 250 test clips of `speech/digits`, joined into strings of 1 to 8 digits of one speaker, with pauses and silence at
both ends; both heads. Scored by jiwer.

    python benchmarks/bench_wer.py
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path

import jiwer
import numpy as np
import torch

from common.batches import split_batches
from common.csv_files import write_rows
from common.folders import RESULTS
from common.speech import SAMPLING_RATE, SPEECH_DIR, read_manifest
from transformers_fastconformer import load_model, read_audio, transcribe_waveforms
from transformers_fastconformer.demonstration import CHECKPOINT_PATH

MAX_DIGITS = 8
EDGE_SECONDS = 0.2
PAUSE_SECONDS = (0.05, 0.5)


def read_test_clips(speech_dir: Path) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Word and samples of every test clip, by speaker."""
    clips = defaultdict(list)
    for entry in read_manifest(speech_dir):
        if entry["audio_filepath"].startswith("digits/") and entry["split"] == "test":
            clips[entry["speaker"]].append((entry["text"].lower(), read_audio(speech_dir / entry["audio_filepath"])))
    return clips


def join_clips(
    clips: dict[str, list[tuple[str, np.ndarray]]], num_digits: int, seed: int
) -> list[tuple[str, np.ndarray]]:
    """Join every clip once into strings of `num_digits` of one speaker (the last may be shorter)."""
    generator = random.Random(seed * 100 + num_digits)
    edge = np.zeros(int(EDGE_SECONDS * SAMPLING_RATE), dtype=np.float32)
    strings = []
    for _, spoken in sorted(clips.items()):
        order = generator.sample(spoken, len(spoken))
        for chosen in split_batches(order, num_digits):
            pieces = [edge]
            for _, waveform in chosen:
                pause = np.zeros(int(generator.uniform(*PAUSE_SECONDS) * SAMPLING_RATE), dtype=np.float32)
                pieces += [waveform, pause]
            strings.append((" ".join(word for word, _ in chosen), np.concatenate([*pieces, edge])))
    return strings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech_dir", type=Path, default=SPEECH_DIR)
    parser.add_argument("--model", default=str(CHECKPOINT_PATH))
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    clips = read_test_clips(options.speech_dir)
    rows = []
    for head in ("transducer", "ctc"):
        model, processor = load_model(options.model, head)
        everything: tuple[list[str], list[str]] = ([], [])
        for num_digits in range(1, MAX_DIGITS + 1):
            strings = join_clips(clips, num_digits, options.seed)
            expected = [text for text, _ in strings]
            found = []
            for batch in split_batches([waveform for _, waveform in strings], options.batch_size):
                found += [transcript.text for transcript in transcribe_waveforms(model, processor, batch)]
            everything[0].extend(expected)
            everything[1].extend(found)
            rows.append(describe(head, str(num_digits), expected, found))
        rows.append(describe(head, f"1-{MAX_DIGITS}", *everything))
    path = RESULTS / "wer_digits_float32_cpu.csv"
    write_rows(path, rows)
    print(f"written to {path}")


def describe(head: str, num_digits: str, expected: list[str], found: list[str]) -> dict[str, object]:
    """Row with the errors of one head on strings of one length."""
    score = jiwer.process_words(expected, found)
    words = score.hits + score.substitutions + score.deletions
    row: dict[str, object] = {
        "head": head,
        "digits": num_digits,
        "strings": len(expected),
        "words": words,
        "substitutions": score.substitutions,
        "deletions": score.deletions,
        "insertions": score.insertions,
        "wer_percent": round(100 * score.wer, 2),
        "torch": torch.__version__,
    }
    print(f"{head:10} {num_digits:>4} digits: {score.wer:7.2%} of {words} words")
    return row


if __name__ == "__main__":
    main()
