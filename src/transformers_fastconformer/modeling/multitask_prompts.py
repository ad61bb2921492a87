"""Tokens that a prompted decoder begins with: prompts, labels of training, and how many tokens may follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..decoding.options import DEFAULT_DECODING, DecodingOptions
from ..decoding.prompts import PromptOptions
from ..decoding.prompts import prompt_ids as make_prompt_ids
from ..losses.smoothed_cross_entropy import IGNORED_LABEL
from ..validation import require, shown

# Ids of one prompt for all clips, or of one for each.
Prompts = torch.Tensor | Sequence[Sequence[int]] | Sequence[int]


def asks_for_prompt(decoding: DecodingOptions) -> bool:
    """Tell options that say something of the prompt."""
    return decoding.prompt != PromptOptions()


def read_prompts(
    config: Any, prompt_ids: Prompts | None, num_clips: int, decoding: DecodingOptions = DEFAULT_DECODING
) -> list[list[int]]:
    """
    The prompt of each clip.

    Args:
        config: Configuration of the model.
        prompt_ids: Ids of one prompt for all clips, or of one for each; None: the prompt that `decoding` says.
        num_clips: Clips of the batch.
        decoding: Options of decoding.

    Raises:
        ValueError: for options that the checkpoint does not know, for options next to ids, for another number of
            prompts than of clips, and for ids that are not tokens.
    """
    if prompt_ids is None and config.prompt_token_ids:
        prompt_ids = make_prompt_ids(config, decoding.prompt)
    elif prompt_ids is not None and asks_for_prompt(decoding):
        raise ValueError(f"prompt_ids={shown(prompt_ids)} contradicts {decoding.prompt}; expected one of them.")
    given: Any = prompt_ids.tolist() if isinstance(prompt_ids, torch.Tensor) else prompt_ids
    require(given is not None and len(given) > 0, "prompt_ids", given, "ids of the tokens of a prompt")
    rows = [list(row) for row in given] if isinstance(given[0], Sequence) else [list(given)] * num_clips
    if len(rows) == 1:
        rows = rows * num_clips
    require(len(rows) == num_clips, "the number of prompts", len(rows), f"1, or {num_clips}, one for each clip")
    last = config.vocab_size - 1
    for row in rows:
        wrong = next((number for number in row if not 0 <= number <= last), None)
        require(bool(row) and wrong is None, "prompt_ids", row if not row else wrong, f"ids of 0 to {last}")
    return rows


def limit_tokens(
    config: Any,
    padded_lengths: torch.Tensor,
    encoder_lengths: torch.Tensor,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | None,
) -> torch.Tensor:
    """
    Most tokens of each clip after its prompt: (batch,); a clip without frames has none.

    Args:
        config: Configuration of the model, which has NeMo's limit.
        padded_lengths: (batch,), frames of each clip with its masked mel frame, of which NeMo makes the limit.
        encoder_lengths: (batch,), frames of each clip that count.
        prompts: Ids of the prompt of each clip.
        max_new_tokens: Most tokens that the caller wants; None: he does not say.
    """
    limits = [
        int(config.limit_new_tokens(padded, len(prompt)))
        for padded, prompt in zip(padded_lengths.cpu(), prompts, strict=True)
    ]
    most = torch.tensor(limits, dtype=torch.int64, device=encoder_lengths.device)
    most = most.masked_fill(encoder_lengths == 0, 0)
    return most if max_new_tokens is None else most.clamp(max=max_new_tokens)


def check_labels(config: Any, labels: torch.Tensor, num_clips: int) -> None:
    """Raise a `ValueError` for labels of another shape, and for ids that are neither tokens nor -100."""
    if labels.ndim != 2 or labels.shape[0] != num_clips:
        raise ValueError(f"labels has shape {tuple(labels.shape)}; expected ({num_clips}, tokens), a row a clip.")
    is_wrong = ((labels < 0) & (labels != IGNORED_LABEL)) | (labels >= config.vocab_size)
    if bool(is_wrong.any()):
        raise ValueError(
            f"labels hold the id {int(labels[is_wrong][0])}; expected ids below {config.vocab_size}, -100 for padding."
        )


def tokens_before_labels(config: Any, labels: torch.Tensor) -> torch.Tensor:
    """Decoder tokens of labels (batch, tokens): one place later, after the first token of every prompt."""
    start, padding = config.decoder_start_token_id, config.pad_token_id
    require(start is not None, "decoder_start_token_id", start, "the first token of every prompt")
    shifted = labels.new_full(labels.shape, start)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == IGNORED_LABEL, 0 if padding is None else padding)
