"""`fastconformer transcribe`: audio to text, JSON, subtitles and other formats; one file or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..audio.voice_activity import VoiceActivityOptions, check_voice_activity
from ..decoding.confidence import ConfidenceOptions
from ..decoding.options import DecodingOptions
from ..inference.loading import AUTO_DEVICE, DEFAULT_MODEL, DEMONSTRATION_NAME, STREAMING_DEMONSTRATION_NAME
from ..inference.options import ChunkOptions, TranscriptionOptions
from ..temporary_files import TemporaryFolder
from ..writers.formats import (
    CONFIDENT_FORMATS,
    FORMATS,
    MANIFEST_FORMAT,
    PAUSE_FORMATS,
    STREAM_FORMATS,
    SUBTITLE_FORMATS,
    SYNONYMS,
    TIMED_FORMATS,
    list_formats,
)
from ..writers.subtitles import SubtitleRules
from .exit_codes import ExitCode
from .transcribe_inputs import AudioInput, find_inputs, parse_channel
from .transcribe_outputs import FolderOutput, Output, StandardOutput
from .transcribe_run import Checkpoint, TranscriptionRun
from .transcribe_sources import SourceRecord

SUBTITLES_PANEL = f"Subtitles ({', '.join(SUBTITLE_FORMATS)})"
MANY_PANEL = "Many files"
VOICE_PANEL = "Voice activity"


class Head(str, Enum):
    """Head of a checkpoint that decodes."""

    AUTO = "auto"
    CTC = "ctc"
    TRANSDUCER = "transducer"


class Precision(str, Enum):
    """Precision of the model."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class Strategy(str, Enum):
    """Way in which long audio is transcribed."""

    AUTO = "auto"
    FULL = "full"
    LOCAL = "local"
    CHUNKED = "chunked"


FilesArgument = Annotated[
    list[str],
    typer.Argument(
        help="Audio files (WAV, FLAC, OGG, MP3), folders, patterns, http(s) addresses, - for the standard input, "
        "manifests (.jsonl, .json: one JSON object a line with audio_filepath, and offset and duration of parts)."
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        help="Hub repository, folder or .nemo file (converted once); "
        f"{DEMONSTRATION_NAME}, {STREAMING_DEMONSTRATION_NAME}: the spoken-digit models that the package carries, "
        "which need no network. "
        f"Default: {DEFAULT_MODEL}."
    ),
]
FormatsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help=f"{list_formats()}; several with commas or given again. Default: txt, for manifests jsonl.",
    ),
]
OutputDirOption = Annotated[
    Path | None,
    typer.Option(
        "--output_dir",
        help="Write a file for each input and format here, and not to the standard output. What is there already "
        "is not done again.",
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Do again what is in --output_dir already.", rich_help_panel=MANY_PANEL)
]
ChannelOption = Annotated[
    str, typer.Option(help="mix (the mean of the channels), each (a transcript of each), or a number, from 0.")
]
StrategyOption = Annotated[
    Strategy,
    typer.Option(
        metavar="NAME",  # the choices would leave no room for the text, which explains them
        help="Long audio: full (the encoder sees all of it), local (it does, each frame about 10 s on both "
        "sides), chunked (overlapping windows), auto (by length and memory).",
    ),
]
HeadOption = Annotated[
    Head,
    typer.Option(
        metavar="NAME",
        help="Head of a hybrid checkpoint: ctc, transducer, or auto (the transducer where there is one).",
    ),
]
LanguageOption = Annotated[str | None, typer.Option(help="Code of the language, for models that are told it.")]
ChunkLengthSOption = Annotated[
    float | None,
    typer.Option("--chunk_length_s", help="Seconds that the encoder sees at once; makes auto chunked."),
]
StrideLengthSOption = Annotated[
    float | None,
    typer.Option("--stride_length_s", help="Seconds of a chunk that are context, on each side; default: a sixth."),
]
VadOption = Annotated[
    bool,
    typer.Option(
        "--vad",
        help="Find out first where something is said, and transcribe only that. Needs the extra vad.",
        rich_help_panel=VOICE_PANEL,
    ),
]
VadThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--vad_threshold",
        help="Probability from which a sound is speech. Default: 0.5.",
        rich_help_panel=VOICE_PANEL,
    ),
]
VadMinSilenceSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--vad_min_silence_seconds",
        help="Shorter silence is not skipped. Default: 1.",
        rich_help_panel=VOICE_PANEL,
    ),
]
VadPaddingSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--vad_padding_seconds",
        help="Silence that is kept before and after speech. Default: 0.4.",
        rich_help_panel=VOICE_PANEL,
    ),
]
VadMaxPartSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--vad_max_part_seconds",
        help="Longer speech is cut in a pause. Default: 30.",
        rich_help_panel=VOICE_PANEL,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="Where the model runs: cpu, cuda, mps, or auto (the first there is of cuda, mps, cpu); several, such "
        "as cuda:0,cuda:1, share the files."
    ),
]
DtypeOption = Annotated[
    Precision,
    typer.Option(
        metavar="NAME",
        help="Precision of the model: auto (as the checkpoint says; float32 for a .nemo), float32, float16, "
        "bfloat16, or int8 (products of the encoder, on a CPU).",
    ),
]
BatchSizeOption = Annotated[
    int,
    typer.Option(
        "--batch_size", min=1, help="Files, or chunks of long ones, in one batch.", rich_help_panel=MANY_PANEL
    ),
]
BatchSecondsOption = Annotated[
    float,
    typer.Option("--batch_seconds", help="Most seconds of audio in one batch of files.", rich_help_panel=MANY_PANEL),
]
NumWorkersOption = Annotated[
    int,
    typer.Option(
        "--num_workers",
        min=0,
        help="Threads that read files while the model works; 0: none.",
        rich_help_panel=MANY_PANEL,
    ),
]
MaxLineCharactersOption = Annotated[
    int | None,
    typer.Option("--max_line_characters", help="Characters in a line. Default: 42.", rich_help_panel=SUBTITLES_PANEL),
]
MaxLinesOption = Annotated[
    int | None,
    typer.Option("--max_lines", help="Lines in a subtitle. Default: 2.", rich_help_panel=SUBTITLES_PANEL),
]
MaxSecondsOption = Annotated[
    float | None,
    typer.Option("--max_seconds", help="Longest subtitle. Default: 7.", rich_help_panel=SUBTITLES_PANEL),
]
MinSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--min_seconds",
        help="Shortest subtitle, where the next one leaves the time. Default: 0.83.",
        rich_help_panel=SUBTITLES_PANEL,
    ),
]
MaxCharactersPerSecondOption = Annotated[
    float | None,
    typer.Option(
        "--max_characters_per_second",
        help="Reading speed: a subtitle stays so long where the next one leaves the time. Default: 20.",
        rich_help_panel=SUBTITLES_PANEL,
    ),
]
PauseSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--pause_seconds",
        help="A pause that ends a subtitle, or a segment of rttm. Default: 1.",
        rich_help_panel=SUBTITLES_PANEL,
    ),
]
MinGapSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--min_gap_seconds",
        help="Shortest time between two subtitles. Default: 0.08.",
        rich_help_panel=SUBTITLES_PANEL,
    ),
]


def transcribe(
    files: FilesArgument,
    model: ModelOption = None,
    formats: FormatsOption = None,
    output_dir: OutputDirOption = None,
    overwrite: OverwriteOption = False,
    channel: ChannelOption = "mix",
    strategy: StrategyOption = Strategy.AUTO,
    head: HeadOption = Head.AUTO,
    language: LanguageOption = None,
    chunk_length_s: ChunkLengthSOption = None,
    stride_length_s: StrideLengthSOption = None,
    vad: VadOption = False,
    vad_threshold: VadThresholdOption = None,
    vad_min_silence_seconds: VadMinSilenceSecondsOption = None,
    vad_padding_seconds: VadPaddingSecondsOption = None,
    vad_max_part_seconds: VadMaxPartSecondsOption = None,
    device: DeviceOption = AUTO_DEVICE,
    dtype: DtypeOption = Precision.AUTO,
    batch_size: BatchSizeOption = 8,
    batch_seconds: BatchSecondsOption = 240.0,
    num_workers: NumWorkersOption = 1,
    max_line_characters: MaxLineCharactersOption = None,
    max_lines: MaxLinesOption = None,
    max_seconds: MaxSecondsOption = None,
    min_seconds: MinSecondsOption = None,
    max_characters_per_second: MaxCharactersPerSecondOption = None,
    pause_seconds: PauseSecondsOption = None,
    min_gap_seconds: MinGapSecondsOption = None,
) -> None:
    """Transcribe audio files. The text goes to the standard output; with several files each line names its file.

    An input that cannot be transcribed is named at the end, and the exit code is then 1; the others are transcribed.

    After Ctrl-C the exit code is 130, after SIGTERM 143; what was finished is whole, and the same command goes on.
    """
    given_rules = {
        "max_line_characters": max_line_characters,
        "max_lines": max_lines,
        "max_seconds": max_seconds,
        "min_seconds": min_seconds,
        "max_characters_per_second": max_characters_per_second,
        "pause_seconds": pause_seconds,
        "min_gap_seconds": min_gap_seconds,
    }
    given_voice_activity = {
        "threshold": vad_threshold,
        "min_silence_seconds": vad_min_silence_seconds,
        "padding_seconds": vad_padding_seconds,
        "max_part_seconds": vad_max_part_seconds,
    }
    voice_activity = _make_voice_activity(vad, given_voice_activity)
    checkpoint = Checkpoint(model, head.value, device, dtype.value)
    with TemporaryFolder() as folder:
        outputs = frozenset() if output_dir is None else SourceRecord(output_dir).list_outputs()
        inputs = find_inputs(files, parse_channel(channel), folder, outputs)
        chosen = _parse_formats(formats, inputs)
        output = _choose_output(inputs, chosen, output_dir, overwrite, _make_rules(given_rules, chosen))
        is_confident = any(name in CONFIDENT_FORMATS for name in chosen)
        options = TranscriptionOptions(
            decoding=DecodingOptions(language=language, confidence=ConfidenceOptions() if is_confident else None),
            chunking=ChunkOptions(strategy.value, chunk_length_s, stride_length_s),
            timestamps=any(name in TIMED_FORMATS for name in chosen),
            voice_activity=voice_activity,
            batch_size=batch_size,
            batch_seconds=batch_seconds,
            num_workers=num_workers,
        )
        is_failed = TranscriptionRun(inputs, output, options, output_dir is not None).run(checkpoint)
    if is_failed:
        raise typer.Exit(ExitCode.INPUTS_FAILED)


def _parse_formats(formats: Sequence[str] | None, inputs: Sequence[AudioInput]) -> tuple[str, ...]:
    if not formats:
        return (MANIFEST_FORMAT,) if all(item.manifest is not None for item in inputs) else ("txt",)
    names = [name.strip() for text in formats for name in text.split(",")]
    for name in names:
        if name not in FORMATS and name not in SYNONYMS:
            raise ValueError(f"--format {name} is not supported; expected some of {', '.join(FORMATS)}.")
    return tuple(dict.fromkeys(SYNONYMS.get(name, name) for name in names))


def _make_rules(given: dict[str, Any], formats: Sequence[str]) -> SubtitleRules:
    wanted = {name: value for name, value in given.items() if value is not None}
    for name in wanted:
        users = PAUSE_FORMATS if name == "pause_seconds" else SUBTITLE_FORMATS
        if not any(user in formats for user in users):
            raise ValueError(f"--{name} belongs to --format {', '.join(users)}; found --format {','.join(formats)}.")
    return SubtitleRules(**wanted)


def _make_voice_activity(is_wanted: bool, given: Mapping[str, float | None]) -> VoiceActivityOptions | None:
    wanted = {name: value for name, value in given.items() if value is not None}
    if not is_wanted:
        for name in wanted:
            raise ValueError(f"--vad_{name} belongs to --vad.")
        return None
    try:
        options = VoiceActivityOptions(**wanted)
    except ValueError as error:
        raise ValueError(f"--vad_{error}") from error
    check_voice_activity(options)
    return options


def _choose_output(
    inputs: Sequence[AudioInput],
    formats: Sequence[str],
    output_dir: Path | None,
    overwrite: bool,
    rules: SubtitleRules,
) -> Output:
    if output_dir is not None:
        return FolderOutput(output_dir, inputs, formats, rules, overwrite)
    if overwrite:
        raise ValueError("--overwrite belongs to --output_dir.")
    if len(formats) > 1:
        raise ValueError(f"--format {','.join(formats)}: several formats need --output_dir.")
    (name,) = formats
    if name not in STREAM_FORMATS and len(inputs) > 1:
        raise ValueError(
            f"--format {name} takes one file at a time; found {len(inputs)}. With --output_dir it takes many."
        )
    return StandardOutput(inputs, name, rules)
