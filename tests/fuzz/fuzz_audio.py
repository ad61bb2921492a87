"""Cases of audio files: damaged, dishonest, cut off and joined ones, read whole, in parts and by a model."""

from __future__ import annotations

import importlib.util
import io
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from fuzz_bytes import ODD_SIZES, blank, cut, damage, flip_bits, insert, lie_about_a_size, lose_a_part, splice
from fuzz_cases import Case, Room, SilentChangeError, rng_of
from models import build_model

from transformers_fastconformer import FastConformerFeatureExtractor, FastConformerProcessor, FastConformerTokenizer
from transformers_fastconformer.audio.files import load_waveform
from transformers_fastconformer.inference.many_files import transcribe_clips
from transformers_fastconformer.inference.options import TranscriptionOptions
from transformers_fastconformer.inference.reading import AudioClip
from transformers_fastconformer.nemo.tokenizers import character_tokenizer

KIND = "audio"
SAMPLING_RATE = 16000
SECONDS = 0.7
HEADER_BYTES = 120
# Name: suffix, format and coding of libsndfile, rate, channels.
SOUNDFILE_FORMS: dict[str, tuple[str, str, str, int, int]] = {
    "wav": ("wav", "WAV", "PCM_16", 16000, 1),
    "wav, stereo": ("wav", "WAV", "PCM_24", 44100, 2),
    "wav, float": ("wav", "WAV", "FLOAT", 8000, 1),
    "wav, mu-law": ("wav", "WAV", "ULAW", 8000, 1),
    "wav, MS ADPCM": ("wav", "WAV", "MS_ADPCM", 16000, 1),
    "wavex": ("wav", "WAVEX", "PCM_16", 48000, 2),
    "rf64": ("rf64", "RF64", "PCM_16", 16000, 1),
    "w64": ("w64", "W64", "PCM_16", 16000, 1),
    "flac": ("flac", "FLAC", "PCM_16", 16000, 1),
    "flac, stereo": ("flac", "FLAC", "PCM_24", 44100, 2),
    "ogg, Vorbis": ("ogg", "OGG", "VORBIS", 16000, 1),
    "ogg, Opus": ("opus", "OGG", "OPUS", 48000, 1),
    "mp3": ("mp3", "MP3", "MPEG_LAYER_III", 16000, 1),
    "aiff": ("aiff", "AIFF", "PCM_16", 16000, 1),
    "aiff, float": ("aifc", "AIFF", "DOUBLE", 16000, 1),
    "au": ("au", "AU", "PCM_16", 16000, 1),
    "caf": ("caf", "CAF", "PCM_16", 16000, 1),
    "caf, ALAC": ("caf", "CAF", "ALAC_16", 44100, 2),
    "nist": ("sph", "NIST", "PCM_16", 16000, 1),
    "voc": ("voc", "VOC", "PCM_16", 16000, 1),
    "ircam": ("sf", "IRCAM", "PCM_16", 16000, 1),
    "paf": ("paf", "PAF", "PCM_16", 16000, 1),
    "svx": ("svx", "SVX", "PCM_16", 16000, 1),
    "avr": ("avr", "AVR", "PCM_16", 16000, 1),
    "htk": ("htk", "HTK", "PCM_16", 16000, 1),
    "pvf": ("pvf", "PVF", "PCM_16", 16000, 1),
    "sds": ("sds", "SDS", "PCM_16", 16000, 1),
}
# Name: suffix, container and codec of FFmpeg, rate.
PYAV_FORMS: dict[str, tuple[str, str, str, int]] = {
    "m4a": ("m4a", "mp4", "aac", 44100),
    "m4a, ALAC": ("m4a", "mp4", "alac", 44100),
    "aac": ("aac", "adts", "aac", 44100),
    "webm": ("webm", "webm", "libopus", 48000),
    "mkv, FLAC": ("mkv", "matroska", "flac", 44100),
    "mkv, PCM": ("mka", "matroska", "pcm_s16le", 16000),
    "mp4, MP3": ("mp4", "mp4", "mp3", 44100),
    "mov": ("mov", "mov", "pcm_s16le", 16000),
    "wma": ("wma", "asf", "wmav2", 44100),
    "avi": ("avi", "avi", "mp3", 44100),
    "ts": ("ts", "mpegts", "aac", 44100),
    "flv": ("flv", "flv", "aac", 44100),
}
# Of these the header tells the length, so that a missing end shows.
KNOWS_ITS_LENGTH = ("wav", "wav, stereo", "wav, float", "wavex", "rf64", "w64", "flac", "flac, stereo", "aiff", "nist")
# These may stand one after another in a file.
MAY_BE_JOINED = ("ogg, Vorbis", "ogg, Opus", "aac", "mp3")
# Checksums of these hold every sample.
HOLDS_SAMPLES = ("flac", "flac, stereo")


@dataclass(frozen=True)
class Base:
    """
    A whole file.

    Args:
        name: Its form.
        suffix: Ending of its name.
        data: Its bytes.
        samples: What is read of it, mono at 16 kHz; empty for one that cannot be read here.
    """

    name: str
    suffix: str
    data: bytes
    samples: np.ndarray


BASES: list[Base] = []
MODEL: list[tuple[Any, Any]] = []


def prepare() -> None:
    """Write a file of each form and build the model."""
    if BASES:
        return
    prepare_model()
    for name, (suffix, *form) in SOUNDFILE_FORMS.items():
        add_base(name, suffix, write_with_soundfile(*form))
    if importlib.util.find_spec("av") is not None:
        for name, (suffix, container, codec, rate) in PYAV_FORMS.items():
            add_base(name, suffix, write_with_pyav(container, codec, rate))


def prepare_model() -> None:
    """Build the model that reads clips, once."""
    if MODEL:
        return
    extractor = FastConformerFeatureExtractor(feature_size=8, sampling_rate=SAMPLING_RATE)
    tokenizer: FastConformerTokenizer = character_tokenizer([" ", *"abcdefghi"])
    model = build_model("ctc")
    worker = (model, FastConformerProcessor(extractor, tokenizer, 8))
    MODEL.append(worker)
    list(transcribe_clips([worker], [AudioClip(make_sound(SAMPLING_RATE, 1)[:, 0])], TranscriptionOptions()))


def add_base(name: str, suffix: str, data: bytes | None) -> None:
    """Add a file, where it could be written."""
    if data is None:
        return
    try:
        samples = load_waveform(data)
    except (ValueError, ImportError):  # a form that is not read must be refused by name, which is of interest too
        samples = np.zeros(0, np.float32)
    BASES.append(Base(name, suffix, data, samples))


def make_sound(rate: int, channels: int) -> np.ndarray:
    """A tone with noise, of shape (samples, channels)."""
    rng = np.random.default_rng(0)
    times = np.arange(int(SECONDS * rate)) / rate
    tone = 0.2 * np.sin(2 * np.pi * 300 * times)[:, None]
    return (tone + 0.02 * rng.standard_normal((len(times), channels))).astype(np.float32)


def write_with_soundfile(container: str, coding: str, rate: int, channels: int) -> bytes | None:
    """A file that libsndfile writes; None for a form that its version does not have."""
    import soundfile

    if not soundfile.check_format(container, coding):
        return None
    buffer = io.BytesIO()
    soundfile.write(buffer, make_sound(rate, channels), rate, coding, format=container)
    return without_chance(buffer.getvalue())


def without_chance(data: bytes) -> bytes:
    """A file without the time and the random number that libsndfile (1.2) writes, so that all runs have the same."""
    changed = bytearray(data)
    place = data.find(b"PEAK")
    if 0 <= place < HEADER_BYTES:
        changed[place + 12 : place + 16] = bytes(4)
    place = 0
    while data.startswith(b"OggS", place):
        num_segments = data[place + 26]
        end = place + 27 + num_segments + sum(data[place + 27 : place + 27 + num_segments])
        changed[place + 14 : place + 18] = b"fuzz"
        changed[place + 22 : place + 26] = bytes(4)
        changed[place + 22 : place + 26] = struct.pack("<I", ogg_checksum(changed[place:end]))
        place = end
    return bytes(changed)


def ogg_checksum(page: bytes | bytearray) -> int:
    """The checksum of an Ogg page (RFC 3533, section 6)."""
    checksum = 0
    for value in page:
        checksum ^= value << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum & 0x80000000 else 0)) & 0xFFFFFFFF
    return checksum


def write_with_pyav(container: str, codec: str, rate: int) -> bytes | None:
    """A file that FFmpeg writes; None for a codec that its version does not have."""
    import av

    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format=container, options={"fflags": "+bitexact"}) as output:
            stream: Any = output.add_stream(codec, rate=rate)
            stream.layout = "mono"
            sound = make_sound(rate, 1)[:, 0]
            samples = (sound * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = rate
            resampler = av.AudioResampler(stream.format.name, "mono", rate, frame_size=stream.frame_size or 1024)
            for piece in (*resampler.resample(frame), *resampler.resample(None)):
                output.mux(stream.encode(piece))
            output.mux(stream.encode(None))
    except (ValueError, av.error.FFmpegError):
        return None
    return buffer.getvalue()


# Mutations: the bytes, and the samples that must come out where that is known


Made = tuple[bytes, np.ndarray | None]


def whole(rng: random.Random, base: Base) -> Made:
    """No damage."""
    return base.data, base.samples


def raw(change: Callable[[random.Random, bytes], bytes], rng: random.Random, base: Base) -> Made:
    """Damage to the bytes; of what has a checksum for each sample the result is held."""
    return change(rng, base.data), base.samples if base.name in HOLDS_SAMPLES else None


def header(change: Callable[..., bytes], rng: random.Random, base: Base) -> Made:
    """Damage to the first bytes."""
    return change(rng, base.data, HEADER_BYTES), None


def missing_end(rng: random.Random, base: Base) -> Made:
    """The beginning of a file; where the header tells the length, the whole or an error is due."""
    end = rng.randrange(len(base.data) // 4, len(base.data) * 9 // 10)
    return base.data[:end], base.samples if base.name in KNOWS_ITS_LENGTH else None


def joined(rng: random.Random, base: Base) -> Made:
    """A file after itself; where that is allowed, all of it counts."""
    times = rng.choice((2, 3))
    is_held = base.name in MAY_BE_JOINED and len(base.samples)
    return base.data * times, np.tile(base.samples, times) if is_held else None


def joined_with_another(rng: random.Random, base: Base) -> Made:
    """A file after one of another form."""
    return base.data + rng.choice(BASES).data, None


def unsized(rng: random.Random, base: Base) -> Made:
    """Sizes of a WAV or AIFF that were never brought up to date, or lie."""
    data = bytearray(base.data)
    form = ">I" if base.data[:4] == b"FORM" else "<I"
    number = rng.choice((0, 0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 1, 2**31 - 1, len(data) * 2, 36))
    held = None
    for mark in (b"data", b"SSND", b"RIFF", b"FORM", b"fmt ", b"COMM"):
        place = data.find(mark)
        if place >= 0 and (mark in (b"data", b"SSND") or rng.random() < 0.3):
            struct.pack_into(form, data, place + 4, number)
            if mark == b"data" and number == 0 and base.name in KNOWS_ITS_LENGTH:
                held = base.samples
    return bytes(data), held if base.data[:4] == b"RIFF" else None


def rates(rng: random.Random, base: Base) -> Made:
    """Other rates, channels, bits and block sizes in a header."""
    data = bytearray(base.data)
    rate = rng.choice((0, 1, 7, 100, 2**31 - 1, 2**31, 2**32 - 1, 10**9, 192000, 768000))
    count = rng.choice((0, 1, 2, 3, 255, 1000, 1024, 65535))
    place = data.find(b"fmt ")
    if data[:4] in (b"RIFF", b"RF64") and place >= 0:
        if rng.random() < 0.6:
            struct.pack_into("<I", data, place + 12, rate)
        if rng.random() < 0.6:
            struct.pack_into("<H", data, place + 10, count)
        if rng.random() < 0.3:
            struct.pack_into("<H", data, place + rng.choice((8, 20, 22)), rng.choice((0, 1, 3, 4, 17, 64, 65535)))
    elif data[:4] == b".snd":
        struct.pack_into(">I", data, rng.choice((16, 20)), rng.choice((rate, count)))
    elif data[:4] == b"FORM" and (place := data.find(b"COMM")) >= 0:
        if rng.random() < 0.5:
            struct.pack_into(">H", data, place + 8, count)
        else:
            exponent = rng.choice((0, 0x3FFF, 0x4000, 0x403E, 0x7FFF, 0xFFFF, 0x4030))
            struct.pack_into(">H", data, place + 16, exponent)
    elif data[:4] == b"fLaC":
        for place in range(18, 26):
            if rng.random() < 0.4:
                data[place] = rng.randrange(256)
    else:
        return lie_about_a_size(rng, base.data, HEADER_BYTES), None
    return bytes(data), None


def chunks(rng: random.Random, base: Base) -> Made:
    """Something before or after the sound, as taggers write it."""
    size = rng.choice((0, 1, 10, 500, 10**6, 2**28 - 1))
    tag = b"ID3\x04\x00\x00" + bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    before = rng.choice((tag + bytes(min(size, 1000)), b"\x00" * rng.choice((1, 2, 4096)), b"RIFF", rng.randbytes(30)))
    after = rng.choice((b"TAG" + bytes(125), b"LIST\xff\xff\xff\xff", rng.randbytes(300), b"\x00"))
    if rng.random() < 0.5:
        return before + base.data, None
    return base.data + after, None


def odd_samples(rng: random.Random, base: Base) -> Made:
    """Samples that are no sound: not finite, huge, or none at all."""
    import soundfile

    value = rng.choice((float("nan"), float("inf"), -float("inf"), 1e38, 3e38, 1e300, 5e-324, 0.0, 1e10))
    count = rng.choice((0, 1, 2, 3, 159, 160, 400, 5000))
    samples = np.zeros(count)
    samples[rng.randrange(count) if count else 0 :] = value
    buffer = io.BytesIO()
    coding = rng.choice(("FLOAT", "DOUBLE"))
    rate = rng.choice((16000, 8000, 1, 11025, 48000))
    soundfile.write(buffer, samples, rate, coding, format=rng.choice(("WAV", "AIFF", "AU", "W64", "CAF")))
    return buffer.getvalue(), None


def not_audio(rng: random.Random, base: Base) -> Made:
    """Other bytes under the name of a recording."""
    return rng.choice(
        (
            b"",
            b"\x00",
            bytes(5000),
            rng.randbytes(5000),
            b"<html>404 Not Found</html>",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n",
            base.data[:12],
            base.data[:44],
            b"RIFF\xff\xff\xff\xffWAVE",
            b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00",
            b"fLaC\x80\x00\x00\x22" + bytes(34),
            b"OggS" + bytes(24),
            b"\xff\xfb\x90\x00" * rng.choice((1, 500)),
            b"#!AMR\n" + rng.randbytes(200),
            b"\x00\x00\x00\x18ftypM4A " + bytes(12),
            b"\x1aE\xdf\xa3" + rng.randbytes(100),
            b"PK\x03\x04" + rng.randbytes(100),
            b"#EXTM3U\n/etc/passwd\n",
            b"ffconcat version 1.0\nfile /etc/passwd\n",
            b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
        )
    ), None


def sizes(rng: random.Random, base: Base) -> Made:
    """Several odd sizes in the header."""
    data = base.data
    for _ in range(rng.choice((1, 2, 4))):
        data = lie_about_a_size(rng, data, HEADER_BYTES)
    return data, None


def boxes(rng: random.Random, base: Base) -> Made:
    """An odd size or a swapped name somewhere at a name of four letters."""
    data = bytearray(base.data)
    places = [place for place in range(4, len(data) - 8) if bytes(data[place : place + 4]).isalpha()]
    if not places:
        return flip_bits(rng, base.data, HEADER_BYTES), None
    place = rng.choice(places[:60])
    struct.pack_into(rng.choice(("<I", ">I")), data, place + rng.choice((-4, 4)), rng.choice(ODD_SIZES) & 0xFFFFFFFF)
    return bytes(data), None


MUTATIONS: dict[str, Callable[[random.Random, Base], Made]] = {
    "whole": whole,
    "bits": partial(raw, flip_bits),
    "damaged": partial(raw, damage),
    "lost part": partial(raw, lose_a_part),
    "spliced": partial(raw, splice),
    "blanked": partial(raw, blank),
    "inserted": partial(raw, insert),
    "cut": partial(raw, cut),
    "missing end": missing_end,
    "header, bits": partial(header, flip_bits),
    "header, a size": partial(header, lie_about_a_size),
    "header, sizes": sizes,
    "header, boxes": boxes,
    "unsized": unsized,
    "rates and channels": rates,
    "joined": joined,
    "joined with another": joined_with_another,
    "tags": chunks,
    "odd samples": odd_samples,
    "not audio": not_audio,
}
DOORS = ("path", "bytes", "open file", "clip", "part")
# Forms whose headers have what these mutations change.
ONLY_FOR: dict[str, tuple[str, ...]] = {
    "unsized": ("wav", "wav, stereo", "wav, float", "wavex", "aiff"),
    "rates and channels": ("wav", "wav, stereo", "wavex", "rf64", "au", "aiff", "flac", "w64", "caf"),
    "missing end": (*KNOWS_ITS_LENGTH, "mp3", "ogg, Vorbis", "m4a", "webm"),
    "joined": (*MAY_BE_JOINED, "wav", "flac", "m4a", "webm"),
}


def make_case(seed: int, room: Room) -> Case:
    """The case of a seed."""
    rng = rng_of(KIND, seed)
    mutation = list(MUTATIONS)[seed % len(MUTATIONS)]
    base = rng.choice([base for base in BASES if base.name in ONLY_FOR.get(mutation, (base.name,))])
    data, held = MUTATIONS[mutation](rng, base)
    suffix = base.suffix if rng.random() < 0.85 else rng.choice(("wav", "mp3", "m4a", "flac", "xyz"))
    path = room.input / f"clip.{suffix}"
    path.write_bytes(data)
    door = rng.choice(DOORS)

    def read() -> None:
        if door == "path":
            check_samples(load_waveform(path), held)
        elif door == "bytes":
            check_samples(load_waveform(data), held)
        elif door == "open file":
            with path.open("rb") as file:
                check_samples(load_waveform(file), held)
        else:
            part = {"start_seconds": rng.choice((0.0, 0.3, 100.0)), "seconds": rng.choice((0.2, None, 1e6))}
            channel = rng.choice(("mix", 0, 1))
            clip = AudioClip(str(path), channel, **(part if door == "part" else {}))
            for finished in transcribe_clips(MODEL, [clip], TranscriptionOptions(timestamps=False)):
                if finished.error is not None:
                    raise finished.error

    # Bytes and open files have no name of their own.
    names = [path.name] if door in ("path", "clip", "part") else [path.name, "audio", "bytes", "file"]
    return Case(KIND, seed, mutation, f"{base.name}, {door}", (read,), names)


def check_samples(samples: np.ndarray, held: np.ndarray | None) -> None:
    """Raise for samples that no clip has, and for fewer than are due."""
    if samples.dtype != np.float32 or samples.ndim != 1 or not np.isfinite(samples).all():
        raise SilentChangeError(f"{samples.dtype} {samples.shape}, not finite float32 samples")
    if held is None:
        return
    # Codecs add and drop some at the seams of joined files.
    if len(samples) < 0.97 * len(held):
        raise SilentChangeError(f"{len(samples)} samples of {len(held)}, and nothing was said")
