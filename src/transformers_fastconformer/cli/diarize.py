"""`fastconformer diarize`: who speaks when, as RTTM or JSON; and the speakers of `transcribe --diarize`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path, PurePath
from typing import Annotated, Any

import typer

from ..diarization.attribution import name_speaker
from ..diarization.recordings import (
    DEFAULT_DIARIZATION_MODEL,
    Diarization,
    DiarizationOptions,
    Diarizer,
    load_diarizer,
)
from ..diarization.recordings import (
    diarize as diarize_recording,
)
from ..diarization.turns import TUNED
from ..inference.loading import SPEAKERS_DEMONSTRATION_NAME
from ..modeling.speaker_cache import PRESETS
from ..temporary_files import TemporaryFolder
from ..writers.nist import one_field, rttm_line
from .errors import say, show_error
from .exit_codes import ExitCode
from .model_options import DtypeOption, Precision
from .transcribe_inputs import AudioInput, find_inputs, parse_channel
from .whole_files import WholeFiles

SECONDS_DIGITS = 3


class DiarizationFormat(str, Enum):
    """Form of the result."""

    RTTM = "rttm"
    JSON = "json"


FilesArgument = Annotated[
    list[str], typer.Argument(help="Audio files, folders, patterns, http(s) addresses, - for the standard input.")
]
DiarizerOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="Sortformer checkpoint: a .nemo file, a folder, or a Hub repository; "
        f"{SPEAKERS_DEMONSTRATION_NAME}: that of the speakers of digits, which the package carries.",
        show_default=True,
    ),
]
LatencyOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"How far the model looks ahead: {', '.join(PRESETS)} (30.4, 10, 1.04, 0.32 s). Default: what the "
        "checkpoint was trained with.",
    ),
]
TurnsOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Rules for turns that were tuned for a data set: {', '.join(TUNED)}. Default: none of them.",
    ),
]
FormatOption = Annotated[
    DiarizationFormat,
    typer.Option("--format", metavar="NAME", help="rttm (a line a turn, as NIST's tools read it) or json."),
]
OutputDirOption = Annotated[
    Path | None, typer.Option("--output_dir", help="Folder for a file for each recording. Default: standard output.")
]
DeviceOption = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, mps, or auto.")]


def diarize(
    files: FilesArgument,
    model: DiarizerOption = DEFAULT_DIARIZATION_MODEL,
    latency: LatencyOption = None,
    turns: TurnsOption = None,
    form: FormatOption = DiarizationFormat.RTTM,
    output_dir: OutputDirOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do recordings again whose files are there; they are left out else.")
    ] = False,
    channel: Annotated[str, typer.Option(help="mix (the mean of the channels), each, or a number, from 0.")] = "mix",
    device: DeviceOption = "auto",
    dtype: DtypeOption = Precision.AUTO,
) -> None:
    """Tell who speaks when.

    Speakers are numbered by when they are first heard. Memory does not grow with the length of a recording.
    """
    options = make_diarization_options(latency, turns)
    if overwrite and output_dir is None:
        raise ValueError("--overwrite belongs to --output_dir.")
    with TemporaryFolder() as folder:
        inputs = find_inputs(files, parse_channel(channel), folder)
        if output_dir is not None and not overwrite:
            inputs = _leave_out_finished(inputs, form, output_dir)
        is_failed = bool(inputs) and _run(inputs, load_diarizer(model, device, dtype.value), options, form, output_dir)
    if is_failed:
        raise typer.Exit(ExitCode.INPUTS_FAILED)


def _leave_out_finished(inputs: Sequence[AudioInput], form: DiarizationFormat, output_dir: Path) -> list[AudioInput]:
    """Recordings whose files are not there yet."""
    kept = [item for item in inputs if not (output_dir / f"{item.name}.{form.value}").exists()]
    if len(kept) < len(inputs):
        say(f"{len(inputs) - len(kept)} of {len(inputs)} finished before; --overwrite does them again.")
    return kept


def make_diarization_options(latency: str | None, turns: str | None) -> DiarizationOptions:
    """The options that the command line names."""
    options = DiarizationOptions(latency=latency)
    return options if turns is None else replace(options, turns=turns)


def _run(
    inputs: Sequence[AudioInput],
    diarizer: Diarizer,
    options: DiarizationOptions,
    form: DiarizationFormat,
    output_dir: Path | None,
) -> bool:
    """Diarise all recordings; true if something has failed."""
    errors: list[Exception] = []
    outputs = None if output_dir is None else WholeFiles(output_dir)
    try:
        for item in inputs:
            try:
                if item.error is not None:
                    raise item.error
                text = _write(item, diarize_recording(item.clip, diarizer, options), form)
            except (ValueError, FileNotFoundError, ImportError) as error:
                errors.append(error)
                continue
            if outputs is None or output_dir is None:
                typer.echo(text, nl=False)
            else:
                outputs.write({output_dir / f"{item.name}.{form.value}": text})
    finally:
        if outputs is not None:
            outputs.close()
    for found in errors:
        show_error(found)
    return bool(errors)


def _write(item: AudioInput, found: Diarization, form: DiarizationFormat) -> str:
    """The turns of a recording; times count from the start of the file."""
    start = item.clip.start_seconds
    name = item.name or PurePath(item.file).stem
    turns = [(name_speaker(turn.speaker), start + turn.start, start + turn.end) for turn in found.turns]
    if form is DiarizationFormat.RTTM:
        channel = 1 + item.clip.channel if isinstance(item.clip.channel, int) else 1
        return "".join(rttm_line(one_field(name), channel, begin, end, speaker) for speaker, begin, end in turns)
    content: dict[str, Any] = {
        "file": item.file,
        "channel": item.clip.channel,
        "duration_seconds": found.duration_seconds,
        "speakers": [name_speaker(speaker) for speaker in found.speakers],
        "turns": [
            {"speaker": speaker, "start": round(begin, SECONDS_DIGITS), "end": round(end, SECONDS_DIGITS)}
            for speaker, begin, end in turns
        ],
    }
    return json.dumps(content, ensure_ascii=False) + "\n"
