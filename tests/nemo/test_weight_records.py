"""Files that `torch.save` writes: every record is found, and every place that says something of the weights counts."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from transformers_fastconformer.nemo.weight_records import FilePart, check_record, read_weight_file, read_zip_directory

TENSORS = {"a": torch.arange(10.0), "b": torch.arange(6, dtype=torch.int16).view(2, 3), "empty": torch.zeros(0)}


def saved(legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def rezipped(compression: int = zipfile.ZIP_STORED) -> bytes:
    """The same records written by another program."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved())) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path):
    """The function `read(content)`: values of the tensors of a file of that content, every record checked."""

    def read_content(content: bytes) -> dict[str, bytes]:
        path = tmp_path / "weights"
        path.write_bytes(b"before" + content + b"after")
        with FilePart(path, 6, len(content)) as part:
            found = read_weight_file(part)
            for name, record in [*found.storages.items(), *found.others.items()]:
                check_record(part, name, record)
            return {name: part.read(*found.storages[tensor.storage.key][:2]) for name, tensor in found.tensors.items()}

    return read_content


VALUES = {name: tensor.numpy().tobytes() for name, tensor in TENSORS.items()}


@pytest.mark.parametrize("make", [saved, lambda: saved(legacy=True), rezipped])
def test_values_are_found(read, make):
    assert read(make()) == VALUES


def test_every_byte_of_a_zip_counts_or_changes_nothing(read):
    content = saved()
    refused = 0
    for position in range(0, len(content), 11):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        try:
            found = read(bytes(damaged))
        except ValueError:
            refused += 1
        else:
            assert found == VALUES, position
    # The others are padding, times and versions of headers, and the record of the version.
    assert refused > len(content) / 11 * 0.6


@pytest.mark.parametrize("legacy", [False, True])
def test_every_length_counts(read, legacy):
    content = saved(legacy)
    for length in range(0, len(content), 23):
        with pytest.raises(
            ValueError, match=r"truncated|damaged|exhausted|expected|missing|not a file|not enough data|no newline"
        ):
            read(content[:length])


def test_the_places_of_damage_are_named(read):
    content = saved()
    values = content.index(VALUES["a"])
    directory = content.index(b"PK\x01\x02")
    for position, message in (
        (values + 5, r"record '(archive/data/)?0' is damaged: its CRC-32 is [0-9a-f]{8}, expected [0-9a-f]{8}\. Copy"),
        (content.index(b"torch._utils"), r"record 'archive/data.pkl' is damaged: its CRC-32"),
        (content.index(b"archive/data/0"), "header of record 'archive/data/0' is damaged"),
        (values + 40 + 5, "record 'archive/data/0' is damaged: what follows it is not its checksum"),
        (directory, "its directory is damaged at byte 0"),
        (directory + 16, "header|what follows it"),
        (directory + 24, "its sizes contradict one another"),
        (len(content) - 18, "its numbers contradict|two forms contradict"),
        (len(content) - 1, "does not end with the end of a zip's directory"),
    ):
        damaged = bytearray(content)
        damaged[position] ^= 4
        with pytest.raises(ValueError, match=message):
            read(bytes(damaged))


def test_records_that_are_not_stored(read):
    with pytest.raises(
        ValueError, match=r"record 'archive/data.pkl' is compressed \(method 8\); expected stored bytes"
    ):
        read(rezipped(zipfile.ZIP_DEFLATED))
    content = bytearray(rezipped())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ValueError, match="is encrypted"):
        read(bytes(content))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_records_that_are_there_twice(read):
    buffer = io.BytesIO(rezipped())
    with zipfile.ZipFile(buffer, "a") as records:
        records.writestr("archive/data/0", bytes(40))
    with pytest.raises(ValueError, match="record 'archive/data/0' is there twice"):
        read(buffer.getvalue())


def test_records_that_overlap(read):
    content = bytearray(rezipped())
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 4)
    struct.pack_into("<I", content, second + 42, 0)
    with pytest.raises(ValueError, match=r"header of record .* is damaged: it is not that of the directory"):
        read(bytes(content))
    # A record whose entry is whole and that lies inside of another one.
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as records:
        records.writestr("b", b"x")
    local = inner.getvalue()[: inner.getvalue().index(b"PK\x01\x02")]
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as records:
        records.writestr("a", local)
        records.writestr("b", b"x")
    content = bytearray(outer.getvalue())
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + 42, content.index(local))
    with pytest.raises(ValueError, match="record 'b' begins at byte 31, which is not where one may begin"):
        read(bytes(content))


def test_bytes_before_the_zip(read):
    with pytest.raises(ValueError, match=r"damaged|not a file|unknown|truncated"):
        read(b"\0" * 64 + saved())
    with pytest.raises(ValueError, match="damaged"):
        read(saved()[:400] + saved())


@pytest.mark.parametrize("legacy", [False, True])
def test_sizes_that_are_not_those_of_the_storage(read, legacy):
    content = saved(legacy)
    # The number of values that the pickle tells, 10, and everything that depends on it.
    changed = content.replace(b"cpuq\x06K\x0a", b"cpuq\x06K\x0b").replace(b"\x0a\0\0\0\0\0\0\0", b"\x0b\0\0\0\0\0\0\0")
    assert changed != content
    if not legacy:
        old, new = (read_crc(version) for version in (content, changed))
        changed = changed.replace(struct.pack("<I", old), struct.pack("<I", new))
    # The older format orders storages by their addresses, so that one of three checks is the first to meet it.
    refusals = (
        "values of tensor 'a' have 40 bytes; expected 11",
        r"expected \d+, as its storages say",
        "is said to have",
        r"bytes \d+ to \d+ are said to be there",
    )
    with pytest.raises(ValueError, match="|".join(refusals)):
        read(changed)


def read_crc(content: bytes) -> int:
    """CRC-32 of the first record, the pickle."""
    *_, names, extra = struct.unpack_from("<4s5H3I2H", content)
    end = content.index(b"PK\x07\x08")
    return zipfile.crc32(content[30 + names + extra : end])


def test_numbers_of_the_other_byte_order(read):
    content = rezipped()
    assert b"little" in content
    changed = content.replace(b"little", b"bigbig")
    old, new = zipfile.crc32(b"little"), zipfile.crc32(b"bigbig")
    changed = changed.replace(struct.pack("<I", old), struct.pack("<I", new))
    with pytest.raises(ValueError, match="byte order 'little'"):
        read(changed)


def test_a_missing_record(read):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved())) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            if name != "archive/data/1":
                new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match="the values of tensor 'b' are missing: there is no record '1'"):
        read(buffer.getvalue())


def test_pickles_and_directories_have_limits(read, monkeypatch):
    module = "transformers_fastconformer.nemo.weight_records"
    monkeypatch.setattr(f"{module}.MAX_PICKLE_BYTES", 64)
    with pytest.raises(ValueError, match=r"record 'archive/data.pkl' has \d+ bytes; expected at most 64"):
        read(saved())
    monkeypatch.setattr(f"{module}.MAX_DIRECTORY_BYTES", 64)
    with pytest.raises(ValueError, match=r"its directory has \d+ bytes; expected at most 64"):
        read(saved())


def test_zips_without_checksums(read, tmp_path):
    serialization = torch.serialization
    if not hasattr(serialization, "set_crc32_options"):
        pytest.skip("this PyTorch always writes checksums")
    computes = serialization.get_crc32_options()
    serialization.set_crc32_options(False)
    try:
        content = saved()
    finally:
        serialization.set_crc32_options(computes)
    assert read(content) == VALUES
    path = tmp_path / "whole"
    path.write_bytes(content)
    with FilePart(path) as part:
        assert all(record.checksum is None for record in read_zip_directory(part).values())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "pread"), reason="files of holes")
def test_records_of_more_than_four_gigabytes(tmp_path: Path):
    path = tmp_path / "large.ckpt"
    torch.save(
        {"first": torch.arange(4), "large": torch.zeros(2**32 + 8, dtype=torch.uint8), "a": torch.arange(5)}, path
    )
    with FilePart(path) as part:
        found = read_weight_file(part)
        assert [found.storages[tensor.storage.key].num_bytes for tensor in found.tensors.values()] == [
            32,
            2**32 + 8,
            40,
        ]
        assert part.read(*found.storages[found.tensors["a"].storage.key][:2]) == torch.arange(5).numpy().tobytes()
    path.unlink()
