"""The state of live streams in the encoder: passed in and returned, a row for each stream, of constant size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

import torch

from ..configuration_fastconformer import FastConformerConfig
from ..validation import is_integer, require, require_count
from .streaming_schedule import StreamingSchedule

# Tensors of a cache, and the axis of each that is the streams.
STREAM_AXES = {"mel": 0, "keys": 1, "values": 1, "convolutions": 1}


@dataclass(frozen=True)
class StreamCounts:
    """
    The place of a stream.

    Args:
        mel_frames: Mel frames that it has given so far.
        waiting_mel_frames: Of these, the newest that the next step begins with (with `lookahead_frames`, else 0).
        known_frames: Encoder frames whose keys and values are, or were, in its ring.
        encoder_frames: Encoder frames that it was given out so far.
        has_ended: True after its last chunk.
    """

    mel_frames: int = 0
    waiting_mel_frames: int = 0
    known_frames: int = 0
    encoder_frames: int = 0
    has_ended: bool = False


class FastConformerEncoderCache:
    r"""
    State of live streams in the encoder, given to `encode` or `forward` with each chunk and changed by them in place.

    A stream is a row. Rows may be at different places: one may start while another is an hour old, and one that has
    nothing new sits a step out (a length of 0).

    ```python
    schedule = StreamingSchedule.of(model.config, attention_context=[70, 1])
    cache = FastConformerEncoderCache.for_model(model, schedule, num_streams=1)
    encoded = model.encode(chunk, cache=cache)  # chunk: (1, schedule.first_mel_frames, mels), then schedule.mel_frames
    ```

    Args:
        config ([`FastConformerConfig`]): The model's.
        schedule ([`StreamingSchedule`]): Numbers of frames of all streams of the cache.
        num_streams (`int`, defaults to 1): Rows, all of them fresh streams.
        dtype (`torch.dtype`, *optional*), device (`torch.device`, *optional*): Those of the model.

    Attributes:
        mel (`(streams, overlap and waiting mel frames, mels)`): Mel frames that the next step sees again.
        keys, values (`(blocks, streams, heads, slots, head_dim)`): Rings of what attention sees of the frames before.
        convolutions (`(blocks, streams, frames, hidden_size)`): Frames that the convolutions see to the left.
        counts (`list[StreamCounts]`): The place of each stream.
        graphs: Captured steps over these tensors, on a CUDA device; None as long as no step was captured.
    """

    graphs: Any = None

    # What inference mode makes could not be changed outside of it.
    @torch.inference_mode(False)
    def __init__(
        self,
        config: FastConformerConfig,
        schedule: StreamingSchedule,
        num_streams: int = 1,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        require_count("num_streams", num_streams, minimum=0)
        self.schedule = schedule
        dtype = torch.get_default_dtype() if dtype is None else dtype
        tensors = {
            name: torch.zeros(shape, dtype=dtype, device=device)
            for name, shape in _tensor_shapes(config, schedule, num_streams).items()
        }
        self.mel, self.keys = tensors["mel"], tensors["keys"]
        self.values, self.convolutions = tensors["values"], tensors["convolutions"]
        self.counts = [StreamCounts() for _ in range(num_streams)]

    @classmethod
    def for_model(cls, model: Any, schedule: StreamingSchedule, num_streams: int = 1) -> FastConformerEncoderCache:
        """A cache of fresh streams on the device of a model and in its dtype."""
        return cls(model.config, schedule, num_streams, dtype=model.dtype, device=model.device)

    @property
    def num_streams(self) -> int:
        return len(self.counts)

    @property
    def dtype(self) -> torch.dtype:
        return self.keys.dtype

    @property
    def device(self) -> torch.device:
        return self.keys.device

    @property
    def num_bytes(self) -> int:
        """Memory of the tensors; it does not grow."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def next_mel_frames(self, row: int) -> int:
        """Mel frames that the next chunk of a stream has, if it is not its last."""
        is_first = self.counts[row].mel_frames == 0
        return self.schedule.first_mel_frames if is_first else self.schedule.mel_frames

    def check_model(self, config: FastConformerConfig) -> None:
        """Raise a `ValueError` if this is not a cache of models of such a configuration."""
        for name, shape in _tensor_shapes(config, self.schedule, self.num_streams).items():
            found = tuple(getattr(self, name).shape)
            require(found == shape, f"cache.{name}.shape", found, f"{shape}, that of this model")

    # Rows

    def reset(self, rows: Sequence[int]) -> None:
        """Start new streams in some rows, in place."""
        rows = self._check_rows(rows)
        for name, tensor in self._tensors().items():
            # All of it: a value that is not finite would spread from a slot that is masked, too.
            tensor.index_fill_(STREAM_AXES[name], self._index(rows), 0)
        for row in rows:
            self.counts[row] = StreamCounts()

    @torch.inference_mode(False)
    def select(self, rows: Sequence[int]) -> FastConformerEncoderCache:
        """A cache of its own with copies of some rows, in the order given; a row may be taken several times."""
        rows = self._check_rows(rows)
        tensors = {
            name: tensor.index_select(STREAM_AXES[name], self._index(rows)) for name, tensor in self._tensors().items()
        }
        return self._of(self.schedule, tensors, [self.counts[row] for row in rows])

    def reorder(self, rows: Sequence[int]) -> None:
        """Bring the rows into another order, in place: `rows` holds each of them once."""
        rows = self._check_rows(rows)
        require(
            sorted(rows) == list(range(self.num_streams)), "rows", rows, f"each of 0 to {self.num_streams - 1} once"
        )
        reordered = self.select(rows)
        for name, tensor in self._tensors().items():
            tensor.copy_(getattr(reordered, name))
        self.counts = reordered.counts

    @classmethod
    @torch.inference_mode(False)
    def concatenate(cls, caches: Sequence[FastConformerEncoderCache]) -> FastConformerEncoderCache:
        """
        A cache of its own with copies of the rows of several caches, one after the other.

        Raises:
            ValueError: for caches of different schedules, models, dtypes or devices, and for none.
        """
        require(len(caches) > 0, "caches", caches, "1 or more")
        first = caches[0]
        for cache in caches[1:]:
            for name in ("schedule", "dtype", "device"):
                value, expected = getattr(cache, name), getattr(first, name)
                require(value == expected, f"caches: {name}", value, f"that of the first, {expected}")
            for name, tensor in cache._tensors().items():
                value, expected = _without_streams(name, tensor), _without_streams(name, getattr(first, name))
                require(value == expected, f"caches: sizes of {name}", value, f"those of the first, {expected}")
        tensors = {
            name: torch.cat([getattr(cache, name) for cache in caches], dim=axis) for name, axis in STREAM_AXES.items()
        }
        return cls._of(first.schedule, tensors, [counts for cache in caches for counts in cache.counts])

    def write(self, rows: Sequence[int], other: FastConformerEncoderCache) -> None:
        """Put all rows of another cache of the same kind into some rows of this one, in place."""
        rows = self._check_rows(rows)
        require(len(set(rows)) == len(rows) == other.num_streams, "rows", rows, f"{other.num_streams} different rows")
        self.concatenate([self.select([]), other.select([])])  # raises for another kind
        for name, tensor in self._tensors().items():
            tensor.index_copy_(STREAM_AXES[name], self._index(rows), getattr(other, name))
        for row, counts in zip(rows, other.counts, strict=True):
            self.counts[row] = counts

    @torch.inference_mode(False)
    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> FastConformerEncoderCache:
        """The same on another device, in another dtype; what need not be copied is shared."""
        tensors = {name: tensor.to(device=device, dtype=dtype) for name, tensor in self._tensors().items()}
        return self._of(self.schedule, tensors, list(self.counts))

    # State, as tensors and text; `checkpoints/saved_streams.py` keeps it in files

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors, and the places of the streams as one more, `counts`: int64, (streams, `StreamCounts`)."""
        table = [[int(value) for value in astuple(row)] for row in self.counts]
        counts = torch.tensor(table, dtype=torch.int64, device="cpu")
        return {**self._tensors(), "counts": counts.reshape(self.num_streams, len(fields(StreamCounts)))}

    def describe_schedule(self) -> dict[str, Any]:
        """The arguments of `StreamingSchedule.of` that make the schedule, next to the configuration."""
        return {
            "attention_context": list(self.schedule.attention_context),
            "chunk_frames": self.schedule.chunk_frames,
            "is_exact": self.schedule.is_exact,
        }

    @classmethod
    def from_state(
        cls, config: FastConformerConfig, schedule: StreamingSchedule, tensors: Mapping[str, torch.Tensor]
    ) -> FastConformerEncoderCache:
        """
        Make a cache of what `state_dict` gave, whose tensors become the cache's own.

        Args:
            config: That of the model, which must be the model of the streams.
            schedule: Theirs.
            tensors: All of them.

        Raises:
            ValueError: for tensors that are missing, or that are not those of such streams.
        """
        expected_names = sorted([*STREAM_AXES, "counts"])
        require(sorted(tensors) == expected_names, "tensors", sorted(tensors), str(expected_names))
        counts = _read_counts(tensors["counts"], schedule)
        states = {name: tensors[name] for name in STREAM_AXES}
        dtypes = sorted({str(tensor.dtype) for tensor in states.values()})
        is_floating = all(tensor.is_floating_point() for tensor in states.values())
        require(len(dtypes) == 1 and is_floating, "dtypes", dtypes, "one floating dtype")
        for name, shape in _tensor_shapes(config, schedule, len(counts)).items():
            found = tuple(states[name].shape)
            require(found == shape, f"shape of {name}", found, f"{shape}, as the configuration says")
        return cls._of(schedule, states, counts)

    # Inside

    @classmethod
    def _of(
        cls, schedule: StreamingSchedule, tensors: dict[str, torch.Tensor], counts: list[StreamCounts]
    ) -> FastConformerEncoderCache:
        cache = cls.__new__(cls)
        cache.schedule, cache.counts = schedule, counts
        for name in STREAM_AXES:
            setattr(cache, name, tensors[name])
        return cache

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, name) for name in STREAM_AXES}

    def _check_rows(self, rows: Sequence[int]) -> list[int]:
        found = rows.tolist() if isinstance(rows, torch.Tensor) else list(rows)
        is_accepted = all(is_integer(row) and 0 <= row < self.num_streams for row in found)
        require(is_accepted, "rows", found, f"numbers of streams, 0 to {self.num_streams - 1}")
        return found

    def _index(self, rows: Iterable[int]) -> torch.Tensor:
        return torch.tensor(list(rows), dtype=torch.int64, device=self.device)

    def update_counts(self, row: int, **changes: Any) -> None:
        """Move a stream on."""
        self.counts[row] = replace(self.counts[row], **changes)


def _tensor_shapes(
    config: FastConformerConfig, schedule: StreamingSchedule, num_streams: int
) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a cache."""
    num_layers, num_heads, size = config.num_hidden_layers, config.num_attention_heads, config.hidden_size
    subsampling = schedule.subsampling
    mel_frames = subsampling.overlap_mel_frames + subsampling.factor * schedule.lookahead_frames
    ring = (num_layers, num_streams, num_heads, schedule.left_frames + schedule.step_frames, size // num_heads)
    return {
        "mel": (num_streams, mel_frames, config.num_mel_bins),
        "keys": ring,
        "values": ring,
        "convolutions": (num_layers, num_streams, config.conv_padding[0], size),
    }


def _without_streams(name: str, tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(size for axis, size in enumerate(tensor.shape) if axis != STREAM_AXES[name])


def _read_counts(table: torch.Tensor, schedule: StreamingSchedule) -> list[StreamCounts]:
    """The places of streams, from the table of `state_dict`."""
    columns = len(fields(StreamCounts))
    require(
        table.dtype == torch.int64 and table.ndim == 2 and table.shape[1] == columns,
        "counts",
        (table.dtype, tuple(table.shape)),
        f"int64 of (streams, {columns})",
    )
    longest = schedule.subsampling.factor * schedule.lookahead_frames
    counts = []
    for mel_frames, waiting_mel_frames, known_frames, encoder_frames, has_ended in table.tolist():
        row = StreamCounts(mel_frames, waiting_mel_frames, known_frames, encoder_frames, bool(has_ended))
        require(
            min(astuple(row)) >= 0 and has_ended in (0, 1) and waiting_mel_frames <= min(longest, mel_frames),
            "counts",
            astuple(row),
            f"numbers of 0 or more, of which {longest} mel frames wait at most",
        )
        counts.append(row)
    return counts
