"""Output of `fastconformer transcribe` into a folder: files that are whole, of which finished ones stay."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..temporary_files import remove_leftovers
from ..writers.formats import MANIFEST_FORMAT, OUTPUT_FORMATS, format_transcript
from ..writers.record import TranscriptRecord
from ..writers.subtitles import SubtitleRules
from .errors import say
from .exit_codes import InputError
from .transcribe_inputs import AudioInput
from .transcribe_outputs import name_input
from .transcribe_sources import OutputKey, SourceLine, SourceRecord, find_source, make_digest
from .unfinished_manifest import UnfinishedManifest
from .whole_files import OutputError, WholeFiles, cannot_write, encode

JSON_INDENT = 1
# Longest name of a file in all usual file systems.
MAX_NAME_BYTES = 255


class FolderOutput:
    """
    Folder with a file for each input and format; a line of a manifest becomes a line of a manifest.

    A file that exists is finished if the record of the folder says that it was made from the same audio, or does not
    know it; one that was made from another is an error of the input. A manifest grows in an unfinished file next to
    its place, from which a later run goes on. It is written to its place at the end of a run; the unfinished file
    stays as long as lines are missing. Several runs may write to one folder: each file is that of one of them, whole;
    a manifest is locked by the first.

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
        self._files = WholeFiles(folder)
        self._targets: list[dict[str, Path]] = []
        self._manifests: dict[Path, UnfinishedManifest] = {}
        self._manifest_of: dict[int, UnfinishedManifest] = {}
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{str(folder)!r} is a file; expected a folder to write to.")
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
        if not os.access(existing, os.W_OK):
            raise ValueError(f"{str(folder)!r} cannot be written to; expected a folder with the right to write.")
        remove_leftovers(folder)
        for index, item in enumerate(inputs):
            targets = {name: folder / f"{item.name}.{OUTPUT_FORMATS[name].suffix}" for name in formats}
            if item.manifest_path is not None and MANIFEST_FORMAT in targets:
                path = folder / f"{Path(item.manifest_path).stem}.{OUTPUT_FORMATS[MANIFEST_FORMAT].suffix}"
                del targets[MANIFEST_FORMAT]
                manifest = self._manifests.setdefault(path, UnfinishedManifest(path))
                manifest.indices.append(index)
                self._manifest_of[index] = manifest
            self._targets.append(targets)
        self._check_names()
        self._record = SourceRecord(folder)
        self._sources = [None if item.error is not None else find_source(item) for item in inputs]
        self._refusals: dict[int, InputError] = {}
        self._unknown: set[int] = set()
        self._finished = set() if overwrite else self._find_finished()
        for manifest in self._manifests.values():
            self._take_up(manifest, overwrite)
        self._finished -= {index for index, manifest in self._manifest_of.items() if index not in manifest.lines}
        self._finished -= set(self._refusals)
        if num_unknown := len(self._unknown & self._finished):
            say(
                f"Outputs in {str(folder)!r} that were made or changed by hand, or made by an earlier version, "
                f"count as finished: {num_unknown}."
            )

    def _check_names(self) -> None:
        sources = {os.path.abspath(item.clip.source) for item in self._inputs if not item.clip.is_remote}
        owners: dict[Path, AudioInput] = {}
        for item, targets in zip(self._inputs, self._targets, strict=True):
            for path in targets.values() if item.error is None else ():
                other = owners.setdefault(path, item)
                if other is not item:
                    raise ValueError(
                        f"{name_input(other)!r} and {name_input(item)!r} would both be written to {str(path)!r}; "
                        "expected inputs with different names, or one folder that holds them all."
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

    def _find_finished(self) -> set[int]:
        """Inputs all of whose files exist; those that exist are compared with the record."""
        finished = set()
        for index, targets in enumerate(self._targets):
            if self._sources[index] is None:
                continue
            existing = [path for path in targets.values() if os.path.isfile(path)]
            for path in existing:
                content = b""
                with suppress(OSError):
                    content = path.read_bytes()
                self._compare(index, path, self._key_of(path), content)
            if len(existing) == len(targets):
                finished.add(index)
        return finished

    def _key_of(self, path: Path, index: int | None = None) -> OutputKey:
        """Key of a file in the record, or with the number of an input of its line in a manifest."""
        name = path.relative_to(self._record.path.parent).as_posix()
        return (
            (name, None, None) if index is None else (name, self._inputs[index].row, self._inputs[index].clip.channel)
        )

    def _compare(self, index: int, path: Path, key: OutputKey, content: bytes) -> bool:
        """Compare the source of an output that exists with that of its input; false if it is known to be another."""
        wanted = self._sources[index]
        found, is_certain = self._record.find(key, content)
        if not is_certain:
            self._unknown.add(index)
        if wanted is None or found is None or found == wanted:
            return True
        where = repr(str(path)) if key[1] is None else f"line {key[1] + 1} of {str(path)!r}"
        reason = f"and not from {wanted.describe()}"
        if found.is_same_place(wanted):
            reason = "before that was changed"
        self._refusals[index] = InputError(
            f"{where} was made from {found.describe()}, {reason}; expected --overwrite, or another --output_dir."
        )
        return False

    def has(self, index: int) -> bool:
        return index in self._finished

    def check(self, index: int) -> None:
        item = self._inputs[index]
        if index in self._refusals:
            raise self._refusals[index]
        for path in self._targets[index].values():
            for name in (path.name, *(parent.name for parent in path.parents)):
                if len(os.fsencode(name)) > MAX_NAME_BYTES:
                    raise InputError(
                        f"{name_input(item)!r} would be written to a file whose name {name!r} is longer than "
                        f"{MAX_NAME_BYTES} bytes; expected a shorter name."
                    )
            if os.path.isdir(path):
                raise InputError(f"{name_input(item)!r} would be written to {str(path)!r}, which is a folder.")

    def write(self, index: int, record: TranscriptRecord) -> None:
        # All formats are made before the first is written: a transcript is written in all formats or in none.
        texts = {
            path: format_transcript(record, name, self._rules, JSON_INDENT)
            for name, path in self._targets[index].items()
        }
        manifest = self._manifest_of.get(index)
        line = None if manifest is None else format_transcript(record, MANIFEST_FORMAT)
        contents = {self._key_of(path): text for path, text in texts.items()}
        if manifest is not None and line is not None:
            contents[self._key_of(manifest.path, index)] = line
        self._files.write(texts, lambda: self._add_to_record(index, contents))
        if manifest is not None and line is not None:
            manifest.lines[index] = line
            self._append(manifest, index)

    def _add_to_record(self, index: int, contents: Mapping[OutputKey, str]) -> None:
        source = self._sources[index]
        assert source is not None, index  # an input with an error has no transcript
        try:
            self._record.add([SourceLine(key, make_digest(encode(text)), source) for key, text in contents.items()])
        except OSError as error:
            raise cannot_write(str(self._record.path), error) from error

    def skip(self, index: int) -> None:
        """Write nothing for an input that has failed."""

    def close(self, is_whole: bool) -> None:
        """Write manifests to their places; those of a run that was ended early wait for the next run."""
        try:
            for manifest in self._manifests.values() if is_whole else ():
                missing = [index for index in manifest.indices if index not in manifest.lines]
                if not manifest.lines:
                    continue
                is_grown = manifest.unfinished_path.exists()
                if is_grown or not manifest.path.exists():
                    lines = [manifest.lines[index] for index in manifest.indices if index in manifest.lines]
                    self._files.write({manifest.path: "".join(lines)})
                if not missing:
                    manifest.remove_unfinished()
        finally:
            for manifest in self._manifests.values():
                manifest.close()
            self._files.close()

    # Manifests

    def _key(self, index: int) -> dict[str, Any]:
        item = self._inputs[index]
        return {"row": item.row, "channel": item.clip.channel, "manifest": item.manifest}

    def _append(self, manifest: UnfinishedManifest, index: int) -> None:
        line = json.dumps({**self._key(index), "line": manifest.lines[index]}, ensure_ascii=False)
        path = manifest.unfinished_path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_first = manifest.file is None
            file = manifest.open()
            # What a run that was killed has left may end in the middle of a line.
            file.write(b"\n" * (is_first and file.tell() > 0) + encode(line + "\n"))
            file.flush()
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error

    def _take_up(self, manifest: UnfinishedManifest, overwrite: bool) -> None:
        """Read the lines that an earlier run has written for the same lines of the same manifest."""
        if manifest.unfinished_path.is_file():
            file = manifest.open()
            if overwrite:
                file.truncate(0)
                return
            file.seek(0)
            rows = {(item["row"], item["channel"]): (index, item["manifest"]) for index, item in self._keys(manifest)}
            for text in file.read().decode("utf-8", "replace").split("\n"):
                found = _read_object(text) or {}  # half a line, or one that was spoilt, is done again
                with suppress(KeyError, TypeError):
                    index, entry = rows[(found["row"], found["channel"])]
                    if found["manifest"] == entry and self._is_line_of(index, found["line"]):
                        self._take_line(manifest, index, found["line"].removesuffix("\n") + "\n")
        elif manifest.path.is_file() and not overwrite:
            lines = manifest.path.read_bytes().decode("utf-8", "replace").split("\n")[:-1]
            if len(lines) != len(manifest.indices) or not all(map(self._is_line_of, manifest.indices, lines)):
                raise ValueError(
                    f"{str(manifest.path)!r} exists and holds other lines; expected those of the manifest, or "
                    "--overwrite."
                )
            for index, line in zip(manifest.indices, lines, strict=True):
                self._take_line(manifest, index, line + "\n")

    def _take_line(self, manifest: UnfinishedManifest, index: int, line: str) -> None:
        if self._compare(index, manifest.path, self._key_of(manifest.path, index), encode(line)):
            manifest.lines[index] = line

    def _keys(self, manifest: UnfinishedManifest) -> list[tuple[int, dict[str, Any]]]:
        return [(index, self._key(index)) for index in manifest.indices]

    def _is_line_of(self, index: int, text: Any) -> bool:
        item = self._inputs[index]
        entry = _read_object(text)
        channel = {} if item.clip.channel == "mix" else {"channel": item.clip.channel}
        wanted = {**(item.manifest or {}), **channel}
        is_whole = entry is not None and "pred_text" in entry and "\n" not in text.removesuffix("\n")
        return is_whole and all(entry.get(name) == value for name, value in wanted.items())  # type: ignore[union-attr]


def _read_object(text: Any) -> dict[str, Any] | None:
    """The JSON object in a line; None for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
