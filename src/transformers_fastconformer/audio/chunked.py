"""Sections of files that are made of chunks with a size each: WAV, RF64, AVI, W64, AIFF, AU, CAF, SPHERE, VOC, TTA."""

from __future__ import annotations

from typing import BinaryIO

from .sections import MAX_MISSING_BYTES, MIN_UNKNOWN_BYTES, Reader, Section, cut_off, skip_tags
from .windows import find_bytes, read_at

RIFF_MARKS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
W64_TAIL = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
MIN_UNKNOWN_LONG_BYTES = 1 << 62


def read_riff(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a WAV file in any of its forms, or of an AVI, that begins at a position; see [`Reader`]."""
    header = read_at(file, start, 12)
    mark, form = header[:4], header[8:]
    if mark not in RIFF_MARKS or form not in (b"WAVE", b"AVI "):
        return None
    byte_order = "big" if mark == b"RIFX" else "little"
    if form == b"AVI ":
        size = int.from_bytes(header[4:8], "little")
        if end - start - 8 + MAX_MISSING_BYTES < size < MIN_UNKNOWN_BYTES:
            raise cut_off(name, f"{size} bytes", str(end - start - 8))
        stop = start + 8 + size + size % 2
        following = read_at(file, stop, 12)
        is_joined = following[:4] == b"RIFF" and following[8:] == b"AVI "
        return Section("AVI", start, stop if is_joined and size else end)
    position, long_size, long_place = start + 12, None, 0
    while len(chunk := read_at(file, position, 8)) == 8:
        size, body = int.from_bytes(chunk[4:], byte_order), position + 8  # type: ignore[arg-type]
        if chunk[:4] == b"ds64":
            long_place = body + 8
            long_size = int.from_bytes(read_at(file, long_place, 8), "little")
        if chunk[:4] == b"data":
            return _finish_riff(name, file, start, end, body, size, byte_order, long_size, long_place)
        position = body + size + size % 2
    return Section("WAV", start, end)


def _finish_riff(
    name: str,
    file: BinaryIO,
    start: int,
    end: int,
    body: int,
    size: int,
    byte_order: str,
    long_size: int | None,
    long_place: int,
) -> Section:
    """The section whose samples begin at `body`."""
    found = end - body
    patches: dict[int, bytes] = {}
    is_long = long_size is not None and size >= MIN_UNKNOWN_BYTES
    if is_long:
        assert long_size is not None
        size = long_size
    is_unknown = size >= (MIN_UNKNOWN_LONG_BYTES if is_long else MIN_UNKNOWN_BYTES)
    if size == 0 and found and _end_of_chunks(file, body, end, byte_order) != end:
        is_unknown = True
    if is_unknown:
        places = [find_bytes(file, mark, body, end) for mark in (b"WAVEfmt ", b"WAVEds64")]
        following = min((place for place in places if place >= 0), default=-1)
        if following >= 8 and read_at(file, following - 8, 4) in RIFF_MARKS:
            end = following - 8
            found = end - body
        if is_long:
            patches[long_place] = found.to_bytes(8, "little")
        elif found < MIN_UNKNOWN_BYTES:
            patches[body - 4] = found.to_bytes(4, byte_order)  # type: ignore[arg-type]
        return Section("WAV", start, end, patches=patches)
    if found + MAX_MISSING_BYTES < size:
        raise cut_off(name, f"{size} bytes of samples", str(found))
    return _end_section("WAV", name, file, start, end, body + size, size, RIFF_MARKS, byte_order, b"data")


def _end_section(
    container: str,
    name: str,
    file: BinaryIO,
    start: int,
    end: int,
    sound_end: int,
    sound_bytes: int,
    marks: tuple[bytes, ...],
    byte_order: str,
    sound_mark: bytes,
) -> Section:
    """The section whose samples end at `sound_end`, with the chunks that follow it."""
    stop = min(sound_end, end)
    for padded_end in (sound_end + sound_bytes % 2, sound_end):
        found = _end_of_chunks(file, padded_end, end, byte_order, (*marks, sound_mark))
        if found > padded_end or found == end or read_at(file, found, 4) in (*marks, sound_mark):
            stop = found
            break
    if read_at(file, stop, 4) == sound_mark and stop < end:
        raise ValueError(
            f"{name} has a second chunk {sound_mark.decode()!r} at byte {stop}, which would be lost; expected one "
            "('ffmpeg -i it new.wav' keeps the first)."
        )
    return Section(container, start, stop, sound_bytes=sound_bytes)


def _end_of_chunks(
    file: BinaryIO, position: int, end: int, byte_order: str, marks: tuple[bytes, ...] = RIFF_MARKS
) -> int:
    """Position where chunks end: at the end of the file, at what is not a chunk, or at the next file."""
    while position < end:
        chunk = read_at(file, position, 8)
        size = int.from_bytes(chunk[4:], byte_order)  # type: ignore[arg-type]
        if not _is_chunk_name(chunk[:4]) or len(chunk) < 8 or chunk[:4] in marks or position + 8 + size > end:
            break
        position += 8 + size
        if size % 2 and not (position < end and _is_chunk_name(read_at(file, position, 4))):
            position += 1  # some writers leave the padding out
    return min(position, end)


def _is_chunk_name(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 or byte == 0xA9 for byte in name)


def read_w64(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a Sony Wave64 file, otherwise as `read_riff`."""
    if read_at(file, start, 16) != W64_RIFF:
        return None
    position = start + 40
    while len(chunk := read_at(file, position, 24)) == 24:
        size = int.from_bytes(chunk[16:], "little")
        if chunk[:4] == b"data" and chunk[4:16] == W64_TAIL:
            found = end - position
            if (size <= 24 and found > 24) or size >= MIN_UNKNOWN_LONG_BYTES:
                following = find_bytes(file, W64_RIFF, position, end)
                end = following if following >= 0 else end
                return Section("W64", start, end, patches={position + 16: (end - position).to_bytes(8, "little")})
            if found + MAX_MISSING_BYTES < size:
                raise cut_off(name, f"{size - 24} bytes of samples", str(found - 24))
            stop = _end_of_long_chunks(file, start, position + size, end)
            following = find_bytes(file, W64_RIFF, position + size, min(stop + 16, end))
            return Section("W64", start, following if following >= 0 else stop, sound_bytes=size - 24)
        if size < 24:
            break
        position += size + -size % 8
    return Section("W64", start, end)


def _end_of_long_chunks(file: BinaryIO, start: int, position: int, end: int) -> int:
    """Position where the chunks of a Wave64 file end that begin at another one."""
    position += (start - position) % 8
    while len(chunk := read_at(file, position, 24)) == 24 and chunk[4:16] == W64_TAIL:
        position += max(int.from_bytes(chunk[16:], "little"), 24)
        position += (start - position) % 8
    return min(position, end)


def read_aiff(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of an AIFF file, otherwise as `read_riff`."""
    header = read_at(file, start, 12)
    if header[:4] != b"FORM" or header[8:] not in (b"AIFF", b"AIFC"):
        return None
    position = start + 12
    common = 0  # where the number of frames stands
    while len(chunk := read_at(file, position, 8)) == 8:
        size, body = int.from_bytes(chunk[4:], "big"), position + 8
        if chunk[:4] == b"COMM":
            common = body
        if chunk[:4] == b"SSND":
            found = end - body
            is_unknown = size >= MIN_UNKNOWN_BYTES or (
                size <= 8 and found > 8 and _end_of_chunks(file, body + size, end, "big", (b"FORM",)) != end
            )
            if is_unknown:
                following = _find_form(file, body, end)
                end = following if following >= 0 else end
                return Section("AIFF", start, end, patches=_patch_aiff(file, body, end, common))
            if found + MAX_MISSING_BYTES < size:
                raise cut_off(name, f"{size - 8} bytes of samples", str(max(found - 8, 0)))
            return _end_section("AIFF", name, file, start, end, body + size, size, (b"FORM",), "big", b"SSND")
        position = body + size + size % 2
    return Section("AIFF", start, end)


def _find_form(file: BinaryIO, position: int, end: int) -> int:
    """Position of the next AIFF file; -1 if there is not one."""
    found = min(
        (
            place
            for form in (b"AIFFCOMM", b"AIFCFVER", b"AIFCCOMM")
            if (place := find_bytes(file, form, position, end)) >= 8
        ),
        default=-1,
    )
    return found - 8 if found >= 8 and read_at(file, found - 8, 4) == b"FORM" else -1


def _patch_aiff(file: BinaryIO, body: int, end: int, common: int) -> dict[int, bytes]:
    """Size fields of an AIFF file whose samples go to the end."""
    num_bytes = end - body
    if num_bytes >= MIN_UNKNOWN_BYTES or not common:
        return {}
    channels, bits = (int.from_bytes(read_at(file, common + place, 2), "big") for place in (0, 6))
    frame_bytes = max(channels * -(-bits // 8), 1)
    return {body - 4: num_bytes.to_bytes(4, "big"), common + 2: ((num_bytes - 8) // frame_bytes).to_bytes(4, "big")}


def read_au(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a Sun/NeXT file, otherwise as `read_riff`."""
    header = read_at(file, start, 12)
    if header[:4] not in (b".snd", b"dns."):
        return None
    byte_order = "big" if header[:4] == b".snd" else "little"
    offset, size = (int.from_bytes(header[place : place + 4], byte_order) for place in (4, 8))  # type: ignore[arg-type]
    found = end - start - offset
    if size >= MIN_UNKNOWN_BYTES or (size == 0 and found > 0):
        # A mark of four bytes may stand in samples, a whole header does not.
        following = find_bytes(file, read_at(file, start, 8), start + offset, end)
        end = following if following >= 0 else end
        num_bytes = end - start - offset
        fits = num_bytes < MIN_UNKNOWN_BYTES
        patches = {start + 8: num_bytes.to_bytes(4, byte_order)} if fits else {}  # type: ignore[arg-type]
        return Section("AU", start, end, patches=patches)
    if found + MAX_MISSING_BYTES < size:
        raise cut_off(name, f"{size} bytes of samples", str(max(found, 0)))
    stop = start + offset + size
    if read_at(file, stop + 1, 4) == header[:4]:
        stop += 1  # an odd number of bytes, padded
    return Section("AU", start, min(stop, end), sound_bytes=size)


def read_caf(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a Core Audio file, otherwise as `read_riff`."""
    if read_at(file, start, 4) != b"caff":
        return None
    position, sound_bytes = start + 8, 0
    while position < end and len(chunk := read_at(file, position, 12)) == 12:
        if chunk[:4] == b"caff":
            return Section("CAF", start, position)
        size = int.from_bytes(chunk[4:], "big", signed=True)
        body = position + 12
        if chunk[:4] == b"data":
            if size < 0 or (size <= 4 and end - body > 4):
                following = find_bytes(file, b"caff\x00\x01\x00\x00desc", body, end)
                stop = following if following >= 0 else end
                return Section("CAF", start, stop, patches={position + 4: (stop - body).to_bytes(8, "big")})
            sound_bytes = size
            if end - body + MAX_MISSING_BYTES < size:
                raise cut_off(name, f"{size} bytes of samples", str(end - body))
        if size < 0 or not all(32 <= byte < 127 for byte in chunk[:4]) or body + size > end + MAX_MISSING_BYTES:
            break
        position = body + size
    return Section("CAF", start, min(position, end), sound_bytes=sound_bytes)


def read_sphere(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a NIST SPHERE file, otherwise as `read_riff`."""
    header = read_at(file, start, 1024)
    if not header.startswith(b"NIST_1A\n"):
        return None
    fields = {parts[0]: parts[2] for line in header.split(b"\n")[2:] if len(parts := line.split(None, 2)) == 3}
    try:
        offset = int(header[8:16])
        sizes = [int(fields[key]) for key in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    except (KeyError, ValueError):
        return Section("NIST", start, end)
    is_packed = b"shorten" in fields.get(b"sample_coding", b"")
    announced, found = sizes[0] * sizes[1] * sizes[2], end - start - offset
    if not is_packed and found + MAX_MISSING_BYTES < announced < MIN_UNKNOWN_LONG_BYTES:
        raise cut_off(name, f"{announced} bytes of samples", str(max(found, 0)))
    if is_packed or not 0 < announced < found:
        return Section("NIST", start, end)
    return Section("NIST", start, start + offset + announced, sound_bytes=announced)


def read_voc(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a Creative Voice file, otherwise as `read_riff`."""
    header = read_at(file, start, 26)
    if not header.startswith(b"Creative Voice File\x1a"):
        return None
    position = start + int.from_bytes(header[20:22], "little")
    while position < end:
        block = read_at(file, position, 4)
        size = int.from_bytes(block[1:], "little")
        if block[0] == 0:
            return Section("VOC", start, position + 1)
        if len(block) < 4 or size == 0:  # a size that was never brought up to date
            break
        if end - position <= MAX_MISSING_BYTES:  # sox counts a few bytes too few
            break
        if position + 4 + size > end + MAX_MISSING_BYTES:
            raise cut_off(name, f"{size} bytes in its last block", str(max(end - position - 4, 0)))
        position += 4 + size
    return Section("VOC", start, end)


def read_iff(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of an Amiga file (8SVX, 16SV, MAUD), otherwise as `read_riff`."""
    header = read_at(file, start, 12)
    if header[:4] != b"FORM" or header[8:] not in (b"8SVX", b"16SV", b"MAUD"):
        return None
    size = int.from_bytes(header[4:8], "big")
    if end - start - 8 + MAX_MISSING_BYTES < size:
        raise cut_off(name, f"{size} bytes", str(end - start - 8))
    return Section("IFF", start, min(start + 8 + size + size % 2, end), sound_bytes=size)


def read_tta(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of a True Audio file, otherwise as `read_riff`."""
    header = read_at(file, start, 22)
    if header[:4] != b"TTA1" or len(header) < 22:
        return None
    rate, num_samples = (int.from_bytes(header[place : place + 4], "little") for place in (10, 14))
    frame_samples = max(256 * rate // 245, 1)
    num_frames = -(-num_samples // frame_samples)
    table = read_at(file, start + 22, min(4 * num_frames, end - start))
    sizes = [int.from_bytes(table[place : place + 4], "little") for place in range(0, len(table), 4)]
    num_bytes = 22 + 4 * num_frames + 4 + sum(sizes)
    if start + num_bytes > end:
        raise cut_off(name, f"{num_bytes} bytes", str(end - start))
    stop = skip_tags(file, start + num_bytes, end)
    return Section("TTA", start, stop)


READERS: tuple[Reader, ...] = (
    read_riff,
    read_w64,
    read_aiff,
    read_au,
    read_caf,
    read_sphere,
    read_voc,
    read_iff,
    read_tta,
)
