"""A run of `fastconformer transcribe`: loads the model, transcribes the clips and counts what was done."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

from rich.console import Console

from ..decoding.options import DecodingOptions
from ..diarization.speaker_finder import SpeakerFinder
from ..inference.language_model import NgramLanguageModel
from ..inference.loading import DEFAULT_MODEL, choose_device, load_model
from ..inference.many_files import Worker, transcribe_clips
from ..inference.options import TranscriptionOptions
from ..inference.reading import measure_clip
from ..inference.transcript import Transcript
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from ..validation import reading, require
from ..writers.record import TranscriptRecord
from .errors import say, show_error
from .exit_codes import InputError
from .transcribe_inputs import AudioInput
from .transcribe_outputs import Output
from .transcribe_progress import TranscriptionProgress
from .whole_files import OutputError

# Clips that are sorted by length at a time for the standard output, where results are in order.
SORT_AHEAD_CLIPS = 128
# Threads that read headers, which mostly wait for the disk.
HEADER_THREADS = 8


class Checkpoint:
    """
    The model that the options name.

    Args:
        source: Value of `--model`; None: the default, which is then printed.
        head: Value of `--head`.
        device: Value of `--device`.
        dtype: Value of `--dtype`.
        lm: Value of `--lm`.
        lm_weight: Value of `--lm_weight`.

    Raises:
        ValueError: for a device that this machine does not have.
    """

    def __init__(
        self,
        source: str | None,
        head: str,
        device: str,
        dtype: str,
        lm: str | None = None,
        lm_weight: float | None = None,
    ) -> None:
        self.source = source or DEFAULT_MODEL
        self._is_default = source is None
        self._head = head
        self._dtype = dtype
        self._lm, self._lm_weight = lm, lm_weight
        self.devices = [choose_device(name.strip(), dtype == "int8") for name in device.split(",")]

    def load(self) -> list[Worker]:
        """
        Load model and processor once on each device; a device that is named twice has two threads that share them.

        Raises:
            OSError: when the model is not on this machine and the Hub does not give it; the message says what to do.
        """
        if self._is_default:
            say(f"Model: {self.source} (the default; --model names another).")
        loaded = {name: Worker(*load_model(self.source, self._head, name, self._dtype)) for name in self.devices}
        return [loaded[name] for name in self.devices]

    def complete(self, decoding: DecodingOptions, processor: FastConformerProcessor) -> DecodingOptions:
        """
        The options with the language model, which is read now that the tokens are known.

        Raises:
            ValueError: for a file that is not a language model of these tokens.
        """
        if self._lm is None:
            return decoding
        language_model = NgramLanguageModel.from_file(self._lm, processor.tokenizer)
        return replace(decoding, language_model=language_model, language_model_weight=self._lm_weight)

    def describe(self, model: FastConformerRecognizer) -> dict[str, str]:
        """Facts about the model that the formats write."""
        return {
            "name": self.source,
            "class": type(model).__name__,
            "head": model.decoder_type if model.decoder_type in ("ctc", "multitask") else "transducer",
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": ",".join(self.devices),
        }


class TranscriptionRun:
    """One run of the command, with counts of what was done and what failed."""

    def __init__(
        self,
        inputs: Sequence[AudioInput],
        output: Output,
        options: TranscriptionOptions,
        is_folder: bool,
        speakers: SpeakerFinder | None = None,
    ) -> None:
        self._speakers = speakers
        self._inputs = inputs
        self._output = output
        self._options = options
        self._is_folder = is_folder
        self._errors: dict[int, Exception] = {}
        self._strategies: Counter[str] = Counter()
        self._seconds = 0.0
        self._speech_seconds = 0.0
        self._has_speakers = False  # transcripts come with them

    def run(self, checkpoint: Checkpoint) -> bool:
        """Transcribe what is not done yet; true if something has failed."""
        remaining = [index for index in range(len(self._inputs)) if not self._output.has(index)]
        num_skipped = len(self._inputs) - len(remaining)
        if num_skipped:
            say(f"{num_skipped} of {len(self._inputs)} finished before; --overwrite does them again.")
        remaining = self._leave_out(remaining)
        start, is_whole = time.perf_counter(), False
        try:
            if remaining:
                workers = checkpoint.load()
                decoding = checkpoint.complete(self._options.decoding, workers[0].processor)
                self._options = replace(self._options, decoding=decoding)
                if self._speakers is not None:
                    self._speakers.load()
                start = time.perf_counter()
                self._transcribe(remaining, workers, checkpoint.describe(workers[0][0]))
            is_whole = True
        finally:
            self._output.close(is_whole)
            self._report(time.perf_counter() - start)
            if not is_whole and self._is_folder:
                say("Run the same command again to go on: what is finished is not done again.")
        return bool(self._errors)

    def _leave_out(self, remaining: Sequence[int]) -> list[int]:
        """Leave out missing files, so that a model is not loaded for them; the numbers of the others are returned."""
        kept = []
        for index in remaining:
            clip, error = self._inputs[index].clip, self._inputs[index].error
            if error is None:
                try:
                    with reading(repr(self._inputs[index].file), "a name that the system can write"):
                        self._output.check(index)
                    if not clip.is_remote and not os.path.exists(clip.source):
                        error = FileNotFoundError(f"{clip.source!r} does not exist; expected an audio file.")
                except ValueError as refusal:  # what ends the run is an OutputError
                    error = refusal
            if error is None:
                kept.append(index)
            else:
                self._fail(index, error)
        return kept

    def _fail(self, index: int, error: Exception) -> None:
        where = self._inputs[index].line_name
        is_named = where is None or where in str(error)
        self._errors[index] = error if is_named else InputError(f"{where}: {error}")
        self._output.skip(index)

    def _transcribe(self, remaining: Sequence[int], workers: Sequence[Worker], described: dict[str, str]) -> None:
        options = self._options.describe()
        if self._speakers is not None:
            options |= self._speakers.describe()
        clips = [self._inputs[index].clip for index in remaining]
        with ThreadPoolExecutor(HEADER_THREADS) as pool:
            lengths = list(pool.map(measure_clip, clips))
        # A bar among lines of text on one terminal would make both hard to read.
        is_shown = Console(stderr=True).is_terminal and (self._is_folder or not sys.stdout.isatty())
        with TranscriptionProgress(lengths, is_shown) as progress:
            if self._hears_each_speaker(workers):
                assert self._speakers is not None
                results = self._speakers.transcribe_each(workers[0], clips, self._options, progress.update)
            else:
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
                    elif self._write(index, transcript, described, options):
                        self._count(self._inputs[index], transcript)
                    progress.finish(place, None if transcript is None else transcript.duration_seconds)

    def _hears_each_speaker(self, workers: Sequence[Worker]) -> bool:
        """
        True where a multi-talker model is to follow one speaker after the other.

        Raises:
            ValueError: for more than one device, of which each speaker would need the same.
        """
        if self._speakers is None or not workers[0].model.follows_speakers:
            return False
        require(len(workers) == 1, "--device", len(workers), "one device for a multi-talker model with --diarize")
        self._has_speakers = True
        return True

    def _write(self, index: int, transcript: Transcript, described: dict[str, str], options: dict[str, Any]) -> bool:
        """Write a transcript; false if only this one cannot be written."""
        item = self._inputs[index]
        start_seconds = item.clip.start_seconds
        if self._speakers is not None and not self._has_speakers:
            try:
                transcript = self._speakers.add_to(item.clip, transcript)
            except (ValueError, OSError) as error:
                self._fail(index, InputError(f"the speakers of {item.file!r} cannot be told: {error}"))
                return False
        record = TranscriptRecord(transcript, item.file, item.name, start_seconds, described, options, item.manifest)
        try:
            self._output.write(index, record)
        except (OutputError, BrokenPipeError):
            raise
        except (ValueError, OSError, MemoryError, RecursionError) as error:
            self._fail(index, InputError(f"the transcript of {item.file!r} cannot be written: {error}"))
            return False
        return True

    def _count(self, item: AudioInput, transcript: Transcript) -> None:
        self._strategies[transcript.strategy] += 1
        self._seconds += transcript.duration_seconds
        self._speech_seconds += sum(end - start for start, end in transcript.speech or [])
        if not self._is_folder and self._options.chunking.strategy == "auto" and transcript.strategy != "full":
            reason = f": {transcript.strategy_reason}" if transcript.strategy_reason else ""
            say(f"{item.file}: strategy {transcript.strategy}{reason}.")

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
