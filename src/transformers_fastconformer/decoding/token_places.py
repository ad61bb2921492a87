"""Frames around which the tokens of a text are said, by the attention of a decoder that has no other times."""

from __future__ import annotations

import torch


def place_tokens(weights: torch.Tensor) -> torch.Tensor:
    """
    Find the frame that each token stands for.

    Every head says how much more a token attends to a frame than the other tokens do; what all tokens attend to, such
    as the first frame, says nothing. Of all ways through the frames that never go back the one is taken on which
    the heads agree most.

    Args:
        weights: (heads, tokens, frames), attention probabilities of all heads and layers.

    Returns:
        (tokens,), frames that do not decrease.
    """
    num_tokens, num_frames = weights.shape[1:]
    if not num_tokens or not num_frames:
        return torch.zeros(num_tokens, dtype=torch.int64, device=weights.device)
    weights = weights.float()
    spread = weights.std(dim=1, keepdim=True, correction=0)
    scores = ((weights - weights.mean(dim=1, keepdim=True)) / (spread + 1e-9)).mean(dim=0)  # (tokens, frames)
    best, origins = scores[0], []
    for row in scores[1:]:
        best, origin = best.cummax(dim=0)  # of all frames up to each
        best = best + row
        origins.append(origin)
    frame = best.argmax()
    frames = [frame]
    for origin in reversed(origins):
        frame = origin[frame]
        frames.append(frame)
    return torch.stack(frames[::-1])
