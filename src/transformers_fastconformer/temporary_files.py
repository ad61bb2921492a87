"""
Temporary folders next to what is written, and the removal of those that killed processes left behind.

A folder is called `.fastconformer-<machine>-<random>` and holds a file `lock`, on which its process has a lock of the
system (`flock`) as long as it lives. Names are random, since process numbers are not unique: each container counts
from 1. What decides that a folder is a leftover:

- Its lock can be had, and the folder was made on this machine since it was started (containers of one machine have the
  same kernel, which knows all locks): its process has ended.
- It was made elsewhere, or the file system has no locks: nobody has touched the lock for `STALE_SECONDS`. A process
  that lives touches it every `HEARTBEAT_SECONDS`. Times are compared by the clock of the file system.

Whoever makes a folder removes the leftovers next to it first.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import secrets
import shutil
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows, which has no flock
    fcntl = None  # type: ignore[assignment]

PREFIX = ".fastconformer-"
LOCK_NAME = "lock"
# Folder in a temporary one with what an output replaces; it is put back if the process is killed before the new output
# is in its place.
REPLACED_NAME = "replaced"
HEARTBEAT_SECONDS = 60.0
STALE_SECONDS = 3600.0
BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")


def lock_file(descriptor: int) -> bool | None:
    """Lock an open file until it is closed: true if that succeeds, false if another has it, None without locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


class TemporaryFolder:
    """
    A folder of this process, which `close` or the end of a `with` removes with all that is in it.

    Args:
        parent: Folder to make it in, which is made too; None: that of the system for temporary files.

    Raises:
        OSError: when nothing can be written there.
    """

    def __init__(self, parent: Path | None = None) -> None:
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(parent)
        self.path = _make_locked(parent)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder; what cannot be removed is left to the next process."""
        _own.remove(self.path)


def close_all() -> None:
    """Remove the folders of this process that a signal kept from being closed: it may come at any moment."""
    _own.remove_all()


def remove_leftovers(parent: Path) -> None:
    """Remove the temporary folders of processes that were killed, and put back what they were replacing."""
    with suppress(OSError), os.scandir(parent) as entries:
        found = [entry.name for entry in entries if entry.name.startswith(PREFIX)]
        for name in found:
            with suppress(OSError):  # another process may be removing it too
                _remove_leftover(parent / name)


@contextmanager
def kept_aside(path: Path, folder: Path) -> Iterator[None]:
    """
    Move a file or folder into a temporary folder while a new one takes its place; after an error it is put back.

    Args:
        path: What is replaced.
        folder: Temporary folder next to it.
    """
    aside = folder / REPLACED_NAME / path.name
    aside.parent.mkdir()
    path.rename(aside)
    try:
        yield
    except BaseException:
        aside.rename(path)
        raise


def write_whole(path: Path, content: bytes, folder: Path | None = None) -> None:
    """
    Write a file so that it exists whole or not at all.

    Args:
        path: Path of the file, in a folder that exists.
        content: Its bytes.
        folder: Temporary folder on the same file system; None: one is made next to the file.
    """
    if folder is None:
        with TemporaryFolder(path.parent) as made:
            write_whole(path, content, made)
        return
    temporary = folder / secrets.token_hex(8)
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@cache
def machine_name() -> str:
    """Name of this machine since it was started, the same in all its containers."""
    try:
        known = BOOT_ID_PATH.read_text()
    except OSError:
        known = f"{platform.node()} {uuid.getnode()}"
    return hashlib.sha256(known.encode()).hexdigest()[:12]


def _make_locked(parent: Path) -> Path:
    while True:
        path = parent / f"{PREFIX}{machine_name()}-{secrets.token_hex(8)}"
        _own.expect(path)
        try:
            path.mkdir(mode=0o700)
            descriptor = os.open(path / LOCK_NAME, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except OSError as error:
            _own.forget(path)
            # Before it was locked, another process may have taken it for a leftover.
            if isinstance(error, FileExistsError) or (isinstance(error, FileNotFoundError) and parent.is_dir()):
                continue
            raise
        _own.add(path, descriptor)
        if lock_file(descriptor) is not False and (path / LOCK_NAME).exists():
            return path
        _own.forget(path)


def _remove_leftover(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
        return
    is_ours = path.name.removeprefix(PREFIX).partition("-")[0] == machine_name()
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path / LOCK_NAME, flags)
    except FileNotFoundError:
        # Its process was killed between two steps, or is about to make the lock: it starts anew then.
        if is_ours:
            path.rmdir()
        elif _is_stale(path):
            _remove(path)
        return
    try:
        locked = lock_file(descriptor)
        if locked is not False and ((locked and is_ours) or _is_stale(path / LOCK_NAME)):
            for aside in (path / REPLACED_NAME).iterdir() if (path / REPLACED_NAME).is_dir() else ():
                if not os.path.lexists(path.parent / aside.name):
                    aside.rename(path.parent / aside.name)
            _remove(path)
    finally:
        os.close(descriptor)


def _is_stale(path: Path) -> bool:
    with tempfile.TemporaryFile(dir=path.parents[1] if path.name == LOCK_NAME else path.parent) as probe:
        now = os.fstat(probe.fileno()).st_mtime
    return now - path.lstat().st_mtime > STALE_SECONDS


def _remove(path: Path) -> None:
    """Remove a folder, its lock last: whoever is killed meanwhile leaves what is still known to be a leftover."""
    with suppress(OSError):
        for child in list(path.iterdir()):
            if child.name == LOCK_NAME:
                continue
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child, ignore_errors=True)
            else:
                child.unlink()
        (path / LOCK_NAME).unlink(missing_ok=True)
        path.rmdir()


class _OwnFolders:
    """Folders of this process, whose locks a thread touches now and then as long as there are some."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int | None] = {}
        self._process = os.getpid()
        self._lock = threading.RLock()  # a signal may come while it is held
        self._thread: threading.Thread | None = None

    def expect(self, path: Path) -> None:
        """Note a folder that is about to be made."""
        with self._lock:
            if self._process != os.getpid():  # those of the process that this one was forked from are not its own
                self._descriptors.clear()
                self._process = os.getpid()
            self._descriptors[path] = None

    def add(self, path: Path, descriptor: int) -> None:
        """Note its open lock, and begin to touch it."""
        with self._lock:
            self._descriptors[path] = descriptor
            if self._thread is None or not self._thread.is_alive():  # after a fork it is not
                self._thread = threading.Thread(target=self._beat, name="fastconformer-temporary", daemon=True)
                self._thread.start()

    def forget(self, path: Path) -> None:
        """Note that a folder is no longer there."""
        with self._lock:
            descriptor = self._descriptors.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a folder, and then give its lock back."""
        _remove(path)
        self.forget(path)

    def remove_all(self) -> None:
        """Remove those that are left."""
        if self._process == os.getpid():
            for path in list(self._descriptors):
                self.remove(path)

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            with self._lock:
                if not self._descriptors:
                    self._thread = None
                    return
                for descriptor in self._descriptors.values():
                    if descriptor is not None:
                        with suppress(OSError, NotImplementedError, TypeError):
                            os.utime(descriptor)


_own = _OwnFolders()
atexit.register(close_all)
