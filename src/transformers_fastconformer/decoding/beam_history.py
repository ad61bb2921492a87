"""Steps of a beam search over transducers, from which the texts are read in the end, and which texts are the best."""

from __future__ import annotations

import torch

from .hypotheses import Hypotheses, TokenTable

# Label of a text that is not continued in a step.
NO_LABEL = -1


class BeamHistory:
    """
    For each step and text: which text of the step before it continues, and with what.

    Args:
        blank_id: Class of the blank.
    """

    def __init__(self, blank_id: int) -> None:
        self.blank_id = blank_id
        self.parents: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []
        self.frames: list[torch.Tensor] = []
        self.durations: list[torch.Tensor] = []
        self.log_probs: list[torch.Tensor] = []
        self.scores: list[torch.Tensor] = []

    def add(
        self,
        parents: torch.Tensor,
        labels: torch.Tensor,
        frames: torch.Tensor,
        log_probs: torch.Tensor,
        durations: torch.Tensor | None = None,
        scores: torch.Tensor | None = None,
    ) -> None:
        """Note a step, all (batch, beams): labels may be blanks and `NO_LABEL`, whose other values are not read."""
        self.parents.append(parents)
        self.labels.append(labels)
        self.frames.append(frames)
        self.log_probs.append(log_probs)
        if durations is not None:
            self.durations.append(durations)
        if scores is not None:
            self.scores.append(scores)

    def collect(
        self, chosen: torch.Tensor, totals: torch.Tensor, padding_id: int, has_durations: bool, has_scores: bool
    ) -> Hypotheses:
        """
        Read texts.

        Args:
            chosen: (batch, texts), numbers of the beams after the last step.
            totals: (batch, texts), -inf for those that are not texts.
            padding_id: Fills `tokens` after the last one.
            has_durations: The steps have durations.
            has_scores: The steps have scores.

        Returns:
            The hypotheses, those of a clip in consecutive rows.
        """
        device, num_rows = chosen.device, chosen.numel()
        paths = self._paths(chosen)  # (steps, batch, texts)
        labels = _along(self.labels, paths)
        is_token = (labels >= 0) & (labels != self.blank_id) & (totals > -torch.inf)
        rows = torch.arange(num_rows, dtype=torch.int64, device=device).view_as(chosen).expand_as(labels)
        table = TokenTable(rows[is_token], num_rows)

        def read(column: list[torch.Tensor]) -> torch.Tensor:
            return table.fill(_along(column, paths)[is_token])

        return Hypotheses(
            tokens=table.fill(labels[is_token], padding_id),
            token_lengths=table.token_lengths,
            frame_indices=read(self.frames),
            log_probs=table.fill(_along(self.log_probs, paths, torch.float32)[is_token]),
            durations=read(self.durations) if has_durations else None,
            scores=table.fill(_along(self.scores, paths, torch.float32)[is_token]) if has_scores else None,
            totals=totals.reshape(-1),
        )

    def _paths(self, chosen: torch.Tensor) -> torch.Tensor:
        """Beam of each text after each step, (steps, batch, texts)."""
        paths = chosen.new_empty(len(self.parents), *chosen.shape)
        here = chosen
        for step in range(len(self.parents) - 1, -1, -1):
            paths[step] = here
            here = self.parents[step].gather(1, here)
        return paths


def _along(column: list[torch.Tensor], paths: torch.Tensor, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Values of steps at the beams of texts, (steps, batch, texts)."""
    if not column:
        return torch.zeros(paths.shape, dtype=dtype, device=paths.device)
    return torch.stack(column).gather(2, paths)


def rank_beams(
    scores: torch.Tensor, lengths: torch.Tensor, count: int, normalizes_length: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Find the best texts of each clip.

    Args:
        scores: (batch, beams).
        lengths: (batch, beams), tokens of each text.
        count: Number of texts.
        normalizes_length: Compare scores divided by tokens and one.

    Returns:
        Their beams and their scores, which are not divided, both (batch, count).
    """
    compared = scores / (lengths + 1) if normalizes_length else scores
    chosen = compared.argsort(dim=1, descending=True, stable=True)[:, :count]
    return chosen, scores.gather(1, chosen)
