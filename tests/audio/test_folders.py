"""Audio in folders: which files are taken, in which order. The command is in `cli/test_transcribe_inputs.py`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from transformers_fastconformer.audio.folders import find_audio, kind_of_path


def test_audio_of_all_folders_in_order(tmp_path: Path) -> None:
    for name in ("b.wav", "a.MP3", "notes.txt", ".hidden.wav", "deep/er/c.mkv", ".git/d.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep" / "again").symlink_to(tmp_path)
    found = [os.path.relpath(path, tmp_path) for path in find_audio(str(tmp_path))]
    assert found == ["a.MP3", "b.wav", os.path.join("deep", "er", "c.mkv")]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone' cannot be read: .*; expected a folder"):
        list(find_audio(str(tmp_path / "gone")))


def test_kinds_of_paths(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert kind_of_path(str(tmp_path / "pipe")) == "a pipe"
    assert kind_of_path(os.devnull) == "a device"
    assert kind_of_path(str(tmp_path)) is None
    assert kind_of_path(str(tmp_path / "gone")) is None
    assert kind_of_path("a\0b") is None
