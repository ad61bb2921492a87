"""`fastconformer transcribe`: audio to text, JSON, subtitles and what else others read; one file or many."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..audio.voice_activity import VoiceActivityOptions, check_voice_activity
from ..decoding.confidence import ConfidenceOptions
from ..decoding.options import DecodingOptions
from ..inference.loading import AUTO_DEVICE, DEFAULT_MODEL, DEMONSTRATION_NAME, choose_device, load_model
from ..inference.many_files import Worker, transcribe_clips
from ..inference.options import ChunkOptions, TranscriptionOptions
from ..inference.reading import measure_clip
from ..inference.transcript import Transcript
from ..modeling.recognizer import FastConformerRecognizer
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
from ..writers.record import TranscriptRecord
from ..writers.subtitles import SubtitleRules
from .errors import say, show_error
from .exit_codes import ExitCode, is_unreachable
from .transcribe_inputs import AudioInput, find_inputs, parse_channel
from .transcribe_outputs import FolderOutput, Output, StandardOutput
from .transcribe_progress import TranscriptionProgress

# On the standard output results are in order: only so many clips are sorted by length at a time.
SORT_AHEAD_CLIPS = 128
# Reading a header is waiting for a disk.
HEADER_THREADS = 8

SUBTITLES_PANEL = f"Subtitles ({', '.join(SUBTITLE_FORMATS)})"
MANY_PANEL = "Many files"
VOICE_PANEL = "Voice activity"


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
    INT8 = "int8"


class Strategy(str, Enum):
    """How long audio is transcribed."""

    AUTO = "auto"
    FULL = "full"
    LOCAL = "local"
    CHUNKED = "chunked"


def transcribe(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Audio files (WAV, FLAC, OGG, MP3), folders, patterns, http(s) addresses, - for the standard input, "
            "manifests (.jsonl, .json: one JSON object a line with audio_filepath, and offset and duration of parts)."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Hub repository, folder or .nemo file (converted once); "
            f"{DEMONSTRATION_NAME}: the spoken-digit model that the package carries, which needs no network. "
            f"Default: {DEFAULT_MODEL}."
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help=f"{list_formats()}; several with commas or given again. Default: txt, for manifests jsonl.",
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output_dir",
            help="Write a file for each input and format here, and not to the standard output. What is there already "
            "is not done again.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do again what is in --output_dir already.", rich_help_panel=MANY_PANEL)
    ] = False,
    channel: Annotated[
        str, typer.Option(help="mix (the mean of the channels), each (a transcript of each), or a number, from 0.")
    ] = "mix",
    strategy: Annotated[
        Strategy,
        typer.Option(
            metavar="NAME",  # the choices, which the text explains, would leave no room for it
            help="Long audio: full (the encoder sees all of it), local (it does, each frame about 10 s on both "
            "sides), chunked (overlapping windows), auto (by length and memory).",
        ),
    ] = Strategy.AUTO,
    head: Annotated[
        Head,
        typer.Option(
            metavar="NAME",
            help="Head of a hybrid checkpoint: ctc, transducer, or auto (the transducer where there is one).",
        ),
    ] = Head.AUTO,
    language: Annotated[str | None, typer.Option(help="Code of the language, for models that are told it.")] = None,
    chunk_length_s: Annotated[
        float | None,
        typer.Option("--chunk_length_s", help="Seconds that the encoder sees at once; makes auto chunked."),
    ] = None,
    stride_length_s: Annotated[
        float | None,
        typer.Option("--stride_length_s", help="Seconds of a chunk that are context, on each side; default: a sixth."),
    ] = None,
    vad: Annotated[
        bool,
        typer.Option(
            "--vad",
            help="Find out first where something is said, and transcribe only that. Needs the extra vad.",
            rich_help_panel=VOICE_PANEL,
        ),
    ] = False,
    vad_threshold: Annotated[
        float | None,
        typer.Option(
            "--vad_threshold",
            help="Probability from which a sound is speech. Default: 0.5.",
            rich_help_panel=VOICE_PANEL,
        ),
    ] = None,
    vad_min_silence_seconds: Annotated[
        float | None,
        typer.Option(
            "--vad_min_silence_seconds",
            help="Shorter silence is not skipped. Default: 1.",
            rich_help_panel=VOICE_PANEL,
        ),
    ] = None,
    vad_padding_seconds: Annotated[
        float | None,
        typer.Option(
            "--vad_padding_seconds",
            help="Silence that is kept before and after speech. Default: 0.4.",
            rich_help_panel=VOICE_PANEL,
        ),
    ] = None,
    vad_max_part_seconds: Annotated[
        float | None,
        typer.Option(
            "--vad_max_part_seconds",
            help="Longer speech is cut in a pause. Default: 30.",
            rich_help_panel=VOICE_PANEL,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where the model runs: cpu, cuda, mps, or auto (the first there is of cuda, mps, cpu); several, such "
            "as cuda:0,cuda:1, share the files."
        ),
    ] = AUTO_DEVICE,
    dtype: Annotated[
        Precision,
        typer.Option(
            metavar="NAME",
            help="Precision of the model: auto (as stored), float32, float16, bfloat16, or int8 (products of the "
            "encoder, on a CPU).",
        ),
    ] = Precision.AUTO,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch_size", min=1, help="Files, or chunks of long ones, in one batch.", rich_help_panel=MANY_PANEL
        ),
    ] = 8,
    batch_seconds: Annotated[
        float,
        typer.Option(
            "--batch_seconds", help="Most seconds of audio in one batch of files.", rich_help_panel=MANY_PANEL
        ),
    ] = 240.0,
    num_workers: Annotated[
        int,
        typer.Option(
            "--num_workers",
            min=0,
            help="Threads that read files while the model works; 0: none.",
            rich_help_panel=MANY_PANEL,
        ),
    ] = 1,
    max_line_characters: Annotated[
        int | None,
        typer.Option(
            "--max_line_characters", help="Characters in a line. Default: 42.", rich_help_panel=SUBTITLES_PANEL
        ),
    ] = None,
    max_lines: Annotated[
        int | None,
        typer.Option("--max_lines", help="Lines in a subtitle. Default: 2.", rich_help_panel=SUBTITLES_PANEL),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option("--max_seconds", help="Longest subtitle. Default: 7.", rich_help_panel=SUBTITLES_PANEL),
    ] = None,
    min_seconds: Annotated[
        float | None,
        typer.Option(
            "--min_seconds",
            help="Shortest subtitle, where the next one leaves the time. Default: 0.83.",
            rich_help_panel=SUBTITLES_PANEL,
        ),
    ] = None,
    max_characters_per_second: Annotated[
        float | None,
        typer.Option(
            "--max_characters_per_second",
            help="Reading speed: a subtitle stays so long where the next one leaves the time. Default: 20.",
            rich_help_panel=SUBTITLES_PANEL,
        ),
    ] = None,
    pause_seconds: Annotated[
        float | None,
        typer.Option(
            "--pause_seconds",
            help="A pause that ends a subtitle, or a segment of rttm. Default: 1.",
            rich_help_panel=SUBTITLES_PANEL,
        ),
    ] = None,
    min_gap_seconds: Annotated[
        float | None,
        typer.Option(
            "--min_gap_seconds",
            help="Shortest time between two subtitles. Default: 0.08.",
            rich_help_panel=SUBTITLES_PANEL,
        ),
    ] = None,
) -> None:
    """Transcribe audio files. The text goes to the standard output; with several files each line names its file.

    An input that cannot be transcribed is named at the end, and the exit code is then 1; the others are transcribed.

    After Ctrl-C the exit code is 130, and what was finished is whole.
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
    checkpoint = _Checkpoint(model, head, device, dtype)
    with tempfile.TemporaryDirectory() as folder:
        inputs = find_inputs(files, parse_channel(channel), Path(folder))
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
        is_failed = _Run(inputs, output, options, output_dir is not None).run(checkpoint)
    if is_failed:
        raise typer.Exit(ExitCode.INPUTS_FAILED)


class _Checkpoint:
    """
    The model as the options name it.

    Args:
        source: Value of `--model`; None: the default, which is then said.
        head, device, dtype: Values of the options.

    Raises:
        ValueError: for a device that is not there.
    """

    def __init__(self, source: str | None, head: Head, device: str, dtype: Precision) -> None:
        self.source = source or DEFAULT_MODEL
        self._is_default = source is None
        self._head = head.value
        self._dtype = dtype.value
        self.devices = [choose_device(name.strip(), dtype is Precision.INT8) for name in device.split(",")]

    def load(self) -> list[Worker]:
        """
        Model and processor on each device.

        Raises:
            OSError: when the Hub does not give it and it is not on this machine; the message says what to do.
        """
        if self._is_default:
            say(f"Model: {self.source} (the default; --model names another).")
        try:
            return [Worker(*load_model(self.source, self._head, device, self._dtype)) for device in self.devices]
        except OSError as error:
            if not is_unreachable(error):
                raise
            raise OSError(
                f"{self.source} is not on this machine, and the Hub does not give it (no network, HF_HUB_OFFLINE, or "
                "no access). Give --model a folder or a .nemo file, or for a trial offline "
                f"--model {DEMONSTRATION_NAME}."
            ) from error

    def describe(self, model: FastConformerRecognizer) -> dict[str, str]:
        """What the formats say of the model."""
        return {
            "name": self.source,
            "class": type(model).__name__,
            "head": "ctc" if model.decoder_type == "ctc" else "transducer",
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": ",".join(self.devices),
        }


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


class _Run:
    """One run of the command: what is done, what went wrong."""

    def __init__(
        self, inputs: Sequence[AudioInput], output: Output, options: TranscriptionOptions, is_folder: bool
    ) -> None:
        self._inputs = inputs
        self._output = output
        self._options = options
        self._is_folder = is_folder
        self._errors: dict[int, Exception] = {}
        self._strategies: Counter[str] = Counter()
        self._seconds = 0.0
        self._speech_seconds = 0.0

    def run(self, checkpoint: _Checkpoint) -> bool:
        """Transcribe what is not done yet; true if something could not be."""
        remaining = [index for index in range(len(self._inputs)) if not self._output.has(index)]
        num_skipped = len(self._inputs) - len(remaining)
        if num_skipped:
            say(f"{num_skipped} of {len(self._inputs)} finished before; --overwrite does them again.")
        remaining = self._leave_out(remaining)
        start, is_whole = time.perf_counter(), False
        try:
            if remaining:
                workers = checkpoint.load()
                start = time.perf_counter()
                self._transcribe(remaining, workers, checkpoint.describe(workers[0][0]))
            is_whole = True
        finally:
            self._output.close(is_whole)
            self._report(time.perf_counter() - start)
        return bool(self._errors)

    def _leave_out(self, remaining: Sequence[int]) -> list[int]:
        """Those that are there: for others no model is loaded."""
        kept = []
        for index in remaining:
            clip, error = self._inputs[index].clip, self._inputs[index].error
            if error is not None:
                self._fail(index, error)
            elif clip.is_remote or Path(clip.source).exists():
                kept.append(index)
            else:
                self._fail(index, FileNotFoundError(f"{clip.source!r} does not exist; expected an audio file."))
        return kept

    def _fail(self, index: int, error: Exception) -> None:
        self._errors[index] = error
        self._output.skip(index)

    def _transcribe(self, remaining: Sequence[int], workers: Sequence[Worker], described: dict[str, str]) -> None:
        options = self._options.describe()
        clips = [self._inputs[index].clip for index in remaining]
        with ThreadPoolExecutor(HEADER_THREADS) as pool:
            lengths = list(pool.map(measure_clip, clips))
        # A bar among the lines of a terminal would tear both apart.
        is_shown = Console(stderr=True).is_terminal and (self._is_folder or not sys.stdout.isatty())
        with TranscriptionProgress(lengths, is_shown) as progress:
            results = transcribe_clips(
                workers,
                clips,
                self._options,
                lengths,
                sort_ahead=None if self._is_folder else SORT_AHEAD_CLIPS,
                on_progress=progress.update,
            )
            with closing(results):
                for place, transcript, error in results:
                    index = remaining[place]
                    if transcript is None:
                        assert error is not None
                        self._fail(index, error)
                    else:
                        item = self._inputs[index]
                        start_seconds = item.clip.start_seconds
                        self._output.write(
                            index,
                            TranscriptRecord(
                                transcript, item.file, item.name, start_seconds, described, options, item.manifest
                            ),
                        )
                        self._count(item, transcript)
                    progress.finish(place)

    def _count(self, item: AudioInput, transcript: Transcript) -> None:
        self._strategies[transcript.strategy] += 1
        self._seconds += transcript.duration_seconds
        self._speech_seconds += sum(end - start for start, end in transcript.speech or [])
        if not self._is_folder and self._options.chunking.strategy == "auto" and transcript.strategy != "full":
            say(f"{item.file}: strategy {transcript.strategy}.")

    def _report(self, seconds: float) -> None:
        for index in sorted(self._errors):
            show_error(self._errors[index])
        num_done = sum(self._strategies.values())
        if self._is_folder and num_done:
            ways = ", ".join(f"{name} {count}" for name, count in self._strategies.most_common())
            speed = f"{self._seconds / max(seconds, 1e-3):.0f}x real time"
            speech = "" if self._options.voice_activity is None else f", {self._speech_seconds:.0f} s of it speech,"
            say(
                f"{num_done} transcribed, {self._seconds:.0f} s of audio{speech} in {seconds:.1f} s ({speed}); {ways}."
            )
        if self._errors and len(self._inputs) > 1:
            say(f"{len(self._errors)} of {len(self._inputs)} could not be transcribed.")
