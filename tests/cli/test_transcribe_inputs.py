"""Inputs of `fastconformer transcribe`: what they are, and that a bad one costs the others nothing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transformers_fastconformer.audio import manifests
from transformers_fastconformer.cli.exit_codes import InputError
from transformers_fastconformer.cli.transcribe_inputs import AudioInput, find_inputs

needs_posix = pytest.mark.skipif(os.name != "posix", reason="names of bytes, pipes and sockets are POSIX's")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(b"RIFF")
    return tmp_path


@pytest.fixture
def find(folder: Path) -> Callable[..., list[AudioInput]]:
    return lambda *arguments: find_inputs(arguments, "mix", folder)


def names(found: list[AudioInput]) -> list[str]:
    return [item.name for item in found if item.error is None]


def errors(found: list[AudioInput]) -> list[str]:
    return [str(item.error) for item in found if item.error is not None]


@needs_posix
def test_names_that_are_not_utf8_are_names(find: Any, folder: Path) -> None:
    Path(os.fsdecode(b"in/b\xff.wav")).write_bytes(b"RIFF")
    found = find("in")
    assert names(found) == ["a", "b\udcff"]
    assert os.path.exists(found[1].clip.source)
    (folder / "m.jsonl").write_bytes(b'{"audio_filepath": "in/b\xff.wav"}\n{"audio_filepath": "in/b\\udcff.wav"}\n')
    assert all(os.path.exists(item.clip.source) for item in find("m.jsonl"))


@needs_posix
def test_pipes_sockets_and_devices_are_passed_over(
    find: Any, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(folder / "in" / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("in/sock.wav")
    for arguments in (["in"], ["in/*.wav"]):
        assert names(find(*arguments)) == ["a"]
        told = capsys.readouterr().err
        assert "'in/pipe.wav' is a pipe: it is passed over." in told
        assert "'in/sock.wav' is a socket: it is passed over." in told
    found = find("/dev/null", "in/a.wav", "in/sock.wav")
    assert errors(found) == [
        "'/dev/null' is a device; expected an audio file.",
        "'in/sock.wav' is a socket; expected an audio file.",
    ]
    assert names(found) == ["a"]
    (folder / "m.jsonl").write_text('{"audio_filepath": "/dev/zero"}\n')
    assert errors(find("m.jsonl")) == ["'m.jsonl', line 1: '/dev/zero' is a device; expected an audio file."]


@needs_posix
def test_links_to_folders_are_followed_each_once(find: Any, folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "b.wav").write_bytes(b"RIFF")
    (folder / "other" / "back").symlink_to(folder / "in")
    (folder / "in" / "loop").symlink_to(".")
    (folder / "in" / "link").symlink_to(folder / "other")
    (folder / "in" / "again").symlink_to(folder / "other")
    assert names(find("in")) == ["a", "again/b"]
    (folder / "in" / "._a.wav").write_text("of macOS")
    assert names(find("in")) == ["a", "again/b"]


def test_videos_in_folders_are_taken(find: Any, folder: Path) -> None:
    for suffix in ("mp4", "mkv", "WEBM", "mov"):
        (folder / "in" / f"{suffix}.{suffix}").write_bytes(b"video")
    assert sorted(names(find("in"))) == sorted(["a", "mp4", "mkv", "WEBM", "mov"])


def test_files_of_one_name_are_told_apart_by_their_ending(find: Any, folder: Path) -> None:
    for name in ("talk.mp3", "talk.wav", "talk.mp3.wav", "alone.flac"):
        (folder / "in" / name).write_bytes(b"RIFF")
    assert sorted(names(find("in"))) == ["a", "alone", "talk.mp3", "talk.mp3.wav", "talk.wav"]
    (folder / "in" / "talk.wav").unlink()
    (folder / "in" / "talk.mp3.wav").unlink()
    assert sorted(names(find("in"))) == ["a", "alone", "talk"]  # as an earlier run with one of the two


def test_full_names_are_the_names_of_no_other(find: Any, folder: Path) -> None:
    for name in ("a.mp3", "a.wav.wav", "a.txt.wav", "b.wav", "b.mp3.mp3", "b.mp3"):
        (folder / "in" / name).write_bytes(b"RIFF")
    assert names(find("in")) == ["a.mp3", "a.txt", "a.wav", "a.wav.wav", "b.mp3", "b.mp3.mp3", "b.wav"]
    for name in ("c.wav", "c.flac", "c.channel0.wav"):
        soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")
        shape = (160,) if "channel" in name else (160, 2)
        soundfile.write(folder / "in" / name, np.zeros(shape), 16000)
    found = names(find_inputs(["in/c.wav", "in/c.flac", "in/c.channel0.wav"], "each", folder))
    assert found == [*("c.wav.channel0", "c.wav.channel1", "c.flac.channel0", "c.flac.channel1"), "c.channel0.wav"]
    lines = [{"audio_filepath": f"in/{name}", "offset": 0, "duration": 1} for name in ("a.mp3", "a.wav")]
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert names(find("m.jsonl")) == ["in/a.mp3_0-1", "in/a.wav_0-1"]


def test_outputs_of_an_earlier_run_are_passed_over(
    find: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in ("txt", "srt", "vtt", "tsv", "ctm", "rttm"):
        (folder / "in" / f"a.{suffix}").write_text("of an earlier run")
    (folder / "in" / "a.wav.txt").write_text("of an earlier run")
    (folder / "in" / "notes.txt").write_text("of somebody")
    found = find("in/*")
    assert names(found) == ["a", "notes"]
    told = capsys.readouterr().err.splitlines()
    assert "'in/a.srt' is an output of an earlier run: it is passed over." in told
    assert len(told) == 7
    # Manifests, and what lies alone, are known by the record.
    (folder / "b.jsonl").write_text('{"audio_filepath": "in/a.wav"}\n' * 2)
    (folder / "b.jsonl.part").write_text("{}")
    assert len(find("b.jsonl", "in/a.wav")) == 3
    outputs = {str(folder / "b.jsonl"), str(folder / "in" / "notes.txt")}
    arguments = ["b.jsonl", "b.jsonl.part", "in/notes.txt", "in/a.wav"]
    assert names(find_inputs(arguments, "mix", folder, outputs)) == ["a"]
    assert len(capsys.readouterr().err.splitlines()) == 3


BAD_LINES = {
    '{"audio_filepath": "in/a.wav", "duration": 0}': "duration=0.0 of 'in/a.wav' is not supported",
    '{"audio_filepath": "in/a.wav", "offset": 1' + "0" * 400 + "}": "offset=1000",
    '{"audio_filepath": "in/a.wav", "x": NaN}': "NaN is not a value of JSON",
    '{"audio_filepath": "in/a.wav", "duration": Infinity}': "Infinity is not a value of JSON",
    '{"audio_filepath": ""}': "expected a JSON object with 'audio_filepath'",
    '{"audio_filepath": "."}': "names no file",
    '{"audio_filepath": 5}': "expected a JSON object with 'audio_filepath'",
    '{"audio_filepath": "http://[/x.wav"}': "Invalid IPv6 URL",
    '{"audio_filepath": "file://elsewhere/x.wav"}': "elsewhere",
    "[" * 100_000: "is not JSON",
    '{"a": ' * 100_000: "is not JSON",
    "no json": "is not JSON",
    "1" * 5000: "is not JSON",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=[f"{number}" for number in range(len(BAD_LINES))])
def test_a_bad_line_costs_no_other(find: Any, folder: Path, line: str) -> None:
    good = '{"audio_filepath": "in/a.wav"}'
    (folder / "m.jsonl").write_text("\n".join([good, line, good]))
    found = find("m.jsonl")
    assert names(found) == ["in/a", "in/a"]
    assert [item.row for item in found] == [0, 1, 2]
    (error,) = errors(found)
    assert error.startswith("'m.jsonl', line 2")
    assert BAD_LINES[line] in error
    assert len(error) < 400


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_byte_order_marks(find: Any, folder: Path, encoding: str) -> None:
    text = json.dumps({"audio_filepath": "in/a.wav", "who": "\u00e9"}, ensure_ascii=False) + "\n"
    mark = "\ufeff" if encoding.endswith("e") else ""
    (folder / "m.json").write_bytes((mark + text).encode(encoding))
    (item,) = find("m.json")
    assert item.manifest == {"audio_filepath": "in/a.wav", "who": "\u00e9"}


def test_what_is_no_manifest_is_one_error(find: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config.json").write_text(json.dumps({"a": [1, 2], "b": {}}, indent=1))
    (folder / "notes.jsonl").write_text("many\nlines\nof text\n" * 50)
    (folder / "empty.json").write_text("\n")
    found = find("config.json", "notes.jsonl", "empty.json", "missing.json", "in")
    assert names(found) == ["a"]
    assert [error.partition(";")[0] for error in errors(found)] == [
        "'config.json' is not a manifest",
        "'notes.jsonl' is not a manifest",
        "'empty.json' is empty",
        "'missing.json' does not exist",
    ]
    monkeypatch.setattr(manifests, "MAX_LINE_CHARACTERS", 64)
    (folder / "long.jsonl").write_text(
        '{"audio_filepath": "in/a.wav"}\n{"x": "' + "y" * 300 + '"}\n{"audio_filepath": "b"}'
    )
    found = find("long.jsonl")
    assert names(found) == ["in/a", "b"]
    assert "line 2 is not JSON" in errors(found)[0]
    assert "more than 64 characters" in errors(found)[0]


@pytest.mark.parametrize("indent", [None, 1])
def test_transcripts_of_an_earlier_run_are_passed_over(
    find: Any, folder: Path, indent: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    transcript = {"file": "in/a.wav", "text": "one", "package": {"name": "transformers-fastconformer", "version": "1"}}
    (folder / "a.json").write_text(json.dumps(transcript, indent=indent) + "\n")
    assert names(find("in/a.wav", "a.json")) == ["a"]
    assert capsys.readouterr().err == "'a.json' is a transcript that this package wrote: it is passed over.\n"
    with pytest.raises(InputError, match="Nothing is left to transcribe"):
        find("a.json")


def test_an_argument_that_is_none_costs_no_other(find: Any, folder: Path) -> None:
    (folder / "empty").mkdir()
    found = find("http://[/x", "in/a.wav", "empty", "*.flac", "x" * 5000, "a\0b", "file://elsewhere/x.wav")
    assert names(found)[0] == "a"
    told = errors(found)
    assert len(told) >= 4
    assert "'http://[/x' cannot be read" in told[0]
    assert "'empty' has no audio in it" in told[1]
    assert "'*.flac' matches no file" in told[2]
    assert "elsewhere" in told[-1]


def test_addresses_of_local_files_are_paths(find: Any, folder: Path) -> None:
    (folder / "in" / "a b.wav").write_bytes(b"RIFF")
    (item,) = find(f"FILE://{folder}/in/a%20b.wav")
    assert item.clip.source == str(folder / "in" / "a b.wav")
    (item,) = find("HTTP://host/calls/one.mp3")
    assert item.clip.is_remote
    assert item.name == "one"


def test_a_folder_that_cannot_be_read_is_told(find: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in it would be missing without a word."""
    (folder / "in" / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find("in")
    assert names(found) == ["a"]
    assert errors(found) == ["'in/locked' cannot be read: Permission denied; expected a folder."]
