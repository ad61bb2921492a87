"""Checkpoints of NeMo for the `from_pretrained` of our classes: found, converted once, kept."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ..checkpoints.store import cache_folder, cached_conversion, check_space, file_state, local_digest
from .archive import NemoArchive, is_gzip_file
from .convert import ConversionOptions, convert_archive
from .locate import FoundArchive, find_archive


def resolve_nemo_checkpoint(
    name: str | os.PathLike[str],
    loaded_class: type | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    only_if_known: bool = False,
) -> str | None:
    """
    The folder that a `.nemo` checkpoint loads from, converted if that was not done before; None for anything else.

    It is the source of `.nemo` checkpoints after every `from_pretrained`, see `checkpoint_sources`.

    Args:
        name: A `.nemo` file, a folder with the members of one, a folder or Hub repository with one and without
            `config.json`, or `owner/repository/file.nemo`.
        loaded_class: Not used: every class loads from the same folder.
        options, only_if_known: As in [`find_archive`].

    Raises:
        ValueError: for several archives, and for one that cannot be converted.
        OSError: for one that cannot be downloaded, or a cache that cannot be written.
    """
    options = options or {}
    memory = _within_call.get()
    key = _memory_key(name, options)
    if memory is not None and key in memory:
        remembered = memory[key]
        if isinstance(remembered, Exception):
            raise remembered
        return remembered
    try:
        archive = find_archive(name, options, only_if_known=only_if_known)
        folder = None if archive is None else str(converted_folder(archive, options))
    except (ValueError, OSError) as error:
        if memory is not None:
            memory[key] = error
        raise
    if memory is not None and (folder is not None or not only_if_known):
        memory[key] = folder
    return folder


# Results since the outermost call began: the Auto classes call one another, and the Hub is asked once.
_within_call: ContextVar[dict[tuple[str, ...], str | Exception | None] | None] = ContextVar(
    "within_call", default=None
)


@contextmanager
def resolved_once() -> Iterator[None]:
    """Inside the block every checkpoint is resolved once, and what went wrong is said again instead of tried again."""
    if _within_call.get() is not None:
        yield
        return
    token = _within_call.set({})
    try:
        yield
    finally:
        _within_call.reset(token)


def _memory_key(name: str | os.PathLike[str], options: Mapping[str, Any]) -> tuple[str, ...]:
    revision = options.get("revision")
    asked = getattr(revision, "initial", revision)  # Transformers hands the commit on together with what was asked
    return (
        os.fspath(name),
        *(str(value or "") for value in (asked, options.get("subfolder"), options.get("cache_dir"))),
    )


def converted_folder(archive: FoundArchive, options: Mapping[str, Any] | None = None) -> Path:
    """
    The converted form of an archive in the cache, see [`cached_conversion`].

    Args:
        archive: The archive.
        options: Of the call; `cache_dir` chooses the cache, the others serve to read the card on the Hub.
    """
    options = options or {}
    root = cache_folder(options.get("cache_dir"))
    members = _files_of(archive.path)
    states = [file_state(path) for path in members.values()]

    def convert(folder: Path) -> None:
        num_bytes = sum(path.stat().st_size for path in members.values())
        # The weights of a gzipped archive are on disk twice while a conversion runs.
        is_gzip = archive.path.is_file() and is_gzip_file(archive.path)
        check_space(folder.parent, num_bytes * (2 if is_gzip else 1), archive.source)
        archive.check_content()
        convert_archive(archive, folder, ConversionOptions(overwrite=True), options)
        if [file_state(path) for path in members.values()] != states:
            shutil.rmtree(folder)  # it would be found by the digest of another content
            raise ValueError(f"{archive.source} was changed while it was converted; load it again.")

    digest = archive.expected_digest or _local_digest_of(members, root)
    return cached_conversion(digest, archive.source, convert, root)


def _files_of(path: Path) -> dict[str, Path]:
    """An archive's file by the name `""`, or the files of an unpacked archive by their names."""
    if path.is_file():
        return {"": path}
    with NemoArchive(path) as archive:
        return {name: path / name for name in sorted(archive.member_names)}


def _local_digest_of(members: Mapping[str, Path], root: Path) -> str:
    """SHA-256 of a local file; of an unpacked archive that of the names and digests of its files."""
    if "" in members:
        return local_digest(members[""], root)
    digest = hashlib.sha256(b"unpacked archive")
    for name, path in members.items():
        digest.update(f"\n{name!r} {local_digest(path, root)}".encode())
    return digest.hexdigest()
