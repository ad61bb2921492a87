"""`fastconformer transcribe`: audio to text, JSON, subtitles and other formats; one file or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Annotated

import typer

from ..audio.voice_activity import VoiceActivityOptions, check_voice_activity
from ..decoding.confidence import ConfidenceOptions
from ..decoding.options import DecodingOptions
from ..diarization.speaker_finder import SpeakerFinder
from ..inference.loading import AUTO_DEVICE
from ..inference.options import ChunkOptions, TranscriptionOptions
from ..temporary_files import TemporaryFolder
from ..writers.formats import CONFIDENT_FORMATS, MANIFEST_FORMAT, TIMED_FORMATS
from .diarize import make_diarization_options
from .exit_codes import ExitCode
from .model_options import (
    ContextOption,
    DetectLanguageOption,
    DtypeOption,
    Head,
    HeadOption,
    ItnOption,
    KeywordCasesOption,
    KeywordsOption,
    KeywordStrengthOption,
    LanguageOption,
    LmOption,
    LmWeightOption,
    ModelOption,
    NumBeamsOption,
    PncOption,
    Precision,
    SourceLangOption,
    TargetLangOption,
    TaskOption,
    check_lm,
    make_boosting,
    read_language,
)
from .output_options import (
    FormatsOption,
    MaxCharactersPerSecondOption,
    MaxLineCharactersOption,
    MaxLinesOption,
    MaxSecondsOption,
    MinGapSecondsOption,
    MinSecondsOption,
    OutputDirOption,
    OverwriteOption,
    PauseSecondsOption,
    choose_output,
    make_rules,
    parse_formats,
)
from .transcribe_inputs import AudioInput, find_inputs, parse_channel
from .transcribe_run import Checkpoint, TranscriptionRun
from .transcribe_sources import SourceRecord

MANY_PANEL = "Many files"
VOICE_PANEL = "Voice activity"
SPEAKERS_PANEL = "Speakers"


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
ChannelOption = Annotated[
    str, typer.Option(help="mix (the mean of the channels), each (a transcript of each), or a number, from 0.")
]
StrategyOption = Annotated[
    Strategy,
    typer.Option(
        metavar="NAME",  # the choices would leave no room for the text, which explains them
        help="Long audio: full (the encoder sees all of it), local (it does, each frame about 10 s on both "
        "sides), chunked (overlapping windows), auto (the fastest that fits into memory).",
    ),
]
ChunkLengthSOption = Annotated[
    float | None,
    typer.Option(
        "--chunk_length_s", help="Seconds that the encoder sees at once, for chunked and local; makes auto chunked."
    ),
]
StrideLengthSOption = Annotated[
    float | None,
    typer.Option(
        "--stride_length_s",
        help="Seconds of a chunk that are context, on each side. Default: 2, of short chunks less.",
    ),
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
DiarizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Sortformer checkpoint that tells who said each word: speakers in json, srt, vtt, rttm.",
        rich_help_panel=SPEAKERS_PANEL,
    ),
]
DiarizeLatencyOption = Annotated[
    str | None,
    typer.Option(
        "--diarize_latency",
        metavar="NAME",
        help="As --latency of diarize.",
        rich_help_panel=SPEAKERS_PANEL,
    ),
]
DiarizeTurnsOption = Annotated[
    str | None,
    typer.Option("--diarize_turns", metavar="NAME", help="As --turns of diarize.", rich_help_panel=SPEAKERS_PANEL),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="Where the model runs: cpu, cuda, mps, or auto (the first there is of cuda, mps, cpu); several, such "
        "as cuda:0,cuda:1, share the files."
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
    typer.Option(
        "--batch_seconds", help="Most seconds of audio in one batch of files or chunks.", rich_help_panel=MANY_PANEL
    ),
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
    detect_language: DetectLanguageOption = False,
    diarize: DiarizeOption = None,
    latency: DiarizeLatencyOption = None,
    turns: DiarizeTurnsOption = None,
    source_lang: SourceLangOption = None,
    target_lang: TargetLangOption = None,
    task: TaskOption = None,
    pnc: PncOption = None,
    itn: ItnOption = None,
    context: ContextOption = None,
    num_beams: NumBeamsOption = None,
    keywords: KeywordsOption = None,
    keyword_strength: KeywordStrengthOption = None,
    keyword_cases: KeywordCasesOption = False,
    lm: LmOption = None,
    lm_weight: LmWeightOption = None,
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
    boosting = make_boosting(keywords, keyword_strength, keyword_cases)
    check_lm(lm, lm_weight)
    checkpoint = Checkpoint(model, head.value, device, dtype.value, lm, lm_weight)
    with TemporaryFolder() as folder:
        outputs = frozenset() if output_dir is None else SourceRecord(output_dir).list_outputs()
        inputs = find_inputs(files, parse_channel(channel), folder, outputs)
        chosen = _choose_formats(formats, inputs)
        output = choose_output(inputs, chosen, output_dir, overwrite, make_rules(given_rules, chosen))
        is_confident = any(name in CONFIDENT_FORMATS for name in chosen)
        options = TranscriptionOptions(
            decoding=DecodingOptions(
                **read_language(language),
                confidence=ConfidenceOptions() if is_confident else None,
                source_lang=source_lang,
                target_lang=target_lang,
                task=None if task is None else task.value,
                pnc=pnc,
                itn=itn,
                context=context,
                num_beams=num_beams,
                boosting=boosting,
            ),
            chunking=ChunkOptions(strategy.value, chunk_length_s, stride_length_s),
            timestamps=any(name in TIMED_FORMATS for name in chosen),
            voice_activity=voice_activity,
            detect_language=detect_language,
            batch_size=batch_size,
            batch_seconds=batch_seconds,
            num_workers=num_workers,
        )
        speakers = _make_speakers(diarize, {"latency": latency, "turns": turns}, checkpoint, chosen)
        is_failed = TranscriptionRun(inputs, output, options, output_dir is not None, speakers).run(checkpoint)
    if is_failed:
        raise typer.Exit(ExitCode.INPUTS_FAILED)


def _make_speakers(
    source: str | None, given: Mapping[str, str | None], checkpoint: Checkpoint, formats: Sequence[str]
) -> SpeakerFinder | None:
    """What tells the speakers apart; None without `--diarize`."""
    if source is None:
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"--diarize_{name} belongs to --diarize.")
        return None
    if not any(name in TIMED_FORMATS for name in formats):
        raise ValueError(f"--diarize belongs to --format {', '.join(TIMED_FORMATS)}; found {','.join(formats)}.")
    return SpeakerFinder(source, checkpoint.devices[0], make_diarization_options(given["latency"], given["turns"]))


def _choose_formats(formats: Sequence[str] | None, inputs: Sequence[AudioInput]) -> tuple[str, ...]:
    if not formats:
        return (MANIFEST_FORMAT,) if all(item.manifest is not None for item in inputs) else ("txt",)
    return parse_formats(formats)


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
