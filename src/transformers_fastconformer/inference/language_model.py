"""Language models of tokens, whose scores decoding adds to those of the model: read, made from text, written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.token_automata import read_automaton, write_automaton
from ..decoding.arpa import read_arpa, write_arpa
from ..decoding.ngrams import MAX_ORDER, NgramTable, build_ngram_automaton, count_ngrams
from ..decoding.token_automaton import TokenAutomaton
from ..nemo.language_model import is_nemo_file, read_language_model
from ..temporary_files import write_whole
from ..tokenization_fastconformer import FastConformerTokenizer
from ..validation import reading, require, require_choice, require_count

FORMAT = "fastconformer_language_model"
TOKEN_FORMS = ("auto", "pieces", "nemo")
SAFETENSORS_SUFFIX = ".safetensors"
# Sentences that are made into tokens at a time.
SENTENCES_AT_A_TIME = 1000


class NgramLanguageModel:
    r"""
    An n-gram language model of the tokens of a checkpoint.

    ```python
    language_model = NgramLanguageModel.from_text("texts.txt", processor.tokenizer, order=4)
    transcribe("talk.mp3", model=(model, processor), language_model=language_model, language_model_weight=0.3)
    ```

    Make it with `from_text`, `from_arpa`, `from_nemo`, `load`, or `from_file`, which tells these by the name.

    Args:
        automaton: The model as decoders take it.
        order: Number of tokens of the longest n-gram; None: not known.
        vocabulary: Hash of the tokens; None: not known.
        tables: The n-grams, which `save_arpa` writes; None: only the automaton is known.
    """

    def __init__(
        self,
        automaton: TokenAutomaton,
        order: int | None = None,
        vocabulary: str | None = None,
        tables: Sequence[NgramTable] | None = None,
    ) -> None:
        self.automaton = automaton
        self.order = order
        self.vocabulary = vocabulary
        self.tables = tables

    def __repr__(self) -> str:
        """The size and a hash of all weights."""
        return (
            f"NgramLanguageModel(order={self.order}, {self.automaton.num_states} states, "
            f"{self.automaton.vocab_size} tokens, {self.automaton.fingerprint})"
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], tokenizer: FastConformerTokenizer) -> NgramLanguageModel:
        """
        Read a language model from a file of any kind: `.nemo`, `.safetensors`, and ARPA under all other names.

        Raises:
            ValueError: as `from_nemo`, `load` and `from_arpa`.
        """
        if is_nemo_file(path):
            return cls.from_nemo(path, tokenizer)
        if Path(path).suffix == SAFETENSORS_SUFFIX:
            return cls.load(path, tokenizer)
        return cls.from_arpa(path, tokenizer)

    @classmethod
    def from_arpa(
        cls, path: str | os.PathLike[str], tokenizer: FastConformerTokenizer, tokens: str = "auto"
    ) -> NgramLanguageModel:
        """
        Read an ARPA file.

        Args:
            path: The file.
            tokenizer: The checkpoint's.
            tokens: How the file writes tokens: `"pieces"`, as they are in the vocabulary; `"nemo"`, as NeMo's scripts
                write them: the character whose number is the token's id and 100 more; `"auto"` (default): whichever
                its 1-grams are.

        Raises:
            FileNotFoundError: when the file does not exist.
            ValueError: for a file that is broken, or a model of words or of another tokenizer; it names the file, and
                where it can the line.
        """
        require_choice("tokens", tokens, TOKEN_FORMS)
        vocabulary = _tokens_of(tokenizer)
        with reading(str(path), "an ARPA file of the checkpoint's tokens"):
            tables = read_arpa(Path(path), vocabulary, tokens)
            automaton = build_ngram_automaton(tables, len(vocabulary))
        return cls(automaton, len(tables), _hash_of(vocabulary), tables)

    @classmethod
    def from_nemo(cls, path: str | os.PathLike[str], tokenizer: FastConformerTokenizer) -> NgramLanguageModel:
        """
        Read an archive of NeMo's `NGramGPULanguageModel`. No pickle is executed.

        Raises:
            ValueError: for what is not such an archive, and for one of another vocabulary; it names the archive.
        """
        automaton = read_language_model(path)
        size = tokenizer.blank_token_id
        require(automaton.vocab_size == size, f"{path}: vocab_size", automaton.vocab_size, f"{size}, as the tokenizer")
        return cls(automaton)

    @classmethod
    def from_text(
        cls,
        texts: str | os.PathLike[str] | Iterable[str],
        tokenizer: FastConformerTokenizer,
        order: int = 4,
        language: str | None = None,
    ) -> NgramLanguageModel:
        """
        Make a language model from plain text, by modified Kneser-Ney smoothing.

        Args:
            texts: A text file in UTF-8 with a sentence a line, or sentences. They are written as the model writes: in
                its case, with its punctuation.
            tokenizer: The checkpoint's.
            order: Number of tokens of the longest n-gram (NeMo's scripts take 6, for large texts).
            language: Language of the texts, for tokenizers that have one part for each.

        Raises:
            FileNotFoundError: when the file does not exist.
            ValueError: for texts without tokens, and for a file that is not text.
        """
        require_count("order", order)
        require(order <= MAX_ORDER, "order", order, f"at most {MAX_ORDER}")
        if isinstance(texts, str | os.PathLike):
            with reading(str(texts), "a text file with a sentence a line"):
                sentences = Path(texts).read_text(encoding="utf-8-sig").splitlines()
        else:
            sentences = list(texts)
        sentences = [sentence.strip() for sentence in sentences if sentence.strip()]
        arguments: dict[str, Any] = {} if language is None else {"language": language}
        ids: list[list[int]] = []
        for start in range(0, len(sentences), SENTENCES_AT_A_TIME):
            ids += tokenizer(sentences[start : start + SENTENCES_AT_A_TIME], **arguments)["input_ids"]
        vocabulary = _tokens_of(tokenizer)
        tables = count_ngrams(ids, order, len(vocabulary))
        return cls(build_ngram_automaton(tables, len(vocabulary)), order, _hash_of(vocabulary), tables)

    def save_arpa(self, path: str | os.PathLike[str], tokenizer: FastConformerTokenizer | None = None) -> None:
        """
        Write the n-grams as an ARPA file, which `from_arpa` reads to the same model.

        Args:
            path: The file; it is written whole or not at all.
            tokenizer: Write its tokens as they are; None (default): NeMo's codes, which NeMo reads.

        Raises:
            ValueError: for a model that was read from an automaton, whose n-grams are not known.
        """
        require(self.tables is not None, "tables", None, "a model of from_text or from_arpa")
        assert self.tables is not None
        text = write_arpa(self.tables, None if tokenizer is None else _tokens_of(tokenizer))
        write_whole(Path(path), text.encode())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a safetensors file, which loads at once; it is written whole or not at all."""
        metadata = {"order": str(self.order or ""), "vocabulary": self.vocabulary or ""}
        write_automaton(self.automaton, Path(path), FORMAT, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], tokenizer: FastConformerTokenizer | None = None) -> NgramLanguageModel:
        """
        Read a file of `save`.

        Args:
            path: The file.
            tokenizer: The checkpoint's, to check that the model is one of its tokens; None: not checked.

        Raises:
            ValueError: for a file that is missing, damaged or of another kind, and a model of another tokenizer.
        """
        with reading(str(path), "a file of NgramLanguageModel.save"):
            metadata, automaton = read_automaton(Path(path), FORMAT, raises_end=False)
            order = metadata.get("order", "")
            if tokenizer is not None:
                size, found = tokenizer.blank_token_id, metadata.get("vocabulary", "")
                require(automaton.vocab_size == size, "number of tokens", automaton.vocab_size, f"{size}")
                expected = _hash_of(_tokens_of(tokenizer))
                require(found in ("", expected), "tokens", found, f"{expected}, the hash of this tokenizer's")
            return cls(automaton, int(order) if order.isdigit() else None, metadata.get("vocabulary") or None)

    def log_probs(self, token_ids: Sequence[int]) -> torch.Tensor:
        """
        Natural logarithms of the probabilities of tokens, each after those before it, and of the end after them.

        Args:
            token_ids: Ids of a sentence.

        Returns:
            (tokens + 1,)
        """
        state, scores = self.automaton.start_states[:1], []
        for token_id in token_ids:
            scores.append(self.automaton.scores(state)[0, token_id])
            state = self.automaton.step(state, torch.tensor([token_id], dtype=torch.int64, device=state.device))
        return torch.stack([*scores, self.automaton.end_weights[state[0]]])


def _tokens_of(tokenizer: FastConformerTokenizer) -> list[str]:
    return tokenizer.vocabulary_tokens(range(tokenizer.blank_token_id))


def _hash_of(tokens: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()[:16]
