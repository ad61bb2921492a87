"""Two containers that share an output folder: in each the process has the number 1. Needs namespaces of processes."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from forks import fork, run_in_a_fork

from transformers_fastconformer.cli.folder_output import FolderOutput
from transformers_fastconformer.cli.transcribe_inputs import AudioInput
from transformers_fastconformer.cli.transcribe_sources import RECORD_NAME
from transformers_fastconformer.inference.reading import AudioClip
from transformers_fastconformer.inference.transcript import Transcript
from transformers_fastconformer.writers.record import TranscriptRecord
from transformers_fastconformer.writers.subtitles import SubtitleRules

NEW_USER, NEW_PROCESSES = 0x10000000, 0x20000000
NO_NAMESPACES = 75


def write_all(folder: Path, side: str, count: int) -> None:
    """Transcripts as `transcribe` writes them, without a model: files of its own, and files that the other writes."""
    assert os.getpid() == 1, os.getpid()
    names = [f"{side}{number}" for number in range(count)] + [f"shared{number}" for number in range(count // 10)]
    inputs = [AudioInput(AudioClip(name), name, name) for name in names]
    output = FolderOutput(folder, inputs, ["txt"], SubtitleRules())
    for index, name in enumerate(names):
        text = f"{side} {name} " * 20
        output.write(index, TranscriptRecord(Transcript(text, None, 1.0, "full"), name))
    output.close(True)


def be_first_of_a_namespace(work: Callable[[], None]) -> int:
    libc = ctypes.CDLL(None)
    if libc.unshare(NEW_PROCESSES) and libc.unshare(NEW_USER | NEW_PROCESSES):
        return NO_NAMESPACES
    return os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1])


def write_from_two_namespaces(folder: Path, count: int) -> int:
    """The worse of two exit codes."""
    children = [fork(partial(be_first_of_a_namespace, partial(write_all, folder, side, count))) for side in ("a", "b")]
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces of processes are Linux's")
@pytest.mark.parametrize("count", [200, pytest.param(20_000, marks=pytest.mark.slow)])
def test_two_containers_write_into_one_folder(tmp_path: Path, count: int) -> None:
    code = run_in_a_fork(partial(write_from_two_namespaces, tmp_path / "out", count))
    if code == NO_NAMESPACES:
        pytest.skip("the system does not give namespaces of processes to this user")
    assert code == 0
    found = {path.stem: path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix == ".txt"}
    wrong = lost = 0
    for side in ("a", "b"):
        for number in range(count):
            text = found.pop(f"{side}{number}", None)
            lost += text is None
            wrong += text is not None and text != f"{side} {side}{number} " * 20 + "\n"
    for number in range(count // 10):
        text = found.pop(f"shared{number}", None)
        lost += text is None
        wrong += text is not None and text not in {f"{side} shared{number} " * 20 + "\n" for side in ("a", "b")}
    print(f"{count} files each: {wrong} wrong, {lost} lost")
    assert (wrong, lost) == (0, 0)
    assert found == {}
    assert {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".txt"} == {RECORD_NAME}
    lines = [json.loads(line) for line in (tmp_path / "out" / RECORD_NAME).read_text().splitlines()]
    assert len(lines) == 2 * (count + count // 10)
    assert len({line["output"] for line in lines}) == 2 * count + count // 10
