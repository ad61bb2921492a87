"""Folders that appear whole or not at all; killed processes are in `nemo/test_convert.py`."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from leftovers import killed

from transformers_fastconformer.checkpoints import output_folder
from transformers_fastconformer.checkpoints.output_folder import check_output, exchange, written_as_one
from transformers_fastconformer.temporary_files import TemporaryFolder


def write(output: Path, content: str, overwrite: bool = False) -> None:
    with written_as_one(output, overwrite) as folder:
        assert folder.parents[1] == output.parent
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


@pytest.mark.parametrize("can_exchange", [True, False])
def test_overwriting_with_and_without_an_exchange_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(output_folder, "exchange", lambda one, other: False)
    output = tmp_path / "out"
    write(output, "first")
    write(output, "second", overwrite=True)
    assert (output / "a.txt").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_folders_change_places(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    if not exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("the system cannot exchange two folders in one step")
    assert (tmp_path / "one" / "other").exists()
    assert (tmp_path / "other" / "one").exists()
    assert not exchange(tmp_path / "one", tmp_path / "missing")


def test_a_kill_between_two_steps_costs_nothing(tmp_path: Path) -> None:
    """The old folder is back before the next run decides what to do."""
    output = tmp_path / "out"
    write(output, "first")
    with TemporaryFolder(tmp_path) as living:
        left = killed(living)
    (left / "replaced").mkdir()
    output.rename(left / "replaced" / "out")
    with pytest.raises(ValueError, match="is not empty"):
        check_output(output, False)
    assert (output / "a.txt").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
