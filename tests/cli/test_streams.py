"""The standard streams: every character, and streams that are closed, full, or not read to their end."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys

import pytest

from transformers_fastconformer.cli.main import main
from transformers_fastconformer.cli.streams import (
    ESCAPE,
    ClosedOutput,
    escape_controls,
    flush_standard_output,
    prepare_streams,
    write_standard_output,
)


@pytest.mark.parametrize("text", ["a", "\u00e4", "\U0001f600", "bad\udcff.wav", "\u3042\udc80\u00e4"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_what_an_encoding_lacks_stays_json(text: str, encoding: str) -> None:
    written = json.dumps({"name": text}, ensure_ascii=False).encode(encoding, ESCAPE)
    assert json.loads(written.decode(encoding)) == {"name": text}


def test_what_is_not_seen_is_escaped() -> None:
    assert escape_controls("a\nb\x1b[2J\u202etxt\u2028\x9b\U000e0041.wav") == (
        "a\\u000ab\\u001b[2J\\u202etxt\\u2028\\u009b\\udb40\\udc41.wav"
    )
    assert escape_controls("\u00e4 \u3042\U0001f600\u0301\udcff") == "\u00e4 \u3042\U0001f600\u0301\udcff"


def test_only_writing_can_be_mended() -> None:
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("utf-8", ESCAPE)


def test_streams_take_every_character(monkeypatch: pytest.MonkeyPatch) -> None:
    target = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(target, encoding="ascii"))
    prepare_streams()
    write_standard_output("\u00e4\n")
    assert target.getvalue() == b"\\u00e4\n"


def test_closed_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    prepare_streams()
    assert isinstance(sys.stdout, ClosedOutput)
    sys.stderr.write("lost")
    sys.stderr.close()
    with pytest.raises(OSError, match="the standard output is closed"):
        print("x")
    flush_standard_output()  # nothing was lost


class _Broken(io.StringIO):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def flush(self) -> None:
        raise OSError(self.number, os.strerror(self.number))


def test_errors_name_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", _Broken(errno.ENOSPC))
    with pytest.raises(OSError, match="the standard output cannot be written: No space left on device"):
        write_standard_output("x")
    monkeypatch.setattr(sys, "stdout", _Broken(errno.EPIPE))
    with pytest.raises(BrokenPipeError):
        write_standard_output("x")


def test_main_without_a_standard_output_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fastconformer", "cache", "path"])
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as finished:
        main()
    assert capsys.readouterr().err == "error: the standard output is closed; expected one to write to.\n"
    assert finished.value.code == 1


@pytest.mark.slow  # it imports everything once more
@pytest.mark.skipif(os.name != "posix", reason="a shell closes the stream")
def test_a_command_without_a_standard_output_says_so() -> None:
    command = f"{sys.executable} -m transformers_fastconformer.cli.main cache path >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == "error: the standard output is closed; expected one to write to.\n"
    assert done.returncode == 1
