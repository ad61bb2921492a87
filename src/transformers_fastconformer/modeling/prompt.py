"""Language prompts: the language of a clip, mixed into the encoder's output before the heads see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..configuration_fastconformer import FastConformerRNNTConfig

# The language of a whole batch, or of each clip.
Language = str | Sequence[str]


class FastConformerPromptKernel(nn.Module):
    """
    Two linear layers over each frame joined with a one-hot code of the language (NeMo's `prompt_kernel`).

    Checked against `EncDecRNNTBPEModelWithPrompt` and `EncDecHybridRNNTCTCBPEModelWithPrompt` of NeMo 3.0.
    """

    def __init__(self, config: FastConformerRNNTConfig) -> None:
        super().__init__()
        size = config.output_size
        self.num_prompts = config.num_prompts
        self.input_proj = nn.Linear(size + config.num_prompts, 2 * size)
        self.activation = nn.ReLU()
        self.output_proj = nn.Linear(2 * size, size)

    def forward(self, frames: torch.Tensor, prompt_ids: torch.Tensor) -> torch.Tensor:
        """
        Mix the language of each clip into its frames.

        Args:
            frames: (batch, frames, size), encoder output.
            prompt_ids: (batch,), number of each clip's language.

        Returns:
            (batch, frames, size)
        """
        one_hot = nn.functional.one_hot(prompt_ids, self.num_prompts).to(frames.dtype)  # (batch, prompts)
        one_hot = one_hot[:, None].expand(-1, frames.shape[1], -1)
        return self.output_proj(self.activation(self.input_proj(torch.cat([frames, one_hot], dim=-1))))


def check_language(config: Any, language: Language | None) -> None:
    """
    Check that a model can be told a language; None, its default, is always allowed here.

    Raises:
        ValueError: for a code that the model does not know, and for any code in a model without prompts.
    """
    if language is None:
        return
    if getattr(config, "num_prompts", 0) == 0:
        raise ValueError(
            f"language={language!r} is not supported: this model has no language prompts (num_prompts=0); "
            "expected None, or languages=compile_languages(...), which limits what is written."
        )
    find_prompt_ids(config, language, 1 if isinstance(language, str) else len(language))


def find_prompt_ids(config: FastConformerRNNTConfig, language: Language | None, num_clips: int) -> list[int]:
    """
    Numbers of the languages of a batch.

    Args:
        config: Configuration with `prompt_languages`.
        language: One code for all clips or one for each; None is `config.default_language`.
        num_clips: Clips in the batch.

    Raises:
        ValueError: for a code that the model does not know, with a list of those that it knows; for None in a model
            without a default language; and for another number of codes than of clips.
    """
    languages = config.prompt_languages or {}
    if language is None:
        language = config.default_language
    if language is None:
        raise ValueError(f"language=None is not supported by this model; expected one of {sorted(languages)}.")
    codes = [language] * num_clips if isinstance(language, str) else list(language)
    if len(codes) != num_clips:
        raise ValueError(f"language has {len(codes)} codes; expected one, or one for each of the {num_clips} clips.")
    for code in codes:
        if code not in languages:
            raise ValueError(f"language={code!r} is not supported by this model; expected one of {sorted(languages)}.")
    return [languages[code] for code in codes]
