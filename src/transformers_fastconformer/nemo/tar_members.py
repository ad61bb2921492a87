"""
Members of a tar, read header by header: of all that the format can say, only files and folders are accepted.

`tarfile` follows what a header declares (negative sizes, files of holes that are written out, records of any size), so
every header is checked here before anything is done with it. Read are the forms that are in use: ustar, GNU's and
BSD's long names, and pax.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, NamedTuple

BLOCK_BYTES = 512
# Archives of NeMo hold about ten files; those of many tokenizers some hundreds.
MAX_MEMBERS = 4096
# Names and attributes of a member, which stand in a record before it.
MAX_RECORD_BYTES = 2**20

FILE_TYPES = (b"0", b"\0", b"7")
FOLDER_TYPE = b"5"
LONG_NAME_TYPE, LONG_LINK_TYPE = b"L", b"K"
PAX_TYPE, GLOBAL_PAX_TYPE = b"x", b"g"
OTHER_TYPES = {
    b"1": "a link",
    b"2": "a link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a named pipe",
    b"S": "a sparse file",
}
SPARSE_KEYS = "GNU.sparse."


class TarMember(NamedTuple):
    """A file in a tar: its name without a leading `./`, the place of its first byte, and their number."""

    name: str
    offset: int
    num_bytes: int


class _Header(NamedTuple):
    name: str
    kind: bytes
    num_bytes: int
    link_target: str


def is_tar_header(block: bytes) -> bool:
    """Tell whether a block is the header of a member, by its checksum."""
    return len(block) == BLOCK_BYTES and any(block) and _checksum_fits(block)


def walk_tar(stream: IO[bytes], total_bytes: int) -> Iterator[TarMember]:
    """
    The files of a tar, in order. The stream may be read between two of them.

    Args:
        stream: The tar, at its start; it is sought forward only.
        total_bytes: Most bytes that it can have; a member that would end after them is refused.

    Raises:
        ValueError: for a header that is damaged, a member that is cut off, and one that has no business in an archive:
            a path that leads elsewhere (absolute, or with `..`), a link, a device, a sparse file, or a name that
            stands there twice. The message does not name the archive.
    """
    position = 0
    seen: set[str] = set()
    next_name: str | None = None
    next_size: int | None = None
    while True:
        stream.seek(position)
        block = stream.read(BLOCK_BYTES)
        if len(block) < BLOCK_BYTES:
            raise ValueError(f"it is truncated: it ends at byte {position + len(block)} without the mark of its end")
        if not any(block):
            return
        header = _read_header(block, position)
        content = position + BLOCK_BYTES
        if header.kind in (LONG_NAME_TYPE, LONG_LINK_TYPE, PAX_TYPE, GLOBAL_PAX_TYPE):
            record = _read_record(stream, header, content, total_bytes)
            position = _next_header(content, header.num_bytes)
            if header.kind == LONG_NAME_TYPE:
                next_name = _decode_name(record.rstrip(b"\0"))
            elif header.kind != LONG_LINK_TYPE:
                attributes = _read_attributes(record)
                if header.kind == GLOBAL_PAX_TYPE and {"path", "size"} & set(attributes):
                    raise ValueError("it gives one name or one size to all its members; refused")
                next_name = attributes.get("path", next_name)
                next_size = _read_decimal(attributes["size"]) if "size" in attributes else next_size
            continue
        stored_name = next_name or header.name
        name = _safe_name(stored_name)
        num_bytes = header.num_bytes if next_size is None else next_size
        next_name = next_size = None
        if header.kind in OTHER_TYPES or header.kind not in (*FILE_TYPES, FOLDER_TYPE):
            target = f" to {header.link_target!r}" if header.kind in (b"1", b"2") else ""
            what = OTHER_TYPES.get(header.kind, f"of an unknown type {header.kind!r}")
            raise ValueError(f"member {name!r} is {what}{target}; refused, expected files and folders")
        if header.kind == FOLDER_TYPE or stored_name.endswith("/"):
            position = content
            continue
        if num_bytes > total_bytes - content:
            raise ValueError(
                f"it is truncated: member {name!r} has {num_bytes} bytes, and at most {max(total_bytes - content, 0)} "
                "are there"
            )
        if name in seen:
            raise ValueError(f"member {name!r} is there twice; refused")
        if len(seen) == MAX_MEMBERS:
            raise ValueError(f"it has more than {MAX_MEMBERS} members; refused")
        seen.add(name)
        yield TarMember(name, content, num_bytes)
        position = _next_header(content, num_bytes)


def _next_header(content: int, num_bytes: int) -> int:
    return content + -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _checksum_fits(block: bytes) -> bool:
    try:
        expected = _read_number(block[148:156])
    except ValueError:
        return False
    plain = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    # Some old writers added bytes up as signed numbers.
    signed = plain - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
    return expected in (plain, signed)


def _read_header(block: bytes, position: int) -> _Header:
    if not _checksum_fits(block):
        raise ValueError(f"it is truncated or damaged: the header at byte {position} does not have its checksum")
    kind = block[156:157]
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and prefix:  # GNU's form has times there
        name = prefix + b"/" + name
    return _Header(
        # The short form of a name that stands in a record may be cut within a character; it is not used then.
        name.decode("utf-8", "backslashreplace") if kind in (PAX_TYPE, GLOBAL_PAX_TYPE) else _decode_name(name),
        kind,
        _read_number(block[124:136]),
        block[157:257].partition(b"\0")[0].decode("utf-8", "backslashreplace"),
    )


def _read_number(digits: bytes) -> int:
    """A number in a header: octal digits, or where the first bit is set the bytes of a binary number."""
    if digits[0] & 0x80:
        value = int.from_bytes(digits, "big", signed=False) - (0x80 << 8 * (len(digits) - 1))
        if digits[0] != 0x80:
            raise ValueError(
                f"a header holds the number {digits.hex()}; expected one of 0 or more, of 88 bits at most"
            )
        return value
    text = digits.split(b"\0")[0].strip()
    if not re.fullmatch(rb"[0-7]*", text):
        raise ValueError(f"a header holds the number {digits!r}; expected octal digits")
    return int(text or b"0", 8)


def _read_decimal(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise ValueError(f"a record gives the size {text[:40]!r}; expected a number of bytes")
    return int(text)


def _read_record(stream: IO[bytes], header: _Header, content: int, total_bytes: int) -> bytes:
    if header.num_bytes > min(MAX_RECORD_BYTES, total_bytes - content):
        raise ValueError(
            f"the record before a member has {header.num_bytes} bytes; expected at most {MAX_RECORD_BYTES}, and no "
            "more than are there"
        )
    record = stream.read(header.num_bytes)
    if len(record) != header.num_bytes:
        raise ValueError("it is truncated in the record before a member")
    return record


def _read_attributes(record: bytes) -> dict[str, str]:
    """Attributes of a pax record: lines of their own length, a key and a value."""
    attributes: dict[str, str] = {}
    position = 0
    while position < len(record) and record[position]:
        space = record.find(b" ", position, position + 20)
        length = record[position:space] if space >= 0 else b""
        end = position + int(length) if length.isdigit() else -1
        if not space < end - 1 < len(record) or record[end - 1 : end] != b"\n":
            raise ValueError("it is damaged: the record before a member is not made of lines with their lengths")
        key, _, value = record[space + 1 : end - 1].partition(b"=")
        name = _decode_name(key)
        if name.startswith(SPARSE_KEYS):
            raise ValueError("a member is a sparse file; refused, expected files and folders")
        if name in ("path", "size"):
            attributes[name] = _decode_name(value)
        position = end
    return attributes


def _decode_name(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"the name {name[:200]!r} of a member is not UTF-8; refused") from None


def _safe_name(stored: str) -> str:
    """The name of a member without a leading `./`. Raises for what must never be in an archive."""
    name = stored.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or re.match(r"[A-Za-z]:", name):
        raise ValueError(f"member {stored!r} is an absolute path; refused")
    if ".." in path.parts:
        raise ValueError(f"member {stored!r} leads out of the archive; refused")
    if "\0" in name:
        raise ValueError(f"member {stored!r} has a zero byte in its name; refused")
    return path.as_posix()
