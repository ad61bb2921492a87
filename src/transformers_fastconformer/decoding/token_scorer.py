"""
Scores that are added to those of a decoder: the sum of several automata, for a batch whose clips may have their own.

Decoders ask for scores of all tokens in the states of some clips, and for the states after the tokens they chose.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch

from ..validation import require
from .token_automaton import TokenAutomaton

# Automata of batches whose clips have their own that are kept, so that a stream does not join them at every step.
MAX_JOINED = 16


class TokenScorer:
    """
    The automata of a batch.

    Args:
        automata: For each kind of score (phrases, language model) one automaton for all clips, or one for each clip.

    States are (clips, kinds). Inside a call of a decoder they are numbers of the joined automata, see `enter`; what a
    decoder returns counts in each clip's own automaton, so that clips may meet others in the next batch.
    """

    def __init__(self, automata: Sequence[TokenAutomaton | Sequence[TokenAutomaton]]) -> None:
        self.automata: list[TokenAutomaton] = []
        self._offsets: list[list[int] | None] = []
        self._starts: list[list[int] | int] = []
        self._sizes: list[list[int] | int] = []
        self._weights: list[list[float] | float] = []
        for given in automata:
            if isinstance(given, TokenAutomaton):
                self.automata.append(given)
                self._offsets.append(None)
                self._starts.append(int(given.start_states[0]))
                self._sizes.append(given.num_states)
                self._weights.append(given.weight)
                continue
            sizes = sorted({automaton.vocab_size for automaton in given})
            if len(sizes) > 1:
                raise ValueError(f"boosting has phrases of {sizes} tokens; expected those of one tokenizer.")
            joined, offset_of = _join(given)
            self.automata.append(joined)
            self._offsets.append([offset_of[id(automaton)] for automaton in given])
            self._starts.append([int(automaton.start_states[0]) for automaton in given])
            self._sizes.append([automaton.num_states for automaton in given])
            self._weights.append([automaton.weight for automaton in given])
        self.hosts = [automaton.host for automaton in self.automata]

    @property
    def num_kinds(self) -> int:
        """Number of scores that are added up."""
        return len(self.automata)

    @property
    def is_shared(self) -> bool:
        """True if all clips have the same automata, which then stay the same from call to call."""
        return all(offsets is None for offsets in self._offsets)

    @property
    def identity(self) -> tuple[int, ...]:
        """Equal for scorers of the same automata, as long as these live."""
        return tuple(map(id, self.automata))

    def check(self, batch_size: int, vocab_size: int) -> None:
        """
        Raise for a batch or a vocabulary that these automata are not for.

        Raises:
            ValueError: the message has both numbers.
        """
        for automaton, offsets in zip(self.automata, self._offsets, strict=True):
            if automaton.vocab_size != vocab_size:
                raise ValueError(
                    f"phrases or language model of {automaton.vocab_size} tokens; expected {vocab_size}, the "
                    "vocabulary of this model. They must be made with the model's own tokenizer."
                )
            if offsets is not None and len(offsets) != batch_size:
                raise ValueError(f"boosting has {len(offsets)} lists; expected {batch_size}, one for each clip.")

    def select(self, clips: Sequence[int]) -> TokenScorer:
        """The scorer of some clips, by their numbers."""
        if self.is_shared:
            return self
        chosen = copy.copy(self)
        for name in ("_offsets", "_starts", "_sizes", "_weights"):
            columns = getattr(self, name)
            picked = [[column[clip] for clip in clips] if isinstance(column, list) else column for column in columns]
            setattr(chosen, name, picked)
        return chosen

    def _table(self, values: Sequence[list[int] | int | None], batch_size: int) -> np.ndarray:
        """(clips, kinds)"""
        columns = [column if isinstance(column, list) else [column or 0] * batch_size for column in values]
        return np.asarray(columns, dtype=np.int64).T.copy()

    def enter(self, states: torch.Tensor | None, batch_size: int) -> np.ndarray:
        """
        States of clips (clips, kinds), None at their start, as numbers of the joined automata.

        Raises:
            ValueError: for states that these automata do not have.
        """
        own = self._table(self._starts, batch_size)
        if states is not None:
            shape, own = own.shape, states.cpu().numpy()
            is_known = own.shape == shape and bool(((own >= 0) & (own < self._table(self._sizes, batch_size))).all())
            require(is_known, "scorer_states", own.tolist(), "states of these phrases and of this language model")
        return own + self._table(self._offsets, batch_size)

    def leave(self, states: np.ndarray, device: torch.device) -> torch.Tensor:
        """States of the joined automata as those of each clip's own."""
        return torch.from_numpy(states - self._table(self._offsets, len(states))).to(device)

    def weights(self, batch_size: int) -> np.ndarray:
        """Sum of the weights of each clip's scores, (clips,)."""
        columns = [np.broadcast_to(np.asarray(given, dtype=np.float32), batch_size) for given in self._weights]
        return np.stack(columns).sum(axis=0)

    # On the host

    def add_scores(self, values: np.ndarray, states: np.ndarray) -> None:
        """Add the scores in states (n, kinds) to values (n, vocabulary), in place."""
        for kind, host in enumerate(self.hosts):
            host.add_scores(values, states[:, kind])

    def step_rows(self, states: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """States (n, kinds) after a token each, (n,)."""
        columns = [host.step(states[:, kind], tokens) for kind, host in enumerate(self.hosts)]
        return np.stack(columns, axis=1)

    def choose(self, values: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Best token of each row of values (n, vocabulary) with the scores in its states, (n,)."""
        fused = values.astype(np.float32)  # a copy
        self.add_scores(fused, states)
        return fused.argmax(axis=1)

    # On any device

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """Scores of all tokens, (n, kinds) states to (n, vocabulary)."""
        parts = [automaton.to(states.device).scores(states[:, kind]) for kind, automaton in enumerate(self.automata)]
        return sum(parts[1:], parts[0])

    def scores_with_end(self, states: torch.Tensor, end_id: int) -> torch.Tensor:
        """Like `scores`, with that of the end of the text in the place of token `end_id`."""
        total: Any = 0.0
        for kind, automaton in enumerate(self.automata):
            here = automaton.to(states.device)
            scores = here.scores(states[:, kind])
            ends = here.end_weights[states[:, kind]]
            scores[:, end_id] = scores.amax(dim=1).clamp(min=0.0) + ends if automaton.raises_end else ends
            total = total + scores
        return total

    def end_scores(self, states: torch.Tensor) -> torch.Tensor:
        """Scores of the end of the text by language models, (n,); phrases have none where the end is not a token."""
        total = torch.zeros(states.shape[0], dtype=torch.float32, device=states.device)
        for kind, automaton in enumerate(self.automata):
            if not automaton.raises_end:
                total = total + automaton.to(states.device).end_weights[states[:, kind]]
        return total

    def step(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """States (n, kinds) after a token each, (n,)."""
        columns = [
            automaton.to(states.device).step(states[:, kind], tokens) for kind, automaton in enumerate(self.automata)
        ]
        return torch.stack(columns, dim=1)


_joined: OrderedDict[tuple[int, ...], tuple[TokenAutomaton, dict[int, int], list[TokenAutomaton]]] = OrderedDict()
_lock = Lock()


def _join(automata: Sequence[TokenAutomaton]) -> tuple[TokenAutomaton, dict[int, int]]:
    """The automata side by side, each once, and the offset of each by its id."""
    different = list({id(automaton): automaton for automaton in automata}.values())
    key = tuple(map(id, different))
    with _lock:
        if key not in _joined:
            joined, offsets = TokenAutomaton.join(different)
            # The parts are kept too, so that their ids are not given to others.
            _joined[key] = (joined, dict(zip(key, offsets, strict=True)), different)
        found = _joined[key]
        _joined.move_to_end(key)
        while len(_joined) > MAX_JOINED:
            _joined.popitem(last=False)
    return found[0], found[1]
