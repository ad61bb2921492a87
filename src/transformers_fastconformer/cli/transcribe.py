"""`fastconformer transcribe`: audio files to text, JSON or subtitles."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..audio import read_audio
from ..demonstration import CHECKPOINT_PATH
from ..pipeline_fastconformer import load_model, split_batches, transcribe_waveforms
from ..subtitles import FORMATS, format_subtitles
from .errors import show_error

DEMONSTRATION_NAME = "demo"


class OutputFormat(str, Enum):
    """What is written for each file."""

    TEXT = "text"
    JSON = "json"
    SRT = "srt"
    VTT = "vtt"


class Head(str, Enum):
    """Which head of a checkpoint decodes."""

    AUTO = "auto"
    CTC = "ctc"
    TRANSDUCER = "transducer"


class Precision(str, Enum):
    """Precision of the model."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def transcribe(
    files: Annotated[list[Path], typer.Argument(help="Audio files: WAV, FLAC, OGG, MP3.")],
    model: Annotated[
        str,
        typer.Option(
            help="Folder or Hub repository in our format, or a .nemo file and what holds one (converted once); "
            f"'{DEMONSTRATION_NAME}' is the spoken-digit model that the package carries."
        ),
    ],
    output_format: Annotated[
        OutputFormat,
        typer.Option("--format", help="Text; JSON with times, one line a file; subtitles of one file."),
    ] = OutputFormat.TEXT,
    head: Annotated[
        Head, typer.Option(help="Head of a hybrid checkpoint; auto is the transducer where there is one.")
    ] = Head.AUTO,
    batch_size: Annotated[
        int, typer.Option("--batch_size", min=1, help="Files, or chunks of long ones, in one batch.")
    ] = 8,
    language: Annotated[str | None, typer.Option(help="Language code, for models that are told the language.")] = None,
    chunk_length_s: Annotated[
        float | None,
        typer.Option("--chunk_length_s", help="Seconds that the encoder sees at once; default: whole files."),
    ] = None,
    stride_length_s: Annotated[
        float | None,
        typer.Option("--stride_length_s", help="Seconds of a chunk that are context, on each side; default: a sixth."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[Precision, typer.Option(help="Precision of the model.")] = Precision.AUTO,
) -> None:
    """Transcribe audio files. The text goes to the standard output; with several files each line names its file.

    A file that is no audio is an error that names it; the others are transcribed, and the exit code is 1.
    """
    for file in files:
        if not file.exists():
            raise FileNotFoundError(f"{str(file)!r} does not exist; expected an audio file.")
    has_subtitles = output_format.value in FORMATS
    if has_subtitles and len(files) > 1:
        raise ValueError(f"--format {output_format.value} takes one file at a time; found {len(files)}.")
    source = CHECKPOINT_PATH if model == DEMONSTRATION_NAME else model
    loaded, processor = load_model(source, head.value, device, dtype.value)
    sampling_rate = processor.feature_extractor.sampling_rate
    num_unreadable = 0
    for paths in split_batches(files, batch_size):
        readable, waveforms = [], []
        for path in paths:
            try:
                waveforms.append(read_audio(path, sampling_rate))
                readable.append(path)
            except (ValueError, OSError) as error:  # no reason to lose what is said in the others
                num_unreadable += 1
                show_error(error)
        if not waveforms:
            continue
        transcripts = transcribe_waveforms(
            loaded,
            processor,
            waveforms,
            timestamps=["word"] if has_subtitles else output_format is OutputFormat.JSON,
            language=language,
            chunk_length_s=chunk_length_s,
            stride_length_s=stride_length_s,
            batch_size=batch_size,
        )
        for path, transcript in zip(readable, transcripts, strict=True):
            if output_format is OutputFormat.JSON:
                typer.echo(json.dumps({"file": str(path), **asdict(transcript)}, ensure_ascii=False))
            elif has_subtitles:
                words = (transcript.timestamps or {})["word"]
                typer.echo(format_subtitles(words, output_format.value), nl=False)
            else:
                typer.echo(transcript.text if len(files) == 1 else f"{path}: {transcript.text}")
    if num_unreadable:
        raise typer.Exit(1)
