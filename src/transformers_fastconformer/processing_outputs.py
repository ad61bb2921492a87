"""Outputs of `generate`, clip by clip, and what the processor makes of them: records and levels of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers.utils import ModelOutput

from .modeling.outputs import FastConformerGenerateOutput
from .validation import require

# Levels of times in their order: vocabulary strings, and then text in ever longer pieces.
TIMESTAMP_LEVELS = ("token", "char", "word", "segment")
TimedItem = dict[str, Any]


@dataclass
class FastConformerTranscription(ModelOutput):
    """
    The text of one clip with its times.

    Args:
        text (`str`): The text, equal to what `decode` gives without times.
        timestamps (`dict[str, list[dict]]`):
            For each level asked for, its items in order: the text under the name of the level (`"token"`: the
            vocabulary string, `"char"`: the text of that token, `"word"`, `"segment"`), `start_offset` and
            `end_offset` in encoder frames, `start` and `end` in seconds, and `language` for the tokens of an
            aggregate tokenizer.
        events (`list[dict]`): Event tokens such as `<EOU>` with their times, under the name `"event"`.
        token_confidences (`list[float]`): Confidence of each token.
        word_confidences (`list[float]`): Confidence of each word of the text, in order.
        confidence (`float`): Confidence of the clip.
        token_ids (`list[int]`): Ids of the tokens of the text.
    """

    text: str | None = None
    timestamps: dict[str, list[TimedItem]] | None = None
    events: list[TimedItem] | None = None
    token_confidences: list[float] | None = None
    word_confidences: list[float] | None = None
    confidence: float | None = None
    token_ids: list[int] | None = None


class ClipOutput(NamedTuple):
    """
    One clip of what `generate` returned, without the padding.

    Args:
        token_ids: Its tokens.
        frame_indices, durations, confidences: One of each for every token, where there are some.
        num_frames: Encoder frames of it, where they are known.
    """

    token_ids: list[int]
    frame_indices: list[int] | None
    durations: list[int] | None
    confidences: list[float] | None
    num_frames: int | None = None

    def below(self, num_tokens: int) -> ClipOutput:
        """The clip without the classes that pad the head of a multitask model, which are no tokens."""
        kept = [place for place, token_id in enumerate(self.token_ids) if token_id < num_tokens]
        if len(kept) == len(self.token_ids):
            return self
        confidences = None if self.confidences is None else [self.confidences[place] for place in kept]
        return ClipOutput([self.token_ids[place] for place in kept], None, None, confidences, self.num_frames)


class TimedToken(NamedTuple):
    """
    A token of a clip with its times.

    Args:
        token_id: Its id.
        string: In the vocabulary.
        text: On its own.
        offsets: Its first encoder frame, and the frame after its last one.
    """

    token_id: int
    string: str
    text: str
    offsets: tuple[int, int]


def split_output(output: FastConformerGenerateOutput) -> list[ClipOutput]:
    """The clips of what `generate` returned."""
    if output.sequences is None or output.sequence_lengths is None:
        raise ValueError("sequences, sequence_lengths: found None; expected what generate() returns.")
    lengths = output.sequence_lengths.tolist()

    def split(padded: torch.Tensor | None) -> list[Any]:
        if padded is None:
            return [None] * len(lengths)
        return [row[:length] for row, length in zip(padded.tolist(), lengths, strict=True)]

    columns = (output.sequences, output.frame_indices, output.durations, output.token_confidences)
    num_frames = [None] * len(lengths) if output.encoder_lengths is None else output.encoder_lengths.tolist()
    return [ClipOutput(*fields) for fields in zip(*map(split, columns), num_frames, strict=True)]


def words_or_segments(part: FastConformerTranscription) -> list[TimedItem]:
    """Words of a part, or its segments where a multitask model wrote no times next to its words."""
    timestamps = part.timestamps or {}
    if timestamps["word"] or not part.text:
        return timestamps["word"]
    return [{**item, "word": item["segment"]} for item in timestamps.get("segment", [])]


def timestamp_levels(timestamps: bool | str | Sequence[str], output_offsets: bool = False) -> tuple[str, ...]:
    """
    The levels of times that are asked for, in the order of `TIMESTAMP_LEVELS`.

    Raises:
        ValueError: for anything else.
    """
    if timestamps is True or (output_offsets and timestamps is False):
        return TIMESTAMP_LEVELS
    if timestamps is False or timestamps is None:
        return ()
    is_list = isinstance(timestamps, list | tuple | set | frozenset)
    asked = list(timestamps) if is_list else [timestamps]
    unknown = [level for level in asked if not (isinstance(level, str) and level in TIMESTAMP_LEVELS)]
    if unknown or not asked:
        require(False, "timestamps", timestamps, f"a bool or some of {TIMESTAMP_LEVELS}")
    return tuple(level for level in TIMESTAMP_LEVELS if level in asked)
