"""A run of `fastconformer stream`: audio of a source through the engine to the display and the outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ..inference.transcript import Transcript
from ..streaming.engine import StreamingEngine
from ..streaming.options import EngineOptions, StreamOptions
from ..streaming.updates import StreamUpdate
from ..writers.record import TranscriptRecord
from .errors import say
from .exit_codes import ExitCode, InputError
from .signals import Stop, stopping_in_order
from .stream_display import Display, SilentDisplay
from .stream_lag import LagWatch
from .stream_queue import PieceQueue
from .stream_sources import Clock, Source
from .stream_speakers import StreamSpeakers
from .stream_transcript import StreamTranscript
from .transcribe_inputs import AudioInput
from .transcribe_outputs import Output
from .transcribe_run import Checkpoint

# Options of decoding that are told only where they are given.
DESCRIBED = ("boosting", "language_model", "language_model_weight")
# So often a run that waits for audio looks whether it is to end.
POLL_SECONDS = 0.1


class StreamRun:
    """
    One run of the command.

    Args:
        source: The audio.
        display: Place at which the stream is shown.
        make_output: Makes the place of the transcript of a clip; None: none is written.
        engine_options: Options of the engine.
        stream_options: Options of the stream, except for its rate.
        clock: The clock.
        speakers: Tells who speaks; None: nobody is told apart.
    """

    def __init__(
        self,
        source: Source,
        display: Display,
        make_output: Callable[[AudioInput], Output] | None,
        engine_options: EngineOptions,
        stream_options: StreamOptions,
        clock: Clock,
        speakers: StreamSpeakers | None = None,
    ) -> None:
        self._source = source
        self._display = display
        self._make_output = make_output
        self._engine_options = engine_options
        self._stream_options = stream_options
        self._clock = clock
        self._speakers = speakers
        self._lag = LagWatch()
        self._rate = 0
        self._spoken_seconds: float | None = None
        self._num_told = (0, 0)
        self._broken_pipe: BrokenPipeError | None = None
        self._error: Exception | None = None

    def run(self, checkpoint: Checkpoint) -> None:
        """
        Transcribe the audio to its end, or until a signal asks to end.

        Raises:
            KeyboardInterrupt, SystemExit: after a signal; the transcript of what was heard is written.
            Exception: whatever ended the audio, after what was heard was shown.
        """
        try:
            if self._make_output is not None:
                output = self._make_output(self._source.item)
                try:
                    if output.has(0):
                        say(f"{self._source.item.file} was finished before; --overwrite does it again.")
                        return
                    output.check(0)
                finally:
                    output.close(True)
            self._run(checkpoint)
        finally:
            self._source.stop()

    def _run(self, checkpoint: Checkpoint) -> None:
        if self._speakers is not None:
            self._speakers.load()
        model, processor = checkpoint.load()[0]
        decoding = checkpoint.complete(self._engine_options.decoding, processor)
        engine = StreamingEngine(model, processor, replace(self._engine_options, decoding=decoding))
        queue, self._rate = self._source.prepare(processor.feature_extractor.sampling_rate)
        if self._source.is_live:
            self._warm_up(engine)
        if self._speakers is not None:
            self._speakers.open(self._rate, self._stream_options.channels)
        item, options = self._source.item, self._describe(engine)
        stream_id = engine.open(replace(self._stream_options, sampling_rate=self._rate, name=repr(item.file)))
        confidence = self._engine_options.decoding.confidence
        heard = StreamTranscript(processor, engine.encoder.name, item.clip.channel, confidence)
        described = checkpoint.describe(model)
        try:
            with stopping_in_order() as stop:
                self._shown(lambda: self._display.start({"file": item.file, "model": described, **options}))
                self._source.start()
                self._listen(engine, stream_id, queue, stop, heard)
                self._show(engine.finish(stream_id), heard, None)
                transcript = heard.finish()
                if self._speakers is not None:
                    transcript = self._speakers.add_to(transcript)
                self._shown(lambda: self._display.finish(transcript, self._lag.max_seconds))
        finally:
            self._display.close()
        error = self._error or queue.error
        is_part = stop.code is not None or self._broken_pipe is not None
        if self._source.is_recording or (error is None and not is_part):
            self._write(item, transcript, described, options)
        elif error is None and transcript.duration_seconds > 0:
            # Noted as a part, so that it is not taken for the transcript of the whole file later.
            part = replace(item, clip=replace(item.clip, seconds=transcript.duration_seconds))
            self._write(part, transcript, described, options)
        if self._source.is_live:
            say(self._lag.describe())
        if error is not None:
            raise error
        if self._broken_pipe is not None:
            raise self._broken_pipe
        if stop.code == ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        if stop.code is not None:
            raise SystemExit(stop.code)

    def _warm_up(self, engine: StreamingEngine) -> None:
        """Let the engine do what the first steps do once, before somebody speaks."""
        num_samples = round(2 * engine.latency_ms / 1000 * engine.processor.feature_extractor.sampling_rate)
        engine.finish(engine.open(), np.zeros(num_samples, dtype=np.float32))

    def _listen(
        self, engine: StreamingEngine, stream_id: int, queue: PieceQueue, stop: Stop, heard: StreamTranscript
    ) -> None:
        while not queue.is_done:
            if stop.code is not None or self._broken_pipe is not None:
                self._source.stop()
            piece = queue.get(POLL_SECONDS)
            if piece is None and self._spoken_seconds is not None:
                self._spoken_seconds = self._clock.now()  # nothing waits: it is the audio that is late
            if piece is not None:
                update = engine.step({stream_id: piece.samples})[stream_id]
                if isinstance(update.error, ValueError):  # of the samples; the stream has not moved
                    self._error = InputError(str(update.error))
                    break
                if update.error is not None:
                    raise update.error
                self._spoken_seconds = piece.spoken_seconds
                self._show(update, heard, piece.samples)
            self._tell_losses(queue)

    def _show(self, update: StreamUpdate, heard: StreamTranscript, samples: Any) -> None:
        heard.add(update)
        words = [] if self._speakers is None else self._speakers.step(samples, update)
        lag_seconds = 0.0
        if self._spoken_seconds is not None:
            lag_seconds = max(self._clock.now() - self._spoken_seconds, 0.0)
        self._shown(lambda: self._display.update(update, lag_seconds))
        if words:
            self._shown(lambda: self._display.speak(words))
        warning = self._lag.note(lag_seconds)
        if warning is not None:
            self._display.say(warning)

    def _shown(self, show: Callable[[], None]) -> None:
        """Show something; without a reader the stream ends as at the end of its audio."""
        try:
            show()
        except BrokenPipeError as error:
            self._broken_pipe = error
            self._display.close()
            self._display = SilentDisplay()

    def _tell_losses(self, queue: PieceQueue) -> None:
        num_lost, num_gaps = self._num_told
        if queue.num_gaps > num_gaps:
            self._display.say("Some audio was lost: the buffer of the microphone ran over.")
        # Each time that twice as much was lost.
        if queue.num_lost > 2 * num_lost:
            self._display.say(
                f"Audio was lost, {queue.num_lost / self._rate:.1f} s by now: more waits for the model than is kept."
            )
            num_lost = queue.num_lost
        self._num_told = (num_lost, queue.num_gaps)

    def _write(self, item: AudioInput, transcript: Transcript, model: dict[str, str], options: dict[str, Any]) -> None:
        if self._make_output is None:
            return
        output = self._make_output(item)
        try:
            output.write(0, TranscriptRecord(transcript, item.file, item.name, model=model, options=options))
        finally:
            output.close(True)

    def _describe(self, engine: StreamingEngine) -> dict[str, Any]:
        """The options on which the text depends, as plain values."""
        decoding = engine.options.decoding
        endpointing = self._stream_options.endpointing
        return {
            "mode": engine.encoder.name,
            "latency_ms": engine.latency_ms,
            "is_exact": engine.options.is_exact,
            "language": decoding.language,
            "endpointing": None if endpointing is None else asdict(endpointing),
            **({} if self._speakers is None else self._speakers.describe()),
            **{name: value for name, value in decoding.describe().items() if name in DESCRIBED},
        }
