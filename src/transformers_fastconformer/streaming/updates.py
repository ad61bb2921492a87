"""What a live stream gives after each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .endpointing import EndpointEvent
from .text import StreamEvent, StreamWord


@dataclass(frozen=True)
class StreamUpdate:
    """
    What is new in a stream.

    Args:
        committed: Text that is added to the committed text, which is never changed again; often none.
        tentative: Text that follows the committed text for now. It may change with the next update, which replaces it.
        words: Words that are finished, with times and confidence, each in one update.
        tentative_words: Words that are not finished yet, as they would be if nothing followed.
        tokens: Event tokens of the checkpoint, such as `<EOU>`, with their times.
        endpoints: Starts and ends of utterances that were found, see [`EndpointingOptions`].
        heard_seconds: Audio of the stream so far.
        decoded_seconds: Of these, what text and words stand for.
        lag_seconds: Seconds by which computing is late for a live source: audio that came while earlier audio was
            computed. A pause of the source does not count, and a source ahead of the clock, such as a file, has 0.
        is_final: True for the last update of a stream.
        error: What is wrong with the samples, a `ValueError`, or with the stream, a `StreamFailedError`, in a step of
            several streams; None: nothing. The rest of the update is what was found before it.
    """

    committed: str = ""
    tentative: str = ""
    words: Sequence[StreamWord] = field(default_factory=tuple)
    tentative_words: Sequence[StreamWord] = field(default_factory=tuple)
    tokens: Sequence[StreamEvent] = field(default_factory=tuple)
    endpoints: Sequence[EndpointEvent] = field(default_factory=tuple)
    heard_seconds: float = 0.0
    decoded_seconds: float = 0.0
    lag_seconds: float = 0.0
    is_final: bool = False
    error: Exception | None = None
