"""Rows of training data, in any form that audio comes in, and the waveforms and lengths of their clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..audio.files import find_file, load_waveform
from ..audio.manifests import AUDIO_KEY
from ..audio.parts import measure_part, read_part
from ..validation import is_number, require

# Keys of a line of a NeMo manifest, which a row may have in place of an audio column.
MANIFEST_AUDIO, MANIFEST_OFFSET, MANIFEST_DURATION = AUDIO_KEY, "offset", "duration"


class RefusedRow(dict[str, Any]):
    """
    A row that cannot be used.

    Args:
        row: What is known of it.
        error: The reason, which is raised where its audio is asked for.
    """

    def __init__(self, row: Mapping[str, Any], error: ValueError) -> None:
        super().__init__(row)
        self.error = error


@dataclass(frozen=True)
class RowForm:
    """
    Names of what a row of training data holds.

    Args:
        audio_column: Audio, in any form that the pipeline takes; rows without it may be lines of a NeMo manifest.
        text_column: What is said.
    """

    audio_column: str = "audio"
    text_column: str = "text"

    def __post_init__(self) -> None:
        for name in ("audio_column", "text_column"):
            value = getattr(self, name)
            require(isinstance(value, str) and bool(value), name, value, "the name of a column")

    def text_of(self, row: Mapping[str, Any]) -> str:
        """
        Text of a row.

        Raises:
            ValueError: for a row without it; the message lists the columns.
        """
        text = row.get(self.text_column)
        if not isinstance(text, str):
            raise ValueError(
                f"text_column={self.text_column!r} has {type(text).__name__} in a row with {sorted(row)}; expected "
                "the name of a column with text."
            )
        return text

    def waveform_of(self, row: Mapping[str, Any], sampling_rate: int) -> np.ndarray:
        """
        Samples of a row's clip, mono and at a rate.

        Raises:
            ValueError: as `load_waveform`, and where there is no audio, with the columns that there are.
        """
        if isinstance(row, RefusedRow):
            raise row.error
        if MANIFEST_AUDIO in row and self.audio_column not in row:
            start, seconds = _number_of(row, MANIFEST_OFFSET) or 0.0, _number_of(row, MANIFEST_DURATION)
            return read_part(row[MANIFEST_AUDIO], sampling_rate, "mix", start, seconds)
        return load_waveform(self._audio_of(row), sampling_rate)

    def seconds_of(self, row: Mapping[str, Any]) -> float:
        """
        Length of a row's clip, without decoding it where that can be told.

        Raises:
            ValueError: where the audio cannot be read, or a part is not in its file.
        """
        if isinstance(row, RefusedRow):
            raise row.error
        if MANIFEST_AUDIO in row and self.audio_column not in row:
            start, seconds = _number_of(row, MANIFEST_OFFSET) or 0.0, _number_of(row, MANIFEST_DURATION)
            return measure_part(row[MANIFEST_AUDIO], start, seconds)
        audio = self._audio_of(row)
        file = find_file(audio)
        if file is not None:
            return measure_part(file)
        metadata = getattr(audio, "metadata", None)  # of torchcodec's decoder
        if metadata is not None and is_number(getattr(metadata, "duration_seconds", None)):
            return float(metadata.duration_seconds)
        rate = 16000
        return len(load_waveform(audio, rate)) / rate

    def _audio_of(self, row: Mapping[str, Any]) -> Any:
        audio = row.get(self.audio_column)
        if audio is None:
            raise ValueError(
                f"audio_column={self.audio_column!r} is not in a row with {sorted(row)}; expected the name of a "
                f"column with audio, or lines of a manifest with {MANIFEST_AUDIO!r}."
            )
        return audio


class TrainingClips(Dataset[Mapping[str, Any]]):
    """
    Rows that are trained on, with the length of each clip.

    Args:
        rows: All rows, such as a list of mappings or a `datasets.Dataset`.
        indices: Those that are used.
        seconds: Length of each that is used.
        form: Names of their columns.
    """

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], indices: Sequence[int], seconds: Sequence[float], form: RowForm
    ) -> None:
        assert len(indices) == len(seconds)
        self.rows = rows
        self.indices = list(indices)
        self.seconds = list(seconds)
        self.form = form

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.rows[self.indices[index]]


def _number_of(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    require(value is None or (is_number(value) and value >= 0), name, value, "seconds")
    return None if value is None else float(value)
