"""Folders that appear whole or not at all; killed processes are in `nemo/test_convert.py`."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from transformers_fastconformer.checkpoints.output_folder import check_output, written_as_one


def write(output: Path, content: str, overwrite: bool = False) -> None:
    with written_as_one(output, overwrite) as folder:
        assert folder.parent == output.parent
        (folder / "a.txt").write_text(content)


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    with written_as_one(output, False) as folder:
        (folder / "a.txt").write_text("new")
        assert not output.exists()
    assert (output / "a.txt").read_text() == "new"
    assert [path.name for path in output.parent.iterdir()] == ["out"]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert stat.S_IMODE(output.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_what_was_there_is_replaced_only_on_request(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    write(output, "first")  # an empty folder is fine
    with pytest.raises(ValueError, match="is not empty; expected an empty or new folder"):
        write(output, "second")
    assert (output / "a.txt").read_text() == "first"
    (output / "b.txt").write_text("old")
    write(output, "second", overwrite=True)
    assert [(path.name, path.read_text()) for path in output.iterdir()] == [("a.txt", "second")]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_fails_leaves_what_was_there(tmp_path: Path, overwrite: bool) -> None:
    output = tmp_path / "out"
    if overwrite:
        write(output, "first")

    def interrupt() -> None:
        with written_as_one(output, overwrite) as folder:
            (folder / "a.txt").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if overwrite else [])
    if overwrite:
        assert (output / "a.txt").read_text() == "first"


def test_files_and_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="is a file or a link; expected a folder, or nothing"):
                check_output(tmp_path / name, overwrite)
    check_output(tmp_path / "absent", False)
