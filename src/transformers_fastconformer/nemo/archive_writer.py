"""
`.nemo` archives, written as one: a plain tar with configuration, artifacts and weights, moved into place when it is
whole.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from ..checkpoints.safetensors_writer import TensorEntry
from ..temporary_files import TemporaryFolder, remove_leftovers
from .archive import CONFIG_MEMBER
from .locate import ARCHIVE_SUFFIX
from .tar_members import BLOCK_BYTES
from .weights import WEIGHTS_MEMBER
from .weights_writer import write_state_dict

MEMBER_MODE = 0o644


def check_archive_path(path: Path, overwrite: bool) -> None:
    """
    Refuse a path that is not one of an archive, or is in use. What a killed run left next to it is removed.

    Raises:
        ValueError: for another suffix, a folder or a link, and a file unless it may be overwritten.
    """
    if path.suffix != ARCHIVE_SUFFIX:
        raise ValueError(f"output={str(path)!r} is not supported; expected a file name that ends in {ARCHIVE_SUFFIX}.")
    remove_leftovers(path.absolute().parent)
    if path.is_symlink() or path.is_dir():
        raise ValueError(f"output={str(path)!r} is a folder or a link; expected a file, or nothing.")
    if path.exists() and not overwrite:
        raise ValueError(f"output={str(path)!r} exists; expected a new file, or a request to overwrite.")


class ModelMembers(NamedTuple):
    """
    A model in an archive.

    Args:
        config_text: Its `model_config.yaml`.
        artifacts: The other small members by name.
        entries: Names, shapes and types of the weights, in the order to write.
        fetch: Gives a tensor by its name.
        prefix: Text before the names of configuration and weights, of a model that is bundled with another one.
    """

    config_text: bytes
    artifacts: Mapping[str, bytes]
    entries: Sequence[TensorEntry]
    fetch: Callable[[str], torch.Tensor]
    prefix: str = ""


def write_archive(
    path: Path,
    models: Sequence[ModelMembers],
    overwrite: bool = False,
    check: Callable[[Path], None] = lambda written: None,
) -> None:
    """
    Write an archive. Equal input gives equal bytes: the members have no dates and no owners.

    Args:
        path: The file to make.
        models: The model, and those that are bundled with it.
        overwrite: Replace a file at `path`.
        check: Called with the finished file before it is moved into place; an error in it leaves nothing.
    """
    check_archive_path(path, overwrite)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFolder(path.absolute().parent) as temporary:
        written = temporary / path.name
        try:
            with open(written, "w+b") as file:
                _write_members(file, _list_members(models))
                for model in models:
                    _write_weights(file, model)
                file.write(bytes(2 * BLOCK_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno is None or error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror, str(path)) from error  # a disk that is full names nothing
        check(written)
        check_archive_path(path, overwrite)
        written.replace(path)


def _list_members(models: Sequence[ModelMembers]) -> list[tuple[str, bytes]]:
    """The small members of all models, those of the same name and content once."""
    members: dict[str, bytes] = {}
    for model in models:
        for name, content in ((f"{model.prefix}{CONFIG_MEMBER}", model.config_text), *model.artifacts.items()):
            if members.setdefault(name, content) != content:
                raise ValueError(f"the member {name} is another file in two models; expected names of their own.")
    return list(members.items())


def _write_members(file: IO[bytes], members: Iterable[tuple[str, bytes]]) -> None:
    for name, content in members:
        file.write(_header(name, len(content)))
        file.write(content)
        file.write(bytes(-len(content) % BLOCK_BYTES))


def _write_weights(file: IO[bytes], model: ModelMembers) -> None:
    """Write the weights where they will lie; their header, which has their size, comes last."""
    start, name = file.tell(), f"{model.prefix}{WEIGHTS_MEMBER}"
    file.write(bytes(len(_header(name, 0))))
    member = _FilePart(file)
    write_state_dict(member, model.entries, model.fetch)  # type: ignore[arg-type]
    num_bytes = member.seek(0, os.SEEK_END)
    file.write(bytes(-num_bytes % BLOCK_BYTES))
    end = file.tell()
    file.seek(start)
    file.write(_header(name, num_bytes))
    file.seek(end)


def _header(name: str, num_bytes: int) -> bytes:
    """The header of a member, with a leading `./` as NeMo writes it."""
    info = tarfile.TarInfo(f"./{name}")
    info.size = num_bytes
    info.mode = MEMBER_MODE
    return info.tobuf(tarfile.GNU_FORMAT)


class _FilePart(io.RawIOBase):
    """The rest of a file, from where it is now, as a file of its own to write."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._start = file.tell()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        return self._file.write(content)

    def tell(self) -> int:
        return self._file.tell() - self._start

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position that counts from the start of this part."""
        return self._file.seek(position + (self._start if whence == os.SEEK_SET else 0), whence) - self._start
