"""Sections of MPEG audio: MP3, MP2 and AAC in ADTS frames, with the tags that stand around the frames."""

from __future__ import annotations

from functools import lru_cache
from typing import BinaryIO, NamedTuple

from .sections import CutOffError, Reader, Section, cut_off, skip_id3, skip_tags
from .windows import MAX_MISSING_TAIL_BYTES, Blocks, read_at

# So far after the beginning the first frame may stand, after a torn one or a tag.
MAX_LEADING_BYTES = 2048
# So far a table of the whole stream may reach into its first frame.
TABLE_BYTES = 64
# So far after damage the next frames are looked for.
MAX_GAP_BYTES = 1 << 26
# Bits of an MPEG header that say the same in all frames of a stream: version, layer, rate.
STREAM_MASK = 0xFFFE0C00
BITRATES = {
    (3, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
# Samples of an MP3 that a decoder drops at its ends, at most: its own delay and what the encoder added.
MAX_DROPPED_SAMPLES = 8192
# Program streams and video, whose packets may hold such frames.
NOT_AUDIO_MARK = b"\0\0\1"


class MpegFrame(NamedTuple):
    """Sizes that the header of an MPEG audio frame announces, and where a table of its stream may stand in it."""

    num_bytes: int
    num_samples: int
    sampling_rate: int
    table_offset: int


@lru_cache(maxsize=4096)
def mpeg_frame(header: int) -> MpegFrame | None:
    """The frame that 32 bits begin; None for what is no header of a frame of known size."""
    version, layer = header >> 19 & 3, 4 - (header >> 17 & 3)
    bitrate_index, rate_index, padding = header >> 12 & 15, header >> 10 & 3, header >> 9 & 1
    if header >> 21 != 0x7FF or version == 1 or layer == 4 or bitrate_index in (0, 15) or rate_index == 3:
        return None
    bitrate = BITRATES[(3 if version == 3 else 2, layer)][bitrate_index - 1] * 1000
    rate = RATES[version][rate_index]
    if layer == 1:
        return MpegFrame((12 * bitrate // rate + padding) * 4, 384, rate, 0)
    num_samples = 576 if layer == 3 and version != 3 else 1152
    is_mono = header >> 6 & 3 == 3
    side_bytes = (17 if is_mono else 32) if version == 3 else (9 if is_mono else 17)
    return MpegFrame(num_samples // 8 * bitrate // rate + padding, num_samples, rate, 4 + side_bytes)


def read_mpeg(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """
    The section of an MPEG audio file (MP3, MP2) that begins at a position, at tags before it; see [`Reader`].

    It ends after the last frame that belongs to it.
    """
    blocks = Blocks(file, end)
    if blocks.at(start, 3) == NOT_AUDIO_MARK:
        return None
    first = _find_mpeg(blocks, skip_tags(file, start, end), MAX_LEADING_BYTES)
    if first is None:
        return None
    stream = int.from_bytes(blocks.at(first, 4), "big") & STREAM_MASK
    position, num_frames, frame, announced, announced_stop = first, 0, None, 0, first
    while position < end:
        header = int.from_bytes(blocks.at(position, 4), "big")
        found = mpeg_frame(header) if header & STREAM_MASK == stream else None
        if found is None:
            break
        if position + found.num_bytes > end + MAX_MISSING_TAIL_BYTES:
            if num_frames:
                raise _cut_mpeg(name, f"{found.num_bytes} bytes", end - position, announced, num_frames)
            return None
        head = blocks.at(position, TABLE_BYTES)
        is_table = head[found.table_offset : found.table_offset + 4] in (b"Xing", b"Info") or head[36:40] == b"VBRI"
        if is_table and position > first:
            break
        frame = found
        if is_table:
            announced = _announced_frames(head, found.table_offset)
            if not announced:
                first += found.num_bytes  # a table without a number helps nobody
        else:
            num_frames += 1
        if announced and num_frames == announced + 2:  # another file follows, which has no table
            num_frames, position = announced, announced_stop
            break
        position += found.num_bytes
        if num_frames == announced:
            announced_stop = position
    if frame is None or not num_frames:
        return None
    stop = position  # a few bytes may be missing, in whose place zeros are read
    rest = blocks.at(stop, 4)
    if 0 < len(rest) < 4 and rest[:2] == blocks.at(first, min(len(rest), 2)):
        raise _cut_mpeg(name, "more than its header", len(rest), announced, num_frames)
    _check_gap(name, blocks, stop, end, stream)
    if num_frames < announced - 1:
        raise _cut_mpeg(name, "", 0, announced, num_frames)
    num_samples = num_frames * frame.num_samples
    return Section(
        "MP3",
        first,
        stop,
        is_announced=announced > 0,
        min_samples=max(num_samples - MAX_DROPPED_SAMPLES, 0),
        num_samples=num_samples,
        sampling_rate=frame.sampling_rate,
    )


def _announced_frames(head: bytes, table_offset: int) -> int:
    """Frames that the table in the first frame of an MP3 announces; 0: it has no number."""
    if head[36:40] == b"VBRI":
        return int.from_bytes(head[50:54], "big")
    flags = int.from_bytes(head[table_offset + 4 : table_offset + 8], "big")
    return int.from_bytes(head[table_offset + 8 : table_offset + 12], "big") if flags & 1 else 0


def _cut_mpeg(name: str, frame: str, found_bytes: int, announced: int, num_frames: int) -> CutOffError:
    if announced:
        return cut_off(name, f"{announced} frames", str(num_frames))
    return CutOffError(f"{name} is cut off: its last frame announces {frame}, {found_bytes} are there.")


def _find_mpeg(blocks: Blocks, position: int, num_bytes: int, stream: int | None = None) -> int | None:
    """
    Where the next two frames of one stream stand, or one that ends with the file.

    Args:
        blocks: The file.
        position: Where the search begins.
        num_bytes: How far it goes.
        stream: The bits of `STREAM_MASK` that both frames must have; None: any.
    """
    region = read_at(blocks.file, position, min(num_bytes + 4, max(blocks.end - position, 0)))
    offset = -1
    while (offset := region.find(b"\xff", offset + 1)) >= 0:
        header = int.from_bytes(region[offset : offset + 4], "big")
        frame = mpeg_frame(header) if len(region) >= offset + 4 else None
        if frame is None or (stream is not None and header & STREAM_MASK != stream):
            continue
        following = position + offset + frame.num_bytes
        second = int.from_bytes(read_at(blocks.file, following, 4), "big")
        is_last = stream is None and following >= blocks.end
        if is_last or (mpeg_frame(second) and (header ^ second) & STREAM_MASK == 0):
            return position + offset
    return None


def _check_gap(name: str, blocks: Blocks, position: int, end: int, stream: int) -> None:
    """Raise where something that is no tag stands between frames: sound is lost there."""
    after = skip_tags(blocks.file, position, end)
    if after >= end or _find_mpeg(blocks, after, 0) is not None:
        return
    following = _find_mpeg(blocks, after, min(end - after, MAX_GAP_BYTES), stream)
    if following is None:
        return
    raise ValueError(
        f"{name} is damaged: the {following - after} bytes from byte {after} on are no MPEG frames, and frames "
        "follow; expected a whole file ('ffmpeg -i it new.wav' keeps what can be read)."
    )


def read_adts(name: str, file: BinaryIO, start: int, end: int) -> Section | None:
    """The section of AAC in ADTS frames, otherwise as `read_mpeg`; joined streams go on in the same section."""
    blocks = Blocks(file, end)
    position = skip_id3(file, start)
    first_bytes = blocks.at(position, 2)
    num_frames = 0
    while position < end:
        header = blocks.at(position, 7)
        if num_frames >= 2 and len(header) < 7 and first_bytes.startswith(header[:2]):
            raise CutOffError(f"{name} is cut off: of its last frame {len(header)} bytes are there.")
        if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
            if num_frames < 2:
                return None
            after = skip_tags(file, position, end)
            if after == position:
                break
            position = after
            continue
        num_bytes = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        if num_bytes < 7:
            return None if num_frames < 2 else Section("ADTS", start, position, is_open=True)
        if position + num_bytes > end:
            if num_frames < 2:
                return None
            raise CutOffError(
                f"{name} is cut off: its last frame announces {num_bytes} bytes, {end - position} are there."
            )
        num_frames += 1
        position += num_bytes
    return Section("ADTS", start, position, is_open=True) if num_frames else None


READERS: tuple[Reader, ...] = (read_adts, read_mpeg)
