"""Options of live streams, made once where the caller gives them and handed on whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..audio.clips import check_channels
from ..audio.running_normalization import RunningNormalization
from ..decoding.options import DecodingOptions
from ..decoding.phrase_boosting import PhraseBoosting
from ..validation import is_number, require, require_choice, require_count
from .endpointing import EndpointingOptions

MODES = ("auto", "cached", "buffered")


@dataclass(frozen=True)
class EngineOptions:
    """
    Options of a [`StreamingEngine`], the same for all its streams.

    Args:
        mode: `"cached"`: each step of the encoder goes on where the one before ended, for checkpoints made for it.
            `"buffered"`: each step encodes a window of the past, the chunk and some of what follows it, for others.
            `"auto"` (default): the first where the checkpoint can.
        latency_ms: Milliseconds from a sound to its text at most, apart from the time that computing takes. With a
            cache the largest look-ahead the checkpoint was trained with that keeps it; with windows a third of it is
            the chunk and the rest its right context. None (default): the checkpoint's own look-ahead; with windows
            2000.
        attention_context: Look-ahead of a checkpoint as one of `config.attention_contexts`, in place of `latency_ms`.
        left_seconds, chunk_seconds, right_seconds: Lengths of a buffered window, in place of those by `latency_ms`;
            given all together.
        is_exact: False (default): a stream with a cache equals NeMo's, which leaves fewer than 8 mel frames at its end
            out. True: its frames to the end are those of the whole audio in one pass.
        max_streams: Streams that may be open at a time.
        max_load: Share of real time that computing may take before new streams are refused; see
            [`StreamingEngine.load`].
        decoding: Options of decoding; a language here is that of streams that do not name one.
        normalization: How features are normalised before the whole audio is known, for checkpoints that normalise;
            None: the defaults of [`RunningNormalization`].

    Raises:
        ValueError: for a value that is not accepted, and for options that exclude one another.
    """

    mode: str = "auto"
    latency_ms: float | None = None
    attention_context: Sequence[int] | None = None
    left_seconds: float | None = None
    chunk_seconds: float | None = None
    right_seconds: float | None = None
    is_exact: bool = False
    max_streams: int = 64
    max_load: float = 1.0
    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    normalization: RunningNormalization | None = None

    def __post_init__(self) -> None:
        require_choice("mode", self.mode, MODES)
        latency = self.latency_ms
        require(latency is None or (is_number(latency) and latency > 0), "latency_ms", latency, "more than 0, or None")
        if self.attention_context is not None:
            object.__setattr__(self, "attention_context", tuple(self.attention_context))
        lengths = {name: getattr(self, name) for name in ("left_seconds", "chunk_seconds", "right_seconds")}
        given = {name: value for name, value in lengths.items() if value is not None}
        if given:
            missing = sorted(set(lengths) - set(given))
            require(not missing, ", ".join(missing), None, f"seconds, together with {', '.join(given)}")
            for name, value in given.items():
                least = "more than 0" if name == "chunk_seconds" else "0 or more"
                is_length = is_number(value) and (value > 0 if name == "chunk_seconds" else value >= 0)
                require(is_length, name, value, f"seconds, {least}")
            require(self.mode != "cached", "mode", self.mode, "'buffered' or 'auto' with the lengths of a window")
        chosen = [
            name
            for name, value in (
                ("latency_ms", latency),
                ("attention_context", self.attention_context),
                ("chunk_seconds", self.chunk_seconds),
            )
            if value is not None
        ]
        require(len(chosen) < 2, " and ".join(chosen), "both given", "one of them")
        require_choice("is_exact", self.is_exact, (True, False))
        require_count("max_streams", self.max_streams)
        require(is_number(self.max_load) and self.max_load > 0, "max_load", self.max_load, "more than 0")
        require(isinstance(self.decoding, DecodingOptions), "decoding", self.decoding, "DecodingOptions")
        language = self.decoding.language
        require(language is None or isinstance(language, str), "language", language, "one code, or None")
        boosting = self.decoding.boosting
        is_shared = not isinstance(boosting, tuple)
        require(is_shared, "boosting", boosting, "phrases for all streams; StreamOptions has those of one")
        is_known = self.normalization is None or isinstance(self.normalization, RunningNormalization)
        require(is_known, "normalization", self.normalization, "RunningNormalization or None")


@dataclass(frozen=True)
class StreamOptions:
    """
    Options of one stream.

    Args:
        sampling_rate: Rate of the samples that come, in Hz; None (default): that of the model. Others are resampled.
        channels: `"mix"` for the mean of the channels, or the number of one; None (default): as for `"mix"`.
        language: Code of the language, for checkpoints with prompts; None (default): that of the engine's options.
        endpointing: How ends of utterances are found; None (default): only the checkpoint's own event tokens.
        boosting: Phrases that decoding of this stream prefers, in place of those of the engine's options; None
            (default): those.
        follows_speaker: The stream is that of one speaker, for a multi-talker model: it is told by
            [`StreamingEngine.follow`] who speaks when, and its text waits for that. False (default): everybody is
            followed.
        name: Name of the stream in messages.

    Raises:
        ValueError: for a value that is not accepted.
    """

    sampling_rate: int | None = None
    channels: str | int | None = None
    language: str | None = None
    endpointing: EndpointingOptions | None = None
    boosting: PhraseBoosting | None = None
    follows_speaker: bool = False
    name: str = "stream"

    def __post_init__(self) -> None:
        if self.sampling_rate is not None:
            require_count("sampling_rate", self.sampling_rate)
        if self.channels is not None:
            check_channels(self.channels)
        is_code = self.language is None or isinstance(self.language, str)
        require(is_code, "language", self.language, "the code of a language, or None")
        is_known = self.endpointing is None or isinstance(self.endpointing, EndpointingOptions)
        require(is_known, "endpointing", self.endpointing, "EndpointingOptions or None")
        is_known = self.boosting is None or isinstance(self.boosting, PhraseBoosting)
        require(is_known, "boosting", self.boosting, "PhraseBoosting or None")
        require_choice("follows_speaker", self.follows_speaker, (True, False))
