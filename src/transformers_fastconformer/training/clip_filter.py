"""Clips that cannot be trained on, or had better not: each is left out with a reason, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..frames import mel_lengths_from_samples
from ..losses.alignments import count_ctc_frames, has_transducer_alignment
from ..validation import is_number, require
from .training_clips import MANIFEST_AUDIO, RowForm, TrainingClips

UNREADABLE = "audio that cannot be read"
TOO_SHORT = "too short"
TOO_LONG = "too long"
NO_TEXT = "without a text"
EMPTY_TEXT = "empty text"
UNKNOWN_CHARACTERS = "characters that the tokenizer cannot write"
TOO_FEW_FRAMES = "fewer frames than its text needs"
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
    """

    num_clips: int
    seconds: float
    left_out: list[LeftOut] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Clips that are left out, by reason."""
        return dict(Counter(clip.reason for clip in self.left_out))

    def to_text(self) -> str:
        """Describe both in lines, with the first clips of each reason by name."""
        lines = [f"{self.num_clips} clips, {self.seconds / 3600:.2f} h"]
        for reason, count in self.counts().items():
            clips = [clip for clip in self.left_out if clip.reason == reason]
            named = [f"{clip.name} ({clip.detail})" for clip in clips[:MAX_NAMED]]
            more = [f"and {count - MAX_NAMED} more"] if count > MAX_NAMED else []
            lines.append(f"left out, {reason}: {count} clips: {', '.join(named + more)}")
        return "\n".join(lines)


def filter_clips(
    rows: Sequence[Mapping[str, Any]],
    form: RowForm,
    processor: Any,
    config: Any,
    options: ClipFilterOptions,
    language: str | None = None,
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

    Returns:
        The clips that stay, and a report of all.

    Raises:
        ValueError: where none stays.
    """
    checker = _TextChecker(processor, config, language)
    indices, seconds_of_clips, left_out = [], [], []
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
            try:
                problem = checker.find_problem(form.text_of(row), seconds)
            except ValueError as error:
                problem = (NO_TEXT, str(error))
        if problem is None:
            indices.append(index)
            seconds_of_clips.append(seconds)
        else:
            left_out.append(LeftOut(name, *problem, seconds))
    report = FilterReport(len(indices), sum(seconds_of_clips), left_out)
    if not indices:
        raise ValueError(f"No clip is left to train on: {report.to_text()}.")
    return TrainingClips(rows, indices, seconds_of_clips, form), report


class _TextChecker:
    """Tells whether a model can learn a text from a clip of some length."""

    def __init__(self, processor: Any, config: Any, language: str | None) -> None:
        self.processor = processor
        self.config = config
        self.options = {} if language is None else {"language": language}
        self.unknown: dict[str, bool] = {}  # by character
        self.is_transducer = hasattr(config, "joint_hidden_size")
        self.has_ctc = getattr(config, "has_ctc_head", not self.is_transducer and hasattr(config, "ctc_zero_infinity"))

    def find_problem(self, text: str, seconds: float) -> tuple[str, str] | None:
        """Reason and what was found, or None."""
        token_ids = self._encode(text)
        if not text.strip() or not token_ids:
            return EMPTY_TEXT, repr(text)
        if self.processor.tokenizer.unk_token_id in token_ids:
            characters = [character for character in dict.fromkeys(text) if self._is_unknown(character)]
            return UNKNOWN_CHARACTERS, " ".join(map(repr, characters)) or repr(text)
        num_frames = self._count_frames(seconds)
        needed = count_ctc_frames(token_ids) if self.has_ctc else 1
        if num_frames < needed:
            return TOO_FEW_FRAMES, f"{num_frames} frames, {needed} needed"
        durations = getattr(self.config, "durations", (0, 1))
        if self.is_transducer and not has_transducer_alignment(num_frames, len(token_ids), durations):
            return TOO_FEW_FRAMES, f"{num_frames} frames and durations {list(durations)}"
        return None

    def _encode(self, text: str) -> list[int]:
        return list(self.processor.tokenizer(text, **self.options)["input_ids"])

    def _is_unknown(self, character: str) -> bool:
        if character not in self.unknown:
            self.unknown[character] = self.processor.tokenizer.unk_token_id in self._encode(character)
        return self.unknown[character]

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
