"""An unfinished manifest: one run at a time, and none after it is finished."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from transformers_fastconformer.cli.unfinished_manifest import UnfinishedManifest
from transformers_fastconformer.cli.whole_files import OutputError


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_it_is_locked_by_one_run(tmp_path: Path) -> None:
    one, other = (UnfinishedManifest(tmp_path / "m.jsonl") for _ in range(2))
    file = one.open()
    assert one.open() is file
    with pytest.raises(OutputError, match=r"m.jsonl is being written by another run"):
        other.open()
    one.close()
    other.open().write(b"line")
    other.close()
    assert one.unfinished_path.read_bytes() == b"line"


def test_what_is_removed_is_begun_anew(tmp_path: Path) -> None:
    manifest = UnfinishedManifest(tmp_path / "m.jsonl")
    manifest.open().write(b"line")
    manifest.remove_unfinished()
    manifest.close()
    assert list(tmp_path.iterdir()) == []
    assert manifest.open().tell() == 0
    manifest.close()
