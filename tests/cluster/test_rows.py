"""Rows in each of Ray's forms to clips, their keys, and rows of folders and manifests."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transformers_fastconformer.cluster.rows import columns_of, find_audio_column, find_rows, key_of, read_rows
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.inference.reading import AudioClip

pyarrow = pytest.importorskip("pyarrow", reason="the extra `ray` is not installed")
pandas = pytest.importorskip("pandas", reason="the extra `ray` is not installed")

COLUMNS: dict[str, list[Any]] = {"audio_filepath": ["a.wav", "b.wav"], "offset": [1.5, None], "channel": [0, None]}


@pytest.mark.parametrize(
    "make",
    [
        pyarrow.table,
        pandas.DataFrame,
        lambda columns: columns,
        lambda columns: {name: np.array(values, dtype=object) for name, values in columns.items()},
        lambda columns: {name: pandas.DataFrame(columns)[name].to_numpy() for name in columns},
    ],
    ids=["arrow", "pandas", "lists", "objects", "numbers"],
)
def test_a_batch_of_any_form(make: Any) -> None:
    """pandas makes NaN of None, and a float of the number of a channel."""
    rows = read_rows(columns_of(make(COLUMNS)), "audio_filepath")
    assert [row.clip for row in rows] == [AudioClip("a.wav", 0, 1.5), AudioClip("b.wav")]
    assert [row.name for row in rows] == ["a.wav", "b.wav"]


@pytest.mark.parametrize(
    ("batch", "expected"),
    [([1, 2], "batch is a list; expected a dict of columns"), ({"a": [1], "b": []}, "expected columns of one length")],
)
def test_what_is_not_a_batch(batch: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        columns_of(batch)


def test_the_column_with_the_audio() -> None:
    assert find_audio_column(["id", "path", "bytes"], None) == "bytes"
    assert find_audio_column(["recording", "path"], "recording") == "recording"
    with pytest.raises(ValueError, match=r"The columns are id; expected one of audio_filepath, .* or audio_column="):
        find_audio_column(["id"], None)
    with pytest.raises(ValueError, match="The columns are path; expected 'recording'"):
        find_audio_column(["path"], "recording")


def test_bytes_and_samples_have_the_name_of_their_path() -> None:
    samples = np.zeros((2, 800), dtype=np.float32)
    rows = read_rows({"bytes": [b"RIFF"], "path": ["a.wav"], "duration": [3.0]}, "bytes")
    assert rows[0].clip == AudioClip(b"RIFF", label="a.wav")
    rows = read_rows(columns_of({"amplitude": samples[None], "sample_rate": np.array([8000])}), "amplitude")
    assert rows[0].clip is not None
    assert rows[0].clip.source["sampling_rate"] == 8000
    assert rows[0].clip.source["array"].shape == (2, 800)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"path": [None]}, "audio: path=None is not supported; expected a path"),
        ({"path": ["a.wav"], "offset": ["x"]}, "a.wav: offset='x' is not supported; expected seconds"),
        ({"path": ["a.wav"], "duration": [-1.0]}, "a.wav: duration=-1.0"),
        ({"path": ["a.wav"], "channel": ["left"]}, "a.wav: "),
        ({"amplitude": [np.zeros(3)]}, "audio: amplitude holds samples; expected their rate"),
    ],
)
def test_a_row_without_a_clip_costs_no_other(columns: dict[str, list[Any]], expected: str) -> None:
    name = next(iter(columns))
    (row,) = read_rows(columns, name)
    assert row.clip is None
    assert str(row.error).startswith(expected)


def test_a_key_is_that_of_the_content_and_the_options(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    shutil.copy(CLIP_PATHS[0], path)
    described = {"model": "demo"}
    keys = {
        key_of(AudioClip(str(path)), described),
        key_of(AudioClip(str(path), start_seconds=1.0), described),
        key_of(AudioClip(str(path), channel=0), described),
        key_of(AudioClip(str(path)), {"model": "other"}),
        key_of(AudioClip(path.read_bytes()), described),
        key_of(AudioClip({"array": np.zeros(8), "sampling_rate": 8000}), described),
        key_of(AudioClip({"array": np.zeros(8), "sampling_rate": 16000}), described),
        key_of(AudioClip("https://example.org/a.wav"), described),
    }
    assert len(keys) == 8
    assert key_of(AudioClip(str(path), label="other"), described) in keys
    os.utime(path, ns=(1, 1))
    assert key_of(AudioClip(str(path)), described) not in keys


def test_rows_of_folders_manifests_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    shutil.copy(CLIP_PATHS[0], tmp_path / "in" / "a.wav")
    line = {"audio_filepath": "a.wav", "offset": 1.0, "text": "one"}
    (tmp_path / "in" / "list.jsonl").write_text(json.dumps(line) + "\n")
    whole = str(tmp_path / "in" / "a.wav")
    address = "https://example.org/b.mp3"
    assert find_rows(["in", Path("in/list.jsonl"), "in/a.wav", address]) == [
        {"audio_filepath": whole},
        {**line, "audio_filepath": whole},
        {"audio_filepath": whole},
        {"audio_filepath": address},
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="folder='empty' is not supported; expected a folder with audio"):
        find_rows(["empty"])
    (tmp_path / "bad.jsonl").write_text('{"audio_filepath": "a.wav"}\n{"text": "one"}\n')
    with pytest.raises(ValueError, match=r"'bad.jsonl', line 2"):
        find_rows(["bad.jsonl"])
