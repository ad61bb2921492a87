"""Results of decoding: one type for every decoder, one way to lay tokens out in a padded table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch


class Hypotheses(NamedTuple):
    """
    Tokens of a batch, padded on the right.

    Args:
        tokens: (batch, tokens), without blanks; the decoder's `padding_id` after the last one of a clip.
        token_lengths: (batch,).
        frame_indices: (batch, tokens), frame in which each token was emitted (CTC: its first frame); 0 in the padding,
            and everywhere for an attention decoder, whose tokens have no frames.
        log_probs: (batch, tokens), log-probability among tokens and blank in that frame; 0 in the padding, and
            everywhere for an attention decoder that was not asked for them.
        durations: (batch, tokens), frames that TDT predicted with each token; None for CTC and RNN-T.
        scores: (batch, tokens, ...), such as confidences; 0 in the padding. None if scores were not asked for.
        totals: (batch,), log-probability of the whole text with the scores of phrases and language model, -inf where
            a beam search found fewer texts than asked for; None in greedy decoding.
    """

    tokens: torch.Tensor
    token_lengths: torch.Tensor
    frame_indices: torch.Tensor
    log_probs: torch.Tensor
    durations: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    totals: torch.Tensor | None = None

    def first(self, max_tokens: int) -> Hypotheses:
        """The first tokens of each clip, as if its decoding had ended with them."""
        columns: dict[str, Any] = {
            name: None if column is None else column[:, :max_tokens]
            for name, column in self._asdict().items()
            if name not in ("token_lengths", "totals")
        }
        return self._replace(**columns, token_lengths=self.token_lengths.clamp(max=max_tokens))

    def select(self, clips: Sequence[int]) -> Hypotheses:
        """The hypotheses of some clips, in the order of their numbers."""
        columns: dict[str, Any] = {
            name: None if column is None else column[list(clips)] for name, column in self._asdict().items()
        }
        return Hypotheses(**columns)

    @classmethod
    def concatenate(cls, parts: Sequence[Hypotheses], padding_id: int) -> Hypotheses:
        """The hypotheses of several batches, one after the other; `padding_id` fills the tokens."""
        if len(parts) == 1:
            return parts[0]
        num_columns = max(part.tokens.shape[1] for part in parts)
        columns: dict[str, Any] = {"token_lengths": torch.cat([part.token_lengths for part in parts])}
        for name in cls._fields:
            if name == "token_lengths":
                continue
            tables = [getattr(part, name) for part in parts]
            if any(table is None for table in tables):
                columns[name] = None
                continue
            if name == "totals":
                columns[name] = torch.cat(tables)
                continue
            padding = padding_id if name == "tokens" else 0
            wide = [table.new_full((len(table), num_columns, *table.shape[2:]), padding) for table in tables]
            for target, table in zip(wide, tables, strict=True):
                target[:, : table.shape[1]] = table
            columns[name] = torch.cat(wide)
        return cls(**columns)


class TokenTable:
    """
    Layout of emitted tokens in tables of (batch, tokens): each in the row of its clip, in order of emission.

    Args:
        clips: (n,), clip of each token; tokens of one clip are in order.
        batch_size: Number of clips, including those without tokens.
    """

    def __init__(self, clips: torch.Tensor, batch_size: int) -> None:
        self._order = clips.argsort(stable=True)
        self._rows = clips[self._order]
        self.token_lengths = torch.bincount(clips, minlength=batch_size)  # (batch,)
        first = self.token_lengths.cumsum(0) - self.token_lengths
        self._columns = torch.arange(len(clips), device=clips.device) - first[self._rows]
        self._shape = (batch_size, int(self.token_lengths.max()) if batch_size else 0)

    def fill(self, values: torch.Tensor, padding: int | float = 0) -> torch.Tensor:
        """Values of the tokens, (n, ...), to (batch, tokens, ...), with `padding` after the last token of a clip."""
        table = values.new_full((*self._shape, *values.shape[1:]), padding)
        table[self._rows, self._columns] = values[self._order]
        return table
