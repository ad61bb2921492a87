"""Tar headers of every form, and those that declare what no archive has."""

from __future__ import annotations

import io
import tarfile
import time

import pytest

from transformers_fastconformer.nemo.tar_members import MAX_MEMBERS, is_tar_header, walk_tar


def list_members(content: bytes, total_bytes: int | None = None) -> list[tuple[str, bytes]]:
    stream = io.BytesIO(content)
    members = walk_tar(stream, len(content) if total_bytes is None else total_bytes)
    return [(member.name, content[member.offset : member.offset + member.num_bytes]) for member in members]


def make_tar(members: list[tuple[tarfile.TarInfo, bytes]], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def with_checksum(header: bytes) -> bytes:
    """A header with the checksum that its other bytes have."""
    header = header[:148] + b" " * 8 + header[156:]
    return header[:148] + f"{sum(header):06o}\0 ".encode() + header[156:]


def with_size(field: bytes, kind: bytes = b"0") -> bytes:
    header = make_tar([(tarfile.TarInfo("file"), b"content")])[:512]
    return with_checksum(header[:124] + field + header[136:156] + kind + header[157:])


NAMES = ["short", "deep/" * 25 + "file", "n" * 300, "é" * 120, "./dotted", "folder/ü"]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_are_those_of_tarfile(tar_format):
    names = NAMES if tar_format != tarfile.USTAR_FORMAT else [NAMES[0], NAMES[1], *NAMES[4:]]
    members = [(tarfile.TarInfo(name), name.encode()) for name in names]
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    content = make_tar([(folder, b""), *members], tar_format)
    assert list_members(content) == [(name.removeprefix("./"), name.encode()) for name in names]
    assert is_tar_header(content[:512])
    assert not is_tar_header(bytes(512))


def test_sizes_in_every_form():
    for field in (b"00000000003\0", b"         3 \0", b"\x80" + bytes(10) + b"\x03"):
        content = with_size(field) + b"abc".ljust(512, b"\0") + bytes(1024)
        assert list_members(content) == [("file", b"abc")]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (b"\x80" + b"\xff" * 11, "it is truncated: member 'file' has 309485009821345068724781055 bytes, and at most"),
        (b"\xff" * 12, "expected one of 0 or more"),
        (b"\xbf" + bytes(11), "expected one of 0 or more, of 88 bits at most"),
        (b"77777777777\0", "member 'file' has 8589934591 bytes"),
        (b"-0000000010\0", "expected octal digits"),
        (b"12345678901\0", "expected octal digits"),
    ],
)
@pytest.mark.parametrize("kind", [b"0", b"x", b"L"])
def test_absurd_sizes(field, message, kind):
    content = with_size(field, kind) + bytes(2048)
    with pytest.raises(ValueError, match=message if kind == b"0" else "bytes; expected at most 1048576|expected o"):
        list_members(content)


def test_attributes_that_are_absurd():
    info = tarfile.TarInfo("file")
    for attributes, message in (
        ({"size": "-1000"}, "gives the size '-1000'; expected a number of bytes"),
        ({"size": "9" * 30}, "expected a number of bytes"),
        ({"size": "9" * 19}, "member 'file' has 9999999999999999999 bytes"),
        ({"GNU.sparse.major": "1", "GNU.sparse.realsize": "1000000000000"}, "is a sparse file"),
        ({"path": "../outside"}, r"leads out of the archive"),
        ({"path": "/etc/passwd"}, r"is an absolute path"),
    ):
        info.pax_headers = attributes
        with pytest.raises(ValueError, match=message):
            list_members(make_tar([(info, b"content")]))
    info.pax_headers = {"LIBARCHIVE.xattr.user": "x", "mtime": "12.5"}
    assert list_members(make_tar([(info, b"content")])) == [("file", b"content")]
    for record in (b"999 path=x\n", b"x path=y\n", b"9 path=yy", b"0 a=b\n", b" " * 40):
        header = make_tar([(tarfile.TarInfo("file"), record)])[:512]
        header = with_checksum(header[:156] + b"x" + header[157:])
        with pytest.raises(ValueError, match="is not made of lines with their lengths"):
            list_members(header + record.ljust(512, b"\0") + make_tar([(tarfile.TarInfo("file"), b"content")]))


def test_members_of_other_kinds():
    for kind, message in ((b"S", "a sparse file"), (b"1", "a link to 'x'"), (b"6", "a named pipe"), (b"V", "unknown")):
        info = tarfile.TarInfo("file")
        info.type, info.linkname = kind, "x"
        header = info.tobuf(tarfile.GNU_FORMAT)
        with pytest.raises(ValueError, match=f"member 'file' is .*{message}"):
            list_members(header + bytes(1024))


def test_names_that_are_no_text():
    header = make_tar([(tarfile.TarInfo("abc"), b"")])[:512]
    with pytest.raises(ValueError, match=r"the name b'\\xffbc' of a member is not UTF-8"):
        list_members(with_checksum(b"\xff" + header[1:]) + bytes(1024))


def test_every_bit_of_a_header_counts():
    content = make_tar([(tarfile.TarInfo("file"), b"content")], tarfile.GNU_FORMAT)
    expected = list_members(content)
    for position in range(0, 512 * 8, 7):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        try:
            found = list_members(bytes(damaged))
        except ValueError:
            continue
        assert found == expected, position  # a space more or less before the checksum


def test_archives_that_are_cut_off():
    content = make_tar([(tarfile.TarInfo(name), b"content") for name in ("one", "two")])
    for length in (512, 700, 1024, 1100, 1536, 2048):
        with pytest.raises(ValueError, match="it is truncated"):
            list_members(content[:length])


def test_a_million_members_are_not_read():
    header = with_checksum(make_tar([(tarfile.TarInfo("a" * 20), b"")])[:512])
    headers = []
    for number in range(MAX_MEMBERS + 2):
        headers.append(with_checksum(f"{number:020d}".encode() + header[20:]))
    start = time.perf_counter()
    with pytest.raises(ValueError, match="more than 4096 members"):
        list_members(b"".join(headers) + bytes(1024))
    assert time.perf_counter() - start < 5
