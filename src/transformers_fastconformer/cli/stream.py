"""`fastconformer stream`: words as they are spoken, from a file, a pipe or a microphone."""

from __future__ import annotations

from typing import Annotated

import typer

from ..audio.pipes import ENCODINGS
from ..audio.voice_activity import check_voice_activity
from ..decoding.confidence import ConfidenceOptions
from ..decoding.options import DecodingOptions
from ..inference.loading import AUTO_DEVICE
from ..streaming.endpointing import KINDS, EndpointingOptions
from ..streaming.options import EngineOptions, StreamOptions
from ..writers.formats import CONFIDENT_FORMATS
from .diarize import make_diarization_options
from .model_options import (
    DtypeOption,
    Head,
    HeadOption,
    KeywordCasesOption,
    KeywordsOption,
    KeywordStrengthOption,
    LanguageOption,
    LmOption,
    LmWeightOption,
    ModelOption,
    NumBeamsOption,
    Precision,
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
from .stream_display import choose_display
from .stream_run import StreamRun
from .stream_sources import MICROPHONE, Clock, PcmOptions, find_source
from .stream_speakers import StreamSpeakers
from .transcribe_inputs import AudioInput, parse_channel
from .transcribe_outputs import Output
from .transcribe_run import Checkpoint

INPUT_PANEL = f"Input (-, {MICROPHONE})"
LATENCY_PANEL = "Latency"
ENDS_PANEL = "Ends of utterances"
SPEAKERS_PANEL = "Speakers"
NO_ENDPOINTING = "none"

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar=f"FILE|-|{MICROPHONE}",
        help="An audio file or http(s) address, - for the standard input (WAV, FLAC, OGG, MP3 and others as they "
        f"come; raw samples with --encoding), or {MICROPHONE} (needs the extra microphone).",
    ),
]
ChannelOption = Annotated[str, typer.Option(help="mix (the mean of the channels), or the number of one, from 0.")]
DeviceOption = Annotated[
    str, typer.Option(help="Where the model runs: cpu, cuda, mps, or auto (the first there is of cuda, mps, cpu).")
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Write an event a line: started, update (with words and their times), endpoint, final."
    ),
]
RealtimeOption = Annotated[
    bool, typer.Option("--realtime", help="Feed a file or a pipe at the speed of the clock, and report the lag.")
]
ConfidenceOption = Annotated[bool, typer.Option("--confidence", help="Give the confidence in each word (--json).")]
EncodingOption = Annotated[
    str | None,
    typer.Option(
        help=f"What samples without a header are: {', '.join(ENCODINGS)}.", rich_help_panel=INPUT_PANEL, metavar="NAME"
    ),
]
SamplingRateOption = Annotated[
    int | None,
    typer.Option("--sampling_rate", help="Their rate in Hz. Default: that of the model.", rich_help_panel=INPUT_PANEL),
]
NumChannelsOption = Annotated[
    int | None,
    typer.Option("--num_channels", help="Their channels. Default: 1.", rich_help_panel=INPUT_PANEL),
]
InputDeviceOption = Annotated[
    str | None,
    typer.Option(
        "--input_device",
        help="Microphone, by its number or words of its name. Default: that of the system.",
        rich_help_panel=INPUT_PANEL,
    ),
]
LatencyMsOption = Annotated[
    float | None,
    typer.Option(
        "--latency_ms",
        help="From a sound to its text at most, without the time of computing. Default: the model's own look-ahead; "
        "2000 for models that are not made for streams.",
        rich_help_panel=LATENCY_PANEL,
    ),
]
AttentionContextOption = Annotated[
    str | None,
    typer.Option(
        "--attention_context",
        help="Context of the model in frames, such as 70,1, in place of --latency_ms.",
        rich_help_panel=LATENCY_PANEL,
    ),
]
LeftSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--left_seconds",
        help="Past that is encoded again with each chunk. These three go together, and make a stream of windows.",
        rich_help_panel=LATENCY_PANEL,
    ),
]
ChunkSecondsOption = Annotated[
    float | None, typer.Option("--chunk_seconds", help="Length of a chunk.", rich_help_panel=LATENCY_PANEL)
]
RightSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--right_seconds", help="What must be heard after a chunk before it is text.", rich_help_panel=LATENCY_PANEL
    ),
]
IsExactOption = Annotated[
    bool,
    typer.Option(
        "--is_exact",
        help="Decode the last frames too, as for a whole file, which NeMo leaves out (models made for streams).",
        rich_help_panel=LATENCY_PANEL,
    ),
]
EndpointingOption = Annotated[
    str,
    typer.Option(
        help="What ends an utterance: blanks (silence after a word), tokens (the model's own, such as <EOU>), "
        f"voice_activity (needs the extra vad), several with commas, or {NO_ENDPOINTING}.",
        rich_help_panel=ENDS_PANEL,
    ),
]
SilenceMsOption = Annotated[
    float | None,
    typer.Option(
        "--silence_ms",
        help="Silence that ends an utterance. Default: 800 for blanks, 500 for voice_activity.",
        rich_help_panel=ENDS_PANEL,
    ),
]
DiarizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Streaming Sortformer checkpoint that tells who said each word: lines of a speaker each, an event "
        "speakers with --json, and speakers in json, srt, vtt, rttm.",
        rich_help_panel=SPEAKERS_PANEL,
    ),
]
DiarizeLatencyOption = Annotated[
    str | None,
    typer.Option("--diarize_latency", metavar="NAME", help="As --latency of diarize.", rich_help_panel=SPEAKERS_PANEL),
]
DiarizeTurnsOption = Annotated[
    str | None,
    typer.Option("--diarize_turns", metavar="NAME", help="As --turns of diarize.", rich_help_panel=SPEAKERS_PANEL),
]


def stream(
    source: SourceArgument,
    model: ModelOption = None,
    json: JsonOption = False,
    realtime: RealtimeOption = False,
    confidence: ConfidenceOption = False,
    channel: ChannelOption = "mix",
    head: HeadOption = Head.AUTO,
    language: LanguageOption = None,
    num_beams: NumBeamsOption = None,
    keywords: KeywordsOption = None,
    keyword_strength: KeywordStrengthOption = None,
    keyword_cases: KeywordCasesOption = False,
    lm: LmOption = None,
    lm_weight: LmWeightOption = None,
    device: DeviceOption = AUTO_DEVICE,
    dtype: DtypeOption = Precision.AUTO,
    formats: FormatsOption = None,
    output_dir: OutputDirOption = None,
    overwrite: OverwriteOption = False,
    latency_ms: LatencyMsOption = None,
    attention_context: AttentionContextOption = None,
    left_seconds: LeftSecondsOption = None,
    chunk_seconds: ChunkSecondsOption = None,
    right_seconds: RightSecondsOption = None,
    is_exact: IsExactOption = False,
    encoding: EncodingOption = None,
    sampling_rate: SamplingRateOption = None,
    num_channels: NumChannelsOption = None,
    input_device: InputDeviceOption = None,
    endpointing: EndpointingOption = "tokens",
    silence_ms: SilenceMsOption = None,
    diarize: DiarizeOption = None,
    diarize_latency: DiarizeLatencyOption = None,
    diarize_turns: DiarizeTurnsOption = None,
    max_line_characters: MaxLineCharactersOption = None,
    max_lines: MaxLinesOption = None,
    max_seconds: MaxSecondsOption = None,
    min_seconds: MinSecondsOption = None,
    max_characters_per_second: MaxCharactersPerSecondOption = None,
    pause_seconds: PauseSecondsOption = None,
    min_gap_seconds: MinGapSecondsOption = None,
) -> None:
    """Transcribe audio while it is spoken. Committed words are plain; dim ones may still change.

    In a pipe only committed text is written, as it comes. With --format a transcript is written at the end.

    Ctrl-C ends the stream: what was heard becomes text, the transcript is written, and the exit code is 130.
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
    chosen = parse_formats(formats or ("txt",))
    rules = make_rules(given_rules, chosen)
    has_transcript = formats is not None and output_dir is None
    if json and has_transcript:
        raise ValueError("--json and --format both write to the standard output; expected --output_dir too, or one.")
    wants_output = has_transcript or output_dir is not None or overwrite
    is_confident = confidence or (wants_output and any(name in CONFIDENT_FORMATS for name in chosen))

    def make_output(item: AudioInput) -> Output:
        return choose_output([item], chosen, output_dir, overwrite, rules)

    engine_options = EngineOptions(
        latency_ms=latency_ms,
        attention_context=None if attention_context is None else _parse_context(attention_context),
        left_seconds=left_seconds,
        chunk_seconds=chunk_seconds,
        right_seconds=right_seconds,
        is_exact=is_exact,
        decoding=DecodingOptions(
            **read_language(language),
            confidence=ConfidenceOptions() if is_confident else None,
            num_beams=num_beams,
            boosting=make_boosting(keywords, keyword_strength, keyword_cases),
        ),
    )
    stream_options = StreamOptions(endpointing=_make_endpointing(endpointing, silence_ms))
    check_lm(lm, lm_weight)
    checkpoint = Checkpoint(model, head.value, device, dtype.value, lm, lm_weight)
    if len(checkpoint.devices) > 1:
        raise ValueError(f"--device {device} is not supported by a stream; expected one device.")
    chosen_channel = parse_channel(channel)
    if chosen_channel == "each":
        raise ValueError("--channel each is not supported by a stream; expected mix or the number of a channel.")
    clock = Clock()
    pcm = PcmOptions(encoding, sampling_rate, num_channels)
    for name, value in (("latency", diarize_latency), ("turns", diarize_turns)):
        if diarize is None and value is not None:
            raise ValueError(f"--diarize_{name} belongs to --diarize.")
    speakers = None
    if diarize is not None:
        speakers = StreamSpeakers(
            diarize, checkpoint.devices[0], make_diarization_options(diarize_latency, diarize_turns)
        )
    display = choose_display(json, has_transcript, speakers is not None)
    audio = find_source(source, chosen_channel, pcm, input_device, realtime, clock)
    output = make_output if wants_output else None
    StreamRun(audio, display, output, engine_options, stream_options, clock, speakers).run(checkpoint)


def _parse_context(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"--attention_context {text} is not supported; expected numbers such as 70,1.") from None


def _make_endpointing(text: str, silence_ms: float | None) -> EndpointingOptions | None:
    """Options of the ends of utterances; None: they are not looked for."""
    kinds = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    accepted = (*KINDS, NO_ENDPOINTING)
    if not set(kinds) <= set(accepted) or (NO_ENDPOINTING in kinds and len(kinds) > 1):
        raise ValueError(
            f"--endpointing {text} is not supported; expected some of {', '.join(KINDS)}, or {NO_ENDPOINTING}."
        )
    if silence_ms is not None and not {"blanks", "voice_activity"} & set(kinds):
        raise ValueError("--silence_ms belongs to --endpointing blanks or voice_activity.")
    if kinds == (NO_ENDPOINTING,):
        return None
    endpointing = EndpointingOptions(kinds=kinds)
    if silence_ms is not None:
        endpointing = EndpointingOptions(kinds=kinds, blank_ms=silence_ms, silence_ms=silence_ms)
    if "voice_activity" in kinds:
        check_voice_activity(endpointing.voice_activity)
    return endpointing
