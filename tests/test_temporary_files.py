"""Temporary folders: unique, removed once their process has ended, and never while it lives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from leftovers import killed

import transformers_fastconformer.temporary_files as module
from transformers_fastconformer.temporary_files import (
    LOCK_NAME,
    PREFIX,
    REPLACED_NAME,
    STALE_SECONDS,
    TemporaryFolder,
    kept_aside,
    remove_leftovers,
    write_whole,
)

IMPORT = "import sys, pathlib; from transformers_fastconformer.temporary_files import *"


def leftovers(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.name.startswith(PREFIX))


def age(folder: Path, seconds: float = STALE_SECONDS + 60) -> None:
    then = time.time() - seconds
    for path in (folder / LOCK_NAME, folder):
        if path.exists():
            os.utime(path, (then, then))


def test_a_folder_is_there_until_its_end(tmp_path: Path) -> None:
    with TemporaryFolder(tmp_path / "new") as one, TemporaryFolder(tmp_path / "new") as other:
        assert one != other
        (one / "deep" / "er").mkdir(parents=True)
        assert one.stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a", b"one")
    write_whole(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path / "folder", b"three")
    assert leftovers(tmp_path) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Killed for real, so that the lock is given back by the system."""
    script = f"{IMPORT}; import os, signal; folder = TemporaryFolder(pathlib.Path(sys.argv[1]))"
    script += "; (folder.path / 'half').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    finished = subprocess.run([sys.executable, "-c", LIGHT + script, str(tmp_path)], check=False)
    assert finished.returncode == -signal.SIGKILL
    assert len(leftovers(tmp_path)) == 1
    with TemporaryFolder(tmp_path) as folder:
        assert leftovers(tmp_path) == [folder]


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    script = f"{IMPORT}; folder = TemporaryFolder(pathlib.Path(sys.argv[1])); print(folder.path, flush=True)"
    script += "; sys.stdin.read(); folder.close()"
    arguments = [sys.executable, "-c", LIGHT + script, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        age(path)  # its lock counts, whatever its age
        remove_leftovers(tmp_path)
        assert (path / LOCK_NAME).exists()
        process.communicate("")
    assert leftovers(tmp_path) == []


# The module alone, without the package, which would import torch for nothing.
LIGHT = f"""
import importlib.util, sys, types
package = sys.modules["transformers_fastconformer"] = types.ModuleType("transformers_fastconformer")
package.__path__ = [{str(Path(module.__file__).parent)!r}]
"""


@pytest.mark.parametrize("has_lock", [True, False])
def test_of_another_machine_only_the_age_counts(tmp_path: Path, has_lock: bool) -> None:
    with TemporaryFolder(tmp_path) as living:
        left = killed(living, "another")
        if not has_lock:
            (left / LOCK_NAME).unlink()
    age(left, 60)
    remove_leftovers(tmp_path)
    assert (left / "half").exists()
    age(left)
    remove_leftovers(tmp_path)
    assert leftovers(tmp_path) == []


def test_without_locks_the_age_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fcntl", None)
    with TemporaryFolder(tmp_path) as living:
        left = killed(living)
        remove_leftovers(tmp_path)
        assert len(leftovers(tmp_path)) == 2
        age(left)
        remove_leftovers(tmp_path)
        assert leftovers(tmp_path) == [living]


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(module, "_own", module._OwnFolders())
    with TemporaryFolder(tmp_path) as folder:
        age(folder)
        before = (folder / LOCK_NAME).stat().st_mtime
        end = time.monotonic() + 10
        while (folder / LOCK_NAME).stat().st_mtime == before and time.monotonic() < end:
            time.sleep(0.01)
        assert time.time() - (folder / LOCK_NAME).stat().st_mtime < 60
    end = time.monotonic() + 10
    while module._own._thread is not None and time.monotonic() < end:
        time.sleep(0.01)
    assert module._own._thread is None  # nothing is left to touch


def test_a_signal_at_any_moment_leaves_nothing_once_all_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a folder is made, before its `with` begins, and while it is removed."""
    real_mkdir, real_open, real_lock, real_unlink = Path.mkdir, os.open, module.lock_file, Path.unlink

    def interrupted(function: Any, is_before: bool) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if is_before:
                raise SystemExit
            function(*arguments, **options)
            raise SystemExit

        return call

    monkeypatch.setattr(module, "_own", module._OwnFolders())
    for target, name, real in (
        (Path, "mkdir", real_mkdir),
        (os, "open", real_open),
        (module, "lock_file", real_lock),
        (Path, "unlink", real_unlink),
    ):
        for is_before in (True, False):
            with monkeypatch.context() as patch:
                folder = TemporaryFolder(tmp_path) if name == "unlink" else None
                patch.setattr(target, name, interrupted(real, is_before))
                with pytest.raises(SystemExit):
                    folder.close() if folder is not None else TemporaryFolder(tmp_path)
            module.close_all()
            assert leftovers(tmp_path) == [], (name, is_before)


def test_a_forked_process_leaves_the_folders_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryFolder(tmp_path) as folder:
        monkeypatch.setattr(module._own, "_process", os.getpid() + 1)
        module.close_all()
        assert folder.exists()
        monkeypatch.undo()


def test_a_folder_without_a_lock_and_without_content_is_a_leftover(tmp_path: Path) -> None:
    """As a process leaves it that is killed between its first two steps; in the first of them it starts anew."""
    with TemporaryFolder(tmp_path) as living:
        left = killed(living)
    shutil.rmtree(left)
    left.mkdir()
    remove_leftovers(tmp_path)
    assert leftovers(tmp_path) == []


def test_whoever_loses_the_folder_before_the_lock_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_lock, lost = module.lock_file, []

    def lose_once(descriptor: int) -> bool | None:
        if not lost:
            lost.extend(leftovers(tmp_path))
            shutil.rmtree(lost[0])
        return real_lock(descriptor)

    monkeypatch.setattr(module, "lock_file", lose_once)
    with TemporaryFolder(tmp_path) as folder:
        assert folder.exists()
        assert [folder] != lost


def test_links_files_and_what_others_called_so_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("kept")
    (tmp_path / f"{PREFIX}{module.machine_name()}-1").symlink_to(tmp_path / "kept")
    (tmp_path / f"{PREFIX}file").write_text("kept")
    remove_leftovers(tmp_path)
    assert (tmp_path / "kept" / "file").exists()
    assert len(leftovers(tmp_path)) == 2


@pytest.mark.parametrize("is_replaced", [False, True])
def test_what_was_being_replaced_is_put_back(tmp_path: Path, is_replaced: bool) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "a").write_text("old")
    with TemporaryFolder(tmp_path) as living:
        left = killed(living)
    (left / REPLACED_NAME).mkdir()
    output.rename(left / REPLACED_NAME / "out")
    if is_replaced:
        output.mkdir()
        (output / "a").write_text("new")
    remove_leftovers(tmp_path)
    assert (output / "a").read_text() == ("new" if is_replaced else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_error_while_it_is_replaced_puts_it_back(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")

    def replace(folder: Path) -> None:
        with kept_aside(tmp_path / "out", folder):
            assert not (tmp_path / "out").exists()
            raise KeyboardInterrupt

    with TemporaryFolder(tmp_path) as folder, pytest.raises(KeyboardInterrupt):
        replace(folder)
    assert (tmp_path / "out").read_text() == "old"


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    """Threads that make, sweep and close folders next to one another."""
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for count in range(40):
                write_whole(tmp_path / f"{number}-{count}", str(count).encode())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert all(
        (tmp_path / f"{number}-{count}").read_text() == str(count) for number in range(8) for count in range(40)
    )
    assert len(list(tmp_path.iterdir())) == 320
