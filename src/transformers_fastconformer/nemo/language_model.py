"""Language models that NeMo saved: the automaton of `NGramGPULanguageModel`, read without a pickle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..decoding.token_automaton import MAX_BACKOFFS, TokenAutomaton
from ..temporary_files import TemporaryFolder
from ..validation import is_integer, reading, require
from .archive import NemoArchive

TENSORS = (
    "arcs_weights",
    "backoff_weights",
    "final_weights",
    "from_states",
    "to_states",
    "ilabels",
    "backoff_to_states",
    "start_end_arcs",
    "state_order",
)
# NeMo 3.0's `NEG_INF`: a state without an end of its own.
NO_END = -1e4


def read_language_model(path: str | os.PathLike[str]) -> TokenAutomaton:
    """
    Read a language model of a `.nemo` archive.

    Args:
        path: The archive.

    Raises:
        ValueError: for what is not such an archive, and for tables that do not fit together; it names the archive.
    """
    expected = "an archive of NeMo's NGramGPULanguageModel"
    with reading(str(path), expected), NemoArchive(path) as archive:
        config = archive.read_config()
        sizes: dict[str, Any] = {name: config.get(name) for name in ("num_states", "num_arcs", "vocab_size")}
        for name, value in sizes.items():
            require(is_integer(value) and value > 0, name, value, f"a count, as in {expected}")
        has_start = config.get("separate_bos_state", True)
        require(has_start is True, "separate_bos_state", has_start, "True, which a tree of phrases is not")
        with TemporaryFolder() as folder, archive.open_weights(folder) as weights:
            tensors = {name: tensor.clone() for name, tensor in weights.read().items()}
        require(set(tensors) == set(TENSORS), "tensors", sorted(tensors), ", ".join(TENSORS))
        return _to_automaton({name: tensor.numpy() for name, tensor in tensors.items()}, **sizes)


def _to_automaton(tables: dict[str, np.ndarray], num_states: int, num_arcs: int, vocab_size: int) -> TokenAutomaton:
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("arcs_weights", "from_states", "to_states", "ilabels"), (num_arcs + vocab_size,)),
        **dict.fromkeys(("backoff_weights", "final_weights", "backoff_to_states", "state_order"), (num_states,)),
        "start_end_arcs": (num_states, 2),
    }
    for name, shape in shapes.items():
        require(tables[name].shape == shape, f"shape of {name}", tables[name].shape, str(shape))
    tokens, targets = tables["ilabels"][:num_arcs].astype(np.int32), tables["to_states"][:num_arcs].astype(np.int32)
    weights, backoff_states = tables["arcs_weights"][:num_arcs], tables["backoff_to_states"].astype(np.int32)
    starts, ends = tables["start_end_arcs"].astype(np.int64).T
    is_root_first = num_arcs >= vocab_size and (tokens[:vocab_size] == np.arange(vocab_size)).all()
    require(bool(is_root_first), "ilabels", "other first arcs", "an arc of state 0 for each token")
    for name, numbers, limit in (
        ("to_states", targets, num_states),
        ("backoff_to_states", backoff_states, num_states),
        ("ilabels", tokens, vocab_size),
        ("start_end_arcs", tables["start_end_arcs"], num_arcs + 1),
    ):
        is_inside = not numbers.size or (numbers.min() >= 0 and numbers.max() < limit)
        require(bool(is_inside), name, "numbers out of range", f"0 to {limit - 1}")
    # Arcs of all states but the root in the order of states; a state without arcs has any empty range.
    counts = np.where(np.arange(num_states) == 0, 0, np.maximum(ends - starts, 0))
    firsts = np.cumsum(counts) - counts
    picked = np.arange(counts.sum()) + np.repeat(starts - firsts, counts)
    sources = np.repeat(np.arange(num_states), counts)
    order = np.lexsort((tokens[picked], sources))
    picked = picked[order]
    backoffs = tables["backoff_weights"].astype(np.float32)
    root_rows = np.full(num_states, -1, dtype=np.int32)
    root_rows[0] = 0
    backoff_states[0] = 0
    made: dict[str, Any] = {
        "arc_starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "arc_tokens": tokens[picked],
        "arc_targets": targets[picked],
        "arc_weights": weights[picked].astype(np.float32),
        "backoff_states": backoff_states,
        "backoff_weights": backoffs,
        "end_weights": _resolve_ends(tables["final_weights"], backoff_states, backoffs),
        "root_rows": root_rows,
        "root_targets": targets[None, :vocab_size],
        "root_weights": weights[None, :vocab_size].astype(np.float32),
        "start_states": np.ones(1, dtype=np.int64),
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(table)) for name, table in made.items()}
    automaton = TokenAutomaton(**tensors, raises_end=False, weight=1.0)
    require(num_states > 1 and automaton.max_backoffs >= 0, "states", num_states, "two or more, each with a root")
    return automaton


def _resolve_ends(ends: np.ndarray, backoff_states: np.ndarray, backoffs: np.ndarray) -> np.ndarray:
    """Weights of the end in each state, of states without one through their backoffs."""
    found = ends.astype(np.float32)
    states, totals = np.arange(len(ends)), np.zeros(len(ends), dtype=np.float32)
    for _ in range(MAX_BACKOFFS):
        if not ((found <= NO_END) & (states != 0)).any():
            break
        totals = totals + backoffs[states]
        states = backoff_states[states]
        found = np.where((found <= NO_END) & (ends[states] > NO_END), totals + ends[states], found)
    return found.astype(np.float32)


def is_nemo_file(path: str | os.PathLike[str]) -> bool:
    """Tell by its name whether a file is an archive of NeMo's."""
    return Path(path).suffix == ".nemo"
