"""
Windows of spoken digits with prompts for the multitask demonstration: words with times, in English and German.

Every word has its place in the audio, so that windows may begin and end anywhere: in silence, or within a word, which
counts as heard if half of it is there. A pause of `SENTENCE_PAUSE_SECONDS` ends a sentence.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from digit_data import DIGIT_WORDS, SAMPLING_RATE, Augmentation, DigitStrings, Utterance

GERMAN_DIGIT_WORDS = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")
WORDS = {"en": DIGIT_WORDS, "de": GERMAN_DIGIT_WORDS}
FRAME_SAMPLES = SAMPLING_RATE * 80 // 1000
SENTENCE_PAUSE_SECONDS = 0.75
#: The largest time token, in frames of 80 ms: 40 s.
LAST_TIME_FRAME = 500
# Seconds, and the share of the batches: the last stage of the curriculum.
MIXTURE = ((2.5, 0.15), (6.0, 0.25), (12.0, 0.25), (22.0, 0.2), (40.0, 0.15))
CURRICULUM = ((1.5, 0.35), (4.0, 0.5), (9.0, 0.8))  # seconds, and the share of a full batch


@dataclass(frozen=True)
class Word:
    """A digit and its place in the audio, in samples."""

    digit: int
    start: int
    end: int


@dataclass(frozen=True)
class Prompt:
    """What is asked for."""

    target_lang: str = "en"
    punctuated: bool = True
    timed: bool = False

    def slots(self) -> dict[str, str]:
        """The slots of NeMo's prompt format `canary2`."""
        return {
            "decodercontext": "",
            "emotion": "<|emo:undefined|>",
            "source_lang": "<|en|>",
            "target_lang": f"<|{self.target_lang}|>",
            "pnc": "<|pnc|>" if self.punctuated else "<|nopnc|>",
            "itn": "<|noitn|>",
            "timestamp": "<|timestamp|>" if self.timed else "<|notimestamp|>",
            "diarize": "<|nodiarize|>",
            "prompt_language": "spl_tokens",
        }


@dataclass
class Example:
    """A prompt and its answer in tokens, and where each is heard."""

    ids: list[int]
    prompt_length: int
    words: list[int]  # of each token of the answer but the last, which ends it: the word that it belongs to


@dataclass
class Batch:
    """Windows with prompts and answers."""

    waveforms: Tensor  # (windows, samples)
    lengths: Tensor  # (windows,)
    examples: list[Example]
    windows: list[Window]  # without waveforms


@dataclass
class Window:
    """A mono waveform at 16 kHz and the words in it."""

    waveform: np.ndarray  # (samples,) float32
    words: list[Word]
    is_timed: bool = True  # or words have no places, as in strings of a synthesiser


def write_words(words: list[Word], prompt: Prompt) -> list[str]:
    """The text of words, each with its punctuation."""
    texts = [WORDS[prompt.target_lang][word.digit] for word in words]
    if not prompt.punctuated or not words:
        return texts
    pause = int(SENTENCE_PAUSE_SECONDS * SAMPLING_RATE)
    ends = [after.start - word.end >= pause for word, after in itertools.pairwise(words)] + [True]
    begins = [True, *ends[:-1]]
    return [
        (text.capitalize() if begin else text) + ("." if end else ",")
        for text, begin, end in zip(texts, begins, ends, strict=True)
    ]


def write_answer(words: list[Word], prompt: Prompt) -> str:
    """The answer to a prompt, with time tokens before and after each word where they are asked for."""
    texts = write_words(words, prompt)
    if not prompt.timed:
        return " ".join(texts)
    times = [
        [min(round(place / FRAME_SAMPLES), LAST_TIME_FRAME) for place in (word.start, word.end)] for word in words
    ]
    return " ".join(f"<|{start}|> {text} <|{end}|>" for (start, end), text in zip(times, texts, strict=True))


def trim(clip: Utterance, relative_level: float = 0.03) -> Utterance:
    """A clip without the silence at its ends."""
    loud = np.flatnonzero(np.abs(clip.waveform) > relative_level * np.abs(clip.waveform).max())
    return Utterance(clip.waveform[loud[0] : loud[-1] + 1], clip.digits, clip.speaker)


class PromptedDigits(torch.utils.data.IterableDataset):
    """
    Endless augmented batches of windows with prompts and answers in tokens.

    Args:
        recorded: Single digits.
        synthesized: Digit strings of a synthesiser.
        seconds_per_batch: About what a batch holds.
        stage: Stage of the curriculum, shared with the training process, which moves it on.
        augmentation: What is done to the clips.
        encode: Token ids of a prompt and its answer.
    """

    def __init__(
        self,
        recorded: list[Utterance],
        synthesized: list[Utterance],
        seconds_per_batch: float,
        stage: Tensor,
        augmentation: Augmentation,
        encode: Callable[[Prompt, list[Word]], Example],
    ) -> None:
        single = [trim(clip) for clip in synthesized if len(clip.digits) == 1]
        self.strings = [trim(clip) for clip in synthesized if len(clip.digits) > 1]
        self.chooser = DigitStrings(recorded, single, seconds_per_batch, stage, augmentation)
        self.seconds_per_batch = seconds_per_batch
        self.stage = stage
        self.augmentation = augmentation
        self.encode = encode

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        generator = np.random.default_rng(torch.initial_seed() % 2**32)
        while True:
            stage = int(self.stage)
            if stage < len(CURRICULUM):
                seconds, share = CURRICULUM[stage]
            else:
                index = generator.choice(len(MIXTURE), p=[chance for _, chance in MIXTURE])
                seconds, share = MIXTURE[index][0], 1.0
            windows = []
            for _ in range(max(2, round(share * self.seconds_per_batch / (0.75 * seconds)))):
                windows.append(self.make_window(generator, seconds, stage))
            examples = [self.encode(self.make_prompt(generator, window), window.words) for window in windows]
            lengths = torch.tensor([len(window.waveform) for window in windows])
            waveforms = torch.zeros(len(windows), int(lengths.max()))
            for row, window in zip(waveforms, windows, strict=True):
                row[: len(window.waveform)] = torch.from_numpy(window.waveform)
                window.waveform = window.waveform[:0]
            yield Batch(waveforms, lengths, examples, windows)

    @staticmethod
    def make_prompt(generator: np.random.Generator, window: Window) -> Prompt:
        """A prompt for a window."""
        language = "de" if generator.random() < 0.35 else "en"
        punctuated = bool(generator.random() < 0.5)
        timed = window.is_timed and bool(generator.random() < 0.45)
        return Prompt(language, punctuated, timed)

    def make_window(self, generator: np.random.Generator, most_seconds: float, stage: int) -> Window:
        """A window of at most so many seconds, often much less."""
        degraded = stage >= 2
        if degraded and generator.random() < 0.03:
            samples = int(generator.uniform(0.3, most_seconds) * SAMPLING_RATE)
            pieces = [self.chooser.make_empty_clip(generator) for _ in range(12)]
            return Window(np.concatenate(pieces)[:samples], [])
        seconds = float(generator.uniform(0.5, 1.0)) * most_seconds
        is_cut = stage >= 2 and generator.random() < 0.5
        is_string = not is_cut and stage > 0 and generator.random() < 0.15
        waveform, words = self.speak(generator, seconds * (1.6 if is_cut else 1.0), stage, is_string)
        window = Window(waveform, words, is_timed=not is_string)
        if is_cut:
            window = cut(window, generator.uniform(0.0, 0.4) * len(waveform), int(seconds * SAMPLING_RATE))
        if degraded:
            window.waveform = self.chooser.degrade(generator, window.waveform, self.augmentation.gain_db)
        return window

    def speak(
        self, generator: np.random.Generator, seconds: float, stage: int, is_string: bool
    ) -> tuple[np.ndarray, list[Word]]:
        """Speech with pauses, of about so many seconds or fewer."""
        level = generator.random() if stage else 1.0
        tempo = generator.uniform(0.85, 1.2) if stage else 1.0
        style = generator.random()
        widest = 0.0 if style < 0.2 else 0.15 if style < 0.35 else 0.5
        sentence_chance = 0.0 if generator.random() < 0.35 else float(generator.uniform(0.05, 0.35))
        edge = 0.2 if stage == 0 else float(generator.choice((0.1, 0.6, 3.0), p=(0.4, 0.5, 0.1)))
        pieces = [np.zeros(int(generator.uniform(0.0, min(edge, 0.3 * seconds)) * SAMPLING_RATE), np.float32)]
        place, words = len(pieces[0]), list[Word]()
        limit = int(seconds * SAMPLING_RATE)
        parts: list[Utterance] = []
        repeats = generator.random() < 0.1
        while True:
            if is_string:
                part = self.strings[generator.integers(len(self.strings))]
            else:
                if not parts:
                    parts = self.choose_parts(generator, 12, stage)
                part = parts.pop()
                if repeats and parts and generator.random() < 0.6:
                    parts[-1] = part
            waveform = self.chooser.change_speed(part.waveform, tempo * generator.uniform(0.95, 1.05))
            if words and place + len(waveform) > limit:
                break
            if level < 0.5:
                loudness = np.sqrt(np.mean(waveform**2)) + 1e-6
                waveform = waveform * np.float32(0.1 / loudness * 10 ** generator.uniform(-0.3, 0.3))
            bounds = np.linspace(place, place + len(waveform), len(part.digits) + 1).astype(int).tolist()
            words += [Word(*row) for row in zip(part.digits, bounds[:-1], bounds[1:], strict=True)]
            pause = generator.uniform(0.0, widest)
            if generator.random() < sentence_chance:
                pause = generator.uniform(0.9, 2.0)
            pieces += [waveform, np.zeros(int(pause * SAMPLING_RATE), np.float32)]
            place += len(waveform) + len(pieces[-1])
            if is_string and generator.random() < 0.7:
                break
        trail = np.zeros(int(generator.uniform(0.0, min(edge, 0.3 * seconds)) * SAMPLING_RATE), np.float32)
        return np.concatenate([*pieces[:-1], trail]), words

    def choose_parts(self, generator: np.random.Generator, count: int, stage: int) -> list[Utterance]:
        """Single digits of one speaker, or of several."""
        kind = generator.random()
        chooser = self.chooser
        if kind < 0.6 or stage == 0:
            pool = chooser.by_speaker[chooser.speakers[generator.integers(len(chooser.speakers))]]
        elif kind < 0.8:
            pool = chooser.recorded
        else:
            pool = chooser.single
            if kind < 0.95:  # one voice
                voice = pool[generator.integers(len(pool))].speaker
                pool = [clip for clip in pool if clip.speaker == voice]
        return [pool[index] for index in generator.integers(len(pool), size=count)]


def cut(window: Window, start: float, samples: int) -> Window:
    """A part of a window; a word is in it if half of it is."""
    start = int(start)
    end = min(start + samples, len(window.waveform))
    words = []
    for word in window.words:
        heard = min(word.end, end) - max(word.start, start)
        if heard * 2 >= word.end - word.start:
            first, last = max(word.start, start) - start, min(word.end, end) - start
            words.append(Word(word.digit, first, last))
    return Window(window.waveform[start:end].copy(), words)


def join_test_windows(
    clips: list[Utterance], words_per_window: int, seed: int, long_pauses: bool = False
) -> list[Window]:
    """Every clip once, of one speaker a window, with pauses of 0.05 to 0.5 s, some of 0.9 to 1.8 s on demand."""
    generator = random.Random(seed + words_per_window)
    windows = []
    for speaker in sorted({clip.speaker for clip in clips}):
        own = [clip for clip in clips if clip.speaker == speaker]
        generator.shuffle(own)
        for first in range(0, len(own), words_per_window):
            pieces, words, place = [np.zeros(SAMPLING_RATE // 5, np.float32)], [], SAMPLING_RATE // 5
            for clip in own[first : first + words_per_window]:
                words.append(Word(clip.digits[0], place, place + len(clip.waveform)))
                pause = generator.uniform(0.05, 0.5)
                if long_pauses and generator.random() < 0.2:
                    pause = generator.uniform(0.9, 1.8)
                pieces += [clip.waveform, np.zeros(int(pause * SAMPLING_RATE), np.float32)]
                place += len(clip.waveform) + len(pieces[-1])
            windows.append(Window(np.concatenate([*pieces, np.zeros(SAMPLING_RATE // 5, np.float32)]), words))
    return windows


def encode_with(prompt_format: Any) -> Callable[[Prompt, list[Word]], Example]:
    """Tokens by NeMo's prompt formatter, as its data set makes them."""

    def encode(prompt: Prompt, words: list[Word]) -> Example:
        answer = {"text": write_answer(words, prompt), "prompt_language": prompt.target_lang}
        turns = [{"role": "user", "slots": prompt.slots()}, {"role": "assistant", "slots": answer}]
        encoded = prompt_format.encode_dialog(turns)
        counts = [
            len(prompt_format.tokenizer.text_to_ids(text, prompt.target_lang)) + 2 * prompt.timed
            for text in write_words(words, prompt)
        ]
        places = np.repeat(np.arange(len(words)), counts).tolist()
        assert len(encoded["answer_ids"]) == len(places) + 1
        return Example(encoded["input_ids"].tolist(), len(encoded["context_ids"]), places)

    return encode
