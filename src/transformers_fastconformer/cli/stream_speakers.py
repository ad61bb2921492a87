"""The speakers of `fastconformer stream --diarize`."""

from __future__ import annotations

from typing import Any

from ..diarization.attribution import add_speakers
from ..diarization.live_speakers import LiveSpeakers, SpokenWord
from ..diarization.recordings import DiarizationOptions, load_diarizer
from ..inference.transcript import Transcript
from ..streaming.updates import StreamUpdate

STREAM_ID = 0  # a run has one stream


class StreamSpeakers:
    """
    The speakers of one stream.

    Args:
        source: Value of `--diarize`.
        device: The device of the run.
        options: How to diarise.
    """

    def __init__(self, source: str, device: str, options: DiarizationOptions) -> None:
        self._source, self._device, self._options = source, device, options
        self._live: LiveSpeakers | None = None

    def load(self) -> None:
        """Load the model, so that what is wrong with it is told before anybody speaks."""
        self._live = LiveSpeakers(load_diarizer(self._source, self._device), self._options)

    def open(self, sampling_rate: int, channels: str | int | None) -> None:
        """Begin the stream."""
        assert self._live is not None
        self._live.open(STREAM_ID, sampling_rate, channels)

    def step(self, samples: Any, update: StreamUpdate) -> list[SpokenWord]:
        """The words whose speakers are known after a step of the stream; samples of None: there are no more."""
        assert self._live is not None
        given = {} if samples is None else {STREAM_ID: samples}
        return self._live.step(given, {STREAM_ID: update})[STREAM_ID]

    def add_to(self, transcript: Transcript) -> Transcript:
        """The transcript of the stream with the speakers of its words, by all that was heard."""
        assert self._live is not None
        return add_speakers(transcript, self._live.turns(STREAM_ID))

    def describe(self) -> dict[str, Any]:
        """The options that the speakers depend on, as plain values."""
        assert self._live is not None
        return {"diarize": self._source, "diarize_latency_ms": round(self._live.latency_ms)}
