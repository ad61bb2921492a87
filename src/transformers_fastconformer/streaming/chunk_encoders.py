"""
Encoders of live streams: chunks of mel frames in, encoder frames that are final out, for all streams of an engine.

Two forms with the same methods. `CachedEncoder` is for checkpoints that were trained to go on from chunk to chunk;
`BufferedEncoder` encodes a window around each chunk anew, which every checkpoint can do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch

from ..configuration_fastconformer import FastConformerConfig
from ..frames import encoder_frames_from_seconds
from ..modeling.encoder_cache import FastConformerEncoderCache
from ..modeling.masking import resolve_context, sees_all
from ..modeling.recognizer import FastConformerRecognizer
from ..modeling.streaming_schedule import StreamingSchedule, list_schedules
from ..validation import require, require_count
from .options import EngineOptions

# Buffered windows by latency: a third of it is the chunk, the rest its right context. With less context after the
# chunk a word at its end is not there yet, and in the next window it comes before the frames that are decoded: it is
# lost (figures in `docs/benchmarks/streaming.md`). The left context is that of NeMo's own scripts for such windows.
DEFAULT_BUFFERED_LATENCY_MS = 2000.0
DEFAULT_LEFT_SECONDS = 10.0


NO_ACTIVITIES: Mapping[int, torch.Tensor] = {}


class EncodedChunk(NamedTuple):
    """
    Encoder frames of one stream from one step.

    Args:
        frames: (frames, size), final, those that come after the ones of the step before.
        following_frames: (frames, size), those that come after them so far and are not final; without any of them
            where nothing is known.
        window_start: First encoder frame of the stream that the encoder saw for them; 0 with a cache.
    """

    frames: torch.Tensor
    following_frames: torch.Tensor
    window_start: int


class ChunkEncoder(ABC):
    """
    Encoder of the streams of an engine, each of which has a row.

    Args:
        model: The model.
    """

    name: str
    # True if the end of a stream has the masked frame that NeMo counts.
    with_masked_frame = False
    # True if decoding starts anew where a window does not hold the last token: to an encoder with full attention the
    # next word is then the first of an utterance, which a prediction network that remembers others does not expect.
    restarts = False

    def __init__(self, model: FastConformerRecognizer) -> None:
        self.model = model

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Plain values on which the state of a stream depends."""

    @property
    @abstractmethod
    def latency_frames(self) -> int:
        """Encoder frames from the first frame of a chunk to the last one that must be heard for it."""

    @property
    @abstractmethod
    def step_frames(self) -> int:
        """Encoder frames that a step gives."""

    @property
    def follows_speakers(self) -> bool:
        """True where streams can be told whom to follow."""
        return False

    @abstractmethod
    def open(self, row: int) -> None:
        """Begin a new stream in a row."""

    @abstractmethod
    def wanted_mel_frames(self, row: int) -> int:
        """Mel frames, the next of the stream, that its next step takes."""

    @abstractmethod
    def encode(
        self,
        chunks: Mapping[int, torch.Tensor],
        are_last: Mapping[int, bool],
        languages: Mapping[int, str | None],
        activities: Mapping[int, torch.Tensor] = NO_ACTIVITIES,
    ) -> dict[int, EncodedChunk]:
        """
        Encode a step of some streams together.

        Args:
            chunks: Of each row (mel frames, mels), as many as it wants, or fewer at its end.
            are_last: True for rows whose stream ends with it.
            languages: Language of each row; None: the model's own default, or it has no languages.
            activities: Of rows that follow a speaker, (step_frames, 2), of the speaker and of the others.
        """

    @abstractmethod
    def save(self, row: int) -> Any:
        """State of a row, which `restore` puts into any row."""

    @abstractmethod
    def check_state(self, state: Any) -> None:
        """Raise a `ValueError` for what `save` of such an encoder does not give."""

    @abstractmethod
    def restore(self, row: int, state: Any) -> None:
        """Put a saved state into a row."""


def build_chunk_encoder(model: FastConformerRecognizer, options: EngineOptions, frame_seconds: float) -> ChunkEncoder:
    """
    Choose how a model streams.

    Args:
        model: A model with a head.
        options: The options.
        frame_seconds: Seconds from one encoder frame to the next.

    Raises:
        ValueError: for a model that cannot stream in that way, and a latency that it cannot keep.
    """
    wants_window = options.mode == "buffered" or options.chunk_seconds is not None
    if not wants_window:
        try:
            schedule = _choose_schedule(model.config, options, frame_seconds)
            return CachedEncoder(model, schedule)
        except ValueError:
            if options.mode == "cached" or can_be_cached(model.config):
                raise
    plan, context = plan_buffer(model.config, options, frame_seconds)
    if context is not None:
        model = model.with_attention_context(context)
    return BufferedEncoder(model, plan)


def can_be_cached(config: FastConformerConfig) -> bool:
    """Tell whether a checkpoint is made for steps that go on from one to the next."""
    try:
        return bool(list_schedules(config))
    except ValueError:
        return False


# With a cache


def _choose_schedule(config: FastConformerConfig, options: EngineOptions, frame_seconds: float) -> StreamingSchedule:
    """The schedule of the look-ahead that is asked for."""
    if options.latency_ms is None:
        return StreamingSchedule.of(config, options.attention_context, is_exact=options.is_exact)
    schedules = list_schedules(config, options.is_exact)
    latencies = {round(1000 * frame_seconds * schedule.step_frames): schedule for schedule in schedules}
    kept = [latency for latency in latencies if latency <= options.latency_ms]
    require(
        bool(kept), "latency_ms", options.latency_ms, f"one of {sorted(latencies)} (ms) or more for this checkpoint"
    )
    return latencies[max(kept)]


class CachedEncoder(ChunkEncoder):
    """
    Steps that go on where the ones before ended, by a [`FastConformerEncoderCache`].

    Args:
        model: A checkpoint that was trained for it.
        schedule: Numbers of frames of a step.
    """

    name = "cached"

    def __init__(self, model: FastConformerRecognizer, schedule: StreamingSchedule) -> None:
        super().__init__(model)
        self.schedule = schedule
        self.with_masked_frame = not schedule.is_exact
        self._cache = FastConformerEncoderCache.for_model(model, schedule, 1)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **self._cache.describe_schedule()}

    @property
    def latency_frames(self) -> int:
        return self.schedule.step_frames

    @property
    def step_frames(self) -> int:
        return self.schedule.chunk_frames

    @property
    def follows_speakers(self) -> bool:
        return self.model.follows_speakers and self.schedule.lookahead_frames == 0

    def open(self, row: int) -> None:
        self._grow(row)
        self._cache.reset([row])

    def _grow(self, row: int) -> None:
        """Make room for a row, for twice as many as before."""
        if row >= self._cache.num_streams:
            missing = max(row + 1, 2 * self._cache.num_streams) - self._cache.num_streams
            fresh = FastConformerEncoderCache.for_model(self.model, self.schedule, missing)
            self._cache = FastConformerEncoderCache.concatenate([self._cache, fresh])

    def wanted_mel_frames(self, row: int) -> int:
        return self._cache.next_mel_frames(row)

    def encode(
        self,
        chunks: Mapping[int, torch.Tensor],
        are_last: Mapping[int, bool],
        languages: Mapping[int, str | None],
        activities: Mapping[int, torch.Tensor] = NO_ACTIVITIES,
    ) -> dict[int, EncodedChunk]:
        found: dict[int, EncodedChunk] = {}
        # Without activities kernels between the blocks do not act, which activities cannot say.
        for group in ({row for row in chunks if row in activities}, {row for row in chunks if row not in activities}):
            if group:
                own = {row: chunk for row, chunk in chunks.items() if row in group}
                found |= self._encode_alike(own, are_last, languages, activities)
        return found

    def _encode_alike(
        self,
        chunks: Mapping[int, torch.Tensor],
        are_last: Mapping[int, bool],
        languages: Mapping[int, str | None],
        activities: Mapping[int, torch.Tensor],
    ) -> dict[int, EncodedChunk]:
        """Rows that all follow a speaker, or none of which does; the others sit the step out."""
        config: Any = self.model.config
        num_rows = self._cache.num_streams
        told: dict[str, Any] = {}
        if any(row in activities for row in chunks):
            silence = torch.zeros(self.step_frames, 2, dtype=torch.float32, device="cpu")
            rows = [activities.get(row, silence) for row in range(num_rows)]
            told["speaker_activities"] = torch.stack(rows).to(self.model.device)
        lengths = torch.tensor(
            [chunks[row].shape[0] if row in chunks else 0 for row in range(num_rows)], dtype=torch.int64, device="cpu"
        )
        features = torch.zeros(
            num_rows, max(int(lengths.max()), 1), config.num_mel_bins, dtype=torch.float32, device="cpu"
        )
        for row, chunk in chunks.items():
            features[row, : chunk.shape[0]] = chunk
        encoded: Any = self.model.encode(
            features.to(self.model.device),
            input_lengths=lengths.to(self.model.device),
            language=_languages_of(languages, num_rows, config),
            cache=self._cache,
            is_last=[row in chunks and are_last.get(row, False) for row in range(num_rows)],
            **told,
        )
        counts = encoded.encoder_lengths.tolist()
        frames = encoded.last_hidden_state
        return {row: EncodedChunk(frames[row, : counts[row]], frames[row, :0], 0) for row in chunks}

    def save(self, row: int) -> FastConformerEncoderCache:
        return self._cache.select([row])

    def check_state(self, state: Any) -> None:
        require(
            isinstance(state, FastConformerEncoderCache) and state.num_streams == 1,
            "encoder",
            type(state).__name__,
            "a cache of one stream",
        )
        state.check_model(self.model.config)
        require(state.schedule == self.schedule, "schedule", state.schedule, str(self.schedule))

    def restore(self, row: int, state: FastConformerEncoderCache) -> None:
        self._grow(row)
        self._cache.write([row], state)


# With windows


@dataclass(frozen=True)
class BufferPlan:
    """
    Lengths of a buffered window, in encoder frames.

    Args:
        left_frames: Context before the chunk.
        chunk_frames: Frames that a step gives.
        right_frames: Context after the chunk, which must be heard before it is encoded.
    """

    left_frames: int
    chunk_frames: int
    right_frames: int


def plan_buffer(
    config: FastConformerConfig, options: EngineOptions, frame_seconds: float
) -> tuple[BufferPlan, list[int] | None]:
    """
    Choose the lengths of buffered windows.

    Args:
        config: The model's.
        options: The options.
        frame_seconds: Seconds from one encoder frame to the next.

    Returns:
        The plan, and for unified checkpoints (`"chunked_limited_with_rc"`) the attention context of these lengths.

    Raises:
        ValueError: for a model whose windows cannot be told apart from one another, and for lengths that it does not
            have.
    """
    require(
        config.reduction.is_proportional,
        "reduction_type",
        config.reduction_type,
        "None for a stream: a window would be masked in its middle",
    )
    require(options.is_exact is False, "is_exact", options.is_exact, "False for a stream of buffered windows")
    has_presets = config.attention_context_style == "chunked_limited_with_rc"
    if has_presets and options.attention_context is not None:
        plan = BufferPlan(*_check_preset(config, options.attention_context))
    elif options.attention_context is not None:
        raise ValueError(
            f"attention_context={options.attention_context} is not supported for a stream of buffered windows; "
            "expected latency_ms, or left_seconds, chunk_seconds and right_seconds."
        )
    elif options.chunk_seconds is not None:
        lengths = (options.left_seconds, options.chunk_seconds, options.right_seconds)
        left, chunk, right = (encoder_frames_from_seconds(seconds or 0.0, frame_seconds) for seconds in lengths)
        plan = BufferPlan(left, max(chunk, 1), right)
    else:
        latency_ms = DEFAULT_BUFFERED_LATENCY_MS if options.latency_ms is None else options.latency_ms
        total = int(latency_ms / (1000 * frame_seconds) + 1e-6)
        least = 1000 * frame_seconds
        require(total >= 1, "latency_ms", latency_ms, f"{least:g} or more, an encoder frame")
        chunk = max(total // 3, 1)
        plan = BufferPlan(encoder_frames_from_seconds(DEFAULT_LEFT_SECONDS, frame_seconds), chunk, total - chunk)
    if has_presets:
        return plan, [plan.left_frames, plan.chunk_frames, plan.right_frames]
    # Chunks of attention must lie in a window as in the whole clip.
    unit = resolve_context(config.attention_context_style, config.attention_context).chunk_frames
    if unit > 1 and not config.has_local_attention:
        plan = BufferPlan(
            *(-(-frames // unit) * unit for frames in (plan.left_frames, plan.chunk_frames, plan.right_frames))
        )
    return plan, None


def _check_preset(config: FastConformerConfig, context: Sequence[int]) -> list[int]:
    accepted = [list(one) for one in config.attention_contexts or []]
    is_triple = len(context) == 3 and min(context) >= 0 and context[1] > 0
    require(
        list(context) in accepted if accepted else is_triple,
        "attention_context",
        list(context),
        f"one of {accepted}" if accepted else "three numbers: left, chunk and right frames",
    )
    return list(context)


@dataclass(frozen=True)
class BufferState:
    """
    The window of a stream so far.

    Args:
        features: (mel frames, mels), from the start of the window.
        start: Encoder frame of the stream with which the window starts.
        given: Encoder frames that were given.
        known_mel_frames: Mel frames of the stream so far.
    """

    features: torch.Tensor
    start: int = 0
    given: int = 0
    known_mel_frames: int = 0


class BufferedEncoder(ChunkEncoder):
    """
    A window of the past, the chunk and some of what follows, encoded anew for each chunk; only the chunk is given.

    Args:
        model: Any model.
        plan: Lengths of the window.
    """

    name = "buffered"

    def __init__(self, model: FastConformerRecognizer, plan: BufferPlan) -> None:
        super().__init__(model)
        self.plan = plan
        self.restarts = sees_all(model.config)
        self._states: dict[int, BufferState] = {}

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self.plan)}

    @property
    def latency_frames(self) -> int:
        return self.plan.chunk_frames + self.plan.right_frames

    @property
    def step_frames(self) -> int:
        return self.plan.chunk_frames

    def open(self, row: int) -> None:
        config: Any = self.model.config
        self._states[row] = BufferState(torch.zeros(0, config.num_mel_bins, dtype=torch.float32, device="cpu"))

    def wanted_mel_frames(self, row: int) -> int:
        config: Any = self.model.config
        state = self._states[row]
        stop = state.given + self.plan.chunk_frames + self.plan.right_frames
        return stop * config.mel_frames_per_encoder_frame - state.known_mel_frames

    def encode(
        self,
        chunks: Mapping[int, torch.Tensor],
        are_last: Mapping[int, bool],
        languages: Mapping[int, str | None],
        activities: Mapping[int, torch.Tensor] = NO_ACTIVITIES,
    ) -> dict[int, EncodedChunk]:
        config: Any = self.model.config
        rows = list(chunks)
        for row, chunk in chunks.items():
            state = self._states[row]
            features = torch.cat([state.features, chunk])
            self._states[row] = replace(
                state, features=features, known_mel_frames=state.known_mel_frames + chunk.shape[0]
            )
        windows = [self._states[row].features for row in rows]
        lengths = torch.tensor([window.shape[0] for window in windows], dtype=torch.int64, device="cpu")
        # A masked frame follows the last one: a window without frames is not an empty tensor.
        windows = [torch.nn.functional.pad(window, (0, 0, 0, 1)) for window in windows]
        batch = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True).to(self.model.device)
        named = {place: languages[row] for place, row in enumerate(rows)}
        encoded: Any = self.model.encode(
            batch,
            input_lengths=lengths.to(self.model.device),
            language=_languages_of(named, len(rows), config),
        )
        counts = encoded.encoder_lengths.tolist()
        return {
            row: self._keep(row, encoded.last_hidden_state[place, : counts[place]], are_last[row])
            for place, row in enumerate(rows)
        }

    def _keep(self, row: int, frames: torch.Tensor, is_last: bool) -> EncodedChunk:
        """The frames of the chunk; moves the window on."""
        state = self._states[row]
        config: Any = self.model.config
        first = state.given - state.start
        stop = frames.shape[0] if is_last else first + self.plan.chunk_frames
        given = state.given + max(stop - first, 0)
        start = max(given - self.plan.left_frames, 0)
        dropped = (start - state.start) * config.mel_frames_per_encoder_frame
        self._states[row] = replace(state, features=state.features[dropped:].clone(), start=start, given=given)
        return EncodedChunk(frames[first:stop], frames[max(stop, first) :], state.start)

    def save(self, row: int) -> BufferState:
        return self._states[row]

    def check_state(self, state: Any) -> None:
        config: Any = self.model.config
        require(isinstance(state, BufferState), "encoder", type(state).__name__, "the window of a stream")
        for name in ("start", "given", "known_mel_frames"):
            require_count(name, getattr(state, name), minimum=0)
        held = state.known_mel_frames - state.start * config.mel_frames_per_encoder_frame
        expected = (held, config.num_mel_bins)
        is_window = isinstance(state.features, torch.Tensor) and tuple(state.features.shape) == expected
        require(is_window and state.start <= state.given, "features", state.features, f"of the shape {expected}")

    def restore(self, row: int, state: BufferState) -> None:
        self._states[row] = state


def _languages_of(languages: Mapping[int, str | None], num_rows: int, config: Any) -> list[str] | None:
    """A language for each row; None for a model without languages, and for its default in all rows."""
    if not any(languages.values()):
        return None
    # Rows that sit the step out are given any.
    default = config.default_language or next(filter(None, languages.values()))
    return [languages.get(row) or default for row in range(num_rows)]
