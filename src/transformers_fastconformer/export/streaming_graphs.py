"""
The encoder of live streams as an ONNX graph, a step at a time: a window of mel frames and caches in, frames and the
next caches out.

Windows have the overlap that the front sees again and the frames of a chunk. The caches hold keys and values of the
frames before, not the states that these were made of as in NeMo's graphs: a step projects its own frames only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..modeling.encoder_cache import FastConformerEncoderCache
from ..modeling.positions import sinusoids
from ..modeling.recognizer import FastConformerRecognizer
from ..modeling.ring_attention import RingTables
from ..modeling.streaming_schedule import StreamingSchedule
from ..validation import require
from .graphs import EXAMPLE_CLIPS, GraphPart

CACHE_INPUTS = ("cache_last_channel", "cache_last_time", "cache_last_channel_len")
CACHE_OUTPUTS = ("cache_last_channel_next", "cache_last_time_next", "cache_last_channel_next_len")


@dataclass(frozen=True)
class StreamSizes:
    """
    Sizes of the graph of a step.

    Args:
        window_mel_frames: Mel frames that a step sees.
        shift_mel_frames: Mel frames from one step to the next.
        channel_cache: (layers, frames before a step, keys and values), of each stream.
        time_cache: (layers, size, frames that a convolution sees before a step), of each stream.
    """

    window_mel_frames: int
    shift_mel_frames: int
    channel_cache: tuple[int, int, int]
    time_cache: tuple[int, int, int]

    @classmethod
    def of(cls, model: FastConformerRecognizer) -> StreamSizes:
        """
        The sizes for a model in the attention context that it is set to.

        Raises:
            ValueError: for a model that does not stream with a cache, and one whose steps compute frames twice.
        """
        config = model.config
        schedule = StreamingSchedule.of(config)
        require(
            schedule.lookahead_frames == 0,
            "attention_context_style",
            config.attention_context_style,
            "'chunked_limited', whose steps compute no frame twice, for a live stream in a graph; "
            "fastconformer stream runs this model",
        )
        require(schedule.left_frames > 0, "attention_context", list(schedule.attention_context), "frames to the left")
        follows = config.follows_speakers
        require(not follows, "config.follows_speakers", follows, "False, as graphs are told no speaker")
        layers, size = config.num_hidden_layers, config.hidden_size
        return cls(
            schedule.subsampling.overlap_mel_frames + schedule.mel_frames,
            schedule.mel_frames,
            (layers, schedule.left_frames, 2 * size),
            (layers, size, config.conv_padding[0]),
        )


class _LayerStep:
    """State of the streams in a block while a graph is made, in the place of `StreamLayer`: nothing is changed."""

    padding_mask = None

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, convolutions: torch.Tensor, surplus: int) -> None:
        self.keys, self.values, self.convolutions, self.surplus = keys, values, convolutions, surplus
        self.next_rings: list[torch.Tensor] = []
        self.next_convolutions = convolutions
        self.position_key: Any = None
        self.ring: Any = self
        self.distance_index: Any = None
        self.mask: Any = None

    def exchange(self, ring: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """The frames before and the new ones, in order; the newest of them are kept."""
        joined = torch.cat([ring, new], dim=2)
        self.next_rings.append(joined[:, :, new.shape[2] :])
        return joined

    def extend(self, hidden_states: torch.Tensor, right_frames: int) -> torch.Tensor:
        """The frames of `StreamLayer.extend`; those for the next step are kept here."""
        extended = torch.cat([self.convolutions, hidden_states], dim=1)
        extended = nn.functional.pad(extended, (0, 0, 0, right_frames))
        start = hidden_states.shape[1] + self.surplus
        self.next_convolutions = extended[:, start : start + self.convolutions.shape[1]]
        return extended


class StreamingEncoderPart(nn.Module):
    """
    A step of live streams: a window (batch, mels, mel frames) and caches to frames (batch, size, frames) and caches.

    The caches are (batch, layers, frames, 2 * size), (batch, layers, size, frames) and (batch,), frames of the first
    that are real; all begin with zeros.
    """

    distance_index: torch.Tensor
    window_mask: torch.Tensor | None
    position_keys: torch.Tensor

    def __init__(self, model: FastConformerRecognizer, has_logprobs: bool) -> None:
        super().__init__()
        self.model: Any = model
        self.has_logprobs = has_logprobs
        schedule = StreamingSchedule.of(model.config)
        self.left_frames, self.step_frames = schedule.left_frames, schedule.step_frames
        self.known_frames = schedule.subsampling.overlap_frames
        tables = RingTables.build(schedule.context_window, self.left_frames, self.step_frames, torch.device("cpu"))
        # The slots of the tables begin with the step; here they begin with the frames before it.
        order = tables.num_slots - self.left_frames
        window = slice(order, order + tables.num_slots)
        self.register_buffer("distance_index", tables.distance_index[None, None, :, window].clone())
        mask = None if tables.window_mask is None else tables.window_mask[None, None, :, window].clone()
        self.register_buffer("window_mask", mask)
        table = sinusoids(tables.build_distances(), model.config.hidden_size, torch.float32)
        encoder: Any = model.encoder
        with torch.no_grad():
            keys = [block.self_attn.project_distances(table) for block in encoder.layers]
        self.register_buffer("position_keys", torch.stack(keys))

    def forward(
        self,
        audio_signal: torch.Tensor,
        length: torch.Tensor,
        cache_last_channel: torch.Tensor,
        cache_last_time: torch.Tensor,
        cache_last_channel_len: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        encoder: Any = self.model.encoder
        config = self.model.config
        hidden_states, _ = encoder.subsampling(audio_signal.transpose(1, 2), None)
        hidden_states = hidden_states[:, self.known_frames : self.known_frames + self.step_frames]
        if config.scale_input:
            hidden_states = hidden_states * math.sqrt(config.hidden_size)
        slots = torch.arange(self.left_frames + self.step_frames, dtype=torch.int64, device="cpu")
        is_real = slots >= self.left_frames - cache_last_channel_len[:, None]  # (batch, slots)
        mask = is_real[:, None, None]
        if self.window_mask is not None:
            mask = mask & self.window_mask
        heads, head_dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        channels, times = [], []
        for number, block in enumerate(encoder.layers):
            rings = cache_last_channel[:, number].unflatten(-1, (2, heads, head_dim)).permute(2, 0, 3, 1, 4)
            step: Any = _LayerStep(
                rings[0], rings[1], cache_last_time[:, number].transpose(1, 2), config.conv_padding[1]
            )
            step.position_key = self.position_keys[number]
            step.distance_index, step.mask = self.distance_index, mask
            hidden_states, _ = block(hidden_states, None, None, stream=step)
            joined = torch.stack(step.next_rings, dim=0)  # (keys and values, batch, heads, frames, head_dim)
            channels.append(joined.permute(1, 3, 0, 2, 4).flatten(2))
            times.append(step.next_convolutions.transpose(1, 2))
        if encoder.output_proj is not None:
            hidden_states = encoder.output_proj(hidden_states)
        if self.has_logprobs:
            outputs = self.model.ctc_head(hidden_states).log_softmax(dim=-1)
        else:
            outputs = hidden_states.transpose(1, 2)
        lengths = torch.full_like(length, self.step_frames)
        known = (cache_last_channel_len + self.step_frames).clamp(max=self.left_frames)
        return outputs, lengths, torch.stack(channels, dim=1), torch.stack(times, dim=1), known


def streaming_part(model: FastConformerRecognizer) -> GraphPart:
    """A step of the encoder, with the head of a CTC model."""
    sizes = StreamSizes.of(model)
    is_ctc = model.decoder_type == "ctc"
    shapes = (
        (model.config.num_mel_bins, sizes.window_mel_frames),
        (),
        sizes.channel_cache,
        sizes.time_cache,
        (),
    )
    examples = [torch.zeros(EXAMPLE_CLIPS, *shape, dtype=torch.float32, device="cpu") for shape in shapes]
    for place in (1, 4):
        examples[place] = examples[place].to(torch.int64)
    names = ("logprobs" if is_ctc else "outputs", "encoded_lengths")
    return GraphPart(
        StreamingEncoderPart(model, is_ctc),
        tuple(examples),
        ("audio_signal", "length", *CACHE_INPUTS),
        (*names, *CACHE_OUTPUTS),
        tuple({0: "batch"} for _ in examples),
    )


def is_streaming(part: GraphPart) -> bool:
    """True for the part that `streaming_part` makes."""
    return CACHE_INPUTS[0] in part.input_names


def cut_windows(model: Any, input_features: torch.Tensor) -> list[torch.Tensor]:
    """
    Windows of features, each (batch, mels, mel frames), as a program with the graph of a step takes them.

    Args:
        model: The model.
        input_features: (batch, mel frames, mels). Frames after the last whole window are left out.
    """
    sizes = StreamSizes.of(model)
    windows = input_features.transpose(1, 2).unfold(2, sizes.window_mel_frames, sizes.shift_mel_frames)
    return list(windows.permute(2, 0, 1, 3))


def start_caches(part: GraphPart, num_streams: int) -> list[torch.Tensor]:
    """The caches of fresh streams."""
    return [
        torch.zeros(num_streams, *example.shape[1:], dtype=example.dtype, device="cpu")
        for example in part.examples[2:]
    ]


@torch.no_grad()
def encode_windows(model: Any, windows: list[torch.Tensor]) -> torch.Tensor:
    """
    Frames (batch, frames, size) that the model's own cache makes of windows.

    The overlap of the first window counts as mel frames that were heard before, whose frames are not given out.
    """
    schedule = StreamingSchedule.of(model.config)
    cache = FastConformerEncoderCache.for_model(model, schedule, windows[0].shape[0])
    overlap = schedule.subsampling.overlap_mel_frames
    cache.mel.copy_(windows[0].transpose(1, 2)[:, :overlap])
    for row in range(cache.num_streams):
        cache.update_counts(row, mel_frames=overlap)
    steps = [model.encode(window.transpose(1, 2)[:, overlap:], cache=cache) for window in windows]
    return torch.cat([step.last_hidden_state for step in steps], dim=1)
