"""Recordings with texts by name: a manifest, a folder, or a data set of the Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..audio.manifests import ManifestLine
from ..audio.recordings import names_recordings, read_recordings
from ..checkpoints.hub import is_hub_id
from ..validation import require
from .packages import require_package
from .training_clips import MANIFEST_AUDIO, RefusedRow, RowForm

DEFAULT_SPLIT = "train"
EXPECTED_DATA = (
    "a manifest (.jsonl, .json, .csv), a folder of audio with texts, the name of a data set on the Hub, or rows with "
    "audio and text"
)


def open_clips(name: str | Path, form: RowForm, split: str | None = None) -> Sequence[Mapping[str, Any]]:
    """
    Open training data; nothing is decoded.

    Args:
        name: A manifest (`.jsonl` or `.json`: a JSON object a line with `audio_filepath`, the text, and `offset` and
            `duration` of a part; `.csv`: a table of the same); a folder with `metadata.jsonl`, `metadata.csv`
            (`file_name` and the text) or a manifest of that name, or with a `.txt` next to each recording or
            LibriSpeech's `*.trans.txt`; or a data set of the Hub, with the name of a configuration after a colon
            (`"mozilla-foundation/common_voice_17_0:cy"`).
        form: Names of the columns.
        split: Part of a data set of the Hub, `"train"` if it is None.

    Returns:
        A row for each clip; one that cannot be used says so when it is read.

    Raises:
        ValueError: for anything else, for data without clips, and for a data set without the columns.
        ImportError: `datasets` is needed and not installed; the message holds the command.
    """
    name = os.fspath(name)
    if not names_recordings(name):
        return undecoded(open_data_set(name, split or DEFAULT_SPLIT), form.audio_column, form.text_column)  # type: ignore[no-any-return]
    require(split is None, "split", split, f"None for {name!r}, which has no splits")
    rows = [_row_of(line) for line in read_recordings(name, form.text_column)]
    if not rows:
        raise ValueError(f"data={name!r} holds no recordings; expected {EXPECTED_DATA}.")
    return rows


def _row_of(line: ManifestLine) -> dict[str, Any]:
    if line.error is not None:
        return RefusedRow({**line.entry, MANIFEST_AUDIO: str(line.entry.get(MANIFEST_AUDIO, line.where))}, line.error)
    return {**line.entry, MANIFEST_AUDIO: line.source}


def open_data_set(name: str, split: str) -> Any:
    """
    A data set of the Hub.

    Args:
        name: Its name, with that of a configuration after a colon.
        split: Part of it.

    Raises:
        ValueError: for what cannot be the name of a data set.
        ImportError: `datasets` is not installed; the message holds the command.
    """
    repository, _, configuration = name.partition(":")
    if os.path.exists(name) or not is_hub_id(repository):
        raise ValueError(f"data={name!r} is not supported; expected {EXPECTED_DATA}.")
    require_package("datasets", f"The data set {repository}")
    import datasets

    return datasets.load_dataset(repository, configuration or None, split=split)


def undecoded(rows: Any, audio_column: str, text_column: str) -> Any:
    """
    Rows whose audio is read by this package, as in every command, from the bytes of its files.

    Args:
        rows: A data set, or rows of another kind, which are returned as they are.
        audio_column, text_column: Names of its columns.

    Raises:
        ValueError: for a data set without these columns.
    """
    columns = getattr(rows, "column_names", None)
    if columns is None:
        return rows
    import datasets

    for wanted, option in ((audio_column, "audio_column"), (text_column, "text_column")):
        require(wanted in columns, option, wanted, f"one of {columns}")
    if isinstance((rows.features or {}).get(audio_column), datasets.Audio):
        return rows.cast_column(audio_column, datasets.Audio(decode=False))
    return rows
