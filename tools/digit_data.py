"""Spoken English digits for the demonstration checkpoints: recorded and synthesised clips, and strings made of them.

Needs the extra `audio`, espeak-ng, and the Free Spoken Digit Dataset as a folder `digits/` with `train.txt` and
`test.txt` (paths relative to its parent, one a line) and files named `<digit>_<speaker>_<index>.flac`.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from voice_changes import add_room, change_formants, change_tone

SAMPLING_RATE = 16000
SPEAKERS = ("george", "lucas", "nicolas", "theo", "yweweler")  # of the recordings
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# The plain voices `en` and `en-us` are never heard in training; they are the test of the synthesised part.
HELD_OUT_VOICES = ("en", "en-us")
ACCENTS = ("en-gb-scotland", "en-029", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
VARIANTS = [f"m{n}" for n in range(1, 9)] + [f"f{n}" for n in range(1, 6)]
VARIANTS += ["adam", "anika", "announcer", "belinda", "benjamin", "caleb", "david", "ed", "edward", "john"]
VARIANTS += ["kaukovalta"]
VARIANTS += ["klatt", "klatt2", "klatt3", "linda", "michael", "norbert", "quincy", "rob", "robert", "sandro", "shelby"]
VARIANTS += ["steph", "steph2", "travis", "victor", "zac"]


@dataclass(frozen=True)
class Augmentation:
    """What training does to strings of digits, where the checkpoints differ."""

    gain_db: tuple[float, float]  # lowest and highest
    repeat_chance: float = 0.0  # of a recorded digit to be that before it, spoken again, next to the chance of a draw
    speed: tuple[float, float] = (0.85, 1.2)  # of tempo and pitch together, slowest and fastest
    formants: float = 1.0  # largest factor of a recorded speaker's resonances, and one by the smallest; 1: left
    tone_db: float = 0.0  # largest gain and loss of a part of the spectrum
    room_chance: float = 0.15
    single_chance: float = 0.12  # of a batch of single digits


@dataclass
class Utterance:
    """A mono waveform at 16 kHz, the digits in it, and who speaks."""

    waveform: np.ndarray  # (samples,) float32
    digits: tuple[int, ...]
    speaker: str


def read_digit_clips(speech_dir: Path, split: str) -> list[Utterance]:
    """The recorded single digits of `train` or `test`."""
    clips = []
    for line in (speech_dir / "digits" / f"{split}.txt").read_text().split():
        path = speech_dir / line
        waveform, rate = soundfile.read(path, dtype="float32")
        if rate != SAMPLING_RATE:
            raise ValueError(f"{path} has sampling rate {rate}; expected {SAMPLING_RATE}.")
        digit, speaker, _ = path.stem.split("_")
        clips.append(Utterance(waveform, (int(digit),), speaker))
    return clips


def synthesize(text: str, voice: str, words_per_minute: int = 150, pitch: int = 50) -> np.ndarray:
    """Speech by espeak-ng at 16 kHz, (samples,) float32."""
    command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "--stdout", text]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    # The header of a streamed WAV does not know its length: read the samples after the "data" chunk ourselves.
    start = data.index(b"data") + 8
    rate = int.from_bytes(data[24:28], "little")
    samples = np.frombuffer(data[start : start + (len(data) - start) // 2 * 2], dtype="<i2").astype(np.float32) / 32768
    return soxr.resample(samples, rate, SAMPLING_RATE).astype(np.float32)


def read_synthesized_clips(cache_dir: Path, strings_per_voice: int = 60) -> list[Utterance]:
    """Digit strings spoken by many espeak-ng voices; made once and kept in `cache_dir`."""
    path = cache_dir / f"espeak-{strings_per_voice}.npz"
    if not path.is_file():
        generator = random.Random(7)
        voices = [*ACCENTS, *(f"{accent}+{v}" for accent in ("en", "en-us") for v in VARIANTS[::2])]
        voices += [f"{generator.choice(ACCENTS)}+{v}" for v in VARIANTS[1::2]]
        waveforms, digits, speakers = [], [], []
        for voice in voices:
            for index in range(strings_per_voice):
                string = [generator.randrange(10) for _ in range(1 if index % 4 == 0 else generator.randint(2, 8))]
                separator = generator.choice((" ", " ", ", ", ". "))
                text = separator.join(DIGIT_WORDS[digit] for digit in string)
                speech = synthesize(text, voice, generator.randint(110, 210), generator.randint(20, 80))
                waveforms.append((speech * 32767).astype(np.int16))
                digits.append("".join(map(str, string)))
                speakers.append(voice)
        cache_dir.mkdir(parents=True, exist_ok=True)
        lengths = [len(waveform) for waveform in waveforms]
        np.savez(path, samples=np.concatenate(waveforms), lengths=lengths, digits=digits, speakers=speakers)
    stored = np.load(path)
    parts = np.split(stored["samples"], np.cumsum(stored["lengths"])[:-1])
    return [
        Utterance(part.astype(np.float32) / 32768, tuple(map(int, str(digits))), str(speaker))
        for part, digits, speaker in zip(parts, stored["digits"], stored["speakers"], strict=True)
    ]


def make_noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Noise of unit power with a random slope of its spectrum, sometimes with a hum."""
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLING_RATE), 20.0)
    noise = np.fft.irfft(spectrum * frequency ** generator.uniform(-1.2, 0.2), samples)
    if generator.random() < 0.15:
        clock = np.arange(samples) / SAMPLING_RATE
        noise += noise.std() * generator.uniform(0.3, 2) * np.sin(2 * np.pi * generator.uniform(45, 2000) * clock)
    return (noise / (noise.std() + 1e-9)).astype(np.float32)


class DigitStrings(torch.utils.data.IterableDataset):
    """Endless augmented batches: (waveforms, lengths, texts), each batch of about the same number of seconds."""

    def __init__(
        self,
        recorded: list[Utterance],
        synthesized: list[Utterance],
        seconds_per_batch: float,
        stage: Tensor,
        augmentation: Augmentation,
    ) -> None:
        self.recorded = recorded
        self.synthesized = synthesized
        self.speakers = sorted({clip.speaker for clip in recorded})
        self.by_speaker = {name: [clip for clip in recorded if clip.speaker == name] for name in self.speakers}
        self.single = [clip for clip in synthesized if len(clip.digits) == 1]
        self.seconds_per_batch = seconds_per_batch
        self.stage = stage  # shared with the training process, which moves it on
        self.augmentation = augmentation

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        torch.set_num_threads(1)
        generator = np.random.default_rng(torch.initial_seed() % 2**32)
        while True:
            # A curriculum: with single clean recorded digits the model learns the alignment in a minute; with the full
            # mixture it takes much longer.
            stage = int(self.stage)
            seconds_per_batch = self.seconds_per_batch
            if stage < 3:
                most_digits, expected_seconds = ((1, 0.9), (2, 1.6), (4, 2.8))[stage]
                seconds_per_batch = self.seconds_per_batch * (0.3, 0.5, 0.8)[stage]
            else:
                draw = generator.random()
                if draw < 0.35:
                    most_digits, expected_seconds = (1, 1.3) if draw < self.augmentation.single_chance else (2, 1.9)
                elif draw < 0.82:
                    most_digits, expected_seconds = (4, 2.8) if draw < 0.55 else (8, 4.6)
                else:
                    most_digits, expected_seconds = (16, 8.0) if draw < 0.95 else (45, 22.0)
            clips = []
            for _ in range(max(2, round(seconds_per_batch / expected_seconds))):
                clips.append(self.make_clip(generator, most_digits, stage))
            lengths = torch.tensor([len(waveform) for waveform, _ in clips])
            waveforms = torch.zeros(len(clips), int(lengths.max()))
            for row, (waveform, _) in zip(waveforms, clips, strict=True):
                row[: len(waveform)] = torch.from_numpy(waveform)
            yield waveforms, lengths, [text for _, text in clips]

    def make_clip(self, generator: np.random.Generator, most_digits: int, stage: int) -> tuple[np.ndarray, str]:
        degraded = stage >= 2
        if degraded and generator.random() < 0.03:
            return self.make_empty_clip(generator), ""
        if most_digits > 16:
            count = int(generator.integers(20, most_digits + 1))
        else:
            count = int(generator.integers(max(1, most_digits // 2 - 1), most_digits + 1))
        parts = self.choose_parts(generator, count, recorded_only=stage == 0)
        pieces, digits = [], []
        level = generator.random() if stage else 1.0
        tempo = generator.uniform(*self.augmentation.speed) if stage else 1.0
        widest = np.log(self.augmentation.formants)
        formants = float(np.exp(generator.uniform(-widest, widest))) if degraded and widest else 1.0
        pause_style = generator.random()
        widest_pause = (
            0.0
            if pause_style < 0.2 or stage == 0
            else 0.15
            if pause_style < 0.35
            else 0.8
            if most_digits <= 16
            else 0.4
        )
        for part in parts:
            waveform = part.waveform
            if formants != 1.0 and part.speaker in self.by_speaker:
                waveform = change_formants(waveform, formants)
            waveform = self.change_speed(waveform, tempo * generator.uniform(0.95, 1.05))
            if level < 0.5:
                waveform = waveform * (
                    0.1 / (np.sqrt(np.mean(waveform**2)) + 1e-6) * 10 ** generator.uniform(-0.3, 0.3)
                )
            pieces += [waveform, np.zeros(int(generator.uniform(0, widest_pause) * SAMPLING_RATE), np.float32)]
            digits += part.digits
        edges = [0.2, 0.2] if stage == 0 else generator.uniform(0, 0.8 if stage >= 2 and most_digits <= 8 else 0.4, 2)
        lead, trail = (int(edge * SAMPLING_RATE) for edge in edges)
        speech = np.concatenate([np.zeros(lead, np.float32), *pieces, np.zeros(trail, np.float32)])
        if degraded:
            if self.augmentation.tone_db:
                speech = change_tone(generator, speech, self.augmentation.tone_db)
            speech = self.degrade(generator, speech, self.augmentation.gain_db, self.augmentation.room_chance)
        return speech, " ".join(DIGIT_WORDS[digit] for digit in digits)

    def choose_parts(self, generator: np.random.Generator, count: int, recorded_only: bool) -> list[Utterance]:
        kind = 0.9 if recorded_only else generator.random()
        if kind < 0.34:  # strings as the synthesiser spoke them
            parts: list[Utterance] = []
            while True:
                part = self.synthesized[generator.integers(len(self.synthesized))]
                if sum(len(p.digits) for p in parts) + len(part.digits) > max(count, 1):
                    if parts:
                        return parts
                    continue
                parts.append(part)
        pool: list[Utterance]
        if kind < 0.75:  # one recorded speaker
            pool = self.by_speaker[self.speakers[generator.integers(len(self.speakers))]]
        elif kind < 0.93:  # recorded speakers mixed
            pool = self.recorded
        else:
            pool = self.single
            if generator.random() < 0.5:
                voices = [self.single[i] for i in generator.integers(len(self.single), size=count)]
                others = [self.recorded[i] for i in generator.integers(len(self.recorded), size=count)]
                return [a if generator.random() < 0.5 else b for a, b in zip(voices, others, strict=True)]
        parts = [pool[index] for index in generator.integers(len(pool), size=count)]
        for before in range(len(parts) - 1):
            if generator.random() < self.augmentation.repeat_chance:
                again = [clip for clip in pool if clip.digits == parts[before].digits]
                parts[before + 1] = again[generator.integers(len(again))]
        return parts

    @staticmethod
    def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
        """Tempo and pitch together, by linear interpolation."""
        positions = np.arange(0, len(waveform) - 1, factor, dtype=np.float32)
        return np.interp(positions, np.arange(len(waveform)), waveform).astype(np.float32)

    @staticmethod
    def degrade(
        generator: np.random.Generator, speech: np.ndarray, gain_db: tuple[float, float], room_chance: float = 0.15
    ) -> np.ndarray:
        """Echo, band limit, background noise, and a gain between the two."""
        level = np.sqrt(np.mean(speech**2)) + 1e-6
        if generator.random() < room_chance:
            speech = add_room(generator, speech, SAMPLING_RATE)
        if generator.random() < 0.35:
            spectrum = np.fft.rfft(speech)
            cutoff = generator.uniform(3200, 5000)
            spectrum[int(cutoff / (SAMPLING_RATE / 2) * len(spectrum)) :] = 0
            speech = np.fft.irfft(spectrum, len(speech))
        if generator.random() < 0.7:
            signal_to_noise_db = generator.uniform(8, 60)
            speech = speech + make_noise(generator, len(speech)) * level * 10 ** (-signal_to_noise_db / 20)
        gain = 10 ** (generator.uniform(*gain_db) / 20)
        peak = np.abs(speech).max() + 1e-9
        return (speech * min(gain, 0.99 / peak)).astype(np.float32)

    @staticmethod
    def make_empty_clip(generator: np.random.Generator) -> np.ndarray:
        samples = int(generator.uniform(0.4, 4.0) * SAMPLING_RATE)
        kind = generator.random()
        if kind < 0.2:
            return np.zeros(samples, np.float32)
        noise = make_noise(generator, samples) * 10 ** (generator.uniform(-80, -15) / 20)
        if kind > 0.7:  # clicks and bursts
            envelope = np.repeat(generator.random(samples // 1600 + 1) ** 4, 1600)[:samples]
            noise = noise * envelope.astype(np.float32)
        return noise.astype(np.float32)


def join_test_clips(
    clips: list[Utterance],
    digits_per_string: int,
    seed: int,
    mixed_speakers: bool = False,
    pause_seconds: tuple[float, float] = (0.05, 0.5),
) -> list[Utterance]:
    """Every clip once, in strings with pauses of digital silence of random length (0.2 s more at both ends)."""
    generator = np.random.default_rng(seed + digits_per_string)
    groups = (
        [clips]
        if mixed_speakers
        else [[c for c in clips if c.speaker == s] for s in sorted({c.speaker for c in clips})]
    )
    strings = []
    edge = np.zeros(SAMPLING_RATE // 5, np.float32)
    for group in groups:
        order = generator.permutation(len(group))
        for start in range(0, len(order), digits_per_string):
            chosen = [group[index] for index in order[start : start + digits_per_string]]
            pieces = [edge]
            for clip in chosen:
                pieces += [clip.waveform, np.zeros(int(generator.uniform(*pause_seconds) * SAMPLING_RATE), np.float32)]
            digits = tuple(clip.digits[0] for clip in chosen)
            strings.append(Utterance(np.concatenate([*pieces, edge]), digits, chosen[0].speaker))
    return strings
