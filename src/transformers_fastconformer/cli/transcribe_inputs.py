"""Inputs of `fastconformer transcribe`: files, folders, patterns, URLs, the standard input, manifests."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from ..audio.downloads import copy_stream, download_audio, is_url, local_path
from ..audio.folders import find_audio, kind_of_path
from ..audio.manifests import (
    MANIFEST_FORM,
    MANIFEST_SUFFIXES,
    ManifestLine,
    name_line,
    name_path,
    parse_json_line,
    parse_whole_json,
    path_of_url,
    read_lines,
    read_manifest_line,
)
from ..audio.parts import read_header
from ..inference.many_files import AudioClip
from ..writers.formats import OUTPUT_FORMATS
from ..writers.json import PACKAGE_NAME
from .errors import say
from .exit_codes import InputError, failing_as_input

STANDARD_INPUT = "-"
STANDARD_INPUT_LABEL = "the standard input"
# Ending of the file with the lines of a manifest that is not whole yet.
UNFINISHED_SUFFIX = ".part"
CHANNELS = ("mix", "each")
# Endings of outputs that are neither audio nor manifests.
TEXT_SUFFIXES = tuple(
    suffix for row in OUTPUT_FORMATS.values() if (suffix := f".{row.suffix}") not in MANIFEST_SUFFIXES
)


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
        is_stream: True if the clip is a copy of the standard input or of a pipe.
        recorded_at: Time at which live audio began, by which a recording differs from others of the same source; None
            for audio that can be had again.
    """

    clip: AudioClip
    file: str
    name: str
    manifest: Mapping[str, Any] | None = None
    manifest_path: str | None = None
    row: int = 0
    error: Exception | None = None
    is_stream: bool = False
    recorded_at: str | None = None

    @property
    def is_remote(self) -> bool:
        """True for audio from an address, also when it has been downloaded."""
        return is_url(self.file)

    @property
    def line_name(self) -> str | None:
        """Name of its line of a manifest in messages."""
        return None if self.manifest_path is None else name_line(self.manifest_path, self.row)


def parse_channel(text: str) -> str | int:
    """`"mix"`, `"each"` or the number of a channel, from 0."""
    if text in CHANNELS:
        return text
    if text.isdecimal():
        return int(text)
    raise ValueError(f"--channel {text} is not supported; expected mix, each or the number of a channel, from 0.")


def find_inputs(
    arguments: Sequence[str], channel: str | int, temporary_folder: Path, outputs: Container[str] = ()
) -> list[AudioInput]:
    """
    The clips that arguments stand for, in their order.

    An argument in which nothing is found, or that cannot be read, is a clip with an error. Outputs of an earlier run
    are passed over, so that `transcribe *` can be run again. Files of one name and several endings, such as `talk.wav`
    and `talk.mp3`, have their ending in the name of their output.

    Args:
        arguments: Arguments of the command line.
        channel: Result of `parse_channel`.
        temporary_folder: Folder for the standard input, pipes, and downloads whose channels must be counted.
        outputs: Absolute paths of files that earlier runs have made in the output folder.

    Raises:
        ValueError: for the standard input given twice.
        InputError: when all that was given is passed over.
    """
    if list(arguments).count(STANDARD_INPUT) > 1:
        raise ValueError("- is the standard input and can be given once.")
    found: list[AudioInput] = []
    for argument in arguments:
        clips: list[AudioInput] = []
        try:
            for item in _find(argument, temporary_folder):
                clips.append(item)
        except Exception as error:  # whatever a name does to the system's functions costs only this argument
            clips.append(_refused(argument, _named(error, argument)))
        found += clips
    found = _without_outputs(found, outputs)
    if not found:
        raise InputError("Nothing is left to transcribe; expected audio or a manifest.")
    if channel != "each":
        found = [replace(item, clip=replace(item.clip, channel=channel)) for item in found]
    else:
        found = [part for item in found for part in _each_channel(item, temporary_folder)]
    return _with_names_apart(found)


def _named(error: Exception, name: str) -> Exception:
    """The error, as one of the input, with its name."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, OSError) and error.strerror:
        return InputError(f"{name!r} cannot be read: {error.strerror}; expected audio.")
    text = str(error)
    is_named = isinstance(error, ValueError | OSError) and name in text
    return InputError(text if is_named else f"{name!r} cannot be read; expected audio. {type(error).__name__}: {text}")


def _refused(argument: str, error: Exception) -> AudioInput:
    """A clip that stands for an argument in which none was found."""
    # Of a manifest it is one still, so that the format for the others is that of manifests.
    manifest: dict[str, Any] | None = {} if argument.lower().endswith(MANIFEST_SUFFIXES) else None
    return AudioInput(AudioClip(argument), argument, PurePath(argument).stem, manifest, error=error)


def _without_outputs(found: Sequence[AudioInput], outputs: Container[str]) -> list[AudioInput]:
    """Leave out what earlier runs have made: the known outputs, and texts next to an input with the same name."""
    stems: set[str] = set()
    for item in found:
        path = os.path.abspath(item.clip.source)
        if item.manifest is None and not _has_suffix_of_text(path):
            stems |= {path, os.path.splitext(path)[0]}
    kept = []
    passed_over: set[str] = set()
    for item in found:
        given = item.manifest_path or item.clip.source
        path = os.path.abspath(given).removesuffix(UNFINISHED_SUFFIX)
        is_text = _has_suffix_of_text(path) and os.path.splitext(path)[0] in stems
        if item.is_remote or item.is_stream or not (is_text or path in outputs):
            kept.append(item)
        elif given not in passed_over:
            passed_over.add(given)
            _pass_over(given, "an output of an earlier run")
    return kept


def _has_suffix_of_text(path: str) -> bool:
    return path.endswith(TEXT_SUFFIXES)


def _with_names_apart(found: Sequence[AudioInput]) -> list[AudioInput]:
    """
    Give full names, with the ending of the file, to inputs that share a name with another file.

    The others keep theirs. Where the full name of one is the name of another (`a.wav` next to `a.mp3`, and
    `a.wav.wav`), the other has its full name too. Full names below one folder are all different.
    """
    items = list(found)
    full_names = [item.name if item.error is not None else _full_name(item) for item in items]
    while True:
        owners: dict[str, set[str]] = {}
        for item, full_name in zip(items, full_names, strict=True):
            if item.error is None:
                owners.setdefault(item.name, set()).add(full_name)
        alike = [
            index
            for index, item in enumerate(items)
            if item.error is None and item.name != full_names[index] and len(owners[item.name]) > 1
        ]
        if not alike:
            return items
        for index in alike:
            items[index] = replace(items[index], name=full_names[index])


def _full_name(item: AudioInput) -> str:
    """Name of an input with the ending of its file, which comes before what tells its part and channel."""
    path = PurePosixPath(path_of_url(item.file)) if item.is_remote else PurePath(item.file)
    folder, slash, name = item.name.rpartition("/")
    if not path.suffix or not name.startswith(path.stem):
        return item.name
    return f"{folder}{slash}{path.stem}{path.suffix}{name.removeprefix(path.stem)}"


def _find(argument: str, temporary_folder: Path) -> Iterator[AudioInput]:
    argument = local_path(argument)
    if argument == STANDARD_INPUT:
        if sys.stdin is None:
            raise InputError(f"{STANDARD_INPUT_LABEL} is closed; expected audio.")
        path = _spool(sys.stdin.buffer, STANDARD_INPUT_LABEL, temporary_folder)
        yield AudioInput(AudioClip(path, label=STANDARD_INPUT_LABEL), STANDARD_INPUT, "stdin", is_stream=True)
    elif is_url(argument):
        name = PurePosixPath(path_of_url(argument)).stem
        yield AudioInput(AudioClip(argument), argument, name or urlsplit(argument).netloc)
    elif os.path.isdir(argument):
        yield from _find_in_folder(argument)
    elif argument.lower().endswith(MANIFEST_SUFFIXES):
        yield from _read_manifest(argument)
    elif not os.path.lexists(argument) and glob.has_magic(argument):
        yield from _find_by_pattern(argument)
    elif (kind := kind_of_path(argument)) == "a pipe":
        with open(argument, "rb") as pipe:
            path = _spool(pipe, repr(argument), temporary_folder)
        yield AudioInput(AudioClip(path, label=repr(argument)), argument, Path(argument).stem, is_stream=True)
    elif kind is not None:
        raise InputError(f"{argument!r} is {kind}; expected an audio file.")
    else:
        yield AudioInput(AudioClip(argument), argument, Path(argument).stem)


def _pass_over(path: str, kind: str) -> None:
    say(f"{path!r} is {kind}: it is passed over.")


def _spool(stream: BinaryIO, label: str, temporary_folder: Path) -> str:
    """Write a stream to a file, which can be read again and from any position."""
    path = temporary_folder / f"stream{len(os.listdir(temporary_folder))}"
    with path.open("wb") as file:
        copy_stream(stream, file, label)
    if path.stat().st_size == 0:
        raise InputError(f"{label} is empty (0 bytes); expected audio.")
    return str(path)


def _find_in_folder(folder: str) -> Iterator[AudioInput]:
    """Find audio in a folder and the folders in it, except hidden ones; links to folders are followed, each once."""
    is_empty = True
    with failing_as_input():  # what was found before a folder that cannot be read is kept
        for path in find_audio(folder):
            if (kind := kind_of_path(path)) is not None:
                _pass_over(path, kind)
                continue
            is_empty = False
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
        if (kind := kind_of_path(path)) is not None:
            _pass_over(path, kind)
        else:
            name = _name_below(path, os.path.join(*parts[:fixed]) if fixed else ".")
            yield AudioInput(AudioClip(path), path, name)


def _name_below(path: str, folder: str) -> str:
    return Path(os.path.relpath(path, folder)).with_suffix("").as_posix()


def _read_manifest(path: str) -> Iterator[AudioInput]:
    """
    Read a clip from each line: `audio_filepath`, and for a part `offset` and `duration` in seconds.

    A line that is not accepted is a clip with an error. What is not a manifest at all is one error, and transcripts
    that this package wrote are passed over, so that `transcribe *` can be run again.
    """
    with failing_as_input():
        entries = [(row, line, parse_json_line(line)) for row, line in read_lines(path)]
    if not entries:
        raise InputError(f"{path!r} is empty; expected {MANIFEST_FORM}.")
    is_manifest = len(entries) == 1 or any(isinstance(entry, dict) for _, _, entry in entries)
    content = None if is_manifest else parse_whole_json(path)
    transcripts = [content] if content is not None else [entry for _, _, entry in entries]
    if all(map(_is_transcript, transcripts)):
        say(f"{path!r} is a transcript that this package wrote: it is passed over.")
        return
    if not is_manifest:
        raise InputError(f"{path!r} is not a manifest; expected {MANIFEST_FORM}.")
    for row, line, entry in entries:
        found = read_manifest_line(line, entry, path, row)
        try:
            yield _input_of_line(found, path)
        except ValueError as error:
            where = found.where
            told = error if isinstance(error, InputError) else InputError(f"{where}: {error}")
            yield AudioInput(AudioClip(path, label=where), where, where, found.entry, path, row, told)


def _is_transcript(content: Any) -> bool:
    """Tell whether a JSON value is what `--format json` writes."""
    package = content.get("package") if isinstance(content, dict) else None
    return isinstance(package, dict) and package.get("name") == PACKAGE_NAME and "audio_filepath" not in content


def _input_of_line(line: ManifestLine, path: str) -> AudioInput:
    if line.error is not None:
        raise InputError(str(line.error))
    clip = AudioClip(line.source, start_seconds=line.start_seconds, seconds=line.seconds)
    # Full paths, and those that lead out of a folder, cannot name files below the output folder.
    audio = line.entry["audio_filepath"]
    below = name_path(audio)
    name = below.stem if below.is_absolute() or ".." in below.parts else str(below.with_suffix(""))
    if line.entry.get("offset") is not None:
        name += f"_{line.start_seconds:g}"
        name += "" if line.seconds is None else f"-{line.start_seconds + line.seconds:g}"
    return AudioInput(clip, audio, name, line.entry, path, line.row)


def _each_channel(item: AudioInput, temporary_folder: Path) -> Iterator[AudioInput]:
    clip = item.clip
    if item.error is not None:
        yield item
        return
    try:
        if clip.is_remote:
            path = temporary_folder / f"download{len(os.listdir(temporary_folder))}"
            path.write_bytes(download_audio(clip.source))
            clip = replace(clip, source=str(path), label=repr(clip.source))
        header = read_header(clip.source)
    except Exception as error:  # reported with the others
        yield replace(item, error=_named(error, item.file))
        return
    if header is None:  # not audio, which is reported when its turn comes
        yield replace(item, clip=clip)
        return
    for channel in range(header.num_channels):
        name = item.name if header.num_channels == 1 else f"{item.name}.channel{channel}"
        yield replace(item, clip=replace(clip, channel=channel), name=name)
