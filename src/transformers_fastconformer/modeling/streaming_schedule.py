"""The schedule of a live stream: mel frames of a chunk, and what each step computes, keeps and gives out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..configuration_fastconformer import FastConformerConfig
from ..frames import NoReduction, StridedSubsampling, Subsampling
from ..validation import require, require_choice, require_count
from .masking import ContextWindow, resolve_context

# Norms after the convolutions whose statistics do not depend on the other frames of a stream.
STREAMING_NORMS = ("batch_norm", "fused_batch_norm", "layer_norm")
STREAMING_STYLES = ("chunked_limited", "regular")


@dataclass(frozen=True)
class StreamingSchedule:
    """
    Numbers of frames of a live stream, those of NeMo 3.0's `ConformerEncoder.setup_streaming_params`.

    A stream gives each of its mel frames once: `first_mel_frames` in its first chunk, `mel_frames` in every later one,
    and as many or fewer in its last. Make one with `StreamingSchedule.of`.

    Args:
        attention_context: Encoder frames that attention sees to the left and to the right.
        attention_context_style: `"chunked_limited"` or `"regular"`.
        chunk_frames: Encoder frames that a step gives out.
        lookahead_frames: Encoder frames after these that a step computes too, and the next one computes again: those
            that `"regular"` attention and convolutions see to the right, in all blocks together (NeMo's
            `cache_drop_size`). 0 for chunks, which only see themselves.
        subsampling: Counts of the front of the encoder.
        is_exact: False: each chunk equals that of NeMo's step, driven by its `CacheAwareStreamingAudioBuffer`. True:
            all frames together are those of the offline pass. The two differ where a first chunk of one encoder frame
            lets NeMo's second chunk see mel frames of zeros before the stream, and in the last chunk, of which NeMo
            leaves fewer than `subsampling.factor` mel frames out.
    """

    attention_context: tuple[int, int]
    attention_context_style: str
    chunk_frames: int
    lookahead_frames: int
    subsampling: Subsampling
    is_exact: bool = False

    @classmethod
    def of(
        cls,
        config: FastConformerConfig,
        attention_context: Sequence[int] | None = None,
        chunk_frames: int | None = None,
        is_exact: bool = False,
    ) -> StreamingSchedule:
        """
        Make the schedule of a checkpoint.

        Args:
            config: The model's.
            attention_context: One of those the model was trained with (`config.attention_contexts`), or that in use
                (`config.attention_context`), which is the default.
            chunk_frames: Encoder frames a step; with `"chunked_limited"` a multiple of `right + 1`, which is the
                default, with `"regular"` any number, 1 by default.
            is_exact: See [`StreamingSchedule`].

        Raises:
            ValueError: for a model that cannot stream with a cache, naming what prevents it, and for a context or a
                chunk that is not accepted.
        """
        _require_streaming(config)
        style = config.attention_context_style
        accepted = [list(context) for context in config.attention_contexts or []]
        if list(config.attention_context) not in accepted:
            accepted.insert(0, list(config.attention_context))
        context = list(config.attention_context if attention_context is None else attention_context)
        require(context in accepted, "attention_context", context, f"one of {accepted}")
        left_frames, right_frames = context
        require(
            left_frames >= 0 and right_frames >= 0,
            "attention_context",
            context,
            "a limit on both sides ([left, right], none of them -1), as a cache has a constant size",
        )
        lookahead_frames, unit_frames = 0, right_frames + 1
        if style == "regular":
            lookahead_frames = (right_frames + config.conv_padding[1]) * config.num_hidden_layers
            unit_frames = 1
        chunk_frames = unit_frames if chunk_frames is None else chunk_frames
        require_count("chunk_frames", chunk_frames)
        require(
            chunk_frames % unit_frames == 0,
            "chunk_frames",
            chunk_frames,
            f"a multiple of {unit_frames}, the chunk (right + 1) of attention_context={context}",
        )
        if is_exact:
            _require_exactness(config)
        return cls((left_frames, right_frames), style, chunk_frames, lookahead_frames, config.subsampling, is_exact)

    @property
    def left_frames(self) -> int:
        """Encoder frames before a chunk that attention sees."""
        return self.attention_context[0]

    @property
    def step_frames(self) -> int:
        """Encoder frames that a step computes."""
        return self.chunk_frames + self.lookahead_frames

    @property
    def first_mel_frames(self) -> int:
        """Mel frames of the first chunk."""
        return self.subsampling.first_mel_frames + self.subsampling.factor * (self.step_frames - 1)

    @property
    def mel_frames(self) -> int:
        """Mel frames of every later chunk: those from one step to the next."""
        return self.subsampling.factor * self.chunk_frames

    @property
    def min_last_mel_frames(self) -> int:
        """Mel frames below which a last chunk gives nothing: NeMo leaves them out."""
        return 1 if self.is_exact else self.subsampling.factor

    @property
    def context_window(self) -> ContextWindow:
        """Keys that a query may see."""
        return resolve_context(self.attention_context_style, self.attention_context)

    def count_taken_mel_frames(self, is_first: bool) -> int:
        """Mel frames that a step is done with: the next one begins after them."""
        first = self.subsampling.first_mel_frames + self.subsampling.factor * (self.chunk_frames - 1)
        return first if is_first else self.mel_frames

    def count_frames(self, mel_frames: int, known_frames: int) -> int:
        """
        Encoder frames that a step makes of the mel frames that it sees.

        Args:
            mel_frames: Mel frames, the overlap included.
            known_frames: Encoder frames that the front makes of these once more.
        """
        count = self.subsampling.count_frames if self.is_exact else self.subsampling.count_rows
        return max(count(mel_frames) - known_frames, 0)


def list_schedules(config: FastConformerConfig, is_exact: bool = False) -> list[StreamingSchedule]:
    """The schedules of all contexts that a model was trained with, one chunk of attention to a step."""
    contexts = config.attention_contexts or [list(config.attention_context)]
    return [StreamingSchedule.of(config, context, is_exact=is_exact) for context in contexts]


def _require_exactness(config: FastConformerConfig) -> None:
    """Raise a `ValueError` for a model whose steps would have to see beyond their chunks to equal the offline pass."""
    has_causal_front = config.causal_downsampling or not isinstance(config.subsampling, StridedSubsampling)
    require(
        has_causal_front,
        "causal_downsampling",
        config.causal_downsampling,
        "True for is_exact=True: convolutions of the front see mel frames after the chunk",
    )
    require(
        config.attention_context_style == "regular" or config.conv_padding[1] == 0,
        "conv_context",
        config.conv_context,
        "none to the right for is_exact=True with 'chunked_limited': convolutions see frames after the chunk",
    )


def _require_streaming(config: FastConformerConfig) -> None:
    """Raise a `ValueError` for a model that cannot stream with a cache."""
    require_choice("attention_context_style", config.attention_context_style, STREAMING_STYLES)
    require(
        config.position_embedding_type == "rel_pos",
        "position_embedding_type",
        config.position_embedding_type,
        "'rel_pos' for a stream with a cache",
    )
    require_choice("conv_norm_type", config.conv_norm_type, STREAMING_NORMS)
    require(
        isinstance(config.reduction, NoReduction),
        "reduction_type",
        config.reduction_type,
        "None for a stream with a cache: NeMo has no cache for a reduction among the blocks",
    )
    require(
        config.subsampling.can_stream,
        "subsampling_type",
        config.subsampling_type,
        "one that reduces the frames ('dw_striding', 'striding', 'stacking', 'stacking_norm') for a stream",
    )
