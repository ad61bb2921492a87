"""Compiled phrases and language models in safetensors files; what is read is checked, number by number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from ..decoding.phrase_boosting import CompiledPhrases, PhraseBoosting
from ..decoding.token_automaton import ARRAYS, TokenAutomaton
from ..temporary_files import write_whole
from ..validation import reading, require

PHRASES_FORMAT, FORMAT_VERSION = "fastconformer_phrases", "1"


def save_phrases(phrases: CompiledPhrases, path: str | Path) -> None:
    """
    Write phrases that `compile_phrases` made to a safetensors file; it is written whole or not at all.

    Args:
        phrases: The phrases.
        path: The file.
    """
    write_automaton(phrases.automaton, path, PHRASES_FORMAT, {"boosting": json.dumps(asdict(phrases.boosting))})


def load_phrases(path: str | Path) -> CompiledPhrases:
    """
    Read a file of `save_phrases`.

    Args:
        path: The file.

    Raises:
        ValueError: for a file that is missing, damaged or of another kind; it names the file.
    """
    with reading(str(path), "a file of save_phrases"):
        metadata, automaton = read_automaton(path, PHRASES_FORMAT, raises_end=True)
        boosting = PhraseBoosting(**json.loads(metadata["boosting"]))
        return CompiledPhrases(boosting, replace(automaton, weight=float(boosting.strength)))


def write_automaton(automaton: TokenAutomaton, path: str | Path, kind: str, metadata: Mapping[str, str]) -> None:
    """Write an automaton to a safetensors file whose metadata says what it is."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in automaton.tensors().items()}
    write_whole(Path(path), save(tensors, metadata={"format": kind, "version": FORMAT_VERSION, **metadata}))


def read_automaton(path: str | Path, kind: str, raises_end: bool) -> tuple[dict[str, str], TokenAutomaton]:
    """Metadata and automaton of a file of `write_automaton`; what is wrong raises a `ValueError`."""
    with safe_open(str(path), framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key, value in (("format", kind), ("version", FORMAT_VERSION)):
        require(metadata.get(key) == value, key, metadata.get(key), repr(value))
    check_automaton_tensors(tensors)
    automaton = TokenAutomaton(**tensors, raises_end=raises_end)
    # Raises for backoffs that go in a circle.
    require(automaton.max_backoffs >= 0, "backoff_states", automaton.max_backoffs, "chains that end in a root")
    return metadata, automaton


def check_automaton_tensors(tensors: Mapping[str, torch.Tensor]) -> None:
    """
    Check the tables of an automaton: no number in them leads out of them.

    Raises:
        ValueError: for tensors that are missing, too many, of other shapes or types, or with numbers out of range.
    """
    names = {*ARRAYS, "start_states"}
    require(set(tensors) == names, "tensors", sorted(tensors), ", ".join(sorted(names)))
    for name, tensor in tensors.items():
        wanted = (torch.float32,) if name.endswith("weights") else (torch.int32, torch.int64)
        require(tensor.dtype in wanted, f"dtype of {name}", tensor.dtype, " or ".join(map(str, wanted)))
        num_dims = 2 if name in ("root_targets", "root_weights") else 1
        require(tensor.ndim == num_dims, f"shape of {name}", tuple(tensor.shape), f"{num_dims} dimensions")
    states, arcs = tensors["backoff_states"].shape[0], tensors["arc_tokens"].shape[0]
    roots, vocab_size = tensors["root_weights"].shape
    require(min(states, roots, vocab_size) > 0, "states, roots, tokens", (states, roots, vocab_size), "one or more")
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("arc_tokens", "arc_targets", "arc_weights"), (arcs,)),
        **dict.fromkeys(("backoff_states", "backoff_weights", "end_weights", "root_rows"), (states,)),
        **dict.fromkeys(("root_targets", "root_weights"), (roots, vocab_size)),
        "arc_starts": (states + 1,),
        "start_states": (1,),
    }
    for name, shape in shapes.items():
        require(tuple(tensors[name].shape) == shape, f"shape of {name}", tuple(tensors[name].shape), str(shape))
    limits = {
        "arc_starts": (0, arcs),
        "arc_tokens": (0, vocab_size - 1),
        **dict.fromkeys(("arc_targets", "backoff_states", "root_targets", "start_states"), (0, states - 1)),
        "root_rows": (-1, roots - 1),
    }
    for name, (least, most) in limits.items():
        tensor = tensors[name]
        is_inside = not tensor.numel() or (int(tensor.min()) >= least and int(tensor.max()) <= most)
        require(is_inside, name, "numbers out of range", f"{least} to {most}")
    starts = tensors["arc_starts"]
    is_rising = int(starts[0]) == 0 and int(starts[-1]) == arcs and bool((starts.diff() >= 0).all())
    require(is_rising, "arc_starts", "numbers that do not rise from 0 to the arcs", "rising numbers")
    tokens = tensors["arc_tokens"].long()
    is_first = torch.zeros(arcs + 1, dtype=torch.bool, device="cpu")
    is_first[starts] = True
    is_sorted = (tokens.diff() > 0) | is_first[1:arcs]
    require(bool(is_sorted.all()), "arc_tokens", "tokens of a state out of order", "rising tokens in each state")
