"""Rows of a data set, as Ray Data hands them over, to clips and to the keys by which finished ones are known."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from ..audio.downloads import is_url
from ..audio.files import find_file
from ..audio.folders import find_audio
from ..audio.manifests import AUDIO_KEY, METADATA_KEY
from ..audio.recordings import names_recordings, read_recordings
from ..inference.reading import AudioClip
from ..validation import is_number, require

# Columns that may hold the audio, the first that there is: those of manifests and of `datasets`, the bytes that
# `ray.data.read_binary_files` reads, the samples of `ray.data.read_audio`, and paths.
AUDIO_COLUMNS = (AUDIO_KEY, METADATA_KEY, "audio", "bytes", "amplitude", "path")
# Those that hold nothing but bytes or samples, which are not kept next to a text.
SAMPLE_COLUMNS = ("bytes", "amplitude")
RATE_COLUMNS = ("sampling_rate", "sample_rate")
DIGEST_BYTES = 16


class Row(NamedTuple):
    """
    A row of a batch.

    Args:
        name: Name of its clip in messages and in results.
        clip: The clip; None for a row that cannot be one.
        error: The reason why it cannot.
    """

    name: str
    clip: AudioClip | None
    error: Exception | None = None


def columns_of(batch: Any) -> dict[str, list[Any]]:
    """
    Values by column of a batch in any of Ray's forms.

    Args:
        batch: A mapping of columns to arrays or lists, a `pandas.DataFrame` or a `pyarrow.Table`.

    Raises:
        ValueError: for anything else, and for columns of different lengths.
    """
    if hasattr(batch, "to_pydict"):
        columns = batch.to_pydict()
    elif isinstance(batch, Mapping) or hasattr(batch, "columns"):
        columns = {name: _list_of(batch[name]) for name in (batch if isinstance(batch, Mapping) else batch.columns)}
    else:
        kind = type(batch).__name__
        raise ValueError(f"batch is a {kind}; expected a dict of columns, a pandas.DataFrame or a pyarrow.Table.")
    lengths = {name: len(values) for name, values in columns.items()}
    require(len(set(lengths.values())) <= 1, "columns", lengths, "columns of one length")
    return columns


def _list_of(values: Any) -> list[Any]:
    """Values of a column, whose arrays of samples stay arrays."""
    is_plain = isinstance(values, np.ndarray) and values.ndim == 1
    return values.tolist() if is_plain or not isinstance(values, np.ndarray | Sequence) else list(values)


def find_audio_column(names: Sequence[str], wanted: str | None) -> str:
    """
    The column with the audio.

    Raises:
        ValueError: where it is not among the columns.
    """
    found = wanted if wanted in names else next((name for name in AUDIO_COLUMNS if name in names), None)
    if found is None or wanted not in (None, found):
        expected = repr(wanted) if wanted is not None else f"one of {', '.join(AUDIO_COLUMNS)}, or audio_column="
        raise ValueError(f"The columns are {', '.join(names) or 'none'}; expected {expected}.")
    return found


def read_rows(columns: Mapping[str, Sequence[Any]], audio_column: str) -> list[Row]:
    """
    Make a clip of each row; one of which none can be made costs no other.

    Args:
        columns: Values by column. `offset` and `duration` in seconds are those of a part of a file, `channel` is
            `"mix"` or a number, `path` names bytes and samples.
        audio_column: Column with the audio.
    """
    rows = []
    for values in zip(*columns.values(), strict=True):
        row = dict(zip(columns, values, strict=True))
        name = _name_of(row, audio_column)
        try:
            rows.append(Row(name, _clip_of(row, audio_column, name)))
        except (ValueError, TypeError) as error:
            rows.append(Row(name, None, ValueError(f"{name}: {error}")))
    return rows


def _name_of(row: Mapping[str, Any], audio_column: str) -> str:
    value = row[audio_column]
    if isinstance(value, Mapping):
        value = value.get("path")
    known = [item for item in (value, row.get("path"), row.get(AUDIO_KEY)) if isinstance(item, str | os.PathLike)]
    return os.fspath(known[0]) if known else "audio"


def _clip_of(row: Mapping[str, Any], audio_column: str, name: str) -> AudioClip:
    source = row[audio_column]
    require(not _is_missing(source), audio_column, source, "a path, an address, bytes or samples")
    if isinstance(source, np.ndarray | list):
        rate = next((row[column] for column in RATE_COLUMNS if not _is_missing(row.get(column))), None)
        if rate is None:
            raise ValueError(f"{audio_column} holds samples; expected their rate in a column {RATE_COLUMNS[0]!r}.")
        source = {"array": np.asarray(source), "sampling_rate": rate}
    times = {column: row.get(column) for column in ("offset", "duration")}
    # The length of samples and bytes, which are whole, says nothing about a part.
    if not isinstance(find_file(source), str | os.PathLike):
        times["duration"] = None
    for column, value in times.items():
        require(_is_missing(value) or is_number(value), column, value, "seconds")
    channel = row.get("channel")
    label = None if isinstance(source, str | os.PathLike) else name
    return AudioClip(
        source,
        "mix" if _is_missing(channel) else _channel_of(channel),
        0.0 if _is_missing(times["offset"]) else float(times["offset"]),  # type: ignore[arg-type]
        None if _is_missing(times["duration"]) else float(times["duration"]),  # type: ignore[arg-type]
        label,
    )


def _is_missing(value: Any) -> bool:
    """None, or what pandas makes of it in a column of numbers."""
    return value is None or (isinstance(value, float) and value != value)


def _channel_of(value: Any) -> Any:
    """A channel, whose number pandas may have made a float of."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def key_of(clip: AudioClip, described: Mapping[str, Any]) -> str:
    """
    Digest of all on which the transcript of a clip depends, by which a finished one is known.

    Args:
        clip: The clip: of a file its path, size and time of change, of bytes and samples what they are.
        described: Facts about the model and the options.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    facts = [clip.start_seconds, clip.seconds, clip.channel, *_identify(clip.source, digest)]
    digest.update(json.dumps([facts, dict(described)], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _identify(source: Any, digest: Any) -> Iterator[Any]:
    file = find_file(source)
    if isinstance(file, str | os.PathLike):
        yield os.fspath(file)
        with suppress(OSError, ValueError):  # an address; or a file that is not there, which is told when it is read
            found = os.stat(file)
            yield os.path.abspath(file)
            yield from (found.st_size, found.st_mtime_ns)
    elif file is not None:
        digest.update(bytes(file))
    else:
        samples = np.ascontiguousarray(source["array"])
        digest.update(samples.tobytes())
        yield from (samples.shape, samples.dtype.str, source["sampling_rate"])


def find_rows(sources: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """
    Rows of recordings, manifests and folders, with whole paths, which machines that share a file system understand.

    Args:
        sources: Paths and addresses of recordings, manifests (`.jsonl`, `.json`), tables (`.csv`), and folders, in
            which audio is found as by the command.

    Raises:
        ValueError: for a folder or manifest that cannot be read, and for a line of one that is not accepted.
    """
    rows: list[dict[str, Any]] = []
    for given in sources:
        source = os.fspath(given)
        if os.path.isdir(source):
            found = [os.path.abspath(path) for path in find_audio(source)]
            require(bool(found), "folder", source, "a folder with audio in it")
            rows += [{AUDIO_KEY: path} for path in found]
        elif names_recordings(source):
            rows += _rows_of_manifest(source)
        else:
            rows.append({AUDIO_KEY: _whole_path(source)})
    return rows


def _rows_of_manifest(path: str) -> Iterator[dict[str, Any]]:
    for line in read_recordings(path):
        if line.error is not None:
            raise line.error
        yield {**line.entry, AUDIO_KEY: _whole_path(line.source)}


def _whole_path(source: str) -> str:
    return source if is_url(source) else os.path.abspath(source)
