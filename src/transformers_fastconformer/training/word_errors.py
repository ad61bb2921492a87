"""
Word and character error rates: counts for each text, totals with confidence intervals, and what is confused.

Alignments are jiwer's. Rates are errors over the words (characters) of all references, as everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from ..validation import require, require_choice, require_count
from .packages import require_package

NORMALIZERS = ("none", "basic", "english")
CONFIDENCE_PERCENT = 95.0

Normalizer = Callable[[str], str]


@dataclass(frozen=True)
class ErrorCounts:
    """
    Words or characters of references, by what became of them in the hypotheses.

    Args:
        hits: Found as they are.
        substitutions: Found as others.
        deletions: Not found.
        insertions: Found, and not in the reference.
    """

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def num_reference(self) -> int:
        """Words or characters of the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def num_errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors over the words or characters of the references, which may pass 1; None without any."""
        return self.num_errors / self.num_reference if self.num_reference else None

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


class WordEdit(NamedTuple):
    """A word of the reference and what was found for it; empty for a word that was not found, or not said."""

    reference: str
    hypothesis: str


@dataclass(frozen=True)
class TextErrors:
    """
    Errors of one text.

    Args:
        reference: The text that was said, normalised.
        hypothesis: The text that was found, normalised.
        words: Counts of words.
        characters: Counts of characters, spaces included.
        edits: Words that differ, in order.
    """

    reference: str
    hypothesis: str
    words: ErrorCounts
    characters: ErrorCounts
    edits: tuple[WordEdit, ...]


@dataclass(frozen=True)
class ErrorRate:
    """
    An error rate over many texts.

    Args:
        counts: The sum of their counts.
        low, high: Ends of the 95 % confidence interval, see `bootstrap_interval`; None without words.
    """

    counts: ErrorCounts
    low: float | None
    high: float | None

    @property
    def rate(self) -> float | None:
        """The rate itself; None without words."""
        return self.counts.rate

    @classmethod
    def of(cls, counts: Iterable[ErrorCounts], num_resamples: int = 1000, seed: int = 0) -> ErrorRate:
        """The rate over texts, and its interval."""
        counts = list(counts)
        low, high = bootstrap_interval(counts, num_resamples, seed)
        return cls(sum(counts, ErrorCounts()), low, high)


@cache
def make_normalizer(name: str) -> Normalizer:
    """
    The function that texts go through before they are compared; spaces are joined in any case.

    Args:
        name: `"none"`; `"basic"`: small letters without punctuation, for any language (Whisper's, by Transformers);
            `"english"`: Whisper's for English, which also writes numbers as digits and spells as Americans do.

    Raises:
        ImportError: for `"english"` where `whisper_normalizer` is not installed; the message holds the command.
    """
    require_choice("normalizer", name, NORMALIZERS)
    if name == "none":
        return _join_spaces
    # The class for English in Transformers comes without Whisper's table of spellings; this library has it.
    normalize: Any = _english_normalizer() if name == "english" else BasicTextNormalizer()
    return lambda text: _join_spaces(normalize(text))


def _english_normalizer() -> Any:
    require_package("whisper_normalizer", "normalizer='english'")
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def _join_spaces(text: str) -> str:
    return " ".join(text.split())


def import_jiwer() -> Any:
    """
    The module jiwer.

    Raises:
        ImportError: the extra `train` is not installed; the message holds the command.
    """
    require_package("jiwer", "Scoring")
    import jiwer

    return jiwer


def score_texts(
    references: Sequence[str], hypotheses: Sequence[str], normalizer: str | Normalizer = "basic"
) -> list[TextErrors]:
    """
    Compare texts with what was said.

    Args:
        references: The texts that were said.
        hypotheses: The texts that were found, one for each.
        normalizer: Name of a normaliser, see `make_normalizer`, or a function.

    Returns:
        The errors of each text. Where nothing is left of a reference, all that was found is inserted.

    Raises:
        ValueError: for lists of different lengths, and for what is not text.
        ImportError: when the extra `train` is not installed; the message holds the command.
    """
    jiwer = import_jiwer()
    require(
        len(references) == len(hypotheses), "hypotheses", len(hypotheses), f"{len(references)}, one for each reference"
    )
    for name, texts in (("references", references), ("hypotheses", hypotheses)):
        for number, text in enumerate(texts):
            require(isinstance(text, str), f"{name}[{number}]", text, "a text")
    normalize = make_normalizer(normalizer) if isinstance(normalizer, str) else normalizer
    return [
        _score(jiwer, normalize(reference), normalize(hypothesis))
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]


def _score(jiwer: Any, reference: str, hypothesis: str) -> TextErrors:
    words = _align(jiwer.process_words, reference, hypothesis)
    characters = _align(jiwer.process_characters, reference, hypothesis)
    if words is None or characters is None:
        # Versions of jiwer before 4 take no reference without words.
        found = hypothesis.split()
        edits = tuple(WordEdit("", word) for word in found)
        counts = ErrorCounts(insertions=len(found))
        return TextErrors(reference, hypothesis, counts, ErrorCounts(insertions=len(hypothesis)), edits)
    return TextErrors(reference, hypothesis, _counts_of(words), _counts_of(characters), tuple(_edits_of(words)))


def _align(align: Callable[[str, str], Any], reference: str, hypothesis: str) -> Any:
    return align(reference, hypothesis) if reference else None


def _counts_of(output: Any) -> ErrorCounts:
    return ErrorCounts(output.hits, output.substitutions, output.deletions, output.insertions)


def _edits_of(output: Any) -> Iterable[WordEdit]:
    """Words that differ; jiwer gives runs of them."""
    (reference,), (hypothesis,), (runs,) = output.references, output.hypotheses, output.alignments
    for run in runs:
        if run.type == "equal":
            continue
        said = reference[run.ref_start_idx : run.ref_end_idx]
        found = hypothesis[run.hyp_start_idx : run.hyp_end_idx]
        for place in range(max(len(said), len(found))):
            yield WordEdit(
                said[place] if place < len(said) else "",
                found[place] if place < len(found) else "",
            )


def bootstrap_interval(
    counts: Sequence[ErrorCounts], num_resamples: int = 1000, seed: int = 0
) -> tuple[float | None, float | None]:
    """
    The 95 % confidence interval of an error rate by the bootstrap (Bisani and Ney, 2004): the rates of samples of the
    texts, each as many as there are, drawn with replacement.

    Args:
        counts: Counts of each text.
        num_resamples: Samples.
        seed: Of the draws.

    Returns:
        Its ends; None without words.
    """
    require_count("num_resamples", num_resamples)
    require_count("seed", seed, 0)
    errors = np.array([count.num_errors for count in counts], dtype=np.int64)
    sizes = np.array([count.num_reference for count in counts], dtype=np.int64)
    if not sizes.sum():
        return None, None
    generator = np.random.default_rng(seed)
    rates = []
    for _ in range(num_resamples):
        drawn = generator.integers(len(counts), size=len(counts))
        size = sizes[drawn].sum()
        if size:  # texts without words may be drawn only
            rates.append(errors[drawn].sum() / size)
    tail = (100.0 - CONFIDENCE_PERCENT) / 2
    low, high = np.percentile(rates, [tail, 100.0 - tail])
    return float(low), float(high)


def count_confusions(texts: Iterable[TextErrors]) -> Counter[WordEdit]:
    """Counts of words that were found as another one, not found, or put in."""
    return Counter(edit for text in texts for edit in text.edits)
