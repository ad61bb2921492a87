"""Refusing clips whose values are not finite."""

from __future__ import annotations

import math

import torch

from .masking import lengths_to_mask, require_features, resolve_lengths

# For what a model has computed from finite features.
OVERFLOW_HINT = " Such weights may need another dtype: float16 ends at 65504."


class FiniteCheck:
    """
    Refuses clips whose real frames hold NaN or an infinite value: decoded, they would be tokens without a meaning.

    On a CPU that is at once. Elsewhere `finish` does it, to be called when decoding has waited for the device anyway.

    Args:
        name: Of the values, for the message.
        values: (batch, frames, size).
        lengths: (batch,), frames of each clip that count; None for all of them.
        hint: End of the message: what may have made them so.

    Raises:
        ValueError: naming the clips.
    """

    def __init__(self, name: str, values: torch.Tensor, lengths: torch.Tensor | None, hint: str = "") -> None:
        self.name, self.hint = name, hint
        if values.device.type == "cpu" and math.isfinite(values.sum()):
            # Nothing to find, and read once: `isfinite` makes several copies. A sum that overflows goes on below.
            self.is_broken = torch.zeros(values.shape[0], dtype=torch.bool, device=values.device)
            return
        is_broken = ~torch.isfinite(values)
        if lengths is not None:
            is_broken &= lengths_to_mask(lengths.to(values.device), values.shape[1])[..., None]
        self.is_broken = is_broken.flatten(1).any(dim=1)  # (batch,)
        if values.device.type == "cpu":
            self.finish()

    def finish(self) -> None:
        """Raise where there is a reason."""
        clips = self.is_broken.nonzero()[:, 0].tolist()
        if clips:
            raise ValueError(
                f"{self.name} holds NaN or infinite values in clips {clips}; expected finite ones.{self.hint}"
            )


def check_features(
    input_features: torch.Tensor, attention_mask: torch.Tensor | None, input_lengths: torch.Tensor | None
) -> FiniteCheck:
    """The check of features, (batch, mel frames, mels)."""
    require_features(input_features)
    if input_features.ndim != 3:
        raise ValueError(
            f"input_features has shape {tuple(input_features.shape)}; expected (batch, mel frames, mel features)."
        )
    lengths = resolve_lengths(attention_mask, input_lengths, *input_features.shape[:2])
    return FiniteCheck("input_features", input_features, lengths)
