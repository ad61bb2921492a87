"""
`.nemo` archives: a tar, plain or gzipped, of a YAML configuration, pickled weights and artifacts.

Nothing here trusts an archive: every member is checked (`tar_members`), nothing but the weights of a gzipped archive
is ever written to disk, weights are loaded without running any code in them (`weights`), and every fault is a
`ValueError` that names what is wrong.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..checkpoints.files import is_apple_double, refuse_lfs_pointer
from ..validation import reading, shown
from .config_text import read_config_text
from .tar_members import BLOCK_BYTES, MAX_MEMBERS, TarMember, is_tar_header, walk_tar
from .weights import WEIGHTS_MEMBER, NemoWeights, TensorHeader

CONFIG_MEMBER = "model_config.yaml"
# In a converted folder, the configuration of the archive that it was made from, as it was.
ARTIFACT_PREFIX = "nemo:"
# Configurations with vocabularies of 16 thousand tokens have about 2 MB, the largest tokenizers about 5 MB.
MAX_BYTES_IN_MEMORY = 256 * 2**20
COPY_BYTES = 2**20
# A gzipped archive is read from its start for every member, so what is small is kept when it passes by.
MAX_BYTES_KEPT = 32 * 2**20
GZIP_MAGIC = b"\x1f\x8b"
# Weights hardly become smaller by compression; an archive that grows to more than this is made to fill a disk.
MAX_EXPANSION = 100
MAX_BYTES_EXPANDED = 2**30
# `is_archive_file` looks for the configuration in so many bytes of a gzipped file; it lies before the weights.
MAX_BYTES_SEARCHED = 64 * 2**20

EXPECTED = "a .nemo archive, which is a tar, plain or gzip, with its weights and its configuration"
_GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


class NemoArchive:
    """
    A `.nemo` file, or a folder with the same files in it, opened for reading. Use it in a `with` statement.

    A gzipped archive is read to its end when it is opened, so that its checksum is compared.

    Args:
        source: The archive or folder.
        prefix: Text before the names of configuration and weights, of a model that is bundled with another one.

    Raises:
        ValueError: when it is not an archive, is truncated or damaged, or holds a member that has no business in one:
            a path that leads elsewhere (absolute, or with `..`), a link, a device, a sparse file, or a name that
            stands there twice.
    """

    def __init__(self, source: str | os.PathLike[str], prefix: str = "") -> None:
        self.source = Path(source)
        self._config_member, self._weights_member = f"{prefix}{CONFIG_MEMBER}", f"{prefix}{WEIGHTS_MEMBER}"
        self.is_gzip = False
        self._stream: IO[bytes] | None = None
        self._members: dict[str, TarMember | Path] = {}
        self._kept: dict[str, bytes] = {}
        if self.source.is_dir():
            self._members = dict(self._walk_folder())
            return
        if not self.source.is_file():
            raise ValueError(f"{self.source}: no such file; expected a .nemo archive or a folder with its members.")
        refuse_lfs_pointer(self.source)
        self._stream, self.is_gzip = _open_tar(self.source)
        try:
            with self._reading_tar():
                if not is_tar_header(self._stream.read(BLOCK_BYTES)):
                    raise ValueError(f"{self.source} is not a .nemo archive; expected a tar, plain or gzip.")
                self._members = {member.name: member for member in self._walk()}
        except BaseException:
            self.close()
            raise

    def _walk_folder(self) -> Iterator[tuple[str, Path]]:
        count = 0
        for path in self.source.rglob("*"):
            if path.is_file() and not is_apple_double(path.name):
                count += 1
                if count > MAX_MEMBERS:
                    raise ValueError(
                        f"{self.source} holds more than {MAX_MEMBERS} files; expected those of an archive."
                    )
                yield path.relative_to(self.source).as_posix(), path

    def _walk(self) -> Iterator[TarMember]:
        """The members; of a gzipped archive the small ones are kept, and it is read to its end."""
        assert self._stream is not None
        total_bytes = _most_bytes(self.source, self.is_gzip)
        bytes_to_keep = MAX_BYTES_KEPT if self.is_gzip else 0
        for member in walk_tar(self._stream, total_bytes):
            if is_apple_double(PurePosixPath(member.name).name):
                continue
            if member.num_bytes <= bytes_to_keep:
                self._stream.seek(member.offset)
                self._kept[member.name] = self._stream.read(member.num_bytes)
                bytes_to_keep -= member.num_bytes
            yield member
        while self.is_gzip and self._stream.read(COPY_BYTES):
            if self._stream.tell() > total_bytes:
                raise ValueError(f"it unpacks to more than {total_bytes} bytes; refused")

    @contextmanager
    def _reading_tar(self) -> Iterator[None]:
        try:
            with reading(str(self.source), EXPECTED):
                yield
        except ValueError as error:
            if isinstance(error.__cause__, _GZIP_ERRORS):
                raise ValueError(f"{self.source} is truncated or damaged: {error.__cause__}.") from error
            raise

    @property
    def member_names(self) -> list[str]:
        """Names of the files inside, without a leading `./`."""
        return list(self._members)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def __enter__(self) -> NemoArchive:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def find_member(self, reference: str) -> str:
        """
        Name of the member that `reference` means.

        Args:
            reference: A member's name, `nemo:` and a member's name as configurations have it, or a path whose file
                name is a member's, with or without the hash that NeMo puts before it.
        """
        name = reference.removeprefix(ARTIFACT_PREFIX).removeprefix("./")
        if name in self._members:
            return name
        base = PurePosixPath(name).name
        alike = [member for member in self._members if _without_hashes(member) == _without_hashes(base)]
        if len(alike) == 1:
            return alike[0]
        if alike:
            raise ValueError(
                f"{self.source}: member {name!r} is missing, and several are like it: {shown(sorted(alike))}."
            )
        raise ValueError(f"{self.source}: member {name!r} is missing; there are {shown(sorted(self._members))}.")

    @contextmanager
    def open_member(self, reference: str) -> Iterator[IO[bytes]]:
        """The bytes of a member as a stream."""
        name = self.find_member(reference)
        member = self._members[name]
        if isinstance(member, Path):
            refuse_lfs_pointer(member)
            with open(member, "rb") as stream:
                yield stream
            return
        assert self._stream is not None
        with self._reading_tar():
            yield io.BufferedReader(_MemberStream(self._stream, member), COPY_BYTES)

    def member_bytes(self, reference: str) -> int:
        """Size of a member."""
        member = self._members[self.find_member(reference)]
        return member.stat().st_size if isinstance(member, Path) else member.num_bytes

    def read_member(self, reference: str) -> bytes:
        """All the bytes of a small member: a configuration or a tokenizer."""
        expected_bytes = self.member_bytes(reference)
        if expected_bytes > MAX_BYTES_IN_MEMORY:
            raise ValueError(
                f"{self.source}: member {reference!r} has {expected_bytes} bytes; expected at most "
                f"{MAX_BYTES_IN_MEMORY} of a configuration or a tokenizer."
            )
        kept = self._kept.get(self.find_member(reference))
        if kept is None:
            with self.open_member(reference) as stream:
                content = stream.read()
        else:
            content = kept
        if len(content) != expected_bytes:
            raise ValueError(
                f"{self.source} is truncated in member {reference!r}: {len(content)} of {expected_bytes} bytes."
            )
        return content

    def read_config(self) -> dict[str, Any]:
        """The model's configuration, `${...}` references resolved where they are plain paths."""
        return read_config_text(self.read_member(self._config_member), f"{self.source}: {self._config_member}")

    @contextmanager
    def open_weights(self, scratch_folder: str | os.PathLike[str]) -> Iterator[NemoWeights]:
        """
        The weights, to be read tensor by tensor.

        Args:
            scratch_folder: Where the weights of a gzipped archive lie, as a file of their own, until the block ends;
                the folder should have room for them.
        """
        member = self._members[self.find_member(self._weights_member)]
        if not self.is_gzip:
            with self._open_stored_weights(member) as weights:
                yield weights
            return
        path = Path(scratch_folder) / f"{self._weights_member}.unpacked"
        try:
            with self.open_member(self._weights_member) as stream, open(path, "wb") as file:
                shutil.copyfileobj(stream, file, COPY_BYTES)
            with NemoWeights(path, self.source) as weights:
                yield weights
        finally:
            with suppress(FileNotFoundError):
                path.unlink()

    def _open_stored_weights(self, member: TarMember | Path) -> NemoWeights:
        if isinstance(member, Path):
            refuse_lfs_pointer(member)
            return NemoWeights(member, self.source)
        return NemoWeights(self.source, self.source, member.offset, member.num_bytes)

    def read_tensor_headers(self) -> dict[str, TensorHeader] | None:
        """
        Names, shapes and types of the weights, of which nothing else is read. None where that would mean to read them
        all: in gzipped archives.

        Raises:
            ValueError: when the weights are no plain state dict.
        """
        member = self._members[self.find_member(self._weights_member)]
        if self.is_gzip:
            return None
        with self._open_stored_weights(member) as weights:
            return weights.headers


class _MemberStream(io.RawIOBase):
    """A member as a file of its own, read from its start to its end."""

    def __init__(self, stream: IO[bytes], member: TarMember) -> None:
        self._stream = stream
        self._member = member
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the member goes."""
        wanted = min(len(buffer), self._member.num_bytes - self._position)
        if not wanted:
            return 0
        self._stream.seek(self._member.offset + self._position)
        content = self._stream.read(wanted)
        if not content:
            raise ValueError(
                f"it is truncated in member {self._member.name!r}: {self._position} of {self._member.num_bytes} bytes"
            )
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def is_archive_file(path: str | os.PathLike[str]) -> bool:
    """Tell by its content whether a file is an archive with a configuration of NeMo, whatever its name."""
    path = Path(path)
    stream, is_gzip = None, False
    try:
        stream, is_gzip = _open_tar(path)
        if not is_tar_header(stream.read(BLOCK_BYTES)):
            return False
        for member in walk_tar(stream, MAX_BYTES_SEARCHED if is_gzip else path.stat().st_size):
            if member.name == CONFIG_MEMBER:
                return True
    except (ValueError, OSError, *_GZIP_ERRORS):
        return False
    finally:
        if stream is not None:
            stream.close()
    return False


def _open_tar(path: Path) -> tuple[IO[bytes], bool]:
    """A file as a tar, unpacked if it is gzipped, and whether it is."""
    if is_gzip_file(path):
        return gzip.open(path, "rb"), True  # type: ignore[return-value]
    return open(path, "rb"), False


def is_gzip_file(path: Path) -> bool:
    """Tell by its first bytes whether a file is gzipped."""
    with open(path, "rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def _most_bytes(path: Path, is_gzip: bool) -> int:
    """Most bytes of a tar: those of the file, or so many that a gzipped one may become."""
    num_bytes = path.stat().st_size
    return max(MAX_BYTES_EXPANDED, MAX_EXPANSION * num_bytes) if is_gzip else num_bytes


def _without_hashes(name: str) -> str:
    """A file name without the hashes of 32 digits that NeMo writes before it, once a save."""
    return re.sub(r"^(?:[0-9a-f]{32}_)+", "", name)
