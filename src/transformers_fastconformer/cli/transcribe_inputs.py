"""Inputs of `fastconformer transcribe`: files, folders, patterns, URLs, the standard input, manifests."""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from ..audio.downloads import copy_stream, download_audio, is_url, local_path
from ..audio.parts import read_header
from ..inference.many_files import AudioClip
from .exit_codes import InputError

STANDARD_INPUT = "-"
STANDARD_INPUT_LABEL = "the standard input"
MANIFEST_SUFFIXES = (".json", ".jsonl")
# Files that are taken from folders: audio, and video, whose sound is transcribed.
AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff", ".aifc", ".au", ".snd"),
    *(".caf", ".w64", ".rf64", ".sph", ".voc"),
    *(".m4a", ".m4b", ".aac", ".wma", ".amr", ".webm", ".mka"),
    *(".mp4", ".m4v", ".mov", ".mkv", ".avi", ".3gp", ".3g2", ".wmv", ".flv", ".ts", ".mpg", ".mpeg", ".ogv"),
)
CHANNELS = ("mix", "each")


@dataclass(frozen=True)
class AudioInput:
    """
    One clip that the user asked for.

    Args:
        clip: The audio.
        file: Name of the audio in the output.
        name: Path of its output below the output folder, without an ending.
        manifest: Its line of a manifest.
        manifest_path: Path of that manifest.
        row: Number of that line, from 0.
        error: Reason why it cannot be transcribed.
    """

    clip: AudioClip
    file: str
    name: str
    manifest: Mapping[str, Any] | None = None
    manifest_path: str | None = None
    row: int = 0
    error: Exception | None = None


def parse_channel(text: str) -> str | int:
    """`"mix"`, `"each"` or the number of a channel, from 0."""
    if text in CHANNELS:
        return text
    if text.isdecimal():
        return int(text)
    raise ValueError(f"--channel {text} is not supported; expected mix, each or the number of a channel, from 0.")


def find_inputs(arguments: Sequence[str], channel: str | int, temporary_folder: Path) -> list[AudioInput]:
    """
    The clips that arguments stand for, in their order.

    Args:
        arguments: Arguments of the command line.
        channel: Result of `parse_channel`.
        temporary_folder: Folder for the standard input, pipes, and downloads whose channels must be counted.

    Raises:
        InputError: for a folder or a pattern without audio, and for a manifest that does not exist or cannot be read.
        ValueError: for the standard input given twice.
    """
    if list(arguments).count(STANDARD_INPUT) > 1:
        raise ValueError("- is the standard input and can be given once.")
    found: list[AudioInput] = []
    for argument in arguments:
        found += _find(argument, temporary_folder)
    if channel != "each":
        return [replace(item, clip=replace(item.clip, channel=channel)) for item in found]
    return [part for item in found for part in _each_channel(item, temporary_folder)]


def _find(argument: str, temporary_folder: Path) -> Iterator[AudioInput]:
    argument = local_path(argument)
    if argument == STANDARD_INPUT:
        path = _spool(sys.stdin.buffer, STANDARD_INPUT_LABEL, temporary_folder)
        yield AudioInput(AudioClip(path, label=STANDARD_INPUT_LABEL), STANDARD_INPUT, "stdin")
    elif is_url(argument):
        name = PurePosixPath(unquote(urlsplit(argument).path)).stem
        yield AudioInput(AudioClip(argument), argument, name or urlsplit(argument).netloc)
    elif Path(argument).is_dir():
        yield from _find_in_folder(argument)
    elif argument.lower().endswith(MANIFEST_SUFFIXES):
        yield from _read_manifest(argument)
    elif not os.path.lexists(argument) and glob.has_magic(argument):
        yield from _find_by_pattern(argument)
    elif Path(argument).is_fifo():
        with open(argument, "rb") as pipe:
            path = _spool(pipe, repr(argument), temporary_folder)
        yield AudioInput(AudioClip(path, label=repr(argument)), argument, Path(argument).stem)
    else:
        yield AudioInput(AudioClip(argument), argument, Path(argument).stem)


def _spool(stream: BinaryIO, label: str, temporary_folder: Path) -> str:
    """Write a stream to a file, which can be read again and from any position."""
    path = temporary_folder / f"stream{len(os.listdir(temporary_folder))}"
    with path.open("wb") as file:
        copy_stream(stream, file, label)
    if path.stat().st_size == 0:
        raise InputError(f"{label} is empty (0 bytes); expected audio.")
    return str(path)


def _find_in_folder(folder: str) -> Iterator[AudioInput]:
    """Find audio in a folder and the folders in it, except hidden ones."""
    is_empty = True
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in AUDIO_SUFFIXES:
                continue
            is_empty = False
            path = os.path.join(parent, name)
            yield AudioInput(AudioClip(path), path, _name_below(path, folder))
    if is_empty:
        raise InputError(f"{folder!r} has no audio in it; expected files such as *.wav, *.mp3 or *.mp4.")


def _find_by_pattern(pattern: str) -> Iterator[AudioInput]:
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    paths = [path for path in sorted(glob.glob(pattern, recursive=True)) if not os.path.isdir(path)]
    if not paths:
        raise InputError(f"{pattern!r} matches no file.")
    for path in paths:
        yield AudioInput(AudioClip(path), path, _name_below(path, os.path.join(*parts[:fixed]) if fixed else "."))


def _name_below(path: str, folder: str) -> str:
    return Path(os.path.relpath(path, folder)).with_suffix("").as_posix()


def _read_manifest(path: str) -> Iterator[AudioInput]:
    """Read a clip from each line: `audio_filepath`, and for a part `offset` and `duration` in seconds."""
    if not os.path.exists(path):
        raise InputError(f"{path!r} does not exist; expected a manifest, one JSON object a line.")
    is_empty = True
    with open(path, encoding="utf-8") as file:
        for row, line in enumerate(file):
            if not line.strip():
                continue
            is_empty = False
            yield _read_manifest_line(line, f"{path!r}, line {row + 1}", Path(path), row)
    if is_empty:
        raise InputError(f"{path!r} is empty; expected a manifest, one JSON object a line.")


def _read_manifest_line(line: str, where: str, manifest: Path, row: int) -> AudioInput:
    expected = "expected a JSON object with 'audio_filepath'"
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON; {expected}. {error}") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("audio_filepath"), str):
        raise InputError(f"{where}: found {line.strip()[:80]!r}; {expected}.")
    audio = entry["audio_filepath"]
    times: dict[str, float | None] = {}
    for name in ("offset", "duration"):
        value = entry.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"{where}: {name}={value!r} is not supported; expected seconds.")
        times[name] = value
    start_seconds, seconds = float(times["offset"] or 0.0), times["duration"]
    try:
        source = local_path(audio)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    if not (is_url(audio) or os.path.isabs(source)):
        # The path as written if that file exists, else from the manifest's folder (NeMo 3.0.0, `get_full_path`).
        source = source if os.path.isfile(source) else str(manifest.parent / source)
    try:
        clip = AudioClip(source, start_seconds=start_seconds, seconds=None if seconds is None else float(seconds))
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    below = PurePosixPath(urlsplit(audio).path if is_url(audio) else local_path(audio))
    # Full paths, and those that lead out of a folder, cannot name files below the output folder.
    name = below.stem if below.is_absolute() or ".." in below.parts else str(below.with_suffix(""))
    if times["offset"] is not None:
        name += f"_{start_seconds:g}"
        name += "" if seconds is None else f"-{start_seconds + float(seconds):g}"
    return AudioInput(clip, audio, name, entry, str(manifest), row)


def _each_channel(item: AudioInput, temporary_folder: Path) -> Iterator[AudioInput]:
    clip = item.clip
    if clip.is_remote:
        path = temporary_folder / f"download{len(os.listdir(temporary_folder))}"
        try:
            path.write_bytes(download_audio(clip.source))
        except ValueError as error:  # reported with the others
            yield replace(item, error=error)
            return
        clip = replace(clip, source=str(path), label=repr(clip.source))
    header = read_header(clip.source)
    if header is None:  # not audio, which is reported when its turn comes
        yield replace(item, clip=clip)
        return
    for channel in range(header.num_channels):
        name = item.name if header.num_channels == 1 else f"{item.name}.channel{channel}"
        yield replace(item, clip=replace(clip, channel=channel), name=name)
