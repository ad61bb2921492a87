"""Sections of files made of frames, pages or blocks without a size of the whole: AMR, FLAC, OGG, AC-3, WavPack."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from .sections import CutOffError, Reader, Section, cut_off, skip_id3, skip_tags, strip_tags
from .windows import BLOCK_BYTES, Blocks, find_bytes, read_at

FLAC_MARK = b"fLaC\x00\x00\x00\x22"
# The checksum of the last frame of a FLAC, which may be zeros.
FLAC_CHECKSUM_BYTES = 2
AMR_MARKS = {b"#!AMR\n": (12, 13, 15, 17, 19, 20, 26, 31, 5), b"#!AMR-WB\n": (17, 23, 32, 36, 40, 46, 50, 58, 60, 5)}
MIRRORED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
AC3_MARK = b"\x0b\x77"
AC3_BITRATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
WAVPACK_HEADER_BYTES = 32
# A FLAC with zeros after it: libsndfile does not read it, as it takes them for a frame.
ZERO_PADDED_FLAC = "FLAC, then zeros"
UNKNOWN_SAMPLES = 0xFFFFFFFF


def read_amr(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of an AMR file, otherwise as `read_flac`."""
    mark = next((mark for mark in AMR_MARKS if read_at(file, start, len(mark)) == mark), None)
    if mark is None:
        return None
    blocks = Blocks(file, end)
    position = start + len(mark)
    while position < end:
        if blocks.at(position, 5) == b"#!AMR":
            return Section("AMR", start, position)
        mode = blocks.at(position, 1)[0] >> 3 & 15
        sizes = AMR_MARKS[mark]
        position += 1 + (sizes[mode] if mode < len(sizes) else 0)
    if position > end:
        raise CutOffError(f"{name} is cut off: {position - end} bytes of its last frame are missing.")
    return Section("AMR", start, end)


def read_flac(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a FLAC file that begins at a position; see [`Reader`]."""
    first = skip_id3(file, start)
    if read_at(file, first, 4) != b"fLaC":
        return None
    information = read_at(file, first + 8, 18)
    sampling_rate = int.from_bytes(information[10:13], "big") >> 4
    num_samples = int.from_bytes(information[13:18], "big") & ((1 << 36) - 1)
    is_known = 0 < num_samples < (1 << 36) - 1 and sampling_rate > 0
    stop = find_bytes(file, FLAC_MARK, first + 8, end)
    stop = strip_tags(file, first, stop if stop >= 0 else end)
    sound_end = _skip_zeros_back(file, first, stop) + FLAC_CHECKSUM_BYTES
    return Section(
        "FLAC" if sound_end >= stop else ZERO_PADDED_FLAC,
        start,
        min(sound_end, stop),
        is_announced=is_known,
        min_samples=num_samples if is_known else 0,
        num_samples=num_samples if is_known else None,
        sampling_rate=sampling_rate,
    )


def _skip_zeros_back(file: BinaryIO, start: int, end: int) -> int:
    """Position after the last byte that is not 0."""
    while end > start:
        block = read_at(file, max(end - BLOCK_BYTES, start), min(BLOCK_BYTES, end - start))
        content = block.rstrip(b"\0")
        end -= len(block) - len(content)
        if content:
            break
    return end


class OggPage(NamedTuple):
    """One page of an OGG file: where it stands, and what its header says."""

    start: int
    stop: int
    flags: int
    serial: int
    body: int
    number: int
    granule: int
    checksum: int


def _check_ogg_page(name: str, file: BinaryIO, page: OggPage, last_pages: dict[int, OggPage]) -> None:
    """Raise for a page whose bytes are not those that were written, and where pages before it are missing."""
    content = bytearray(read_at(file, page.start, page.stop - page.start))
    content[22:26] = bytes(4)
    if ogg_checksum(content) != page.checksum:
        raise ValueError(
            f"{name} is damaged: the checksum of its page at byte {page.start} is not that of its content; expected a "
            "whole file."
        )
    last = last_pages.get(page.serial)
    # Recordings of a station have its first pages, then those from where they began.
    if last is not None and last.granule > 0 and page.number != (last.number + 1) % (1 << 32):
        raise ValueError(
            f"{name} is damaged: page {page.number} follows page {last.number} at byte {page.start}; expected a whole "
            "file."
        )
    last_pages[page.serial] = page


def ogg_checksum(content: bytes | bytearray) -> int:
    """CRC-32 as OGG has it, which goes through the bits in the other direction than that of zlib."""
    mirrored = zlib.crc32(bytes(content).translate(MIRRORED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(MIRRORED_BITS), "big")


def read_ogg(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of one link of an OGG file, otherwise as `read_flac`."""
    if read_at(file, start, 4) != b"OggS":
        return None
    unfinished: dict[int, bool] = {}  # streams of sound, by serial number
    last_pages: dict[int, OggPage] = {}
    has_body = False
    stop = start
    for page in _ogg_pages(name, file, start, end):
        is_first = bool(page.flags & 2)
        if is_first and has_body:
            break
        has_body = has_body or not is_first
        if is_first:
            head = read_at(file, page.body, 8)
            is_sound = head.startswith((b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex"))
            if is_sound:
                unfinished[page.serial] = True
        _check_ogg_page(name, file, page, last_pages)
        if page.flags & 4:
            unfinished.pop(page.serial, None)
        stop = page.stop
    if unfinished:
        raise CutOffError(f"{name} is cut off: the last page, which ends the stream, is not there.")
    return Section("OGG", start, stop)


def _ogg_pages(name: str, file: BinaryIO, position: int, end: int) -> Iterator[OggPage]:
    """All pages of a file; anything else between them is an error."""
    blocks = Blocks(file, end)
    while position < end:
        header = blocks.at(position, 27)
        if header[:4] != b"OggS":
            following = find_bytes(file, b"OggS", position, end)
            if following < 0:
                return
            raise ValueError(
                f"{name} is damaged: the {following - position} bytes from byte {position} on are no OGG page, "
                "and pages follow; expected a whole file."
            )
        num_segments = header[26] if len(header) == 27 else 0
        table = blocks.at(position + 27, num_segments)
        body = position + 27 + num_segments
        stop = body + sum(table)
        if len(header) < 27 or len(table) < num_segments or stop > end:
            raise CutOffError(
                f"{name} is cut off: its last page announces {stop - position} bytes, {end - position} are there."
            )
        granule, serial, number, checksum = (
            int.from_bytes(header[place:last], "little") for place, last in ((6, 14), (14, 18), (18, 22), (22, 26))
        )
        yield OggPage(position, stop, header[5], serial, body, number, granule, checksum)
        position = stop


def read_ac3(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of an AC-3 or E-AC-3 file, otherwise as `read_flac`; joined streams go on in the same section."""
    blocks = Blocks(file, end)
    position, num_frames = start, 0
    while position < end:
        header = blocks.at(position, 6)
        num_bytes = _ac3_bytes(header) if header[:2] == AC3_MARK else 0
        if not num_bytes:
            break
        if position + num_bytes > end and num_frames:
            raise CutOffError(
                f"{name} is cut off: its last frame announces {num_bytes} bytes, {end - position} are there."
            )
        position += num_bytes
        num_frames += 1
    return Section("AC-3", start, position, is_open=True) if num_frames > 1 else None


def _ac3_bytes(header: bytes) -> int:
    """Bytes of the frame that a header of 6 bytes begins; 0 for what is not a header."""
    if len(header) < 6:
        return 0
    if header[5] >> 3 > 10:  # E-AC-3
        return (((header[2] & 7) << 8 | header[3]) + 1) * 2
    rate, code = header[4] >> 6, header[4] & 63
    if rate == 3 or code // 2 >= len(AC3_BITRATES):
        return 0
    bitrate = AC3_BITRATES[code // 2]
    return (bitrate * 4, (bitrate * 96000 // 44100 + code % 2) * 2, bitrate * 6)[rate]


def read_wavpack(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a WavPack file, otherwise as `read_flac`."""
    position, announced, found, last_index = start, UNKNOWN_SAMPLES, 0, 0
    while position < end:
        header = read_at(file, position, WAVPACK_HEADER_BYTES)
        if header[:4] != b"wvpk" or len(header) < WAVPACK_HEADER_BYTES:
            break
        num_bytes, total, index, num_samples = (
            int.from_bytes(header[place : place + 4], "little") for place in (4, 12, 16, 20)
        )
        if position + 8 + num_bytes > end:
            raise cut_off(name, f"{num_bytes + 8} bytes in its last block", str(end - position))
        if index == 0 and last_index:
            break
        announced = total if index == 0 else announced
        found, last_index = max(found, index + num_samples), index
        position += 8 + num_bytes
    if position == start:
        return None
    if found < announced < UNKNOWN_SAMPLES:
        raise cut_off(name, f"{announced} samples", str(found))
    return Section("WavPack", start, skip_tags(file, position, end))


READERS: tuple[Reader, ...] = (read_ogg, read_flac, read_amr, read_ac3, read_wavpack)
