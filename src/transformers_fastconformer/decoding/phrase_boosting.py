"""
Phrases that decoding prefers: names, jargon, commands.

The tree of phrases is NeMo 3.0's (`GPUBoostingTreeModel`, `ContextGraph`; Andrusenko et al., 2025): an automaton of
Aho and Corasick whose arcs have a bonus, and whose backoffs take back the bonus of a phrase that is not finished.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..validation import is_integer, is_number, reading, require, require_choice, require_count
from .token_automaton import TokenAutomaton

MAX_SPLITS = 100

Phrase = str | tuple[str, str]


@dataclass(frozen=True)
class PhraseBoosting:
    r"""
    Phrases that decoding prefers, and by how much.

    Everything that takes [`DecodingOptions`] takes it as `boosting`: `transcribe`, the pipeline, files, streams. For
    `model.generate`, which has no tokenizer, `compile_phrases` makes the phrases into tokens first.

    Phrases are compared with what the model writes: those of a model that writes capitals need capitals, or
    `case_variants`.

    Args:
        phrases: The phrases, each a text or a pair of text and language, for tokenizers that have one part for each
            language.
        strength: Weight of all scores (NeMo: `boosting_tree_alpha`).
        context_score: Score of the first token of a phrase, added to its log-probability (NeMo: the same).
        depth_scaling: The token number n > 1 of a phrase scores `context_score * depth_scaling + log(n)` (NeMo: the
            same); None (default): 2, and 1 for attention decoders, which are NeMo's defaults.
        unknown_score: Score of tokens that begin no phrase (NeMo: `unk_score`).
        end_score: Added to the end of the text after a phrase, for attention decoders, which would else go on writing
            phrases (NeMo: `final_eos_score`).
        score_per_phrase: If not 0, a phrase of n characters has this divided by n as its `context_score` (NeMo: the
            same).
        uniform_weights: All tokens of a phrase score `context_score`, and its end scores the whole phrase once more
            (NeMo: the same).
        case_variants: Boost each phrase also in small letters, in capitals, with a capital first letter, and with a
            capital first letter in each word, as far as the vocabulary can write them.
        num_splits: Number of ways to cut a phrase into tokens, at most; 1 (default): only the tokenizer's own. Others
            are drawn at random like SentencePiece's (NeMo: `use_bpe_dropout`, `num_of_transcriptions`).
        split_alpha: Share of the merges that a random split leaves out, for BPE; exponent of the probabilities, for
            unigram models (NeMo: `bpe_alpha`).
        seed: Seed of the random splits.

    Raises:
        ValueError: for a value that is not accepted; the message names the option.
    """

    phrases: Sequence[Phrase]
    strength: float = 1.0
    context_score: float = 1.0
    depth_scaling: float | None = None
    unknown_score: float = 0.0
    end_score: float = 1.0
    score_per_phrase: float = 0.0
    uniform_weights: bool = False
    case_variants: bool = False
    num_splits: int = 1
    split_alpha: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        is_list = isinstance(self.phrases, Sequence) and not isinstance(self.phrases, str | bytes)
        require(is_list, "phrases", self.phrases, "a list of texts, or of pairs of text and language")
        object.__setattr__(self, "phrases", tuple(_read_phrase(phrase) for phrase in self.phrases))
        require(len(self.phrases) > 0, "phrases", self.phrases, "at least one phrase")
        require(is_number(self.strength) and self.strength > 0, "strength", self.strength, "a number above 0")
        for name in ("context_score", "unknown_score", "end_score", "score_per_phrase"):
            require(is_number(getattr(self, name)), name, getattr(self, name), "a number")
        require(
            self.depth_scaling is None or is_number(self.depth_scaling),
            "depth_scaling",
            self.depth_scaling,
            "a number or None",
        )
        for name in ("uniform_weights", "case_variants"):
            require_choice(name, getattr(self, name), (True, False))
        require_count("num_splits", self.num_splits)
        require(self.num_splits <= MAX_SPLITS, "num_splits", self.num_splits, f"at most {MAX_SPLITS}")
        is_share = is_number(self.split_alpha) and 0 < self.split_alpha < 1
        require(is_share, "split_alpha", self.split_alpha, "a number between 0 and 1")
        require(is_integer(self.seed), "seed", self.seed, "an integer")

    def __repr__(self) -> str:
        """All options but the phrases, of which there may be many: their number and a hash."""
        options = ", ".join(f"{name}={value!r}" for name, value in self._options().items())
        digest = hashlib.sha256(json.dumps(self.phrases).encode()).hexdigest()[:16]
        return f"PhraseBoosting({len(self.phrases)} phrases {digest}, {options})"

    def _options(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "phrases"}

    @cached_property
    def _hash(self) -> int:
        return hash((self.phrases, *self._options().values()))

    def __hash__(self) -> int:
        """Hash, which is computed once: decoding finds compiled phrases by it."""
        return self._hash

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> PhraseBoosting:
        """
        Read phrases from a text file: UTF-8, one a line, with a tab and a language after it where it has one.

        Args:
            path: The file. Empty lines are left out.
            options: The other options, by name.

        Raises:
            FileNotFoundError: when the file does not exist.
            ValueError: for a file that is not text or has no phrases; it names the file.
        """
        with reading(str(path), "a text file with a phrase a line"):
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
            phrases = [tuple(map(str.strip, line.split("\t", 1))) for line in lines if line.strip()]
            require(bool(phrases), "phrases", phrases, "at least one phrase")
            return cls([pair if len(pair) == 2 else pair[0] for pair in phrases], **options)  # type: ignore[misc]


def _read_phrase(phrase: Any) -> Phrase:
    """A phrase as a text, or as a text and its language; spaces around it do not count."""
    expected = "a text that is not empty, or a pair of such a text and a language"
    if isinstance(phrase, str):
        require(bool(phrase.strip()), "phrases", phrase, expected)
        return phrase.strip()
    is_pair = isinstance(phrase, list | tuple) and len(phrase) == 2 and all(isinstance(part, str) for part in phrase)
    require(is_pair and bool(phrase[0].strip()) and bool(phrase[1]), "phrases", phrase, expected)
    return phrase[0].strip(), phrase[1]


@dataclass(frozen=True, eq=False, repr=False)
class CompiledPhrases:
    """
    Phrases as tokens of one checkpoint, as decoders take them.

    Args:
        boosting: The phrases and their options.
        automaton: The tree, with the strength in its weights.
    """

    boosting: PhraseBoosting
    automaton: TokenAutomaton

    def __repr__(self) -> str:
        """The options and a hash of the tree."""
        return f"CompiledPhrases({self.boosting!r}, {self.automaton.fingerprint})"


def build_phrase_automaton(
    token_phrases: Sequence[tuple[Sequence[int], int]], boosting: PhraseBoosting, vocab_size: int, depth_scaling: float
) -> TokenAutomaton:
    """
    Build the tree of phrases.

    Args:
        token_phrases: Tokens of each phrase, and the number of its characters.
        boosting: The options; its strength is put into the weights.
        vocab_size: Number of tokens, without the blank.
        depth_scaling: That of `boosting`, decided.

    Returns:
        The automaton, on the CPU.
    """
    tree = _Tree(boosting, depth_scaling)
    for tokens, num_characters in token_phrases:
        own = round(boosting.score_per_phrase / num_characters, 2)
        tree.add(tokens, own or boosting.context_score)
    return tree.to_automaton(vocab_size).scaled(float(boosting.strength))


class _Tree:
    """Nodes in the order in which they came; node 0 is the root."""

    def __init__(self, boosting: PhraseBoosting, depth_scaling: float) -> None:
        self.boosting, self.depth_scaling = boosting, depth_scaling
        self.children: list[dict[int, int]] = [{}]
        self.token_scores, self.node_scores = [0.0], [0.0]
        self.is_end, self.depths = [False], [0]

    def add(self, tokens: Sequence[int], context_score: float) -> None:
        node = 0
        for place, token in enumerate(tokens):
            following = self.children[node].get(token)
            if following is None:
                score = context_score
                if place > 0 and not self.boosting.uniform_weights:
                    score = context_score * self.depth_scaling + math.log(place + 1)
                following = len(self.children)
                self.children[node][token] = following
                self.children.append({})
                self.token_scores.append(score)
                self.node_scores.append(0.0)
                self.is_end.append(False)
                self.depths.append(place + 1)
            else:
                # What phrases share scores the most that one of them gives; NeMo compares the score without depth.
                self.token_scores[following] = max(context_score, self.token_scores[following])
            self.node_scores[following] = self.node_scores[node] + self.token_scores[following]
            node = following
        self.is_end[node] = True

    def to_automaton(self, vocab_size: int) -> TokenAutomaton:
        count = len(self.children)
        suffixes = [0] * count
        order = list(self.children[0].values())
        for node in order:  # grows: breadth first
            for token, child in self.children[node].items():
                suffix = suffixes[node]
                while suffix and token not in self.children[suffix]:
                    suffix = suffixes[suffix]
                suffixes[child] = self.children[suffix].get(token, 0)
                order.append(child)
        weights = np.asarray(self.token_scores, dtype=np.float64)
        nodes = np.asarray(self.node_scores, dtype=np.float64)
        is_end, depths = np.asarray(self.is_end), np.asarray(self.depths)
        backoffs = nodes[suffixes] - nodes
        if self.boosting.uniform_weights:
            # In NeMo phrases of one token have the weights of the other kind.
            is_long_end = is_end & (depths > 1)
            weights = weights + np.where(is_long_end, nodes, 0.0)
            backoffs = np.where(is_end & (depths == 1), 0.0, backoffs)
        else:
            backoffs = np.where(is_end, 0.0, backoffs)  # a phrase that was heard keeps its bonus

        root_targets = np.zeros((1, vocab_size), dtype=np.int32)
        root_weights = np.full((1, vocab_size), self.boosting.unknown_score, dtype=np.float32)
        for token, child in self.children[0].items():
            root_targets[0, token], root_weights[0, token] = child, weights[child]
        arcs = [
            (token, child) for children in self.children[1:] for token, child in sorted(children.items())
        ]  # state by state
        counts = [0, *(len(children) for children in self.children[1:])]
        targets = np.asarray([child for _, child in arcs], dtype=np.int32)
        root_rows = np.full(count, -1, dtype=np.int32)
        root_rows[0] = 0
        ends = np.where(is_end, self.boosting.end_score, 0.0)
        tables = {
            "arc_starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            "arc_tokens": np.asarray([token for token, _ in arcs], dtype=np.int32),
            "arc_targets": targets,
            "arc_weights": weights[targets].astype(np.float32),
            "backoff_states": np.asarray(suffixes, dtype=np.int32),
            "backoff_weights": backoffs.astype(np.float32),
            "end_weights": ends.astype(np.float32),
            "root_rows": root_rows,
            "root_targets": root_targets,
            "root_weights": root_weights,
            "start_states": np.zeros(1, dtype=np.int64),
        }
        tensors = {name: torch.from_numpy(table) for name, table in tables.items()}
        return TokenAutomaton(**tensors, raises_end=True, weight=1.0)
