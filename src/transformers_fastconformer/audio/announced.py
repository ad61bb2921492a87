"""Sections of rarer files: AVR, SoX, MAT, SWF, whose header has a length, and IRCAM, PAF, PVF, NUT, RM without one."""

from __future__ import annotations

from typing import BinaryIO

from .sections import MAX_MISSING_BYTES, Reader, Section, cut_off
from .windows import find_bytes, read_at

AVR_HEADER_BYTES = 128
MAT4_FIRST_NAME = b"samplerate\0"
# Bytes of a number, by the third digit of a matrix's type.
MAT4_NUMBER_BYTES = (8, 4, 4, 2, 2, 1)
MAT5_HEADER_BYTES = 128
MAT5_MARK = b"MATLAB 5.0 MAT-file"
# Elements that hold a matrix, as it is and compressed.
MAT5_TYPES = (14, 15)
# What FFmpeg puts for the size of a SWF when it cannot go back.
UNKNOWN_SWF_BYTES = 100 * 1024 * 1024
# Beginnings of files without a length, of which the next one is found by the same beginning.
UNSIZED_MARKS = {
    b" paf": "PAF",
    b"fap ": "PAF",
    b"PVF1": "PVF",
    **{bytes((0x64, 0xA3, machine, 0)): "IRCAM" for machine in range(1, 5)},
    **{bytes((0, machine, 0xA3, 0x64)): "IRCAM" for machine in range(1, 5)},
    b"nut/": "NUT",
    b".ra\xfd": "RealAudio",
    b".RMF": "RealMedia",
}
UNSIZED_MARK_BYTES = 12


def _finish(name: str, container: str, start: int, end: int, body: int, num_bytes: int) -> Section:
    """The section with so many bytes of samples from `body` on."""
    if end - body + MAX_MISSING_BYTES < num_bytes:
        raise cut_off(name, f"{num_bytes} bytes of samples", str(max(end - body, 0)))
    return Section(container, start, min(body + num_bytes, end), sound_bytes=num_bytes)


def read_avr(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of an AVR file that begins at a position; see [`Reader`]."""
    header = read_at(file, start, 30)
    if header[:4] != b"2BIT" or len(header) < 30:
        return None
    num_channels = 2 if header[12:14] == b"\xff\xff" else 1
    num_frames, bits = int.from_bytes(header[26:30], "big"), int.from_bytes(header[14:16], "big")
    return _finish(name, "AVR", start, end, start + AVR_HEADER_BYTES, num_frames * num_channels * (bits // 8))


def read_sox(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a file in SoX's own format, otherwise as `read_avr`."""
    header = read_at(file, start, 16)
    if header[:4] not in (b".SoX", b"XoS.") or len(header) < 16:
        return None
    if header[:4] == b".SoX":
        header_bytes, num_samples = int.from_bytes(header[4:8], "little"), int.from_bytes(header[8:], "little")
    else:
        header_bytes, num_samples = int.from_bytes(header[4:8], "big"), int.from_bytes(header[8:], "big")
    if num_samples == 0:
        return Section("SoX", start, end)
    return _finish(name, "SoX", start, end, start + 4 + header_bytes, 4 * num_samples)


def read_mat4(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a MATLAB 4 file with sound as libsndfile and Octave write it, otherwise as `read_avr`."""
    position, num_bytes = start, 0
    while len(header := read_at(file, position, 20 + len(MAT4_FIRST_NAME))) > 20:
        is_big = header[0] == 0 and any(header[1:4])
        kind, rows, columns, is_complex, name_bytes = (
            int.from_bytes(header[place : place + 4], "big" if is_big else "little") for place in range(0, 20, 4)
        )
        number = kind // 10 % 10
        is_first = header[20:] == MAT4_FIRST_NAME and (rows, columns) == (1, 1)
        if is_first != (position == start) or kind > 5000 or number > 5 or is_complex > 1 or not 0 < name_bytes <= 64:
            break
        num_bytes = rows * columns * (1 + is_complex) * MAT4_NUMBER_BYTES[number]
        position += 20 + name_bytes
        if end - position + MAX_MISSING_BYTES < num_bytes:
            raise cut_off(name, f"{num_bytes} bytes of samples", str(max(end - position, 0)))
        position += num_bytes
    return Section("MAT4", start, min(position, end), sound_bytes=num_bytes) if position > start else None


def read_mat5(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a MATLAB 5 file, otherwise as `read_avr`."""
    header = read_at(file, start, MAT5_HEADER_BYTES)
    if not header.startswith(MAT5_MARK) or len(header) < MAT5_HEADER_BYTES:
        return None
    position, size, is_big = start + MAT5_HEADER_BYTES, 0, header[126:] == b"MI"
    while len(element := read_at(file, position, 8)) == 8:
        kind, num_bytes = (
            int.from_bytes(element[place : place + 4], "big" if is_big else "little") for place in (0, 4)
        )
        if kind not in MAT5_TYPES:
            break
        size = num_bytes
        if end - position - 8 + MAX_MISSING_BYTES < size:
            raise cut_off(name, f"{size} bytes of samples", str(end - position - 8))
        position += 8 + size
        if read_at(file, position - 8, len(MAT5_MARK)) == MAT5_MARK:
            position -= 8  # libsndfile counts the head of the element too
    return Section("MAT5", start, min(position, end), sound_bytes=size)


def read_swf(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a Flash film that is not compressed, otherwise as `read_avr`."""
    header = read_at(file, start, 8)
    if header[:3] != b"FWS" or len(header) < 8:
        return None
    size = int.from_bytes(header[4:], "little")
    if size in (0, UNKNOWN_SWF_BYTES):
        return Section("SWF", start, end)
    return _finish(name, "SWF", start, end, start, size)


def read_unsized(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a file without a length, which ends where the same header stands again."""
    mark = read_at(file, start, UNSIZED_MARK_BYTES)
    container = UNSIZED_MARKS.get(mark[:4])
    if container is None or len(mark) < UNSIZED_MARK_BYTES:
        return None
    stop = find_bytes(file, mark, start + UNSIZED_MARK_BYTES, end)
    return Section(container, start, stop if stop >= 0 else end)


READERS: tuple[Reader, ...] = (read_avr, read_sox, read_mat4, read_mat5, read_swf, read_unsized)
