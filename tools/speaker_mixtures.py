"""
Conversations of the digits' speakers, in turns that also overlap, for the diarisation demonstration.

    python tools/speaker_mixtures.py --speech_dir ../shared/speech --output talk.wav

writes one of utterances of the test part, and prints who says what.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from digit_data import DIGIT_WORDS, SAMPLING_RATE, Utterance, read_digit_clips

LEVEL = 0.06  # root mean square of a turn, before its gain
PAUSE_SECONDS = (0.02, 0.15)  # within a turn
GAIN_DB = (-6.0, 6.0)


@dataclass(frozen=True)
class SpokenTurn:
    """One speaker's string of digits in a conversation."""

    speaker: str
    start: float  # seconds
    end: float
    words: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Conversation:
    """Samples at 16 kHz, (samples,) float32, and the turns in them by their start."""

    waveform: np.ndarray
    turns: tuple[SpokenTurn, ...]


def make_conversation(
    clips: dict[str, list[Utterance]],
    generator: np.random.Generator,
    num_speakers: int,
    seconds: float,
    overlap_chance: float = 0.3,
) -> Conversation:
    """
    Put turns of some speakers one after another, until the time is full.

    Args:
        clips: Single digits of each speaker.
        generator: Draws all that is drawn.
        num_speakers: Speakers of the conversation.
        seconds: Its length.
        overlap_chance: How often a turn begins before the one before it has ended, by up to a second.
    """
    waveform = np.zeros(round(seconds * SAMPLING_RATE), np.float32)
    speakers = [str(name) for name in generator.choice(sorted(clips), num_speakers, replace=False)]
    gains = {name: 10 ** (generator.uniform(*GAIN_DB) / 20) for name in speakers}
    turns: list[SpokenTurn] = []
    place = round(generator.uniform(0.1, 1.0) * SAMPLING_RATE)
    while True:
        others = [name for name in speakers if not turns or name != turns[-1].speaker]
        # Who has not spoken yet comes sooner, so that all of them speak.
        silent = [name for name in others if all(turn.speaker != name for turn in turns)]
        pool = silent if silent and generator.random() < 0.5 else others or speakers
        speaker = pool[generator.integers(len(pool))]
        pieces, words = [], []
        for number in range(int(generator.integers(1, 7))):
            clip = clips[speaker][generator.integers(len(clips[speaker]))]
            if number:
                pieces.append(np.zeros(round(generator.uniform(*PAUSE_SECONDS) * SAMPLING_RATE), np.float32))
            pieces.append(clip.waveform / (np.sqrt(np.mean(clip.waveform**2)) + 1e-6) * LEVEL)
            words += [DIGIT_WORDS[digit] for digit in clip.digits]
        speech = np.concatenate(pieces) * np.float32(gains[speaker])
        if place + len(speech) > len(waveform):
            break
        waveform[place : place + len(speech)] += speech
        end = place + len(speech)
        turns.append(SpokenTurn(speaker, place / SAMPLING_RATE, end / SAMPLING_RATE, tuple(words)))
        if generator.random() < overlap_chance:
            least = max(turns[-2].end if len(turns) > 1 else 0.0, turns[-1].start + 0.2)
            place = max(round(least * SAMPLING_RATE), end - round(generator.uniform(0.2, 1.0) * SAMPLING_RATE))
        else:
            place = end + round(generator.exponential(0.4) * SAMPLING_RATE)
    noise = generator.standard_normal(len(waveform)) * LEVEL * 10 ** (-generator.uniform(25, 50) / 20)
    return Conversation(np.clip(waveform + noise, -1, 1).astype(np.float32), tuple(turns))


def frame_labels(
    turns: tuple[SpokenTurn, ...], speakers: list[str], num_frames: int, frame_seconds: float
) -> np.ndarray:
    """(frames, speakers) bool: a speaker speaks in the middle of a frame."""
    middles = (np.arange(num_frames) + 0.5) * frame_seconds
    labels = np.zeros((num_frames, len(speakers)), bool)
    for turn in turns:
        labels[:, speakers.index(turn.speaker)] |= (middles >= turn.start) & (middles < turn.end)
    return labels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="a WAV file")
    parser.add_argument("--speech_dir", type=Path, required=True)
    parser.add_argument("--speakers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=14.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    clips: dict[str, list[Utterance]] = {}
    for clip in read_digit_clips(arguments.speech_dir, "test"):
        clips.setdefault(clip.speaker, []).append(clip)
    talk = make_conversation(clips, np.random.default_rng(arguments.seed), arguments.speakers, arguments.seconds)
    soundfile.write(arguments.output, talk.waveform, SAMPLING_RATE, subtype="PCM_16")
    for turn in talk.turns:
        print(f"{turn.start:6.2f} {turn.end:6.2f} {turn.speaker}: {' '.join(turn.words)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
