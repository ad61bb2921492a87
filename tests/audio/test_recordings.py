"""Recordings of manifests, tables and folders: one form for every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transformers_fastconformer.audio.recordings import names_recordings, read_recordings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    return tmp_path


def test_names(folder: Path) -> None:
    assert all(names_recordings(str(name)) for name in (folder, "a.JSONL", "a.json", "a.csv"))
    assert not any(names_recordings(name) for name in ("a.wav", "google/fleurs:en_us", str(folder / "a.wav")))


def test_tables(folder: Path) -> None:
    (folder / "a.csv").write_text("file_name,text,offset,duration\na.wav,one,,0.5\nb.wav,two,1,x\n,three,,\n")
    first, second, third = read_recordings(str(folder / "a.csv"))
    assert (first.source, first.start_seconds, first.seconds) == (str(folder / "a.wav"), 0.0, 0.5)
    assert first.entry["text"] == "one"
    assert first.entry["audio_filepath"] == "a.wav"
    assert "line 3: duration='x' is not supported; expected seconds" in str(second.error)
    assert "line 4: found" in str(third.error)


@pytest.mark.parametrize(("content", "message"), [("", "not a table"), ("path,text\na,b\n", "not a table")])
def test_what_is_no_table(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        list(read_recordings(str(tmp_path / "a.csv")))
    with pytest.raises(ValueError, match="does not exist; expected a table"):
        list(read_recordings(str(tmp_path / "none.csv")))


def test_metadata_of_a_folder_goes_before_its_texts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (folder / "a.txt").write_text("one")
    assert [line.entry.get("said") for line in read_recordings(str(folder), "said")] == ["one", None]
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.wav", "text": "two"}))
    other = tmp_path_factory.mktemp("other")
    (other / "a.wav").write_bytes(b"RIFF")
    monkeypatch.chdir(other)  # metadata is from its folder; NeMo's paths are as they are written first
    (line,) = read_recordings(str(folder))
    assert (line.source, line.entry["text"]) == (str(folder / "a.wav"), "two")
