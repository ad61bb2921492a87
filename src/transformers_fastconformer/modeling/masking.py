"""Boolean masks, True means keep: which frames are real and which frames attention may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..validation import reading


def lengths_to_mask(lengths: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Mask of the first `lengths` frames: (batch,) to (batch, frames)."""
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]


def resolve_lengths(
    attention_mask: torch.Tensor | None, input_lengths: torch.Tensor | None, batch_size: int, num_frames: int
) -> torch.Tensor | None:
    """
    The lengths that a mask, lengths, both or neither stand for.

    Args:
        attention_mask: (batch, frames), nonzero for real frames, padding on the right; or None.
        input_lengths: (batch,), real frames of each clip; or None.
        batch_size, num_frames: Shape of the input that they describe.

    Returns:
        (batch,) int64, or None when neither is given: every frame is real.

    Raises:
        ValueError: for wrong shapes, a mask with gaps or padding on the left, lengths outside of 0 to `num_frames`,
            and a mask and lengths that disagree. On CUDA the last three are asserted on the device, so that the
            host need not wait for it.
    """
    if input_lengths is not None:
        input_lengths = _accept_lengths(input_lengths, batch_size, num_frames)
    if attention_mask is None:
        return input_lengths
    mask_lengths = _count_kept_frames(attention_mask, batch_size, num_frames)
    if input_lengths is None:
        return mask_lengths
    _check(
        (mask_lengths == input_lengths.to(mask_lengths.device)).all(),
        lambda: (
            f"attention_mask and input_lengths disagree: the mask keeps {mask_lengths.tolist()} frames, "
            f"input_lengths says {input_lengths.tolist()}. Pass one of them, or both saying the same."
        ),
    )
    return mask_lengths


def require_features(input_features: Any) -> None:
    """Raise a `ValueError` for features that are not a tensor, with the way to get one."""
    if not isinstance(input_features, torch.Tensor):
        raise ValueError(
            f"input_features is of type {type(input_features).__name__}; expected a tensor (return_tensors='pt' of "
            "the feature extractor gives one)."
        )


def _as_tensor(name: str, values: Any) -> torch.Tensor:
    """Tensors as they are, on their device; lists and arrays on the CPU, whatever the default device is."""
    if isinstance(values, torch.Tensor):
        return values
    with reading(name, "a tensor, or what makes one"):
        return torch.as_tensor(values, device="cpu")


def _accept_lengths(input_lengths: torch.Tensor, batch_size: int, num_frames: int) -> torch.Tensor:
    """(batch,) int64."""
    lengths = _as_tensor("input_lengths", input_lengths)
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(f"input_lengths has dtype {lengths.dtype}; expected integers, one length a clip.")
    if lengths.shape != (batch_size,):
        raise ValueError(
            f"input_lengths has shape {tuple(lengths.shape)}; expected ({batch_size},), one length a clip."
        )
    lengths = lengths.to(torch.int64)
    _check(
        ((lengths >= 0) & (lengths <= num_frames)).all(),
        lambda: (
            f"input_lengths={lengths.tolist()} must lie between 0 and {num_frames}, the number of frames "
            "in input_features."
        ),
    )
    return lengths


def _count_kept_frames(attention_mask: torch.Tensor, batch_size: int, num_frames: int) -> torch.Tensor:
    """Frames that a mask keeps, which must be the first ones: (batch,) int64."""
    mask = _as_tensor("attention_mask", attention_mask)
    if mask.shape != (batch_size, num_frames):
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}; expected ({batch_size}, {num_frames}) like input_features."
        )
    mask = mask.bool()
    lengths = mask.sum(dim=-1)
    _check(
        (lengths_to_mask(lengths, num_frames) == mask).all(),
        lambda: (
            "attention_mask must be True for the first frames of each clip and False for the padding after them; "
            "it has padding on the left or gaps. Frames that come after padding can be moved to the front clip by "
            "clip: features[clip].roll(-number of padded frames, dims=0), and the mask with them."
        ),
    )
    return lengths


def _check(condition: torch.Tensor, message: Callable[[], str]) -> None:
    """Raise on a CPU, assert on the device on CUDA, so that the host need not wait for it."""
    if torch.compiler.is_compiling():
        return
    if condition.device.type == "cpu":
        if not condition:
            raise ValueError(message())
    elif condition.device.type == "cuda":
        torch._assert_async(condition, "attention_mask and input_lengths contradict each other or input_features")


def is_loop_over_frames_allowed(num_frames: int) -> bool:
    """
    True if Python may loop over blocks of so many frames.

    Not while a graph is made (`torch.compile`, `torch.export`): the loop would tie it to one number of frames.
    """
    return isinstance(num_frames, int) and not torch.compiler.is_compiling()


@dataclass(frozen=True)
class ContextWindow:
    """
    Keys that a query may see, as frames around the chunk that the query is in.

    A query of chunk c sees the keys from `c * chunk_frames - left_frames` to before
    `(c + 1) * chunk_frames + right_frames`. A band is the case of chunks of one frame.

    Args:
        chunk_frames: Frames in a chunk.
        left_frames, right_frames: Frames seen before and after the chunk; None is no limit.
    """

    chunk_frames: int = 1
    left_frames: int | None = None
    right_frames: int | None = None

    @property
    def is_unlimited(self) -> bool:
        return self.left_frames is None and self.right_frames is None

    @property
    def num_frames(self) -> int | None:
        """Keys that a query sees at most; None for no limit."""
        if self.left_frames is None or self.right_frames is None:
            return None
        return self.left_frames + self.chunk_frames + self.right_frames

    def key_range(self, start: int, stop: int, num_frames: int) -> tuple[int, int]:
        """First key, and the one after the last, that any of the queries `start` to `stop - 1` sees."""
        key_start, key_stop = 0, num_frames
        if self.left_frames is not None:
            key_start = max(start // self.chunk_frames * self.chunk_frames - self.left_frames, 0)
        if self.right_frames is not None:
            chunks = (stop - 1) // self.chunk_frames + 1
            key_stop = min(chunks * self.chunk_frames + self.right_frames, num_frames)
        return key_start, key_stop

    def build_mask(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Mask of the frame indices `query` and `key`: (query,), (key,) to (query, key)."""
        chunk_start = (query // self.chunk_frames * self.chunk_frames)[:, None]
        mask = torch.ones(query.shape[0], key.shape[0], dtype=torch.bool, device=query.device)
        if self.left_frames is not None:
            mask = mask & (key >= chunk_start - self.left_frames)
        if self.right_frames is not None:
            mask = mask & (key < chunk_start + self.chunk_frames + self.right_frames)
        return mask


def resolve_context(style: str, context: list[int] | tuple[int, ...]) -> ContextWindow:
    """
    The window that an `attention_context` stands for in a given `attention_context_style`.

    Follows NeMo 3.0's `ConformerEncoder._create_masks`.
    """
    if max(context) < 0:
        return ContextWindow()
    limits = [None if frames < 0 else frames for frames in context]
    if style == "chunked_limited_with_rc":
        return ContextWindow(context[1], limits[0], limits[2])
    if style == "chunked_limited" and context[1] >= 0:
        chunk_frames = context[1] + 1
        # Whole chunks to the left. No limit is 10000 chunks in NeMo, more than any recording has.
        left_frames = None if limits[0] is None else limits[0] // chunk_frames * chunk_frames
        return ContextWindow(chunk_frames, left_frames, 0)
    return ContextWindow(1, limits[0], limits[1])


def sees_all(config: Any) -> bool:
    """Tell whether an encoder frame depends, by attention, on all frames before it in its window."""
    if config.has_local_attention:
        return False
    return resolve_context(config.attention_context_style, config.attention_context).left_frames is None


@dataclass(frozen=True)
class FrameMask:
    """
    Mask of attention without a matrix of frames x frames: rows of it are made where they are needed.

    Args:
        num_frames: Queries, and keys.
        window: Keys that a query may see in a clip without end.
        padding_mask: (batch, frames), True for real frames; None when all are.
        matrix: The whole mask, made once by `materialize`; None to make rows on demand.
        spans: If the one row is clips end to end (`PackedRows`), start and stop of each: a clip sees only itself.
            None for a batch of padded clips.
    """

    num_frames: int
    window: ContextWindow
    padding_mask: torch.Tensor | None = None
    matrix: torch.Tensor | None = None
    spans: tuple[tuple[int, int], ...] | None = None

    def materialize(self, device: torch.device) -> FrameMask:
        """The same with the whole mask made once, which is cheaper where one block of queries has them all."""
        frame = torch.arange(self.num_frames, device=device)
        # Not `dataclasses.replace`, which torch.compile before 2.7 cannot follow.
        return FrameMask(self.num_frames, self.window, self.padding_mask, self._build_rows(frame, frame))

    def key_range(self, start: int, stop: int) -> tuple[int, int]:
        """First key, and the one after the last, that any of the queries `start` to `stop - 1` sees."""
        return self.window.key_range(start, stop, self.num_frames)

    def rows(self, queries: slice, keys: slice, device: torch.device) -> torch.Tensor | None:
        """
        Mask of a block of queries and the keys it sees: (batch or 1, 1, query or 1, key), or None when all are kept.
        """
        if self.window.is_unlimited and self.padding_mask is None:
            return None
        if self.matrix is not None:
            return self.matrix[..., queries if self.matrix.shape[-2] > 1 else slice(None), keys]
        frame = torch.arange(self.num_frames, device=device)
        return self._build_rows(frame[queries], frame[keys])

    def _build_rows(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor | None:
        mask = None
        if not self.window.is_unlimited:
            mask = self.window.build_mask(query, key)[None, None]
        if self.padding_mask is not None:
            key_mask = self.padding_mask[:, key][:, None, None]  # (batch, 1, 1, key)
            mask = key_mask if mask is None else mask & key_mask
        return mask
