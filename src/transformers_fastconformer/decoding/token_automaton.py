"""
Weighted automata over tokens: phrases to boost and n-gram language models in one form, held in tensors.

A state has arcs only for the tokens that it knows better than the state it backs off to, so that memory grows with the
phrases or n-grams and not with states times vocabulary. The last state of every chain of backoffs is a root, which
has an arc for each token. A score is found by walking that chain, whose length is that of the longest phrase or
n-gram: twenty thousand phrases cost what twenty cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

# Longest chain of backoffs, which is as long as the longest phrase or n-gram.
MAX_BACKOFFS = 1000
ARRAYS = (
    "arc_starts",
    "arc_tokens",
    "arc_targets",
    "arc_weights",
    "backoff_states",
    "backoff_weights",
    "end_weights",
    "root_rows",
    "root_targets",
    "root_weights",
)


@dataclass(frozen=True, eq=False)
class TokenAutomaton:
    """
    States, arcs and backoffs; all tensors are on one device.

    The score of a token in a state is the weight of its arc, there or in the first state along the backoffs that has
    one, plus the weights of the backoffs on the way.

    Args:
        arc_starts: (states + 1,), first arc of each state; arcs of a state lie together, by their tokens.
        arc_tokens: (arcs,).
        arc_targets: (arcs,), state after the token.
        arc_weights: (arcs,).
        backoff_states: (states,), where tokens without an arc are looked up; a root backs off to itself.
        backoff_weights: (states,), added then; 0 for a root.
        end_weights: (states,), score of the end of the text in a state, which attention decoders emit as a token.
        root_rows: (states,), row of a root in the two tables below; -1 for other states.
        root_targets: (roots, vocabulary).
        root_weights: (roots, vocabulary).
        start_states: (lists,), first state of a text; several where several automata were joined.
        raises_end: True for phrases: the end scores as much as the best token, at least 0, and `end_weights` more.
            False for language models: the end scores `end_weights`.
        weight: What the scores have been multiplied by, which a beam search gives the blank too.
    """

    arc_starts: torch.Tensor
    arc_tokens: torch.Tensor
    arc_targets: torch.Tensor
    arc_weights: torch.Tensor
    backoff_states: torch.Tensor
    backoff_weights: torch.Tensor
    end_weights: torch.Tensor
    root_rows: torch.Tensor
    root_targets: torch.Tensor
    root_weights: torch.Tensor
    start_states: torch.Tensor
    raises_end: bool = True
    weight: float = 1.0

    @property
    def vocab_size(self) -> int:
        """Number of tokens, without the blank."""
        return self.root_weights.shape[1]

    @property
    def num_states(self) -> int:
        """Number of states."""
        return self.backoff_states.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.arc_weights.device

    @cached_property
    def max_arcs(self) -> int:
        """Largest number of arcs of a state that is not a root."""
        counts = self.arc_starts[1:] - self.arc_starts[:-1]
        return int(counts.max()) if len(counts) else 0

    @cached_property
    def max_backoffs(self) -> int:
        """Largest number of backoffs from a state to its root."""
        states, count = torch.arange(self.num_states, dtype=torch.int64, device=self.device), 0
        while len(states := states[self.root_rows[states] < 0]):
            states, count = self.backoff_states[states].long(), count + 1
            if count > MAX_BACKOFFS:
                raise ValueError(f"backoff_states: expected chains of at most {MAX_BACKOFFS} states up to a root.")
        return count

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of all that the scores depend on."""
        digest = hashlib.sha256(str(self.raises_end).encode())
        for name in (*ARRAYS, "start_states"):
            tensor = getattr(self, name).detach().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def host(self) -> HostTables:
        """The same as arrays, for loops on the host."""
        return HostTables(self)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name."""
        return {name: getattr(self, name) for name in (*ARRAYS, "start_states")}

    def to(self, device: torch.device | str) -> TokenAutomaton:
        """The automaton on a device; a copy there is made once."""
        device = torch.device(device)
        if device == self.device:
            return self
        copies: dict[torch.device, TokenAutomaton] = self.__dict__.setdefault("_copies", {})
        if device not in copies:
            moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
            copies[device] = TokenAutomaton(**moved, raises_end=self.raises_end, weight=self.weight)
        return copies[device]

    def scaled(self, weight: float) -> TokenAutomaton:
        """The automaton with all scores multiplied by a weight; the structure is shared. Made once for each weight."""
        if weight == 1.0:
            return self
        copies: dict[float, TokenAutomaton] = self.__dict__.setdefault("_scaled", {})
        if weight not in copies:
            names = ("arc_weights", "backoff_weights", "end_weights", "root_weights")
            tensors = {**self.tensors(), **{name: getattr(self, name) * weight for name in names}}
            copies[weight] = TokenAutomaton(**tensors, raises_end=self.raises_end, weight=self.weight * weight)
        return copies[weight]

    @classmethod
    def empty(cls, vocab_size: int, raises_end: bool = True) -> TokenAutomaton:
        """One state that scores all tokens 0."""

        def integers(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.int32, device="cpu")

        def floats(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.float32, device="cpu")

        return cls(
            arc_starts=torch.zeros(2, dtype=torch.int64, device="cpu"),
            arc_tokens=integers(0),
            arc_targets=integers(0),
            arc_weights=floats(0),
            backoff_states=integers(1),
            backoff_weights=floats(1),
            end_weights=floats(1),
            root_rows=integers(1),
            root_targets=integers(1, vocab_size),
            root_weights=floats(1, vocab_size),
            start_states=torch.zeros(1, dtype=torch.int64, device="cpu"),
            raises_end=raises_end,
            weight=0.0,
        )

    @classmethod
    def join(cls, automata: Sequence[TokenAutomaton]) -> tuple[TokenAutomaton, list[int]]:
        """
        Put several automata of one vocabulary side by side, so that rows of a batch may each have their own.

        Returns:
            The automaton, and what is added to the numbers of the states of each.
        """
        offsets = np.cumsum([0, *(automaton.num_states for automaton in automata)]).tolist()
        arcs = np.cumsum([0, *(automaton.arc_tokens.shape[0] for automaton in automata)]).tolist()
        roots = np.cumsum([0, *(automaton.root_weights.shape[0] for automaton in automata)]).tolist()
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in (*ARRAYS, "start_states")}
        for automaton, offset, first_arc, first_root in zip(automata, offsets, arcs, roots, strict=False):
            for name, tensor in automaton.tensors().items():
                if name == "arc_starts":
                    tensor = tensor[:-1] + first_arc
                elif name in ("arc_targets", "backoff_states", "root_targets", "start_states"):
                    tensor = tensor + offset
                elif name == "root_rows":
                    tensor = torch.where(tensor < 0, tensor, tensor + first_root)
                parts[name].append(tensor)
        parts["arc_starts"].append(parts["arc_starts"][0].new_tensor([arcs[-1]]))
        joined = {name: torch.cat(tensors) for name, tensors in parts.items()}
        return cls(**joined, raises_end=automata[0].raises_end, weight=1.0), offsets[:-1]

    # Steps on any device, with shapes that do not depend on values

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """Scores of all tokens, (n,) states to (n, vocabulary)."""
        count, vocab_size = states.shape[0], self.vocab_size
        found = torch.zeros(count, vocab_size + 1, dtype=torch.bool, device=self.device)
        scores = torch.zeros(count, vocab_size + 1, dtype=torch.float32, device=self.device)
        total = torch.zeros(count, dtype=torch.float32, device=self.device)
        for _ in range(self.max_backoffs):
            places, exists = self._arcs_of(states)
            tokens = torch.where(exists, self.arc_tokens[places].long(), vocab_size)  # (n, arcs)
            # A token has one arc in a state; what does not exist goes to the last column, which is dropped.
            is_new = torch.zeros_like(found).scatter_(1, tokens, exists) & ~found
            weights = torch.zeros_like(scores).scatter_(1, tokens, self.arc_weights[places] + total[:, None])
            scores = torch.where(is_new, weights, scores)
            found = found | is_new
            total = total + self.backoff_weights[states]
            states = self.backoff_states[states].long()
        at_root = self.root_weights[self.root_rows[states].long()] + total[:, None]
        return torch.where(found[:, :vocab_size], scores[:, :vocab_size], at_root)

    def step(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """States after a token each, both (n,)."""
        target = torch.full_like(states, -1)
        for _ in range(self.max_backoffs):
            places, exists = self._arcs_of(states)
            fits = exists & (self.arc_tokens[places] == tokens[:, None])
            # At most one arc fits.
            here = torch.where(fits, self.arc_targets[places].long() + 1, 0).sum(dim=1) - 1
            target = torch.where(target < 0, here, target)
            states = self.backoff_states[states].long()
        at_root = self.root_targets[self.root_rows[states].long(), tokens].long()
        return torch.where(target < 0, at_root, target)

    def _arcs_of(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Places of the arcs of states, (n, largest number of arcs), and which of them exist."""
        starts, ends = self.arc_starts[states], self.arc_starts[states + 1]
        places = starts[:, None] + torch.arange(self.max_arcs, dtype=torch.int64, device=self.device)
        exists = places < ends[:, None]
        return torch.where(exists, places, 0), exists


class HostTables:
    """
    The tables of an automaton as arrays, and its steps for loops on the host, which need not mind shapes.

    They give what [`TokenAutomaton.scores`] and [`TokenAutomaton.step`] give.

    Args:
        automaton: The automaton.
    """

    def __init__(self, automaton: TokenAutomaton) -> None:
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in automaton.tensors().items()}
        self.arc_starts = arrays["arc_starts"]
        self.arc_tokens, self.arc_targets = arrays["arc_tokens"], arrays["arc_targets"]
        self.arc_weights = arrays["arc_weights"]
        self.backoff_states, self.backoff_weights = arrays["backoff_states"], arrays["backoff_weights"]
        self.root_rows = arrays["root_rows"]
        self.root_targets, self.root_weights = arrays["root_targets"], arrays["root_weights"]
        self.vocab_size = self.root_weights.shape[1]

    def add_scores(self, values: np.ndarray, states: np.ndarray) -> None:
        """Add the scores of all tokens in (n,) states to values (n, vocabulary), in place."""
        if len(states) == 1:
            self._add_scores_of_one(values[0], int(states[0]))
            return
        chain, totals = [states], [np.zeros(len(states), dtype=np.float32)]
        while (self.root_rows[chain[-1]] < 0).any():
            totals.append(totals[-1] + self.backoff_weights[chain[-1]])
            chain.append(self.backoff_states[chain[-1]])
        scores = self.root_weights[self.root_rows[chain[-1]]]  # (n, vocabulary), a copy
        if len(chain) > 1:
            scores += totals[-1][:, None]
        # From the shortest history to the longest, which has the last word.
        for level in range(len(chain) - 2, -1, -1):
            starts = self.arc_starts[chain[level]]
            counts = self.arc_starts[chain[level] + 1] - starts
            # A chain that has ended in a root repeats it, and a root has no arcs of this kind.
            rows = np.repeat(np.arange(len(states)), counts)
            firsts = np.cumsum(counts) - counts
            arcs = np.arange(len(rows)) + np.repeat(starts - firsts, counts)
            scores[rows, self.arc_tokens[arcs]] = self.arc_weights[arcs] + totals[level][rows]
        values += scores

    def _add_scores_of_one(self, values: np.ndarray, state: int) -> None:
        row = self.root_rows[state]
        if row >= 0:
            values += self.root_weights[row]
            return
        chain = []
        total = np.float32(0.0)
        while row < 0:
            chain.append((self.arc_starts[state], self.arc_starts[state + 1], total))
            total = total + self.backoff_weights[state]
            state = self.backoff_states[state]
            row = self.root_rows[state]
        scores = self.root_weights[row] + total
        for start, end, before in reversed(chain):
            if end > start:
                scores[self.arc_tokens[start:end]] = self.arc_weights[start:end] + before
        values += scores

    def step(self, states: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """States after a token each, both (n,)."""
        if len(states) == 1:
            return np.array([self._step_one(int(states[0]), int(tokens[0]))], dtype=np.int64)
        states, found = states.copy(), np.zeros(len(states), dtype=np.int64)
        waiting = np.arange(len(states))
        while len(waiting):
            rows = self.root_rows[states[waiting]]
            is_root = rows >= 0
            if is_root.any():
                ended = waiting[is_root]
                found[ended] = self.root_targets[rows[is_root], tokens[ended]]
                waiting = waiting[~is_root]
            keys = states[waiting] * self.vocab_size + tokens[waiting]
            places = np.searchsorted(self.arc_keys, keys)
            fits = self.arc_keys[np.minimum(places, len(self.arc_keys) - 1)] == keys
            found[waiting[fits]] = self.arc_targets[places[fits]]
            waiting = waiting[~fits]
            states[waiting] = self.backoff_states[states[waiting]]
        return found

    @cached_property
    def arc_keys(self) -> np.ndarray:
        """(arcs,), state and token of each arc in one rising number; one that fits nothing where there are no arcs."""
        counts = self.arc_starts[1:] - self.arc_starts[:-1]
        sources = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        return sources * self.vocab_size + self.arc_tokens if len(sources) else np.array([-1], dtype=np.int64)

    def _step_one(self, state: int, token: int) -> int:
        row = self.root_rows[state]
        while row < 0:
            start, end = self.arc_starts[state], self.arc_starts[state + 1]
            if end > start:
                place = start + np.searchsorted(self.arc_tokens[start:end], token)
                if place < end and self.arc_tokens[place] == token:
                    return self.arc_targets[place]
            state = self.backoff_states[state]
            row = self.root_rows[state]
        return self.root_targets[row, token]
