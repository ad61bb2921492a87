"""
`.nemo` archives: a tar, plain or gzipped, of a YAML configuration, pickled weights and artifacts.

Nothing here trusts an archive: every member is checked, nothing but the weights is ever written to disk, weights are
loaded without running any code in them, and every fault is a `ValueError` that names what is wrong.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import torch

from .config_text import read_config_text

CONFIG_MEMBER = "model_config.yaml"
WEIGHTS_MEMBER = "model_weights.ckpt"
ARTIFACT_PREFIX = "nemo:"
# Configurations with vocabularies of 16 thousand tokens have about 2 MB, the largest tokenizers about 5 MB.
MAX_BYTES_IN_MEMORY = 256 * 2**20
COPY_BYTES = 2**20
# A gzipped archive is read from its start for every member, so what is small is kept when it passes by.
MAX_BYTES_KEPT = 32 * 2**20
PICKLED_GLOBAL = re.compile(r"GLOBAL (\S+)")

ZIP_MAGIC = b"PK\x03\x04"
STORAGE_DTYPES = {
    "BFloat16Storage": "bfloat16",
    "BoolStorage": "bool",
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "IntStorage": "int32",
    "LongStorage": "int64",
}

_TAR_ERRORS = (tarfile.TarError, EOFError, zlib.error, OSError)


class NemoArchive:
    """
    A `.nemo` file, or a folder with the same files in it, opened for reading. Use it in a `with` statement.

    Args:
        source: The archive or folder.

    Raises:
        ValueError: when it is not an archive, is truncated, or holds a member that has no business in one: a path that
            leads elsewhere (absolute, or with `..`), a link, a device, or a name that stands there twice.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.source = Path(source)
        self.is_gzip = False
        self._tar: tarfile.TarFile | None = None
        self._members: dict[str, tarfile.TarInfo | Path] = {}
        self._kept: dict[str, bytes] = {}
        if self.source.is_dir():
            self._members = {
                path.relative_to(self.source).as_posix(): path
                for path in sorted(self.source.rglob("*"))
                if path.is_file()
            }
            return
        if not self.source.is_file():
            raise ValueError(f"{self.source}: no such file; expected a .nemo archive or a folder with its members.")
        try:
            with open(self.source, "rb") as file:
                is_gzip = file.read(2) == b"\x1f\x8b"
            self._tar = tarfile.open(self.source, "r:gz" if is_gzip else "r:")  # noqa: SIM115
            self.is_gzip = is_gzip
            bytes_to_keep = MAX_BYTES_KEPT if is_gzip else 0
        except _TAR_ERRORS as error:
            raise ValueError(
                f"{self.source} is not a .nemo archive: {error}; expected a tar, plain or gzip."
            ) from error
        try:
            self._members = dict(self._check_members(bytes_to_keep))
        except BaseException:
            self.close()
            raise

    def _check_members(self, bytes_to_keep: int) -> Iterator[tuple[str, tarfile.TarInfo]]:
        assert self._tar is not None
        seen: set[str] = set()
        try:
            for info in self._tar:
                name = _safe_member_name(info, self.source)
                if info.isdir():
                    continue
                if name in seen:
                    raise ValueError(f"{self.source}: member {info.name!r} is there twice; refused.")
                seen.add(name)
                if info.size <= bytes_to_keep:
                    stream = self._tar.extractfile(info)
                    assert stream is not None
                    self._kept[name] = stream.read()
                    bytes_to_keep -= info.size
                yield name, info
        except _TAR_ERRORS as error:
            raise ValueError(f"{self.source} is truncated or damaged: {error}.") from error

    @property
    def member_names(self) -> list[str]:
        """Names of the files inside, without a leading `./`."""
        return list(self._members)

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()

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
            raise ValueError(f"{self.source}: member {name!r} is missing, and several are like it: {sorted(alike)}.")
        raise ValueError(f"{self.source}: member {name!r} is missing; there are {sorted(self._members)}.")

    @contextmanager
    def open_member(self, reference: str) -> Iterator[IO[bytes]]:
        """The bytes of a member as a stream."""
        member = self._members[self.find_member(reference)]
        try:
            if isinstance(member, Path):
                with open(member, "rb") as stream:
                    yield stream
            else:
                assert self._tar is not None
                extracted = self._tar.extractfile(member)
                assert extracted is not None
                with extracted as stream:
                    yield stream
        except _TAR_ERRORS as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # a full disk, say, and no fault of the archive
            raise ValueError(f"{self.source} is truncated or damaged in member {reference!r}: {error}.") from error

    def member_bytes(self, reference: str) -> int:
        """Size of a member."""
        member = self._members[self.find_member(reference)]
        return member.stat().st_size if isinstance(member, Path) else member.size

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
        return read_config_text(self.read_member(CONFIG_MEMBER), f"{self.source}: {CONFIG_MEMBER}")

    @contextmanager
    def open_weights(self, scratch_folder: str | os.PathLike[str]) -> Iterator[NemoWeights]:
        """
        The weights, ready to be mapped into memory.

        Args:
            scratch_folder: Where the weights lie, as a file of their own, until the block ends; tensors are mapped
                from there, and the folder should have room for them.
        """
        member = self._members[self.find_member(WEIGHTS_MEMBER)]
        if isinstance(member, Path):
            yield NemoWeights(member, self.source)
            return
        path = Path(scratch_folder) / f"{WEIGHTS_MEMBER}.unpacked"
        try:
            with self.open_member(WEIGHTS_MEMBER) as stream, open(path, "wb") as file:
                shutil.copyfileobj(stream, file, COPY_BYTES)
            if path.stat().st_size != member.size:
                raise ValueError(
                    f"{self.source} is truncated in member {WEIGHTS_MEMBER!r}: {path.stat().st_size} of "
                    f"{member.size} bytes."
                )
            yield NemoWeights(path, self.source)
        finally:
            path.unlink(missing_ok=True)

    def read_tensor_headers(self) -> dict[str, TensorHeader] | None:
        """
        Names, shapes and types of the weights, of which nothing else is read. None where that would mean to read them
        all: in gzipped archives and in PyTorch's older format.

        Raises:
            ValueError: when the weights are no plain state dict.
        """
        if self._tar is not None and self.is_gzip:
            return None
        with self.open_member(WEIGHTS_MEMBER) as stream:
            if stream.read(4) != ZIP_MAGIC:
                return None
            try:
                with zipfile.ZipFile(stream) as weights:
                    name = next(name for name in weights.namelist() if name.endswith("/data.pkl"))
                    content = _HeaderUnpickler(io.BytesIO(weights.read(name))).load()
            except (zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, TypeError, ValueError) as error:
                raise ValueError(f"{self.source}: {WEIGHTS_MEMBER} cannot be read: {error}") from error
        if not isinstance(content, dict) or not all(isinstance(header, TensorHeader) for header in content.values()):
            raise ValueError(f"{self.source}: {WEIGHTS_MEMBER} is not a plain state dict; expected tensors only.")
        return dict(content)


class TensorHeader(NamedTuple):
    """Shape and type of a tensor, without its values."""

    shape: tuple[int, ...]
    dtype: str


class _HeaderUnpickler(pickle.Unpickler):
    """Reads a state dict for the headers of its tensors. It knows the few names that stand there, and runs none."""

    def persistent_load(self, pid: Any) -> Any:
        return pid[1]  # ("storage", type, key, device, number of values)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return lambda storage, offset, shape, *rest: TensorHeader(tuple(shape), storage)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda header, *rest: header
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class NemoWeights:
    """
    A pickled state dict on disk.

    Args:
        path: The pickle, in PyTorch's zip format (mapped into memory) or its older one (read whole, each time).
        source: The archive, for messages.
    """

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self.source = source
        with open(path, "rb") as file:
            self.is_mappable = file.read(4) == ZIP_MAGIC

    def read(self) -> dict[str, torch.Tensor]:
        """
        All tensors by name. Where the format allows it they are views of the file: their bytes enter memory when
        they are touched, and leave it when the last tensor of this call is gone.
        """
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=self.is_mappable)
        except pickle.UnpicklingError as error:
            found = PICKLED_GLOBAL.search(str(error))
            what = f"asks for {found.group(1)}" if found else "is not a plain state dict"
            raise ValueError(
                f"{self.source}: {WEIGHTS_MEMBER} {what}; refused, because loading it could run code. Expected "
                "tensors only."
            ) from error
        except (RuntimeError, OSError, EOFError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.source}: {WEIGHTS_MEMBER} cannot be read: {error}") from error
        if not isinstance(content, Mapping):
            raise ValueError(f"{self.source}: {WEIGHTS_MEMBER} holds {type(content).__name__}; expected a state dict.")
        for name, tensor in content.items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                raise ValueError(
                    f"{self.source}: {WEIGHTS_MEMBER}: entry {name!r} is {type(tensor).__name__}; expected a tensor."
                )
        return dict(content)


def _safe_member_name(info: tarfile.TarInfo, source: Path) -> str:
    """The member's name without a leading `./`. Raises for what must never be in an archive."""
    name = info.name.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or re.match(r"[A-Za-z]:", name):
        raise ValueError(f"{source}: member {info.name!r} is an absolute path; refused.")
    if ".." in path.parts:
        raise ValueError(f"{source}: member {info.name!r} leads out of the archive; refused.")
    if info.issym() or info.islnk():
        raise ValueError(f"{source}: member {info.name!r} is a link to {info.linkname!r}; refused.")
    if not (info.isreg() or info.isdir()):
        raise ValueError(f"{source}: member {info.name!r} is neither a file nor a folder; refused.")
    return path.as_posix()


def _without_hashes(name: str) -> str:
    """A file name without the hashes of 32 digits that NeMo writes before it, once a save."""
    return re.sub(r"^(?:[0-9a-f]{32}_)+", "", name)
