"""The record of what outputs were made from: none stands for another recording without a word."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from transformers_fastconformer.cli.exit_codes import InputError
from transformers_fastconformer.cli.folder_output import FolderOutput
from transformers_fastconformer.cli.transcribe_inputs import AudioInput
from transformers_fastconformer.cli.transcribe_sources import (
    RECORD_NAME,
    Source,
    SourceLine,
    SourceRecord,
    find_source,
    make_digest,
)
from transformers_fastconformer.inference.reading import AudioClip
from transformers_fastconformer.inference.transcript import Transcript
from transformers_fastconformer.writers.record import TranscriptRecord
from transformers_fastconformer.writers.subtitles import SubtitleRules


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with `d1/talk.wav`, `d1/other.wav` and `d2/talk.flac`."""
    for name in ("d1/talk.wav", "d1/other.wav", "d2/talk.flac"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def item(path: str, **clip: object) -> AudioInput:
    return AudioInput(AudioClip(path, **clip), path, Path(path).stem)  # type: ignore[arg-type]


def of_manifest(path: str, row: int) -> AudioInput:
    return replace(item(path), manifest={"audio_filepath": "talk"}, manifest_path="m.jsonl", row=row)


def make(inputs: list[AudioInput], formats: tuple[str, ...] = ("txt",), overwrite: bool = False) -> FolderOutput:
    return FolderOutput(Path("out"), inputs, formats, SubtitleRules(), overwrite)


def write(
    inputs: list[AudioInput], formats: tuple[str, ...] = ("txt",), text: str = "one", overwrite: bool = False
) -> None:
    output = make(inputs, formats, overwrite)
    for index, found in enumerate(inputs):
        output.write(index, TranscriptRecord(Transcript(text, None, 1.0), found.file, manifest=found.manifest))
    output.close(True)


def refusal(output: FolderOutput, index: int = 0) -> str:
    assert not output.has(index)
    with pytest.raises(InputError) as told:
        output.check(index)
    return str(told.value)


def test_an_output_of_another_recording_is_not_finished(folder: Path) -> None:
    write([item("d1/talk.wav")])
    assert make([item("d1/talk.wav")]).has(0)
    output = make([item("d2/talk.flac"), item("d1/other.wav")])
    assert refusal(output) == (
        f"'out/talk.txt' was made from '{folder}/d1/talk.wav', and not from '{folder}/d2/talk.flac'; "
        "expected --overwrite, or another --output_dir."
    )
    output.check(1)  # it costs only that input
    write([item("d2/talk.flac")], text="two", overwrite=True)
    assert make([item("d2/talk.flac")]).has(0)
    assert "and not from" in refusal(make([item("d1/talk.wav")]))


def test_an_output_is_not_written_over_for_a_format_that_is_missing(folder: Path) -> None:
    write([item("d1/talk.wav")])
    assert "'out/talk.txt' was made from" in refusal(make([item("d2/talk.flac")], ("srt", "txt")))
    assert not make([item("d1/talk.wav")], ("srt", "txt")).has(0)


@pytest.mark.parametrize("what", ["size", "time"])
def test_a_source_that_has_changed_is_not_finished(folder: Path, what: str) -> None:
    write([item("d1/talk.wav")])
    if what == "size":
        (folder / "d1" / "talk.wav").write_text("another recording")
    os.utime(folder / "d1" / "talk.wav", (0, 0) if what == "time" else None)
    assert "before that was changed" in refusal(make([item("d1/talk.wav")]))


def test_parts_and_channels_are_told_apart(folder: Path) -> None:
    write([item("d1/talk.wav", channel=0)])
    assert "(channel 0), and not from" in refusal(make([item("d1/talk.wav", channel=1)]))
    assert "(offset 1 s, duration 2 s)" in refusal(make([item("d1/talk.wav", start_seconds=1.0, seconds=2.0)]))


def test_streams_are_told_apart_by_their_bytes(folder: Path) -> None:
    stream = AudioInput(AudioClip("d1/talk.wav"), "-", "stdin", is_stream=True)
    write([stream])
    assert make([replace(stream, clip=AudioClip("d1/talk.wav"))]).has(0)
    (folder / "d1" / "talk.wav").write_text("d3/talk.wav")
    assert "'-', before that was changed" in refusal(make([stream]))
    address = AudioInput(AudioClip("d1/talk.wav"), "http://host/talk.wav", "talk")
    assert find_source(address) == Source("http://host/talk.wav")


@pytest.mark.parametrize("is_whole", [True, False])
def test_lines_of_manifests_too(folder: Path, is_whole: bool) -> None:
    """The same line means another file, as when a manifest lies in another folder."""
    inputs = [of_manifest("d1/talk.wav", 0), of_manifest("d1/other.wav", 1)]
    if is_whole:
        write(inputs, ("jsonl",))
    else:
        output = make(inputs, ("jsonl",))
        output.write(0, TranscriptRecord(Transcript("one", None, 1.0), "talk", manifest=inputs[0].manifest))
        output.close(False)
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    output = make([of_manifest("d2/talk.flac", 0), inputs[1]], ("jsonl",))
    assert refusal(output).startswith(f"line 1 of 'out/m.jsonl' was made from '{folder}/d1/talk.wav'")
    assert output.has(1) is is_whole
    output.close(True)
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before
    assert make(inputs, ("jsonl",)).has(0)


def test_outputs_without_a_line_count_as_finished_with_a_word(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write([item("d1/talk.wav")])
    (folder / "out" / RECORD_NAME).unlink()
    assert make([item("d2/talk.flac")]).has(0)
    assert capsys.readouterr().err == (
        "Outputs in 'out' that were made or changed by hand, or made by an earlier version, count as finished: 1.\n"
    )


def test_a_run_that_was_killed_before_the_output_was_in_its_place(folder: Path) -> None:
    """The record already has the line of what was to come; the digest says which of two lines is true."""
    write([item("d1/talk.wav")])
    line = SourceLine(("talk.txt", None, None), make_digest(b"two\n"), find_source(item("d2/talk.flac")))
    SourceRecord(Path("out")).add([line])
    assert make([item("d1/talk.wav")]).has(0)
    assert "and not from" in refusal(make([item("d2/talk.flac")]))


def test_spoilt_lines_are_passed_over(folder: Path) -> None:
    write([item("d1/talk.wav")])
    path = folder / "out" / RECORD_NAME
    whole = path.read_bytes()
    entry = json.loads(whole)
    spoilt = [{**entry, "output": 5}, {**entry, "row": "x"}, {**entry, "source": []}, {**entry, "channel": None}, [1]]
    nested = b"[" * 100_000
    path.write_bytes(b"\xff\n" + nested + b"\n" + "".join(json.dumps(x) + "\n" for x in spoilt).encode() + whole[:-30])
    record = SourceRecord(Path("out"))
    assert record.list_outputs() == set()
    SourceRecord(Path("out")).add([SourceLine(("talk.txt", None, None), "x", Source("y"))])  # after half a line
    assert SourceRecord(Path("out")).list_outputs() == {str(folder / "out" / "talk.txt")}
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match="cannot be read: it is not a file"):
        SourceRecord(Path("out"))


def test_the_record_does_not_grow_by_what_it_holds(folder: Path) -> None:
    for _ in range(2):
        write([item("d1/talk.wav")], overwrite=True)
    assert len((folder / "out" / RECORD_NAME).read_text().splitlines()) == 1


def test_many_outputs_take_time_in_proportion(folder: Path) -> None:
    record = SourceRecord(Path("out"))
    begin = time.process_time()
    for number in range(4000):
        record.add([SourceLine((f"{number}.txt", None, None), "x", Source(f"/{number}.wav"))])
    assert len(SourceRecord(Path("out")).list_outputs()) == 4000
    assert time.process_time() - begin < 3  # half a second; a file read anew for each would take minutes
