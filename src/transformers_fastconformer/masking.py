"""Boolean masks, True means keep: which frames are real and which frames attention may look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .configuration_fastconformer import FastConformerConfig


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
        if input_lengths.shape != (batch_size,):
            raise ValueError(
                f"input_lengths has shape {tuple(input_lengths.shape)}; expected ({batch_size},), one length a clip."
            )
        input_lengths = input_lengths.to(torch.int64)
        _check(
            ((input_lengths >= 0) & (input_lengths <= num_frames)).all(),
            lambda: (
                f"input_lengths={input_lengths.tolist()} must lie between 0 and {num_frames}, the number of frames "
                "in input_features."
            ),
        )
    if attention_mask is None:
        return input_lengths
    if attention_mask.shape != (batch_size, num_frames):
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; expected ({batch_size}, {num_frames}) like "
            "input_features."
        )
    attention_mask = attention_mask.bool()
    mask_lengths = attention_mask.sum(dim=-1)
    _check(
        (lengths_to_mask(mask_lengths, num_frames) == attention_mask).all(),
        lambda: (
            "attention_mask must be True for the first frames of each clip and False for the padding behind them; "
            "it has padding on the left or gaps."
        ),
    )
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


def _check(condition: torch.Tensor, message: object) -> None:
    if torch.compiler.is_compiling():
        return
    if condition.device.type == "cpu":
        if not condition:
            raise ValueError(message())  # type: ignore[operator]
    elif condition.device.type == "cuda":
        torch._assert_async(condition)


def context_mask(config: FastConformerConfig, num_frames: int, device: torch.device) -> torch.Tensor | None:
    """
    Which keys each query may see for the configured context: (query, key), or None when all.

    Follows NeMo 3.0's `ConformerEncoder._create_masks`.
    """
    context, style = config.attention_context, config.attention_context_style
    if max(context) < 0:
        return None
    frame = torch.arange(num_frames, device=device)
    query, key = frame[:, None], frame[None, :]
    if style == "regular" or (style == "chunked_limited" and context[1] < 0):
        mask = torch.ones(num_frames, num_frames, dtype=torch.bool, device=device)
        if context[0] >= 0:
            mask &= key >= query - context[0]
        if context[1] >= 0:
            mask &= key <= query + context[1]
        return mask
    if style == "chunked_limited":
        chunk_frames = context[1] + 1
        chunks_back = query // chunk_frames - key // chunk_frames
        mask = chunks_back >= 0
        # An unlimited left context is 10000 chunks in NeMo, more than any recording has.
        return mask & (chunks_back <= context[0] // chunk_frames) if context[0] >= 0 else mask
    left, chunk_frames, right = context
    chunk_start = query // chunk_frames * chunk_frames
    return (key >= chunk_start - left) & (key < chunk_start + chunk_frames + right)
