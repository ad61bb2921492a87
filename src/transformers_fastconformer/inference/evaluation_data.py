"""Recordings with what is said in them: manifests, folders with texts, and data sets of the Hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..audio.manifests import ManifestLine
from ..audio.recordings import names_recordings, read_recordings
from ..training.clip_sources import EXPECTED_DATA, open_data_set, undecoded
from ..validation import require, require_count
from .reading import AudioClip

PREDICTION_COLUMN = "pred_text"  # NeMo's name of what was found


@dataclass(frozen=True)
class EvaluationDataOptions:
    """
    Options of reading data.

    Args:
        text_column: Name of the text that was said.
        audio_column: Name of the audio in a data set.
        split: Part of a data set of the Hub.
        limit: Most recordings, the first ones; None: all.
    """

    text_column: str = "text"
    audio_column: str = "audio"
    split: str = "test"
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("text_column", "audio_column", "split"):
            value = getattr(self, name)
            require(isinstance(value, str) and value != "", name, value, "a name")
        if self.limit is not None:
            require_count("limit", self.limit)


@dataclass(frozen=True)
class SpokenText:
    """
    A recording and what is said in it.

    Args:
        name: Name of the recording.
        reference: The text that was said; None where it is not known.
        open_clip: Gives the audio, when its turn comes; None for a text without a recording.
        hypothesis: A text that was found before.
        error: Reason why it cannot be used.
    """

    name: str
    reference: str | None
    open_clip: Callable[[], AudioClip] | None = None
    hypothesis: str | None = None
    error: ValueError | None = None


def read_data(data: Any, options: EvaluationDataOptions | None = None) -> list[SpokenText]:
    """
    Find recordings and what is said in them, without reading audio.

    Args:
        data: Path of a manifest as NeMo has it, one JSON object a line with `audio_filepath` and the text, and
            `offset` and `duration` for a part; a table of the same (`.csv`); a folder of audio, with `metadata.jsonl`
            or `metadata.csv`, or a `.txt` of the same name next to each file or LibriSpeech's `*.trans.txt`; the name
            of a data set on the Hub, with a configuration after a colon (`"google/fleurs:en_us"`); or rows, mappings
            with audio and text, such as a `datasets.Dataset`.
        options: Columns, split and limit.

    Returns:
        The recordings. One without a text, or with a bad line, has an error.

    Raises:
        ValueError: for anything else, and for data without recordings.
        ImportError: for a data set of the Hub when `datasets` is not installed; the message holds the command.
    """
    options = options or EvaluationDataOptions()
    found = list(islice(_read(data, options), options.limit))
    if not found:
        raise ValueError(f"data={str(data)[:200]!r} holds no recordings; expected {EXPECTED_DATA}.")
    return found


def _read(data: Any, options: EvaluationDataOptions) -> Iterator[SpokenText]:
    if isinstance(data, str | os.PathLike):
        name = os.fspath(data)
        if names_recordings(name):
            return (_of_line(line, options) for line in read_recordings(name, options.text_column))
        return _read_rows(open_data_set(name, options.split), options)
    require(isinstance(data, Iterable) and not isinstance(data, Mapping), "data", type(data).__name__, EXPECTED_DATA)
    return _read_rows(data, options)


def _of_line(line: ManifestLine, options: EvaluationDataOptions) -> SpokenText:
    name = str(line.entry.get("audio_filepath", line.where))
    part = [] if line.entry.get("offset") is None else [f"{line.start_seconds:g}"]
    part += [f"{line.start_seconds + line.seconds:g}"] if part and line.seconds is not None else []
    name += f" [{'-'.join(part)}]" if part else ""
    reference = line.entry.get(options.text_column)
    hypothesis = line.entry.get(PREDICTION_COLUMN)
    error = line.error
    for column, value in ((options.text_column, reference), (PREDICTION_COLUMN, hypothesis)):
        if error is None and not isinstance(value, str | None):
            error = ValueError(f"{line.where}: {column}={str(value)[:40]!r} is not supported; expected text.")
    if error is not None:
        return SpokenText(name, None, error=error)
    try:
        clip = AudioClip(line.source, start_seconds=line.start_seconds, seconds=line.seconds)
    except ValueError as refusal:
        return SpokenText(name, None, error=ValueError(f"{line.where}: {refusal}"))
    problem = f"{line.where} has no {options.text_column!r}"
    return _checked(SpokenText(name, reference, lambda: clip, hypothesis), problem)


def _checked(item: SpokenText, problem: str) -> SpokenText:
    """The recording, with an error where its text is not known."""
    if item.reference is not None:
        return item
    return SpokenText(item.name, None, error=ValueError(f"{problem}; expected the text that is said."))


def _read_rows(rows: Any, options: EvaluationDataOptions) -> Iterator[SpokenText]:
    column = options.audio_column
    rows = undecoded(rows, column, options.text_column)
    is_data_set = getattr(rows, "column_names", None) is not None
    can_be_asked = hasattr(rows, "__getitem__") and hasattr(rows, "__len__")
    texts = rows.remove_columns([column]) if can_be_asked and is_data_set else rows
    for number, row in enumerate(texts):
        require(isinstance(row, Mapping), f"data[{number}]", row, f"a mapping with {options.text_column!r}")
        reference = row.get(options.text_column)
        if not isinstance(reference, str | None):
            raise ValueError(f"data[{number}]: {options.text_column}={reference!r} is not supported; expected text.")
        kept = None if can_be_asked else row.get(column)

        def open_clip(number: int = number, kept: Any = kept) -> AudioClip:
            audio = rows[number][column] if kept is None else kept
            return AudioClip(audio, label=f"recording {number}")

        problem = f"data[{number}] has no {options.text_column!r}"
        yield _checked(SpokenText(_name_row(row, number), reference, open_clip), problem)


def _name_row(row: Mapping[str, Any], number: int) -> str:
    """A name that the row has, or its number."""
    named = (row.get(key) for key in ("id", "file", "path", "audio_filepath"))
    return next((value for value in named if isinstance(value, str) and value), str(number))
