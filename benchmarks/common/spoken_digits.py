"""Recorded digits joined into a file of any length with known words, and counts of the errors in transcripts of it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import numpy as np
import soundfile

from common.batches import split_batches
from common.speech import SAMPLING_RATE, read_manifest
from transformers_fastconformer import ConfidenceOptions, read_audio, transcribe_waveforms

EDGE = np.zeros(round(0.3 * SAMPLING_RATE), dtype=np.float32)
PAUSE_SECONDS = (0.05, 0.5)
# Digits that one speaker says before the next one does.
TURN_DIGITS = 60
# Loudness of all clips after scaling: speakers differ by 30 dB here, which no recording of a conversation has.
LEVEL = 0.05
# Longest clip that is taken for one digit.
MAX_DIGIT_SECONDS = 1.2
# Confidence (NeMo's default measure; half of the digits are below 0.43) of a word that the checkpoint is sure of.
MIN_CONFIDENCE = 0.35
COUNTS = ("lost", "doubled", "added", "wrong")


class Spoken(NamedTuple):
    """A word of the joined file and its position, in seconds."""

    word: str
    start: float
    end: float


def read_digits(speech_dir: Path) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Read word and samples of every digit, by speaker, all equally loud."""
    clips = defaultdict(list)
    for entry in read_manifest(speech_dir):
        if entry["audio_filepath"].startswith("digits/"):
            samples = read_audio(speech_dir / entry["audio_filepath"])
            loudness = float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
            clips[entry["speaker"]].append((entry["text"].lower(), (samples * (LEVEL / loudness)).clip(-1, 1)))
    return clips


def keep_known(
    model: Any,
    processor: Any,
    clips: dict[str, list[tuple[str, np.ndarray]]],
    seed: int,
    min_confidence: float = MIN_CONFIDENCE,
    **options: Any,
) -> dict[str, list[tuple[str, np.ndarray]]]:
    """
    Keep the clips that a head surely recognises: by themselves and in several short strings of digits, always with
    more than the given confidence (0: any) in the word. `options` are those of the transcription.

    Clips that are long enough for more than a digit are left out: some speakers were recorded with something after it.

    Raises:
        ValueError: when too few are left to join.
    """
    generator = random.Random(seed)
    kept = {
        speaker: [clip for clip in spoken if len(clip[1]) <= MAX_DIGIT_SECONDS * SAMPLING_RATE]
        for speaker, spoken in sorted(clips.items())
    }
    for num_digits in (1, 6, 6, 6, 6):
        for speaker, spoken in kept.items():
            strings = list(split_batches(generator.sample(spoken, len(spoken)), num_digits))
            kept[speaker] = [
                clip
                for batch in split_batches(strings, 16)
                for string in _recognise(model, processor, batch, min_confidence, options)
                for clip in string
            ]
        kept = {speaker: spoken for speaker, spoken in kept.items() if len({word for word, _ in spoken}) > 1}
    if not kept:
        raise ValueError(f"min_confidence={min_confidence} leaves no digits; expected less.")
    return kept


def _recognise(
    model: Any,
    processor: Any,
    strings: Sequence[Sequence[tuple[str, np.ndarray]]],
    min_confidence: float,
    options: dict[str, Any],
) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Clips with enough confidence from each string that is recognised correctly."""
    waveforms = [np.concatenate([EDGE, *(part for _, clip in string for part in (clip, EDGE))]) for string in strings]
    transcripts = transcribe_waveforms(model, processor, waveforms, confidence=ConfidenceOptions(), **options)
    for string, transcript in zip(strings, transcripts, strict=True):
        if transcript.text == " ".join(word for word, _ in string):
            sure = transcript.word_confidences or []
            yield [clip for clip, confidence in zip(string, sure, strict=True) if confidence > min_confidence]


def join_digits(clips: dict[str, list[tuple[str, np.ndarray]]], seconds: float, path: Path, seed: int) -> list[Spoken]:
    """Write digits with pauses, in turns of different speakers, and return the words with their positions."""
    generator = random.Random(seed)
    spoken: list[Spoken] = []
    position = 0
    with soundfile.SoundFile(path, "w", SAMPLING_RATE, 1, format="WAV", subtype="FLOAT") as file:
        for word, samples in _draw(clips, generator):
            pause = round(generator.uniform(*PAUSE_SECONDS) * SAMPLING_RATE)
            if spoken and spoken[-1].word == word:
                continue
            if position + len(samples) + pause > seconds * SAMPLING_RATE:
                return spoken
            start = position / SAMPLING_RATE
            spoken.append(Spoken(word, start, start + len(samples) / SAMPLING_RATE))
            file.write(np.concatenate([samples, np.zeros(pause, dtype=np.float32)]))
            position += len(samples) + pause
    return spoken


def _draw(
    clips: dict[str, list[tuple[str, np.ndarray]]], generator: random.Random
) -> Iterator[tuple[str, np.ndarray]]:
    while True:
        for speaker in generator.sample(sorted(clips), len(clips)):
            yield from generator.choices(clips[speaker], k=TURN_DIGITS)


def compare_words(spoken: list[Spoken], found: list[dict[str, Any]]) -> tuple[dict[str, int], dict[int, int]]:
    """Count words lost, doubled, added and wrong; also the place of the found word for each correct spoken word."""
    expected, words = [item.word for item in spoken], [item["word"] for item in found]
    counts = dict.fromkeys(COUNTS, 0)
    places: dict[int, int] = {}
    (alignment,) = jiwer.process_words(" ".join(expected), " ".join(words)).alignments
    for chunk in alignment:
        ours = range(chunk.hyp_start_idx, chunk.hyp_end_idx)
        if chunk.type == "equal":
            places.update(zip(range(chunk.ref_start_idx, chunk.ref_end_idx), ours, strict=True))
        elif chunk.type == "delete":
            counts["lost"] += chunk.ref_end_idx - chunk.ref_start_idx
        elif chunk.type == "substitute":
            counts["wrong"] += len(ours)
        else:
            for place in ours:
                neighbours = words[max(place - 1, 0) : place] + words[place + 1 : place + 2]
                counts["doubled" if words[place] in neighbours else "added"] += 1
    return counts, places
