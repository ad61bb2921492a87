"""The cache of converted checkpoints; that of archives is in `nemo/test_sources.py`."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest
from leftovers import killed

from transformers_fastconformer.checkpoints import store as store_module
from transformers_fastconformer.checkpoints.hub import file_digest
from transformers_fastconformer.checkpoints.store import (
    CONVERSION_FORMAT,
    cache_folder,
    cached_conversion,
    check_space,
    clear_conversions,
    list_conversions,
    local_digest,
)
from transformers_fastconformer.temporary_files import TemporaryFolder


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(store_module.CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def stored_file(tmp_path: Path) -> Path:
    path = tmp_path / "original.bin"
    path.write_bytes(bytes(range(256)) * 64)
    return path


def age(path: Path, seconds: float = 60.0) -> Path:
    """Let a file look as if it had been written a while ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_where_the_cache_lies(root, tmp_path, monkeypatch):
    assert cache_folder() == root
    assert cache_folder(tmp_path / "other") == tmp_path / "other" / "transformers_fastconformer"
    monkeypatch.delenv(store_module.CACHE_VARIABLE)
    monkeypatch.setattr(store_module.constants, "HF_HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / "transformers_fastconformer"


def test_clearing_removes_what_killed_processes_left_and_not_what_is_being_written(root):
    folder = root / f"v{CONVERSION_FORMAT}"
    other = folder / ".somebody.elses"
    other.mkdir(parents=True)
    with TemporaryFolder(folder) as living:
        left = killed(living)
        assert list_conversions() == []
        clear_conversions()
        assert sorted(folder.iterdir()) == sorted([living, other])
    assert not left.exists()


def test_a_conversion_removes_what_killed_ones_left(root):
    folder = root / f"v{CONVERSION_FORMAT}"
    with TemporaryFolder(folder) as living:
        killed(living)
    cached_conversion("c" * 64, "c", lambda path: (path.mkdir(), (path / "config.json").write_text("{}")), root)
    assert sorted(path.name for path in folder.iterdir()) == ["c" * 64, "c" * 64 + ".json"]


def test_a_local_file_is_hashed_once(stored_file, root, monkeypatch):
    path = age(stored_file)
    hashed = []
    monkeypatch.setattr(store_module, "file_digest", lambda path: hashed.append(path) or file_digest(path))
    assert local_digest(path, root) == local_digest(path, root) == file_digest(path)
    assert hashed == [path]
    # Other content of the same size, and times set back to what they were.
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert local_digest(path, root) == file_digest(path)
    assert len(hashed) == 2
    # One that was written just now may change again unseen: its digest is not kept.
    path.write_bytes(path.read_bytes())
    for _ in range(2):
        local_digest(path, root)
    assert len(hashed) == 4


@pytest.mark.parametrize("content", ["", "no json", "[]", '{"x": 1}'])
def test_a_damaged_index_is_no_obstacle(stored_file, root, content):
    path = age(stored_file)
    root.mkdir()
    (root / "digests.json").write_text(content)
    assert local_digest(path, root) == file_digest(path)
    assert str(path) in json.loads((root / "digests.json").read_text())


def test_a_conversion_is_made_once(root):
    """Whatever converts a checkpoint keeps it in the same place."""

    made = []

    def convert(folder: Path) -> None:
        made.append(folder)
        folder.mkdir()
        (folder / "config.json").write_text('{"architectures": ["X"]}')

    for _ in range(2):
        folder = cached_conversion("f" * 64, "org/theirs", convert, root)
    assert [(entry.folder, entry.sources) for entry in list_conversions()] == [(folder, ("org/theirs",))]
    assert made == [folder]


def test_a_conversion_that_fails_leaves_nothing_to_find(root):
    def fail(folder: Path) -> None:
        raise ValueError("not a checkpoint")

    with pytest.raises(ValueError, match="not a checkpoint"):
        cached_conversion("a" * 64, "org/broken", fail, root)
    assert list_conversions() == []


def test_room_is_asked_for_beforehand(tmp_path):
    check_space(tmp_path, 1, "org/small")
    with pytest.raises(OSError, match=r"org/huge needs .* GB to be converted and .* are free") as raised:
        check_space(tmp_path, 10**18, "org/huge")
    assert raised.value.errno == errno.ENOSPC
