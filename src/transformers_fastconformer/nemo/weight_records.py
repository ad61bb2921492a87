"""
The two files that `torch.save` writes, read for the places of their parts: a zip of records, and the older format.

In a zip, every record lies stored (not compressed) at the place that the directory gives, with a checksum. The older
format is five pickles and the values one after another, without checksums.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from zlib_ng import zlib_ng

from .state_dict_pickle import MAX_PICKLE_BYTES, STORAGE_DTYPES, StoredTensor, check_state_dict, read_pickle

ZIP_MAGIC = b"PK\x03\x04"
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
DIRECTORY_ENTRY = struct.Struct("<4s6H3I5H2I")
DIRECTORY_END = struct.Struct("<4s4H2IH")
WIDE_LOCATOR = struct.Struct("<4sIQI")
WIDE_DIRECTORY_END = struct.Struct("<4sQ2H2I4Q")
DIRECTORY_END_MAGIC, WIDE_LOCATOR_MAGIC, WIDE_DIRECTORY_END_MAGIC = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
DIRECTORY_ENTRY_MAGIC, DESCRIPTOR_MAGIC = b"PK\x01\x02", b"PK\x07\x08"
IS_ENCRYPTED, HAS_DESCRIPTOR = 0x2041, 0x0008
NARROW_MAX, COUNT_MAX = 0xFFFFFFFF, 0xFFFF
WIDE_EXTRA = 1
# A record takes about 80 bytes there.
MAX_DIRECTORY_BYTES = 64 * 2**20
# Bytes that are read and summed at a time: they are still in the cache of the processor then.
CHECK_BYTES = 2**20

# First values of PyTorch's older format.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
ITEM_BYTES = {
    **dict.fromkeys(("float64", "int64"), 8),
    **dict.fromkeys(("float32", "int32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool"), 1),
}
assert set(ITEM_BYTES) == set(STORAGE_DTYPES.values())


class Record(NamedTuple):
    """Bytes of a file: where they begin, how many they are, and their CRC-32 where the file has one."""

    offset: int
    num_bytes: int
    checksum: int | None


class FilePart:
    """
    A part of a file that is read by place. Use it in a `with` statement.

    Args:
        path: The file.
        start: Place of its first byte.
        num_bytes: Number of its bytes; None: up to the end of the file.
    """

    def __init__(self, path: Path, start: int = 0, num_bytes: int | None = None) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._start = start
        self.num_bytes = os.fstat(self._file.fileno()).st_size - start if num_bytes is None else num_bytes

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> FilePart:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def read(self, offset: int, count: int) -> bytes:
        """Bytes at a place. Raises a `ValueError` where they are not there."""
        buffer = bytearray(self._check_range(offset, count))
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer with the bytes at a place. Raises a `ValueError` where they are not there."""
        self._check_range(offset, len(buffer))
        self._file.seek(self._start + offset)
        position = 0
        while position < len(buffer):
            count = self._file.readinto(buffer[position:])
            if not count:
                raise ValueError(f"it is truncated: it ends before byte {offset + len(buffer)}")
            position += count

    def read_and_sum(self, buffer: memoryview, offset: int, value: int = 0) -> int:
        """Fill a buffer as `read_into` does; the CRC-32 of the bytes, which goes on from `value`, is returned."""
        for position in range(0, len(buffer), CHECK_BYTES):
            piece = buffer[position : position + CHECK_BYTES]
            self.read_into(piece, offset + position)
            value = zlib_ng.crc32(piece, value)
        return value

    def checksum(self, record: Record) -> int:
        """CRC-32 of a record."""
        value = 0
        buffer = memoryview(bytearray(min(CHECK_BYTES, record.num_bytes)))
        for position in range(0, record.num_bytes, CHECK_BYTES):
            piece = buffer[: record.num_bytes - position]
            value = self.read_and_sum(piece, record.offset + position, value)
        return value

    def _check_range(self, offset: int, count: int) -> int:
        if not 0 <= offset <= offset + count <= self.num_bytes:
            raise ValueError(
                f"it is truncated or damaged: bytes {offset} to {offset + count} are said to be there, and it has "
                f"{self.num_bytes}"
            )
        return count


class WeightFile(NamedTuple):
    """
    A file of weights.

    Args:
        tensors: The tensors by name.
        storages: The values of each storage.
        others: Other records, by name.
    """

    tensors: dict[str, StoredTensor]
    storages: dict[str, Record]
    others: dict[str, Record]


def read_weight_file(part: FilePart) -> WeightFile:
    """
    The tensors of a file that `torch.save` wrote, and the places of their values; the values are not read.

    Raises:
        ValueError: for a file that is damaged, and for anything but a state dict of plain tensors. The message does
            not name the file.
    """
    is_zip = part.num_bytes >= len(ZIP_MAGIC) and part.read(0, len(ZIP_MAGIC)) == ZIP_MAGIC
    found = _read_zip(part) if is_zip else _read_legacy(part)
    for name, tensor in found.tensors.items():
        key, dtype, num_values = tensor.storage
        record = found.storages.get(key)
        if record is None:
            raise ValueError(f"the values of tensor {name!r} are missing: there is no record {key[:40]!r}")
        if num_values * ITEM_BYTES[dtype] != record.num_bytes:
            raise ValueError(
                f"the values of tensor {name!r} have {record.num_bytes} bytes; expected {num_values} values of {dtype}"
            )
    return found


# The zip


def _read_zip(part: FilePart) -> WeightFile:
    records = read_zip_directory(part)
    pickles = [name for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"it holds {len(pickles)} records of the name data.pkl; expected one")
    prefix = pickles[0].removesuffix("data.pkl")
    content = records.pop(pickles[0])
    if content.num_bytes > MAX_PICKLE_BYTES:
        raise ValueError(f"record {pickles[0]!r} has {content.num_bytes} bytes; expected at most {MAX_PICKLE_BYTES}")
    check_record(part, pickles[0], content)
    byte_order = records.get(f"{prefix}byteorder")
    if byte_order is not None and (byte_order.num_bytes > 6 or part.read(*byte_order[:2]) != b"little"):
        raise ValueError("its numbers are not of the byte order 'little'")
    tensors = check_state_dict(read_pickle(io.BytesIO(part.read(*content[:2]))))
    folder = f"{prefix}data/"
    storages = {name.removeprefix(folder): record for name, record in records.items() if name.startswith(folder)}
    return WeightFile(tensors, storages, {name: r for name, r in records.items() if not name.startswith(folder)})


def check_record(part: FilePart, name: str, record: Record) -> None:
    """Raise a `ValueError` unless a record has its checksum, or has none."""
    if record.checksum is not None:
        compare_checksum(name, part.checksum(record), record)


def compare_checksum(name: str, found: int, record: Record) -> None:
    """Raise a `ValueError` for a checksum that is not that of the record."""
    if record.checksum not in (None, found):
        raise ValueError(
            f"record {name!r} is damaged: its CRC-32 is {found:08x}, expected {record.checksum:08x}. Copy or download "
            "the archive again"
        )


def read_zip_directory(part: FilePart) -> dict[str, Record]:
    """
    The records of a zip.

    Raises:
        ValueError: for a directory or a record's own header that is damaged, records that are compressed or encrypted,
            that overlap, or that are there twice.
    """
    start, size, count = _find_directory(part)
    if size > MAX_DIRECTORY_BYTES:
        raise ValueError(f"its directory has {size} bytes; expected at most {MAX_DIRECTORY_BYTES}")
    directory = part.read(start, size)
    records: dict[str, Record] = {}
    places: list[tuple[int, int, str]] = []
    position = 0
    for _ in range(count):
        entry, header_offset, position = _read_entry(directory, position)
        if entry.name in records:
            raise ValueError(f"record {entry.name!r} is there twice")
        content, end = _check_local_header(part, entry, header_offset)
        places.append((header_offset, end, entry.name))
        records[entry.name] = Record(content, entry.num_bytes, entry.checksum)
    if position != size:
        raise ValueError(f"its directory has {size} bytes, and its {count} entries {position}")
    reached = 0
    for header_offset, end, name in sorted(places):
        if header_offset < reached or (reached == 0 and header_offset != 0):
            raise ValueError(f"record {name!r} begins at byte {header_offset}, which is not where one may begin")
        reached = end
    if reached > start:
        raise ValueError("its last record overlaps its directory")
    if all(record.checksum == 0 for record in records.values()):
        # `torch.serialization.set_crc32_options(False)` writes zeros.
        records = {name: record._replace(checksum=None) for name, record in records.items()}
    return records


class _Entry(NamedTuple):
    name: str
    raw_name: bytes
    flags: int
    num_bytes: int
    checksum: int


def _find_directory(part: FilePart) -> tuple[int, int, int]:
    """Place, size and number of entries of the directory, as the end of the zip tells."""
    end_offset = part.num_bytes - DIRECTORY_END.size
    magic, *numbers, comment = DIRECTORY_END.unpack(part.read(end_offset, DIRECTORY_END.size))
    if magic != DIRECTORY_END_MAGIC or comment:
        raise ValueError("it is truncated or damaged: it does not end with the end of a zip's directory")
    this_disk, first_disk, count_here, count, size, start = numbers
    narrow = (this_disk, first_disk, count_here, count, size, start)
    wide = _find_wide_end(part, end_offset)
    if wide is None:
        if this_disk or first_disk or count_here != count or start + size != end_offset:
            raise ValueError("the end of its directory is damaged: its numbers contradict one another")
        return start, size, count
    wide_offset, wide_numbers = wide
    for short, long, unknown in zip(narrow, wide_numbers, (*[COUNT_MAX] * 4, *[NARROW_MAX] * 2), strict=True):
        if short not in (long, unknown):
            raise ValueError("the end of its directory is damaged: its two forms contradict each other")
    this_disk, first_disk, count_here, count, size, start = wide_numbers
    if this_disk or first_disk or count_here != count or start + size != wide_offset:
        raise ValueError("the end of its directory is damaged: its numbers contradict one another")
    return start, size, count


def _find_wide_end(part: FilePart, end_offset: int) -> tuple[int, tuple[int, ...]] | None:
    """The end of the directory in the form of large zips, which `torch.save` always writes: place and numbers."""
    locator_offset = end_offset - WIDE_LOCATOR.size
    if locator_offset < 0:
        return None
    magic, disk, offset, disks = WIDE_LOCATOR.unpack(part.read(locator_offset, WIDE_LOCATOR.size))
    if magic != WIDE_LOCATOR_MAGIC:
        return None
    magic, size, _, _, *numbers = WIDE_DIRECTORY_END.unpack(part.read(offset, WIDE_DIRECTORY_END.size))
    # Its size does not count itself and the first four bytes.
    if magic != WIDE_DIRECTORY_END_MAGIC or disk or disks != 1 or offset + size + 12 != locator_offset:
        raise ValueError("the end of its directory is damaged")
    return offset, tuple(numbers)


def _read_entry(directory: bytes, position: int) -> tuple[_Entry, int, int]:
    """An entry of the directory: its facts, the place of the record's header, and the place of the next entry."""
    fields = directory[position : position + DIRECTORY_ENTRY.size]
    if len(fields) < DIRECTORY_ENTRY.size or not fields.startswith(DIRECTORY_ENTRY_MAGIC):
        raise ValueError(f"its directory is damaged at byte {position}")
    unpacked = DIRECTORY_ENTRY.unpack(fields)
    _, _, _, flags, method, _, _, checksum, stored, plain = unpacked[:10]
    name_bytes, extra_bytes, comment_bytes, disk, _, _, header_offset = unpacked[10:]
    extra_start = position + DIRECTORY_ENTRY.size + name_bytes
    end = extra_start + extra_bytes + comment_bytes
    raw_name = directory[position + DIRECTORY_ENTRY.size : extra_start]
    if end > len(directory):
        raise ValueError(f"its directory is damaged at byte {position}")
    try:
        name = raw_name.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"the name {raw_name[:200]!r} of a record is not UTF-8") from None
    wide = _read_wide_extra(directory[extra_start : extra_start + extra_bytes], name)
    sizes = [next(wide, None) if value == NARROW_MAX else value for value in (plain, stored, header_offset)]
    if flags & IS_ENCRYPTED:
        raise ValueError(f"record {name!r} is encrypted; expected plain bytes")
    if method != 0:
        raise ValueError(
            f"record {name!r} is compressed (method {method}); expected stored bytes, as torch.save writes"
        )
    if disk or None in sizes or sizes[0] != sizes[1]:
        raise ValueError(f"the entry of record {name!r} in the directory is damaged: its sizes contradict one another")
    return _Entry(name, raw_name, flags, sizes[0] or 0, checksum), sizes[2] or 0, end


def _read_wide_extra(extra: bytes, name: str) -> Iterator[int]:
    """The numbers of 64 bits in the extra field of an entry."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        if kind == WIDE_EXTRA:
            if size % 8 not in (0, 4) or position + 4 + size > len(extra):
                raise ValueError(f"the extra field of record {name!r} is damaged")
            yield from struct.unpack_from(f"<{size // 8}Q", extra, position + 4)
            return
        position += 4 + size


def _check_local_header(part: FilePart, entry: _Entry, header_offset: int) -> tuple[int, int]:
    """Compare a record's own header with the directory. Gives the places of its first byte and of what follows it."""
    fields = LOCAL_HEADER.unpack(part.read(header_offset, LOCAL_HEADER.size))
    magic, _, flags, method, _, _, checksum, stored, plain, name_bytes, extra_bytes = fields
    name_offset = header_offset + LOCAL_HEADER.size
    is_same = magic == ZIP_MAGIC and flags == entry.flags and method == 0 and name_bytes == len(entry.raw_name)
    if not is_same or part.read(name_offset, name_bytes) != entry.raw_name:
        raise ValueError(f"the header of record {entry.name!r} is damaged: it is not that of the directory")
    extra = part.read(name_offset + name_bytes, extra_bytes)
    wide = _read_wide_extra(extra, entry.name) if NARROW_MAX in (stored, plain) else iter(())
    sizes = [next(wide, None) if value == NARROW_MAX else value for value in (plain, stored)]
    has_descriptor = bool(flags & HAS_DESCRIPTOR)
    told = (checksum, *sizes)
    expected = (entry.checksum, entry.num_bytes, entry.num_bytes)
    if told != expected and not (has_descriptor and told in ((0, 0, 0), (0, None, None))):
        raise ValueError(f"the header of record {entry.name!r} is damaged: checksum and sizes are not the directory's")
    content = name_offset + name_bytes + extra_bytes
    end = content + entry.num_bytes
    part.read(end, 0)
    return content, end + (_check_descriptor(part, entry, end) if has_descriptor else 0)


def _check_descriptor(part: FilePart, entry: _Entry, offset: int) -> int:
    """Compare the checksum and sizes after a record with the directory's. Gives the number of their bytes."""
    forms = []
    for sizes in ("2I", "2Q"):
        with suppress(struct.error):  # sizes of more than 32 bits
            forms.append(struct.pack(f"<I{sizes}", entry.checksum, entry.num_bytes, entry.num_bytes))
    for form in (*(DESCRIPTOR_MAGIC + form for form in forms), *forms):
        if offset + len(form) <= part.num_bytes and part.read(offset, len(form)) == form:
            return len(form)
    raise ValueError(f"record {entry.name!r} is damaged: what follows it is not its checksum and size")


# The older format


def _read_legacy(part: FilePart) -> WeightFile:
    stream = io.BytesIO(part.read(0, min(part.num_bytes, MAX_PICKLE_BYTES)))
    if read_pickle(stream) != LEGACY_MAGIC or read_pickle(stream) != LEGACY_PROTOCOL:
        raise ValueError("it is not a file that torch.save writes")
    system: Any = read_pickle(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are not of the byte order 'little'")
    tensors = check_state_dict(read_pickle(stream))
    keys = read_pickle(stream)
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise ValueError("the list of its storages is damaged")
    records: dict[str, Record] = {}
    position = stream.tell()
    for key in keys:
        (num_values,) = struct.unpack("<q", part.read(position, 8))
        storage = storages[key]
        if num_values != storage.num_values or key in records:
            raise ValueError(f"storage {key[:40]!r} is said to have {num_values} values, and {storage.num_values}")
        records[key] = Record(position + 8, num_values * ITEM_BYTES[storage.dtype], None)
        position = records[key].offset + records[key].num_bytes
    if position != part.num_bytes:
        raise ValueError(f"it has {part.num_bytes} bytes; expected {position}, as its storages say")
    return WeightFile(tensors, records, {})
