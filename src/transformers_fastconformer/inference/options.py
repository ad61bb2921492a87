"""Options of transcription, made once where the caller gives them and handed on whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ..audio.voice_activity import VoiceActivityOptions
from ..decoding.options import DecodingOptions
from ..decoding.search import SEARCH_OPTIONS, SearchOptions
from ..processing_outputs import timestamp_levels
from ..validation import is_integer, is_number, require, require_choice, require_count

# Threads that read audio, at most: more only cost memory.
MAX_WORKERS = 256
STRATEGIES = ("auto", "full", "local", "chunked")


@dataclass(frozen=True)
class ChunkOptions:
    """
    Options for passing a clip through the encoder.

    Args:
        strategy: `"full"`: the encoder sees the whole clip. `"local"`: it sees the whole clip, or overlapping windows
            of `chunk_length_s`, but each frame of a model with full attention sees only 128 frames on each side.
            `"chunked"`: it sees overlapping windows. `"auto"` (default): the fastest of these by the length of the
            clip and the free memory.
        chunk_length_s: Seconds that the encoder sees at once, context included; None (default) or 0: 60 for
            `"chunked"`, all for the others. With any other number `"auto"` is `"chunked"`.
        stride_length_s: Seconds of context on each side of a chunk, one number or a pair (left, right); None
            (default): 2, of chunks of less than 12 s a sixth, at least 0.8 s and at most a third of the chunk.

    Raises:
        ValueError: for a value that is not accepted, a stride without a chunk, and a chunk with a strategy that does
            not use it.
    """

    strategy: str = "auto"
    chunk_length_s: float | None = None
    stride_length_s: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        require_choice("strategy", self.strategy, STRATEGIES)
        if isinstance(self.stride_length_s, list):
            object.__setattr__(self, "stride_length_s", tuple(self.stride_length_s))
        chunk, stride = self.chunk_length_s, self.stride_length_s
        require(chunk is None or _is_duration(chunk), "chunk_length_s", chunk, "seconds, 0 or more, or None")
        is_pair = isinstance(stride, list | tuple) and len(stride) == 2 and all(map(_is_duration, stride))
        require(
            stride is None or is_pair or _is_duration(stride),
            "stride_length_s",
            stride,
            "seconds, 0 or more, one number for both sides or two",
        )
        if chunk and self.strategy == "full":
            raise ValueError(
                f"chunk_length_s={chunk} is not supported with strategy={self.strategy!r}; expected 'chunked' or "
                "'local'."
            )
        if stride and not chunk and self.strategy != "chunked":
            raise ValueError(f"stride_length_s={stride} needs chunk_length_s; found chunk_length_s={chunk}.")

    @property
    def strides(self) -> tuple[float | None, float | None]:
        """Seconds of context on the left and on the right; None is the default."""
        if isinstance(self.stride_length_s, list | tuple):
            return self.stride_length_s[0], self.stride_length_s[1]
        return self.stride_length_s, self.stride_length_s  # type: ignore[return-value]


def _is_duration(value: object) -> bool:
    return is_number(value) and value >= 0  # type: ignore[operator]


@dataclass(frozen=True)
class TranscriptionOptions:
    """
    Options of transcription.

    All functions that take these options also take the fields of `decoding` and `chunking` by their names:
    `language="de"`, `strategy="local"`.

    Args:
        decoding: Options for turning encoder frames into tokens.
        chunking: Options for passing clips through the encoder.
        timestamps: Levels of times to return: `"token"`, `"char"`, `"word"`, `"segment"`, one or several; True: all,
            False or None: no times.
        voice_activity: Find speech first and transcribe only that, part by part, each as a clip of its own; `chunking`
            is then applied to the parts. None (default): the whole clip is transcribed.
        batch_size: Clips, or windows of a long one, that the encoder sees at a time, at most.
        batch_seconds: Seconds of the clips of a batch with their padding to the longest, or of the windows of a long
            clip that the encoder sees at a time, at most; a longer clip or window is alone.
        num_workers: Threads that read audio and compute features ahead of the models, at most 256; 0: nothing is done
            ahead.
        skip_special_tokens: True (default) leaves event tokens such as `<EOU>` out of text, tokens and times; they are
            among the `events` of a transcript either way.
        detect_language: Find the language that the text, and each of its segments, is written in; needs the extra
            `languages`. With `languages` or a `language` the detector chooses among those.

    Raises:
        ValueError: for a value that is not accepted; the message names the option.
    """

    decoding: DecodingOptions = field(default_factory=DecodingOptions)
    chunking: ChunkOptions = field(default_factory=ChunkOptions)
    timestamps: bool | str | Sequence[str] = True
    voice_activity: VoiceActivityOptions | None = None
    batch_size: int = 8
    batch_seconds: float = 240.0
    num_workers: int = 1
    skip_special_tokens: bool = True
    detect_language: bool = False

    def __post_init__(self) -> None:
        timestamp_levels(self.timestamps)
        if self.timestamps is None:
            object.__setattr__(self, "timestamps", False)
        elif not isinstance(self.timestamps, bool | str):
            object.__setattr__(self, "timestamps", tuple(self.timestamps))
        require(isinstance(self.decoding, DecodingOptions), "decoding", self.decoding, "DecodingOptions")
        require(isinstance(self.chunking, ChunkOptions), "chunking", self.chunking, "ChunkOptions")
        is_known = self.voice_activity is None or isinstance(self.voice_activity, VoiceActivityOptions)
        require(is_known, "voice_activity", self.voice_activity, "VoiceActivityOptions or None")
        require_count("batch_size", self.batch_size)
        is_crew = is_integer(self.num_workers) and 0 <= self.num_workers <= MAX_WORKERS
        require(is_crew, "num_workers", self.num_workers, f"an integer from 0 to {MAX_WORKERS}")
        for name in ("skip_special_tokens", "detect_language"):
            require_choice(name, getattr(self, name), (True, False))
        is_length = is_number(self.batch_seconds) and self.batch_seconds > 0
        require(is_length, "batch_seconds", self.batch_seconds, "more than 0 seconds")

    @classmethod
    def of(cls, options: TranscriptionOptions | None, keywords: Mapping[str, Any]) -> TranscriptionOptions:
        """
        Join options that a caller gives whole and one by one.

        Args:
            options: All of them, or None for the defaults.
            keywords: Fields by name, also those of `decoding` and `chunking`. They replace those of `options`.

        Raises:
            ValueError: for a name that is not a field, and for a value that is not accepted.
        """
        is_known = options is None or isinstance(options, TranscriptionOptions)
        require(is_known, "options", options, "TranscriptionOptions or None")
        options = options or TranscriptionOptions()
        own, of_decoding, of_chunking = (
            [item.name for item in fields(kind)] for kind in (cls, DecodingOptions, ChunkOptions)
        )
        # Levels of times; a multitask model that writes time tokens is told to where some are asked for.
        of_decoding.remove("timestamps")
        wholes = ("decoding", "chunking", "search")
        names = [name for name in (*own, *of_decoding, *SEARCH_OPTIONS, *of_chunking) if name not in wholes]
        unknown = sorted(set(keywords) - {*names, *own, *of_decoding})
        if unknown:
            expected = ", ".join(names)
            raise ValueError(f"{', '.join(unknown)}: not an option of transcription; expected some of {expected}.")

        def pick(chosen: Sequence[str]) -> dict[str, Any]:
            return {name: value for name, value in keywords.items() if name in chosen}

        options = replace(options, **pick(own))
        if of_search := {name: value for name, value in pick(SEARCH_OPTIONS).items() if value is not None}:
            given = keywords.get("search")
            require(given is None or isinstance(given, SearchOptions), "search", given, "SearchOptions or None")
            search = given or options.decoding.search or SearchOptions()
            keywords = {**keywords, "search": replace(search, **of_search)}
        return replace(
            options,
            decoding=replace(options.decoding, **pick(of_decoding)),
            chunking=replace(options.chunking, **pick(of_chunking)),
        )

    def describe(self) -> dict[str, Any]:
        """The options on which the text of a transcript depends, as plain values."""
        decoding = {name: value for name, value in self.decoding.describe().items() if name != "confidence"}
        search = decoding.pop("search", None)
        decoding |= {} if search is None else search.arguments
        described = {**asdict(self.chunking), "language": None, **decoding}
        if not self.skip_special_tokens:
            described["skip_special_tokens"] = False
        if self.voice_activity is not None:
            described["voice_activity"] = asdict(self.voice_activity)
        return described
