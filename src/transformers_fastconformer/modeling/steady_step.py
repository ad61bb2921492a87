"""
A step of live streams in the middle of their audio, over fixed buffers, so that a CUDA graph can be captured of it.

A step launches some 1500 small kernels, and on CUDA launching them takes longer than running them. Streams that have
begun, give a whole chunk and do not end make the same step each time but for their places in the rings: these are
tensors here, so that the step has no branch on a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from ..kernels.graph_cache import Capturable, GraphCache, has_graphs
from ..kernels.layers import is_inference
from ..kernels.module_tree import ModuleTree
from .encoder_cache import STREAM_AXES, FastConformerEncoderCache
from .masking import lengths_to_mask
from .ring_attention import RingStep, RingTables
from .step_blocks import find_step_blocks
from .stream_layer import StreamLayer

# One for each number of streams that an engine steps together.
MAX_GRAPHS = 64


class StepTables(NamedTuple):
    """All that depends on the weights and the schedule, and not on the chunk."""

    ring: RingTables
    position_keys: list[torch.Tensor]  # one a block, (1, heads, distances, head_dim)


class StepPart(NamedTuple):
    """
    What a step computes of one stream.

    Args:
        row: Its row in the cache and in the features.
        new_mel_frames: Mel frames of the chunk.
        first_mel_frame: Where its frames start in the window, the mel frames of the cache and then the new ones.
        num_mel_frames: Frames of the window that the front sees.
        known_frames: Encoder frames that the front makes of these once more.
        num_frames: Encoder frames that the step computes.
        given_frames: Of these, how many are given out.
        taken_mel_frames: Mel frames after which the next step begins.
        is_last: True for the last step of the stream.
    """

    row: int
    new_mel_frames: int
    first_mel_frame: int
    num_mel_frames: int
    known_frames: int
    num_frames: int
    given_frames: int
    taken_mel_frames: int
    is_last: bool


def see_window(
    encoder: Any,
    kept: torch.Tensor,
    new: torch.Tensor,
    part: StepPart,
    num_kept: int,
    num_frames: int,
    lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Run the front of the encoder on the mel frames of a step.

    Args:
        encoder: The encoder.
        kept: (streams, mel frames of the cache, mels).
        new: (streams, new mel frames, mels).
        part: That of one of the streams, whose windows start alike.
        num_kept: Frames of `kept` that the step sees.
        num_frames: Encoder frames that the step computes.
        lengths: Mel frames that the front sees of each stream; None where all have as many.

    Returns:
        The encoder frames, without those that it made before, and the mel frames that the next step sees again.
    """
    window = torch.cat([kept[:, :num_kept].to(new.dtype), new], dim=1)
    if lengths is not None:
        padding = ~lengths_to_mask(lengths + part.first_mel_frame, window.shape[1])
        window = window.masked_fill(padding[..., None], 0.0)
    # The mel frames of the next step, from where this one ends.
    following = window[:, part.taken_mel_frames : part.taken_mel_frames + kept.shape[1]]
    if following.shape[1] < kept.shape[1]:
        following = nn.functional.pad(following, (0, 0, 0, kept.shape[1] - following.shape[1]))
    frames, _ = encoder.subsampling(window[:, part.first_mel_frame :], lengths)
    return frames[:, part.known_frames : part.known_frames + num_frames], following


def finish_front(encoder: Any, hidden_states: torch.Tensor, activities: torch.Tensor | None = None) -> torch.Tensor:
    """Encoder frames of the front as the first block sees them; `activities` are (streams, frames, 2)."""
    if encoder.config.scale_input:
        hidden_states = hidden_states * math.sqrt(encoder.config.hidden_size)
    return hidden_states if encoder.speaker_kernel is None else encoder.speaker_kernel(hidden_states, activities)


def count_kept_frames(encoder: Any, schedule: Any, num_frames: int) -> int:
    """Frames of a step after which the next one begins, to the convolutions."""
    # NeMo 3.0's `CausalConv1D` counts the zeros to the right among the frames that it has seen.
    surplus = 0 if schedule.is_exact else encoder.config.conv_padding[1]
    return max(num_frames + surplus - schedule.lookahead_frames, 0)


def run_blocks(
    encoder: Any,
    hidden_states: torch.Tensor,
    cache_layers: Sequence[tuple[torch.Tensor, ...]],
    tables: StepTables,
    ring: RingStep,
    padding_mask: torch.Tensor | None,
    kept_frames: int | Sequence[int],
    given_frames: int,
    starts: bool,
    activities: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Run the blocks of the encoder on the frames of a step.

    Args:
        encoder: The encoder.
        hidden_states: (streams, frames, hidden_size).
        cache_layers: Of each block its rings of keys and values and its frames of the convolution, changed in place.
        tables: Those of the schedule.
        ring: Places of the step in the rings.
        padding_mask, kept_frames: As in `StreamLayer`.
        given_frames: Frames that are given out.
        starts: True if a stream starts.
        activities: (streams, frames, 2), of the speakers to follow and of the others; None: everybody is followed.

    Returns:
        (streams, given frames, size)
    """
    blocks = find_step_blocks(encoder, hidden_states, starts)
    places = enumerate(zip(blocks, cache_layers, tables.position_keys, strict=True))
    for index, (block, tensors, position_key) in places:
        keys, values, convolutions = tensors
        layer = StreamLayer(keys, values, convolutions, position_key, ring, padding_mask, kept_frames)
        hidden_states = encoder.follow_later(index, block(hidden_states, layer), activities)
    hidden_states = hidden_states[:, :given_frames]
    return hidden_states if encoder.output_proj is None else encoder.output_proj(hidden_states)


class SteadyStep(Capturable):
    """
    The step of some streams of a cache, over fixed buffers.

    Args:
        encoder: A [`FastConformerEncoder`] in evaluation.
        cache: Whose tensors it changes, as long as these are the cache's own.
        part: The step of each stream, but for its row.
        num_kept: Mel frames of the cache that it sees.
        num_streams: Streams of the step.
        tables: Those of the schedule.
    """

    # What inference mode makes could not be changed outside of it.
    @torch.inference_mode(False)
    def __init__(
        self,
        encoder: Any,
        cache: FastConformerEncoderCache,
        part: StepPart,
        num_kept: int,
        num_streams: int,
        tables: StepTables,
    ) -> None:
        self.encoder, self.part, self.num_kept, self.tables = encoder, part, num_kept, tables
        self.device = cache.device
        self.schedule = cache.schedule
        # Not the cache itself, which holds its captured steps.
        self.tensors = {name: getattr(cache, name) for name in STREAM_AXES}
        self.tree = ModuleTree(encoder)
        shape = (num_streams, part.new_mel_frames, encoder.config.num_mel_bins)
        self.features = torch.zeros(shape, dtype=cache.dtype, device=cache.device)
        # Rows of the streams, and frames that each has put into its ring: (2, streams), copied together.
        self.places = torch.zeros(2, num_streams, dtype=torch.int64, device=cache.device)
        self.output: torch.Tensor | None = None

    def load(self, input_features: torch.Tensor, rows: Sequence[int], known_frames: Sequence[int]) -> None:
        """
        Put a step into the buffers.

        Args:
            input_features: (rows of the cache, mel frames, mels).
            rows: Those of the streams.
            known_frames: Frames that each of them has put into its ring.
        """
        self.places.copy_(torch.tensor([list(rows), list(known_frames)], dtype=torch.int64, device="cpu"))
        new = input_features[:, : self.features.shape[1]]
        if list(rows) == list(range(input_features.shape[0])):
            self.features.copy_(new)
        else:
            torch.index_select(new, 0, self.places[0], out=self.features)

    def run(self) -> None:
        """Do the step: the buffers and the tensors of the cache to `output`, and the cache is moved on."""
        rows, known_frames = self.places
        mel = self.tensors["mel"]
        part = self.part
        kept = mel.index_select(0, rows)
        frames, following = see_window(self.encoder, kept, self.features, part, self.num_kept, part.num_frames)
        mel.index_copy_(0, rows, following.to(mel.dtype))
        found = run_blocks(
            self.encoder,
            finish_front(self.encoder, frames),
            list(zip(self.tensors["keys"], self.tensors["values"], self.tensors["convolutions"], strict=True)),
            self.tables,
            self.tables.ring.locate_whole(rows, known_frames),
            None,
            count_kept_frames(self.encoder, self.schedule, part.num_frames),
            part.given_frames,
            starts=False,
        )
        if self.output is None:  # in the first warm-up
            with torch.inference_mode(False):
                self.output = torch.empty(found.shape, dtype=found.dtype, device=found.device)
        self.output.copy_(found)

    def copy_rows(self) -> list[torch.Tensor]:
        """The state of the streams that are loaded, which warm-ups and captures must leave as it is."""
        return [tensor.index_select(STREAM_AXES[name], self.places[0]) for name, tensor in self.tensors.items()]

    def put_rows(self, rows: Sequence[torch.Tensor]) -> None:
        """Put back what `copy_rows` gave."""
        for (name, tensor), kept in zip(self.tensors.items(), rows, strict=True):
            tensor.index_copy_(STREAM_AXES[name], self.places[0], kept)


def run_captured(
    encoder: Any,
    input_features: torch.Tensor,
    parts: Sequence[StepPart],
    cache: FastConformerEncoderCache,
    tables: StepTables,
) -> torch.Tensor | None:
    """
    Do a step by a graph, which is captured at its first use.

    Args:
        encoder: The encoder.
        input_features: (rows of the cache, mel frames, mels).
        parts: Those of the streams of the step.
        cache: Their state, changed in place.
        tables: Those of the schedule.

    Returns:
        (streams, frames, size); None where the step must be done plainly, and nothing has changed: on other devices,
        for streams that start, end or have a part of a chunk, with hooks or under autocast, and where capturing
        fails.
    """
    if not has_graphs(cache.device) or not is_steady(parts, cache) or not is_inference(input_features):
        return None
    if cache.graphs is None:
        cache.graphs = GraphCache(MAX_GRAPHS, MAX_GRAPHS, "Streaming", shares_memory=True)
    graphs: GraphCache[SteadyStep] = cache.graphs
    # The step holds the tables, so that no others get this id while it is kept.
    key = (len(parts), id(tables), encoder.config._attn_implementation)
    rows = [part.row for part in parts]
    known_frames = [cache.counts[row].known_frames for row in rows]
    with graphs.lock:
        step = graphs.find(key)
        is_kept = step is not None and step.tree.is_unchanged()
        if not is_kept:
            if not graphs.may_capture():
                return None
            num_kept = cache.schedule.subsampling.overlap_mel_frames + cache.counts[rows[0]].waiting_mel_frames
            step = SteadyStep(encoder, cache, parts[0], num_kept, len(parts), tables)
            if not step.tree.is_unchanged():  # training, or hooks, which a graph would not call
                return None
        assert step is not None
        step.load(input_features, rows, known_frames)
        if not is_kept:
            before = step.copy_rows()
            is_kept = graphs.capture(key, step)
            step.put_rows(before)
            if not is_kept:
                return None
        step.replay()
        assert step.output is not None
        return step.output.clone()


def is_steady(parts: Sequence[StepPart], cache: FastConformerEncoderCache) -> bool:
    """True for streams that have all begun, are all given a whole chunk and do not end."""
    first = parts[0]
    is_whole = (
        not first.is_last
        and first.new_mel_frames == cache.schedule.mel_frames
        and first.num_frames == cache.schedule.step_frames
        and first.given_frames == cache.schedule.chunk_frames
        and first.known_frames == cache.schedule.subsampling.overlap_frames
    )
    alike = first._replace(row=0)
    waiting = cache.counts[first.row].waiting_mel_frames
    return is_whole and all(
        part._replace(row=0) == alike
        and cache.counts[part.row].mel_frames > 0
        and cache.counts[part.row].waiting_mel_frames == waiting
        for part in parts
    )
