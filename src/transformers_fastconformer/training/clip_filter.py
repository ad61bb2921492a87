"""Clips that cannot be trained on, or had better not: each is left out with a reason, and counted."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..decoding.prompts import PromptOptions
from ..frames import mel_lengths_from_samples
from ..losses.alignments import count_ctc_frames, has_transducer_alignment
from ..validation import is_number, require
from .prompted_rows import PromptedRows
from .training_clips import MANIFEST_AUDIO, MANIFEST_OFFSET, RowForm, TrainingClips

UNREADABLE = "audio that cannot be read"
TOO_SHORT = "too short"
TOO_LONG = "too long"
NO_TEXT = "without a text"
EMPTY_TEXT = "empty text"
UNKNOWN_CHARACTERS = "characters that the tokenizer cannot write"
TOO_FEW_FRAMES = "fewer frames than its text needs"
BAD_PROMPT = "a prompt that the model does not have"
TOO_MANY_TOKENS = "more tokens than the decoder holds"
# Clips of one reason that a report names.
MAX_NAMED = 5


@dataclass(frozen=True)
class ClipFilterOptions:
    """
    Clips that are left out of training.

    Args:
        min_seconds: Shorter ones.
        max_seconds: Longer ones, which take memory and are rarely cut well.
    """

    min_seconds: float = 0.1
    max_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("min_seconds", "max_seconds"):
            value = getattr(self, name)
            require(is_number(value) and value >= 0, name, value, "a number of 0 or more")
        is_range = self.min_seconds < self.max_seconds
        require(is_range, "max_seconds", self.max_seconds, f"more than min_seconds={self.min_seconds}")


class NoClipsError(ValueError):
    """An error of data of which nothing can be trained on."""


class LeftOut(NamedTuple):
    """
    A clip that is not trained on.

    Args:
        name: Its file, or its row.
        reason: One of the reasons above.
        detail: What was found.
        seconds: Its length; 0 where the audio cannot be read.
    """

    name: str
    reason: str
    detail: str
    seconds: float


@dataclass
class FilterReport:
    """
    Clips that are trained on and those that are not.

    Args:
        num_clips: Clips that are trained on.
        seconds: Their length together.
        left_out: The others.
        digest: SHA-256 of the paths, parts, lengths, texts and prompts of those that are trained on, in order: other
            data have another one.
    """

    num_clips: int
    seconds: float
    left_out: list[LeftOut] = field(default_factory=list)
    digest: str = ""

    def counts(self) -> dict[str, int]:
        """Clips that are left out, by reason."""
        return dict(Counter(clip.reason for clip in self.left_out))

    def to_text(self) -> str:
        """Describe both in lines, with the first clips of each reason by name."""
        return "\n".join([f"{_count_clips(self.num_clips)}, {self.seconds / 3600:.2f} h", *self._name_left_out()])

    def _name_left_out(self) -> list[str]:
        lines = []
        for reason, count in self.counts().items():
            clips = [clip for clip in self.left_out if clip.reason == reason]
            named = [f"{clip.name} ({clip.detail.rstrip('.')})" for clip in clips[:MAX_NAMED]]
            more = [f"and {count - MAX_NAMED} more"] if count > MAX_NAMED else []
            lines.append(f"left out, {reason}: {_count_clips(count)}: {', '.join(named + more)}")
        return lines

    def explain_nothing(self) -> str:
        """Say why no clip is left, in a sentence."""
        return f"No clip is left to train on; {'; '.join(self._name_left_out()) or 'there are no rows'}."


def _count_clips(count: int) -> str:
    return f"{count} clip" if count == 1 else f"{count} clips"


def filter_clips(
    rows: Sequence[Mapping[str, Any]],
    form: RowForm,
    processor: Any,
    config: Any,
    options: ClipFilterOptions,
    language: str | None = None,
    prompt: PromptOptions | None = None,
) -> tuple[TrainingClips, FilterReport]:
    """
    Leave out clips by their length and text.

    Args:
        rows: All of them.
        form: Names of their columns.
        processor: The model's, whose tokenizer must be able to write the texts.
        config: The model's, whose losses must be able to align them.
        options: Lengths that are wanted.
        language: Language of the texts, for tokenizers that ask for it.
        prompt: For models with prompts, see [`FastConformerDataCollator`].

    Returns:
        The clips that stay, and a report of all.

    Raises:
        NoClipsError: where none stays.
    """
    checker = _TextChecker(processor, config, form, language, prompt)
    indices, seconds_of_clips, left_out = [], [], []
    digest = hashlib.sha256()
    for index, row in enumerate(rows):
        name = _name_of(row, index, form)
        try:
            seconds = form.seconds_of(row)
        except (ValueError, OSError) as error:
            left_out.append(LeftOut(name, UNREADABLE, str(error), 0.0))
            continue
        if seconds < options.min_seconds:
            problem: tuple[str, str] | None = (TOO_SHORT, f"{seconds:.2f} s")
        elif seconds > options.max_seconds:
            problem = (TOO_LONG, f"{seconds:.2f} s")
        else:
            problem = checker.find_problem(row, seconds)
        if problem is None:
            indices.append(index)
            seconds_of_clips.append(seconds)
            path = os.path.abspath(name) if os.path.exists(name) else name
            start = row.get(MANIFEST_OFFSET) if MANIFEST_AUDIO in row else None
            facts = [path, start, round(seconds, 3), checker.read_target(row)]
            digest.update(json.dumps(facts, default=str).encode())
        else:
            left_out.append(LeftOut(name, *problem, seconds))
    report = FilterReport(len(indices), sum(seconds_of_clips), left_out, digest.hexdigest())
    if not indices:
        raise NoClipsError(report.explain_nothing())
    return TrainingClips(rows, indices, seconds_of_clips, form), report


class _TextChecker:
    """Tells whether a model can learn a text from a clip of some length."""

    def __init__(
        self, processor: Any, config: Any, form: RowForm, language: str | None, prompt: PromptOptions | None
    ) -> None:
        self.processor = processor
        self.config = config
        self.form = form
        self.language = language
        self.prompted = PromptedRows.of(processor, form, prompt, language)
        self.unknown: dict[tuple[str, str | None], bool] = {}  # by character and language
        self.is_transducer = hasattr(config, "joint_hidden_size")
        self.has_ctc = getattr(config, "has_ctc_head", not self.is_transducer and hasattr(config, "ctc_zero_infinity"))

    def find_problem(self, row: Mapping[str, Any], seconds: float) -> tuple[str, str] | None:
        """Reason and what was found, or None."""
        prompted = self.prompted
        try:
            text = self.form.text_of(row) if prompted is None else prompted.text_of(row)
        except ValueError as error:
            return NO_TEXT, str(error)
        try:
            language = self.language if prompted is None else prompted.language_of(row)
            token_ids = self._encode(text, language)
            num_tokens = 0 if prompted is None else len(prompted.write(row).decoder_input_ids)
        except ValueError as error:
            if prompted is None:
                raise
            return BAD_PROMPT, str(error)
        if not text.strip() or not token_ids:
            return EMPTY_TEXT, repr(text)
        if self.processor.tokenizer.unk_token_id in token_ids:
            characters = [character for character in dict.fromkeys(text) if self._is_unknown(character, language)]
            return UNKNOWN_CHARACTERS, " ".join(map(repr, characters)) or repr(text)
        num_frames = self._count_frames(seconds)
        needed = count_ctc_frames(token_ids) if self.has_ctc else 1
        if num_frames < needed:
            return TOO_FEW_FRAMES, f"{num_frames} frames, {needed} needed"
        durations = getattr(self.config, "durations", (0, 1))
        if self.is_transducer and not has_transducer_alignment(num_frames, len(token_ids), durations):
            return TOO_FEW_FRAMES, f"{num_frames} frames and durations {list(durations)}"
        if num_tokens and num_tokens > self.config.decoder_max_positions:
            return TOO_MANY_TOKENS, f"{num_tokens} with the prompt, {self.config.decoder_max_positions} at most"
        return None

    def read_target(self, row: Mapping[str, Any]) -> str | list[int]:
        """The text that a clip without a problem teaches; of a model with prompts the tokens of both."""
        return self.form.text_of(row) if self.prompted is None else list(self.prompted.write(row).decoder_input_ids)

    def _encode(self, text: str, language: str | None) -> list[int]:
        if self.prompted is not None:
            assert language is not None
            return self.prompted.writer.encode(text, language)
        options = {} if language is None else {"language": language}
        return list(self.processor.tokenizer(text, **options)["input_ids"])

    def _is_unknown(self, character: str, language: str | None) -> bool:
        key = (character, language)
        if key not in self.unknown:
            self.unknown[key] = self.processor.tokenizer.unk_token_id in self._encode(character, language)
        return self.unknown[key]

    def _count_frames(self, seconds: float) -> int:
        extractor = self.processor.feature_extractor
        samples = round(seconds * extractor.sampling_rate)
        mel_frames = mel_lengths_from_samples(samples, extractor.hop_length, extractor.n_fft, extractor.exact_pad)
        return int(self.config.count_encoder_frames(mel_frames))


def _name_of(row: Mapping[str, Any], index: int, form: RowForm) -> str:
    """The file of a row, or its number."""
    if isinstance(row.get(MANIFEST_AUDIO), str):
        return str(row[MANIFEST_AUDIO])
    audio = row.get(form.audio_column)
    path = audio.get("path") if isinstance(audio, Mapping) else audio
    return path if isinstance(path, str) else f"row {index}"
