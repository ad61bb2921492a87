"""Sections of media files: MP4, MOV and 3GP, Matroska and WebM, ASF (WMA), MPEG-TS and -PS, FLV."""

from __future__ import annotations

from typing import BinaryIO

from .sections import CutOffError, Reader, Section, cut_off
from .windows import Blocks, find_bytes, read_at

# Boxes with which a file may begin, and those that hold sound or say where it is.
FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp", b"pnot")
NEEDED_BOXES = (b"moov", b"moof", b"mdat")
EBML_MARK = b"\x1a\x45\xdf\xa3"
SEGMENT_MARK = b"\x18\x53\x80\x67"
# Cluster, SeekHead, Info, Tracks, Cues, Attachments, Chapters, Tags; Void and CRC-32, which may stand anywhere.
SEGMENT_ELEMENTS = (
    *(bytes.fromhex(mark) for mark in ("1f43b675", "114d9b74", "1549a966", "1654ae6b", "1c53bb6b", "1941a469")),
    *(bytes.fromhex(mark) for mark in ("1043a770", "1254c367", "ec", "bf")),
)
ASF_MARK = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_HEADER_BYTES = 1 << 16
PACK_MARK = b"\0\0\1\xba"
TS_MARK = 0x47
# Bytes of a packet and the place of its mark: as sent, and as cameras and discs write it, with a time in front.
TS_FORMS = ((188, 0), (192, 4))
TS_BLOCK_PACKETS = 4096
TS_CHECKED_PACKETS = 8


def read_mp4(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of an MP4, MOV or 3GP file that begins at a position; see [`Reader`]."""
    if read_at(file, start + 4, 4) not in FIRST_BOXES:
        return None
    position, has_index, has_sound = start, False, False
    while len(box := read_at(file, position, 16)) >= 8:
        size, kind = int.from_bytes(box[:4], "big"), box[4:8]
        if kind == b"ftyp" and has_index and has_sound:
            return Section("MP4", start, position)
        if size == 1:
            size = int.from_bytes(box[8:], "big")
        if size == 0:
            size = end - position
        if size < 8 or not all(32 <= byte < 127 or byte == 0xA9 for byte in kind):
            break
        if kind in NEEDED_BOXES and position + size > end:
            raise cut_off(name, f"{size} bytes of its box {kind.decode()!r}", str(end - position))
        has_index = has_index or kind == b"moov"
        has_sound = has_sound or kind == b"mdat"
        position += size
    position = min(position, end)
    if not has_index:
        raise CutOffError(
            f"{name} is cut off: its index (the box 'moov'), which many writers put at the end, is not there."
        )
    return Section("MP4", start, position)


def read_matroska(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a Matroska or WebM file, otherwise as `read_mp4`."""
    if read_at(file, start, 4) != EBML_MARK:
        return None
    size, body = _read_size(file, start + 4)
    position = body + size
    if read_at(file, position, 4) != SEGMENT_MARK:
        return Section("Matroska", start, end)
    size, body = _read_size(file, position + 4)
    if size >= 0:
        if body + size > end:
            raise cut_off(name, f"{size} bytes", str(end - body))
        _check_elements(name, file, body, body + size)
        return Section("Matroska", start, body + size)
    stop = body
    while (stop := find_bytes(file, EBML_MARK, stop, end)) >= 0:
        if any(kind in read_at(file, stop, 64) for kind in (b"webm", b"matroska")):
            break
        stop += 1
    stop = stop if stop >= 0 else end
    _check_elements(name, file, body, stop)
    return Section("Matroska", start, stop)


def _check_elements(name: str, file: BinaryIO, position: int, stop: int) -> None:
    """Raise where the elements of a segment do not follow one another, or the last one is cut off."""
    while position < stop:
        mark = read_at(file, position, 4)
        num_mark_bytes = next((length for length in (1, 4) if mark[:length] in SEGMENT_ELEMENTS), 0)
        if not num_mark_bytes:
            raise ValueError(f"{name} is damaged: at byte {position} an element should begin; expected a whole file.")
        size, body = _read_size(file, position + num_mark_bytes)
        if size < 0:
            return  # elements of a live recording, whose ends are not told
        if body + size > stop:
            raise cut_off(name, f"{size} bytes in its last element", str(max(stop - body, 0)))
        position = body + size


def _read_size(file: BinaryIO, position: int) -> tuple[int, int]:
    """Size of an element, -1 where it was not known, and the position after that number."""
    digits = read_at(file, position, 8)
    if not digits or digits[0] == 0:
        return -1, position + 1
    num_bytes = 9 - digits[0].bit_length()
    value = int.from_bytes(digits[:num_bytes], "big") & ((1 << 7 * num_bytes) - 1)
    return -1 if value == (1 << 7 * num_bytes) - 1 else value, position + num_bytes


def read_asf(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of an ASF file (WMA, WMV), otherwise as `read_mp4`."""
    if read_at(file, start, 16) != ASF_MARK:
        return None
    stop = find_bytes(file, ASF_MARK, start + 16, end)
    stop = stop if stop >= 0 else end
    header = read_at(file, start, ASF_HEADER_BYTES)
    place = header.find(ASF_FILE_PROPERTIES)
    if place >= 0 and len(header) >= place + 92:
        num_bytes = int.from_bytes(header[place + 40 : place + 48], "little")
        is_broadcast = bool(header[place + 88] & 1)
        if not is_broadcast and num_bytes > stop - start:
            raise cut_off(name, f"{num_bytes} bytes", str(stop - start))
    return Section("ASF", start, stop)


def read_ts(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of an MPEG transport stream, otherwise as `read_mp4`; joined streams go on in the same section."""
    for packet_bytes, mark_place in TS_FORMS:
        num_packets = min((end - start) // packet_bytes, TS_CHECKED_PACKETS)
        if (
            num_packets >= 2
            and _end_of_packets(file, start, start + num_packets * packet_bytes, packet_bytes, mark_place)
            == start + num_packets * packet_bytes
        ):
            break
    else:
        return None
    stop = _end_of_packets(file, start, end, packet_bytes, mark_place)
    rest = read_at(file, stop, packet_bytes)
    if 0 < len(rest) < packet_bytes and (len(rest) <= mark_place or rest[mark_place] == TS_MARK):
        raise cut_off(name, f"{packet_bytes} bytes in each packet", f"{len(rest)} of the last one")
    return Section("MPEG-TS", start, stop, is_open=True)


def _end_of_packets(file: BinaryIO, position: int, end: int, packet_bytes: int, mark_place: int) -> int:
    """Position after the last whole packet that has its mark, and all before it have theirs."""
    while position + packet_bytes <= end:
        num_packets = min((end - position) // packet_bytes, TS_BLOCK_PACKETS)
        marks = read_at(file, position, num_packets * packet_bytes)[mark_place::packet_bytes]
        rest = marks.lstrip(bytes((TS_MARK,)))
        position += (len(marks) - len(rest)) * packet_bytes
        if rest or not marks:
            break
    return position


def read_flv(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a Flash video, otherwise as `read_mp4`."""
    header = read_at(file, start, 9)
    if header[:4] != b"FLV\x01":
        return None
    position = start + int.from_bytes(header[5:9], "big") + 4
    blocks = Blocks(file, end)
    while position < end:
        tag = blocks.at(position, 11)
        if tag[:4] == b"FLV\x01":
            return Section("FLV", start, position)
        size = int.from_bytes(tag[1:4], "big")
        if len(tag) < 11 or position + 11 + size > end:
            raise cut_off(name, f"{size + 11} bytes in its last tag", str(end - position))
        position += 11 + size + 4
    return Section("FLV", start, min(position, end))


def read_ps(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of an MPEG program stream, otherwise as `read_mp4`; joined streams go on in the same section."""
    if read_at(file, start, 4) != PACK_MARK:
        return None
    blocks = Blocks(file, end)
    position = start
    while position < end:
        head = blocks.at(position, 14)
        if head[:3] != PACK_MARK[:3]:
            break
        if head[:4] == PACK_MARK:
            num_bytes = 12 if len(head) > 4 and head[4] >> 4 == 2 else 14 + (head[13] & 7 if len(head) == 14 else 0)
        elif head[3:4] == b"\xb9":
            num_bytes = 4
        else:
            num_bytes = 6 + int.from_bytes(head[4:6], "big")
        if position + num_bytes > end:
            raise cut_off(name, f"{num_bytes} bytes in its last packet", str(end - position))
        position += num_bytes
    return Section("MPEG-PS", start, position, is_open=True)


READERS: tuple[Reader, ...] = (read_mp4, read_matroska, read_asf, read_ts, read_ps, read_flv)
