"""
Are recordings of all containers and codecs read whole, next to FFmpeg?

A seeded signal is written with `ffmpeg` (and `sox`) in each pair of container and codec, and read in five forms:

- `whole`: the file as it is written;
- `joined`: the file twice, one after the other in one file;
- `cut`: the first 61 % of its bytes;
- `unsized`: written through a pipe, so that the writer could not bring its header up to date;
- `piped`: the whole file, read from a pipe.

The result has the seconds that the command `ffmpeg` decodes, the seconds that `read_audio` gives or its error, and a
verdict: `equal` (within a frame of the codec for each file in it; `joined` must be twice `whole`; the length of the
signal counts where `ffmpeg` decodes nothing), `error told` (a
`ValueError` that names the file), or `FAULT` (fewer seconds without a word, or an error that names nothing). An error
for a file that is whole is a `FAULT` too.

    python benchmarks/compare_audio_readers.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import soundfile

from common.csv_files import write_rows
from common.folders import RESULTS
from transformers_fastconformer import read_audio

SECONDS = 20.0
RATE = 16000
# The longest frame of these codecs at 16 kHz (WMA: 2048 samples), rounded up.
FRAME_SECONDS = 0.13
# Not between two frames of equal size, where nothing tells that more was there.
CUT_SHARE = 0.6123
FORMS = ("whole", "joined", "cut", "unsized", "piped")
VIDEO = "-f lavfi -i testsrc=size=64x64:rate=10"
VIDEO_CODEC = "-map 1:a -map 0:v -c:v mpeg4 -shortest"


class Pair(NamedTuple):
    """
    A container and a codec.

    Args:
        container: Name of the container.
        codec: Name of the codec.
        suffix: Ending of the file.
        options: Options of the command that writes it.
        muxer: FFmpeg's name of the container; empty: written with sox.
        has_video: The file has pictures too.
        can_pipe: It may be written through a pipe.
    """

    container: str
    codec: str
    suffix: str
    options: str
    muxer: str
    has_video: bool = False
    can_pipe: bool = True


PAIRS = (
    *(
        Pair("WAV", codec, "wav", f"-c:a {codec}", "wav")
        for codec in (
            "pcm_u8",
            "pcm_s16le",
            "pcm_s24le",
            "pcm_s32le",
            "pcm_f32le",
            "pcm_f64le",
            "pcm_alaw",
            "pcm_mulaw",
            "adpcm_ms",
            "adpcm_ima_wav",
            "libmp3lame",
        )
    ),
    Pair("RF64", "pcm_s16le", "wav", "-c:a pcm_s16le -rf64 always", "wav"),
    Pair("W64", "pcm_s16le", "w64", "-c:a pcm_s16le", "w64"),
    Pair("W64", "pcm_f32le", "w64", "-c:a pcm_f32le", "w64"),
    *(Pair("AIFF", codec, "aiff", f"-c:a {codec}", "aiff") for codec in ("pcm_s16be", "pcm_s24be", "pcm_f32be")),
    *(Pair("AU", codec, "au", f"-c:a {codec}", "au") for codec in ("pcm_s16be", "pcm_mulaw", "pcm_f32be")),
    *(Pair("CAF", codec, "caf", f"-c:a {codec}", "caf") for codec in ("pcm_s16be", "pcm_s24le", "pcm_alaw")),
    Pair("CAF", "alac", "caf", "-c:a alac", "caf", can_pipe=False),
    Pair("FLAC", "flac", "flac", "-c:a flac", "flac"),
    Pair("FLAC", "flac, 24 bits", "flac", "-c:a flac -sample_fmt s32", "flac"),
    *(Pair("OGG", codec, "ogg", f"-c:a {codec}", "ogg") for codec in ("libvorbis", "libopus", "flac", "libspeex")),
    Pair("Opus", "libopus", "opus", "-c:a libopus", "opus"),
    Pair("MP3", "constant rate", "mp3", "-c:a libmp3lame -b:a 64k", "mp3"),
    Pair("MP3", "variable rate", "mp3", "-c:a libmp3lame -q:a 6", "mp3"),
    Pair("MP3", "variable rate, no table", "mp3", "-c:a libmp3lame -q:a 6 -write_xing 0", "mp3"),
    Pair("MP3", "44.1 kHz, tags", "mp3", "-c:a libmp3lame -ar 44100 -metadata title=x -write_id3v1 1", "mp3"),
    Pair("MP2", "mp2", "mp2", "-c:a mp2", "mp2"),
    Pair("AAC", "aac", "aac", "-c:a aac", "adts"),
    Pair("M4A", "aac", "m4a", "-c:a aac", "ipod", can_pipe=False),
    Pair("M4A", "alac", "m4a", "-c:a alac", "ipod", can_pipe=False),
    Pair("MP4", "aac, index in front", "mp4", "-c:a aac -movflags +faststart", "mp4", can_pipe=False),
    Pair("MP4", "aac, fragments", "mp4", "-c:a aac -movflags frag_keyframe+empty_moov -frag_duration 2000000", "mp4"),
    Pair("MP4", "aac and video", "mp4", "-c:a aac", "mp4", has_video=True, can_pipe=False),
    Pair("MOV", "pcm_s16le", "mov", "-c:a pcm_s16le", "mov", can_pipe=False),
    Pair("MOV", "aac", "mov", "-c:a aac", "mov", can_pipe=False),
    Pair("3GP", "aac", "3gp", "-c:a aac", "3gp", can_pipe=False),
    *(
        Pair("Matroska", codec, "mka", f"-c:a {codec}", "matroska")
        for codec in (
            "libvorbis",
            "libopus",
            "flac",
            "aac",
            "pcm_s16le",
            "libmp3lame",
        )
    ),
    Pair("Matroska", "aac and video", "mkv", "-c:a aac", "matroska", has_video=True),
    Pair("WebM", "libopus", "webm", "-c:a libopus", "webm"),
    Pair("WebM", "libvorbis", "webm", "-c:a libvorbis", "webm"),
    Pair("ASF", "wmav1", "wma", "-c:a wmav1", "asf"),
    Pair("ASF", "wmav2", "wma", "-c:a wmav2", "asf"),
    Pair("AVI", "libmp3lame", "avi", "-c:a libmp3lame", "avi"),
    Pair("AVI", "pcm_s16le and video", "avi", "-c:a pcm_s16le", "avi", has_video=True),
    Pair("MPEG-TS", "aac", "ts", "-c:a aac", "mpegts"),
    Pair("MPEG-TS", "mp2", "ts", "-c:a mp2", "mpegts"),
    Pair("MPEG-PS", "mp2 and video", "mpg", "-c:a mp2 -ar 48000 -c:v mpeg2video -r 25", "mpeg", has_video=True),
    Pair("FLV", "aac", "flv", "-c:a aac -ar 44100", "flv"),
    Pair("AC-3", "ac3", "ac3", "-c:a ac3 -ar 48000", "ac3"),
    Pair("TTA", "tta", "tta", "-c:a tta", "tta"),
    Pair("WavPack", "wavpack", "wv", "-c:a wavpack", "wv"),
    Pair("VOC", "pcm_s16le", "voc", "-c:a pcm_s16le", "voc"),
    Pair("SPHERE", "pcm", "sph", "", "", can_pipe=False),
    Pair("AIFF", "pcm by sox", "aiff", "", "", can_pipe=False),
    Pair("FLAC", "flac by sox", "flac", "", "", can_pipe=False),
    Pair("OGG", "vorbis by sox", "ogg", "", "", can_pipe=False),
)
COLUMNS = ("container", "codec", "form", "ffmpeg_seconds", "seconds", "error", "verdict", "versions")


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **options)


def write_pair(pair: Pair, form: str, folder: Path) -> Path | None:
    """Write the signal in one form; None where a pair cannot be written so."""
    whole = folder / f"signal.{pair.suffix}"
    if form == "unsized" and not pair.can_pipe:
        return None
    video = VIDEO.split() if pair.has_video else []
    video_codec = VIDEO_CODEC.split() if pair.has_video else []
    if "mpeg2video" in pair.options:
        video_codec = [part for part in video_codec if part not in ("-c:v", "mpeg4")]
    source = ["ffmpeg", "-y", *video, "-i", str(folder / "signal.wav_source"), *video_codec, *pair.options.split()]
    if form == "unsized":
        path = folder / f"unsized.{pair.suffix}"
        path.write_bytes(run([*source, "-f", pair.muxer, "-"]).stdout)
        return path
    if not whole.exists():
        if pair.muxer:
            run([*source, "-f", pair.muxer, str(whole)])
        else:
            run(["sox", "-t", "wav", str(folder / "signal.wav_source"), str(whole)])
    content = whole.read_bytes()
    path = folder / f"{form}.{pair.suffix}"
    path.write_bytes(content * 2 if form == "joined" else content)
    if form == "cut":
        path.write_bytes(content[: int(len(content) * CUT_SHARE)])
    return path


def decode_by_ffmpeg(path: Path) -> float | None:
    """Seconds that the command gives; None: nothing."""
    command = ["ffmpeg", "-i", str(path), "-map", "0:a:0", "-f", "s16le", "-ac", "1", "-ar", str(RATE), "-"]
    decoded = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
    return len(decoded) / 2 / RATE or None


def decode_by_us(path: Path, form: str) -> tuple[float | None, str, bool]:
    """Seconds, or the error, and whether that names the file."""
    try:
        if form == "piped":
            with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                return len(read_audio(process.stdout)) / RATE, "", True
        return len(read_audio(str(path))) / RATE, "", True
    except Exception as error:
        text = str(error).replace(str(path), path.name)
        return None, text, isinstance(error, ValueError) and (path.name in text or form == "piped")


def judge(form: str, ours: float | None, theirs: float | None, whole: float | None, is_named: bool) -> str:
    """The verdict on one form of one pair; `whole` are our seconds of the whole file."""
    if ours is None:
        return "error told" if is_named and form in ("cut", "joined") else "FAULT"
    if form == "cut":
        return "FAULT"
    wanted = SECONDS if theirs is None else theirs
    if form == "joined":
        wanted = None if whole is None else 2 * whole
    return (
        "equal"
        if wanted is not None and abs(ours - wanted) <= FRAME_SECONDS * (2 if form == "joined" else 1)
        else "FAULT"
    )


def compare_pair(pair: Pair, folder: Path, versions: str) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    whole: float | None = None
    for form in FORMS:
        path = write_pair(pair, form, folder)
        if path is None:
            continue
        theirs = decode_by_ffmpeg(path)
        ours, error, is_named = decode_by_us(path, form)
        whole = ours if form == "whole" else whole
        rows.append(
            {
                "container": pair.container,
                "codec": pair.codec,
                "form": form,
                "ffmpeg_seconds": "" if theirs is None else f"{theirs:.3f}",
                "seconds": "" if ours is None else f"{ours:.3f}",
                "error": error,
                "verdict": judge(form, ours, theirs, whole, is_named),
                "versions": versions,
            }
        )
        print(*list(rows[-1].values())[:-1], sep=" | ", flush=True)
    return rows


def make_signal(path: Path) -> None:
    """A tone that rises and falls, in noise; seeded."""
    time = np.arange(round(SECONDS * RATE)) / RATE
    noise = np.random.default_rng(13).standard_normal(time.size)
    signal = 0.3 * np.sin(2 * np.pi * 440 * time) * np.sin(2 * np.pi * 0.7 * time) ** 2 + 0.02 * noise
    soundfile.write(path, signal, RATE, format="WAV", subtype="PCM_16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "audio_containers.csv", help="the table")
    parser.add_argument("--container", help="only this one, such as FLV")
    options = parser.parse_args()
    ffmpeg = run(["ffmpeg", "-version"]).stdout.decode().split()[2]
    versions = f"ffmpeg {ffmpeg}, PyAV {av.__version__}, libsndfile {soundfile.__libsndfile_version__}"
    rows: list[Mapping[str, Any]] = []
    pairs = [pair for pair in PAIRS if options.container in (None, pair.container)]
    for pair in pairs:
        with tempfile.TemporaryDirectory() as name:
            make_signal(Path(name) / "signal.wav_source")
            rows += compare_pair(pair, Path(name), versions)
        write_rows(options.output, rows, COLUMNS)
    faults = sum(row["verdict"] == "FAULT" for row in rows)
    print(f"{len(pairs)} pairs, {len(rows)} files, {faults} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
