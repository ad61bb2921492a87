"""The output folder: a file that fails costs the others nothing; a full disk ends the run."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audio_inputs import clips, record
from leftovers import killed

from transformers_fastconformer.cli.exit_codes import InputError
from transformers_fastconformer.cli.folder_output import FolderOutput
from transformers_fastconformer.cli.transcribe_inputs import AudioInput
from transformers_fastconformer.cli.transcribe_sources import RECORD_NAME
from transformers_fastconformer.cli.whole_files import OutputError
from transformers_fastconformer.temporary_files import TemporaryFolder
from transformers_fastconformer.writers.subtitles import SubtitleRules

RULES = SubtitleRules()


def make(folder: Path, inputs: list[AudioInput], formats: tuple[str, ...] = ("txt",), **options: Any) -> FolderOutput:
    return FolderOutput(folder, inputs, formats, RULES, **options)


def below(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != RECORD_NAME
    )


@pytest.mark.skipif(os.name != "posix", reason="names of bytes are POSIX's")
def test_names_that_are_not_utf8_are_written_and_read_back(tmp_path: Path) -> None:
    inputs = clips("b\udcff", manifest="m.jsonl")
    output = make(tmp_path, inputs, ("txt", "jsonl"))
    output.write(0, record(inputs[0]))
    output.close(True)
    assert os.path.exists(os.fsencode(tmp_path) + b"/b\xff.txt")
    line = json.loads((tmp_path / "m.jsonl").read_text(encoding="utf-8"))
    assert line["audio_filepath"] == "b\udcff"
    assert make(tmp_path, inputs, ("txt", "jsonl")).has(0)


def test_names_that_have_no_place_are_told_before_the_work(tmp_path: Path) -> None:
    inputs = clips("a", "b", "x" * 251, "x" * 252, f"{'y' * 256}/z")
    (tmp_path / "b.txt").mkdir()
    output = make(tmp_path, inputs)
    for index, message in ((1, "which is a folder"), (3, "longer than 255 bytes"), (4, "longer than 255 bytes")):
        with pytest.raises(InputError, match=message):
            output.check(index)
    for index in (0, 2):
        output.check(index)
        output.write(index, record(inputs[index]))
    output.close(True)
    assert len(below(tmp_path)) == 2


def test_one_place_that_cannot_be_written_to_costs_no_other(tmp_path: Path) -> None:
    """A file where a folder should be; a folder that takes no new names is of the kind."""
    inputs = clips("deep/a", "b")
    (tmp_path / "deep").write_text("a file")
    output = make(tmp_path, inputs)
    with pytest.raises(OSError, match=r"deep/a.txt cannot be written") as told:
        output.write(0, record(inputs[0]))
    assert not isinstance(told.value, OutputError)
    output.write(1, record(inputs[1]))
    output.close(True)
    assert below(tmp_path) == ["b.txt", "deep"]


@pytest.mark.parametrize(
    ("number", "is_of_the_run"), [(errno.ENOSPC, True), (errno.EACCES, False), (errno.EROFS, False)]
)
def test_what_concerns_the_run_is_told_from_what_concerns_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_of_the_run: bool
) -> None:
    inputs = clips("a")
    output = make(tmp_path, inputs)

    def refuse(written: Path, path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match=r"a.txt cannot be written") as told:
            output.write(0, record(inputs[0]))
    assert isinstance(told.value, OutputError) is is_of_the_run
    output.close(False)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD_NAME]


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    with TemporaryFolder(tmp_path) as living:
        left = killed(living)
        make(tmp_path, clips("a")).close(True)
        assert living.exists()
    assert not left.exists()


# Manifests


def begun(tmp_path: Path) -> tuple[list[AudioInput], Path]:
    inputs = clips("a", "b", "c", manifest="m.jsonl")
    output = make(tmp_path, inputs, ("jsonl",))
    for index in (0, 1):
        output.write(index, record(inputs[index]))
    output.close(False)
    return inputs, tmp_path / "m.jsonl.part"


SPOILT: dict[str, Callable[[dict[str, Any]], str]] = {
    "line is a number": lambda entry: json.dumps({**entry, "line": 5}),
    "line is no JSON": lambda entry: json.dumps({**entry, "line": "half\n"}),
    "line is missing": lambda entry: json.dumps({name: entry[name] for name in entry if name != "line"}),
    "row is a list": lambda entry: json.dumps({**entry, "row": [1]}),
    "row is unknown": lambda entry: json.dumps({**entry, "row": 77}),
    "another manifest": lambda entry: json.dumps({**entry, "manifest": {"audio_filepath": "z"}}),
    "no transcript": lambda entry: json.dumps({**entry, "line": json.dumps(entry["manifest"]) + "\n"}),
    "not an object": lambda entry: "[1, 2]",
    "nested": lambda entry: "[" * 100_000,
    "not UTF-8": lambda entry: "\udcff\udcfe",
    "half": lambda entry: json.dumps(entry)[:-30],
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_line_is_done_again(tmp_path: Path, kind: str) -> None:
    inputs, unfinished = begun(tmp_path)
    lines = unfinished.read_text().splitlines()
    lines[1] = SPOILT[kind](json.loads(lines[1]))
    unfinished.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    output = make(tmp_path, inputs, ("jsonl",))
    assert [output.has(index) for index in range(3)] == [True, False, False]
    for index in (1, 2):
        output.write(index, record(inputs[index]))
    output.close(True)
    assert below(tmp_path) == ["m.jsonl"]
    found = [json.loads(line)["pred_text"] for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert found == ["text of a", "text of b", "text of c"]


def test_a_finished_manifest_that_was_spoilt_is_told_at_once(tmp_path: Path) -> None:
    inputs, _ = begun(tmp_path)
    (tmp_path / "m.jsonl.part").unlink()
    (tmp_path / "m.jsonl").write_bytes(b"\xff\xfe\n" + b"[" * 100_000 + b"\n{}\n")
    with pytest.raises(ValueError, match="holds other lines"):
        make(tmp_path, inputs, ("jsonl",))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_two_runs_do_not_write_one_manifest(tmp_path: Path) -> None:
    inputs, _ = begun(tmp_path)
    first = make(tmp_path, inputs, ("jsonl",))
    with pytest.raises(OutputError, match="is being written by another run"):
        make(tmp_path, inputs, ("jsonl",))
    first.close(False)
    # Where nothing was begun, the one that writes first has it.
    one, other = (make(tmp_path / "new", inputs, ("jsonl",)) for _ in range(2))
    one.write(0, record(inputs[0]))
    with pytest.raises(OutputError, match="is being written by another run"):
        other.write(0, record(inputs[0]))
    other.close(False)
    for index in (1, 2):
        one.write(index, record(inputs[index]))
    one.close(True)
    assert below(tmp_path / "new") == ["m.jsonl"]
    assert len((tmp_path / "new" / "m.jsonl").read_text().splitlines()) == 3


def test_an_input_with_an_error_is_never_finished(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("of an earlier run")
    (item,) = clips("a")
    broken = AudioInput(item.clip, item.file, item.name, error=InputError("gone"))
    output = make(tmp_path, [broken])
    assert not output.has(0)
