"""Lines of manifests: the recording, its part, and what is wrong. More in `cli/test_transcribe_inputs.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from transformers_fastconformer.audio.manifests import read_manifest


def write(path: Path, *entries: Any) -> Path:
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_lines_and_their_parts(tmp_path: Path) -> None:
    whole = {"audio_filepath": "a.wav", "text": "one", "speaker": 3}
    part = {"audio_filepath": "/b.wav", "offset": 2, "duration": 1.5}
    address = {"audio_filepath": "https://host/c.wav"}
    first, second, third = read_manifest(write(tmp_path / "m.jsonl", whole, "", part, address))
    assert (first.source, first.start_seconds, first.seconds) == (str(tmp_path / "a.wav"), 0.0, None)
    assert (first.entry, first.error, first.row) == (whole, None, 0)
    assert (second.source, second.start_seconds, second.seconds, second.row) == ("/b.wav", 2.0, 1.5, 2)
    assert third.source == "https://host/c.wav"


def test_paths_as_written_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.wav").touch()
    monkeypatch.chdir(tmp_path / "here")
    (line,) = read_manifest(write(tmp_path / "m.jsonl", {"audio_filepath": "a.wav"}))
    assert line.source == "a.wav"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON; expected a JSON object with 'audio_filepath'"),
        ({"text": "one"}, 'found \'{"text": "one"}\'; expected a JSON object'),
        ({"audio_filepath": "a.wav", "offset": "1"}, "offset='1' is not supported; expected seconds"),
        ('{"audio_filepath": "a.wav", "duration": NaN}', "NaN is not a value of JSON"),
        ({"audio_filepath": "/dev/null"}, "'/dev/null' is a device; expected an audio file"),
        ({"audio_filepath": "https://host/"}, "names no file"),
    ],
)
def test_a_bad_line_has_its_error_and_costs_no_other(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "m.jsonl", {"audio_filepath": "a.wav"}, line)
    good, bad = read_manifest(path)
    assert good.error is None
    assert str(bad.error).startswith(f"{str(path)!r}, line 2")
    assert message in str(bad.error)


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone.jsonl' does not exist; expected a manifest"):
        list(read_manifest(tmp_path / "gone.jsonl"))
    with pytest.raises(ValueError, match=r"m.jsonl' is not a manifest; expected a manifest"):
        list(read_manifest(write(tmp_path / "m.jsonl", "[1, 2]")))
