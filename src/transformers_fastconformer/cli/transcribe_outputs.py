"""Outputs of `fastconformer transcribe`: the standard output, in order, or a folder of files that are whole."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..writers.formats import MANIFEST_FORMAT, OUTPUT_FORMATS, UNTITLED_FORMATS, format_transcript
from ..writers.record import TranscriptRecord
from ..writers.subtitles import SubtitleRules
from .transcribe_inputs import AudioInput

JSON_INDENT = 1
# Ending of the file with the lines of a manifest that is not whole yet.
UNFINISHED_SUFFIX = ".part"


class Output(Protocol):
    """Place to which transcripts are written."""

    def has(self, index: int) -> bool:
        """Tell whether all output of an input exists already."""

    def write(self, index: int, record: TranscriptRecord) -> None:
        """Write the transcript of an input, now or when its turn comes."""

    def skip(self, index: int) -> None:
        """Note that an input has failed and will not have a transcript."""

    def close(self, is_whole: bool) -> None:
        """Write what still waits; `is_whole` is true if the run has come to its end."""


def write_atomically(path: Path, text: str) -> None:
    """
    Write a file so that it exists whole or not at all.

    Raises:
        OSError: with the file's name, when it cannot be written.
    """
    temporary = path.parent / f".fastconformer-{os.getpid()}{UNFINISHED_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _cannot_write(str(path), error) from error


def _cannot_write(name: str, error: OSError) -> OSError:
    return OSError(f"{name} cannot be written: {error.strerror or error}")


def write_standard_output(text: str) -> None:
    """
    Write text to the standard output and flush it.

    Raises:
        OSError: when it leads to a file and the disk is full.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # The interpreter would try to write the buffer again when it ends, and then print a message of its own.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        if isinstance(error, BrokenPipeError):  # the reader has read enough
            raise
        raise _cannot_write("the standard output", error) from error


@dataclass
class StandardOutput:
    """
    One format on the standard output, in the order of the inputs.

    Args:
        inputs: Clips that are transcribed.
        transcript_format: Format that is written.
        rules: Rules for subtitles.
    """

    inputs: Sequence[AudioInput]
    transcript_format: str
    rules: SubtitleRules
    _waiting: dict[int, str | None] = field(default_factory=dict)
    _next: int = 0

    def has(self, index: int) -> bool:
        return False

    def write(self, index: int, record: TranscriptRecord) -> None:
        text = format_transcript(record, self.transcript_format, self.rules)
        if self.transcript_format in UNTITLED_FORMATS and len(self.inputs) > 1:
            text = f"{_title(self.inputs[index])}: {text}"
        self._waiting[index] = text
        self._write_in_order()

    def skip(self, index: int) -> None:
        self._waiting[index] = None
        self._write_in_order()

    def _write_in_order(self) -> None:
        while self._next in self._waiting:
            text = self._waiting.pop(self._next)
            self._next += 1
            if text is not None:
                write_standard_output(text)

    def close(self, is_whole: bool) -> None:
        """Write the transcripts that wait for a clip that was not done."""
        for index in sorted(self._waiting):
            text = self._waiting.pop(index)
            if text is not None:
                write_standard_output(text)


def _title(item: AudioInput) -> str:
    start, channel = item.clip.start_seconds, item.clip.channel
    extra = [f"{start:g} s"] if start else []
    extra += [] if channel == "mix" else [f"channel {channel}"]
    return f"{item.file} ({', '.join(extra)})" if extra else item.file


@dataclass
class _Manifest:
    """
    A manifest that is being written.

    Args:
        path: Path of the finished manifest.
        indices: Numbers of the inputs that are its lines.
        lines: Lines that are known so far.
        is_anew: True if the unfinished file comes from an earlier run and must be written over.
        is_cut_off: True if the unfinished file ends in the middle of a line.
    """

    path: Path
    indices: list[int] = field(default_factory=list)
    lines: dict[int, str] = field(default_factory=dict)
    is_anew: bool = False
    is_cut_off: bool = False

    @property
    def unfinished_path(self) -> Path:
        return self.path.with_name(self.path.name + UNFINISHED_SUFFIX)


class FolderOutput:
    """
    Folder with a file for each input and format; a line of a manifest becomes a line of a manifest.

    A file that exists is finished. A manifest grows in an unfinished file next to its place, from which a later run
    goes on. It is written to its place at the end of a run; the unfinished file stays as long as lines are missing.

    Args:
        folder: Folder to write to; it is made when something is written.
        inputs: Clips that are transcribed.
        formats: Formats that are written for each clip.
        rules: Rules for subtitles.
        overwrite: True to write again what exists already.

    Raises:
        ValueError: when two inputs have the same name, an input would be written over, or the folder cannot be written
            to.
    """

    def __init__(
        self,
        folder: Path,
        inputs: Sequence[AudioInput],
        formats: Sequence[str],
        rules: SubtitleRules,
        overwrite: bool = False,
    ) -> None:
        self._inputs = inputs
        self._rules = rules
        self._targets: list[dict[str, Path]] = []
        self._manifests: dict[Path, _Manifest] = {}
        self._manifest_of: dict[int, _Manifest] = {}
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{str(folder)!r} is a file; expected a folder to write to.")
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not os.access(existing, os.W_OK):
            raise ValueError(f"{str(folder)!r} cannot be written to; expected a folder with the right to write.")
        for index, item in enumerate(inputs):
            targets = {name: folder / f"{item.name}.{OUTPUT_FORMATS[name].suffix}" for name in formats}
            if item.manifest_path is not None and MANIFEST_FORMAT in targets:
                path = folder / f"{Path(item.manifest_path).stem}.{OUTPUT_FORMATS[MANIFEST_FORMAT].suffix}"
                del targets[MANIFEST_FORMAT]
                manifest = self._manifests.setdefault(path, _Manifest(path))
                manifest.indices.append(index)
                self._manifest_of[index] = manifest
            self._targets.append(targets)
        self._check_names()
        self._finished = {
            index
            for index, targets in enumerate(self._targets)
            if not overwrite and all(path.is_file() for path in targets.values())
        }
        for manifest in self._manifests.values():
            self._take_up(manifest, overwrite)
        self._finished -= {index for index, manifest in self._manifest_of.items() if index not in manifest.lines}

    def _check_names(self) -> None:
        sources = {os.path.abspath(item.clip.source) for item in self._inputs if not item.clip.is_remote}
        owners: dict[Path, AudioInput] = {}
        for item, targets in zip(self._inputs, self._targets, strict=True):
            for path in targets.values():
                other = owners.setdefault(path, item)
                if other is not item:
                    raise ValueError(
                        f"{_title(other)!r} and {_title(item)!r} would both be written to {str(path)!r}; expected "
                        "inputs with different names, or one folder that holds them all."
                    )
        rows: dict[tuple[Path, int, Any], AudioInput] = {}
        for index, manifest in self._manifest_of.items():
            item = self._inputs[index]
            row = (manifest.path, item.row, item.clip.channel)
            if manifest.path in owners or rows.setdefault(row, item) is not item:
                raise ValueError(
                    f"{str(manifest.path)!r} would be written by two inputs; expected manifests with different names."
                )
        sources |= {os.path.abspath(item.manifest_path) for item in self._inputs if item.manifest_path is not None}
        for path in [*owners, *self._manifests]:
            if os.path.abspath(path) in sources:
                raise ValueError(f"{str(path)!r} would be written over, and is an input; expected another folder.")

    def has(self, index: int) -> bool:
        return index in self._finished

    def write(self, index: int, record: TranscriptRecord) -> None:
        # All formats are made before the first is written: a transcript is written in all formats or in none.
        texts = {
            path: format_transcript(record, name, self._rules, JSON_INDENT)
            for name, path in self._targets[index].items()
        }
        for path, text in texts.items():
            write_atomically(path, text)
        manifest = self._manifest_of.get(index)
        if manifest is not None:
            manifest.lines[index] = format_transcript(record, MANIFEST_FORMAT)
            self._append(manifest, index)

    def skip(self, index: int) -> None:
        """Write nothing for an input that has failed."""

    def close(self, is_whole: bool) -> None:
        """Write manifests to their places; those of a run that was ended early wait for the next run."""
        for manifest in self._manifests.values() if is_whole else ():
            missing = [index for index in manifest.indices if index not in manifest.lines]
            if not manifest.lines:
                continue
            is_grown = manifest.unfinished_path.exists()
            if is_grown or not manifest.path.exists():
                lines = [manifest.lines[index] for index in manifest.indices if index in manifest.lines]
                write_atomically(manifest.path, "".join(lines))
            if not missing:
                manifest.unfinished_path.unlink(missing_ok=True)

    # Manifests

    def _key(self, index: int) -> dict[str, Any]:
        item = self._inputs[index]
        return {"row": item.row, "channel": item.clip.channel, "manifest": item.manifest}

    def _append(self, manifest: _Manifest, index: int) -> None:
        line = json.dumps({**self._key(index), "line": manifest.lines[index]}, ensure_ascii=False)
        path = manifest.unfinished_path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w" if manifest.is_anew else "a", encoding="utf-8", newline="\n") as file:
                file.write("\n" + line + "\n" if manifest.is_cut_off else line + "\n")
            manifest.is_anew = manifest.is_cut_off = False
        except OSError as error:
            raise _cannot_write(str(path), error) from error

    def _take_up(self, manifest: _Manifest, overwrite: bool) -> None:
        """Read the lines that an earlier run has written for the same lines of the same manifest."""
        if overwrite:
            manifest.is_anew = True
            return
        rows = {(item["row"], item["channel"]): (index, item["manifest"]) for index, item in self._keys(manifest)}
        if manifest.unfinished_path.is_file():
            text = manifest.unfinished_path.read_text(encoding="utf-8", errors="replace")
            manifest.is_cut_off = not text.endswith("\n")
            for line in text.split("\n"):
                with suppress(ValueError, KeyError, TypeError):  # half a line
                    found = json.loads(line)
                    index, entry = rows[(found["row"], found["channel"])]
                    if found["manifest"] == entry:
                        manifest.lines[index] = found["line"]
        elif manifest.path.is_file():
            lines = manifest.path.read_text(encoding="utf-8").split("\n")[:-1]
            if len(lines) != len(manifest.indices) or not all(map(self._is_line_of, manifest.indices, lines)):
                raise ValueError(
                    f"{str(manifest.path)!r} exists and holds other lines; expected those of the manifest, or "
                    "--overwrite."
                )
            manifest.lines = {index: line + "\n" for index, line in zip(manifest.indices, lines, strict=True)}

    def _keys(self, manifest: _Manifest) -> list[tuple[int, dict[str, Any]]]:
        return [(index, self._key(index)) for index in manifest.indices]

    def _is_line_of(self, index: int, text: str) -> bool:
        item = self._inputs[index]
        try:
            entry = json.loads(text)
        except ValueError:
            return False
        channel = {} if item.clip.channel == "mix" else {"channel": item.clip.channel}
        wanted = {**(item.manifest or {}), **channel}
        return isinstance(entry, dict) and all(entry.get(name) == value for name, value in wanted.items())
