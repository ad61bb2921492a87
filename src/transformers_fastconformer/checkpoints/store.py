"""
The cache of converted checkpoints, kept and found again by the content of the original.

    <cache>/v<format>/<sha-256 of the original>/     a folder that `from_pretrained` loads
    <cache>/v<format>/<sha-256 of the original>.json its record: the names used for it; touched at each use
    <cache>/digests.json                             digests of local files, by path, size, times and inode
    <cache>/locks/                                   one lock for each original

A folder exists whole or not at all. The format is `CONVERSION_FORMAT`: conversions of an older version of this package
are not read, and are removed when a newer version converts something.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from huggingface_hub import constants
from transformers.utils import logging

from ..temporary_files import TemporaryFolder, remove_leftovers, write_whole
from .files import CONFIG_FILE
from .hub import SHA256, file_digest

logger = logging.get_logger(__name__)

# Number of the form that conversions write. Raise it with every change of that form, so that cached conversions of
# older forms are made anew.
CONVERSION_FORMAT = 3
CACHE_VARIABLE = "TRANSFORMERS_FASTCONFORMER_CACHE"
CACHE_NAME = "transformers_fastconformer"
FORMAT_PREFIX = "v"
DIGESTS_FILE = "digests.json"
LOCKS_FOLDER = "locks"
# A file that was written just now may be written again without its times showing it.
SETTLED_SECONDS = 2.0
PATIENCE_SECONDS = 3.0
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True)
class CachedConversion:
    """
    One entry of the cache.

    Args:
        digest: SHA-256 of the original.
        folder: The folder that `from_pretrained` loads.
        format: `CONVERSION_FORMAT` of the version that wrote it.
        sources: Hub ids and paths that were used for it, the newest last.
        architecture: Class of the model, if the configuration names one.
        num_bytes: Size on disk.
        last_used: Seconds since the epoch.
    """

    digest: str
    folder: Path
    format: int
    sources: tuple[str, ...]
    architecture: str | None
    num_bytes: int
    last_used: float


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """
    The folder of converted checkpoints.

    It is in the `cache_dir` of the call, else it is `TRANSFORMERS_FASTCONFORMER_CACHE`, else it is next to the caches
    of Hugging Face.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser() / CACHE_NAME
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(constants.HF_HOME) / CACHE_NAME


# Entries


def cached_conversion(digest: str, source: str, convert: Callable[[Path], None], root: Path) -> Path:
    """
    Find a folder of the cache, or convert if it does not exist. Of several processes one converts, the others wait.

    Args:
        digest: 64 hexadecimal digits that stand for the content of the checkpoint.
        source: Name of the checkpoint that the user gave.
        convert: Writes a checkpoint in our format to the folder that it is given, whole or not at all. The folder may
            hold only what another process left half done.
        root: Folder of the cache, see [`cache_folder`].
    """
    folder = root / f"{FORMAT_PREFIX}{CONVERSION_FORMAT}" / digest
    if not _is_whole(folder):
        try:
            with _locked(root, digest, source):
                if not _is_whole(folder):
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    remove_leftovers(folder.parent)
                    logger.warning(f"Converting {source}, once; it is loaded from {folder} from now on.")
                    convert(folder)
                    _remove_older_formats(folder.parent)
        except OSError as error:
            place = Path(error.filename) if isinstance(error.filename, str) else folder
            if error.errno not in NOT_WRITABLE or not _are_on_one_path(place.absolute(), root.absolute()):
                raise
            raise OSError(
                error.errno,
                f"the converted form of {source} cannot be written; {CACHE_VARIABLE} or cache_dir chooses another "
                "place",
                str(place),
            ) from error
    _record_use(folder, source)
    return folder


def list_conversions(cache_dir: str | os.PathLike[str] | None = None) -> list[CachedConversion]:
    """List all entries, including those of older formats, the one used last first."""
    entries = []
    for folder in _entry_folders(cache_folder(cache_dir)):
        record = _read_json(_record_path(folder))
        config = _read_json(folder / CONFIG_FILE)
        architectures = config.get("architectures") or [None]
        entries.append(
            CachedConversion(
                digest=folder.name,
                folder=folder,
                format=int(folder.parent.name.removeprefix(FORMAT_PREFIX)),
                sources=tuple(record.get("sources", ())),
                architecture=architectures[0],
                num_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
                last_used=_last_used(folder),
            )
        )
    return sorted(entries, key=lambda entry: -entry.last_used)


def clear_conversions(
    names: list[str] | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> list[CachedConversion]:
    """
    Remove entries; the originals stay where they are.

    Args:
        names: Hub ids, paths, or beginnings of digests (8 characters or more). Without names all entries are removed,
            and half-written folders of processes that were killed.
        cache_dir: As in [`cache_folder`].

    Returns:
        The entries that were removed.

    Raises:
        ValueError: for a name without an entry; nothing is removed then.
    """
    entries = list_conversions(cache_dir)
    chosen = entries
    if names:
        chosen = [entry for entry in entries if any(_is_named(entry, name) for name in names)]
        for name in names:
            if not any(_is_named(entry, name) for entry in entries):
                known = sorted({source for entry in entries for source in entry.sources})
                raise ValueError(f"{name} is not in the cache; there are {', '.join(known) or 'no conversions'}.")
    root = cache_folder(cache_dir)
    for entry in chosen:
        with _locked(root, entry.digest, str(entry.folder)):
            _remove_entry(entry.folder)
    if not names:
        for format_folder in root.glob(f"{FORMAT_PREFIX}*"):
            remove_leftovers(format_folder)
        remove_leftovers(root)
    return chosen


def _is_named(entry: CachedConversion, name: str) -> bool:
    resolved = os.path.realpath(name)
    is_digest = len(name) >= 8 and entry.digest.startswith(name.lower())
    return is_digest or any(source in (name, resolved) for source in entry.sources)


def _entry_folders(root: Path) -> Iterator[Path]:
    for format_folder in root.glob(f"{FORMAT_PREFIX}*"):
        if format_folder.name.removeprefix(FORMAT_PREFIX).isdigit():
            yield from (path for path in format_folder.iterdir() if SHA256.fullmatch(path.name) and path.is_dir())


def _are_on_one_path(one: Path, other: Path) -> bool:
    """Tell whether one of two paths is the other or above it."""
    return one == other or one in other.parents or other in one.parents


def _is_whole(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def check_space(folder: Path, needed_bytes: int, source: str) -> None:
    """Raise an `OSError` unless the disk of a folder has room for all that a conversion writes while it runs."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise OSError(
            errno.ENOSPC,
            f"{source} needs {needed_bytes / 1e9:.1f} GB to be converted and {free_bytes / 1e9:.1f} GB are free; "
            f"{CACHE_VARIABLE} or cache_dir chooses another place",
            str(folder),
        )


def _remove_older_formats(current: Path) -> None:
    own_format = int(current.name.removeprefix(FORMAT_PREFIX))
    for folder in list(_entry_folders(current.parent)):
        if int(folder.parent.name.removeprefix(FORMAT_PREFIX)) < own_format:
            logger.info(f"{folder} was written by an older version; it is removed.")
            _remove_entry(folder)
            with suppress(OSError):
                folder.parent.rmdir()  # if it was the last one


def _remove_entry(folder: Path) -> None:
    """Remove an entry in one step, so that other processes never see half of it."""
    with TemporaryFolder(folder.parent) as doomed, suppress(FileNotFoundError):
        folder.rename(doomed / folder.name)
    _record_path(folder).unlink(missing_ok=True)


@contextmanager
def _locked(root: Path, digest: str, source: str) -> Iterator[None]:
    folder = root / LOCKS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{digest}.lock")
    try:
        lock.acquire(timeout=PATIENCE_SECONDS)
    except Timeout:
        logger.warning(f"Waiting for another process that is converting {source}.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# Records


def _record_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _last_used(folder: Path) -> float:
    record = _record_path(folder)
    return (record if record.is_file() else folder).stat().st_mtime


def _record_use(folder: Path, source: str) -> None:
    """Note the name and the time. A cache that cannot be written, such as a shared one, can still be read."""
    path = _record_path(folder)
    source = os.path.realpath(source) if os.path.exists(source) else source
    try:
        record = _read_json(path)
        sources = record.get("sources", [])
        if sources[-1:] == [source]:
            os.utime(path)
        else:
            record["sources"] = [*(name for name in sources if name != source), source]
            _write_json(path, record)
    except OSError:
        logger.debug(f"{path} cannot be written.", exc_info=True)


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if the file is missing or damaged, since nothing depends on it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1) + "\n"
    write_whole(path, text.encode("utf-8"))


# Digests of local files


def local_digest(path: Path, root: Path) -> str:
    """
    SHA-256 of a local file.

    It is remembered as long as path, size, times and inode stay the same, so that gigabytes are not read at every
    load.
    """
    path = Path(os.path.realpath(path))
    index_path = root / DIGESTS_FILE
    index = _read_json(index_path)
    state = file_state(path)
    remembered = index.get(str(path))
    if isinstance(remembered, list) and len(remembered) == len(state) + 1 and remembered[:-1] == state:
        return str(remembered[-1])
    digest = file_digest(path)
    if file_state(path) == state and time.time() - path.stat().st_mtime > SETTLED_SECONDS:
        try:
            root.mkdir(parents=True, exist_ok=True)
            kept = {name: value for name, value in _read_json(index_path).items() if os.path.exists(name)}
            _write_json(index_path, {**kept, str(path): [*state, digest]})
        except OSError:
            logger.debug(f"{index_path} cannot be written.", exc_info=True)
    return digest


def file_state(path: Path) -> list[int]:
    """Size, times and inode of a file, which change with its content."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
