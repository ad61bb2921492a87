"""Error rates next to jiwer and by hand, intervals, normalisers."""

from __future__ import annotations

import random
import sys

import jiwer
import numpy as np
import pytest

from transformers_fastconformer.training.word_errors import (
    NORMALIZERS,
    ErrorCounts,
    ErrorRate,
    WordEdit,
    bootstrap_interval,
    count_confusions,
    make_normalizer,
    score_texts,
)

WORDS = ["one", "two", "three", "four", "five", "six", "seven"]


def random_texts(seed: int, number: int) -> tuple[list[str], list[str]]:
    """Texts, and others with some words left out, put in and replaced; no reference is empty."""
    rng = random.Random(seed)
    references, hypotheses = [], []
    for _ in range(number):
        said = rng.choices(WORDS, k=rng.randint(1, 9))
        found = [rng.choice([word, word, word, "", "x", f"{word} y"]) for word in said]
        references.append(" ".join(said))
        hypotheses.append(" ".join(" ".join(found).split()))
    return references, hypotheses


@pytest.mark.parametrize("seed", range(5))
def test_rates_are_jiwers(seed: int) -> None:
    references, hypotheses = random_texts(seed, 40)
    scored = score_texts(references, hypotheses, "none")
    words = sum((text.words for text in scored), ErrorCounts())
    characters = sum((text.characters for text in scored), ErrorCounts())
    assert words.rate == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-12)
    assert characters.rate == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-12)
    expected = jiwer.process_words(references, hypotheses)
    assert (words.hits, words.substitutions) == (expected.hits, expected.substitutions)
    assert (words.deletions, words.insertions) == (expected.deletions, expected.insertions)
    for text in scored:
        assert len(text.edits) == text.words.num_errors


def test_edits_by_hand() -> None:
    (text,) = score_texts(["the cat sat down"], ["a cat sat down here"], "none")
    assert text.words == ErrorCounts(hits=3, substitutions=1, deletions=0, insertions=1)
    assert text.words.rate == 2 / 4
    assert text.edits == (WordEdit("the", "a"), WordEdit("", "here"))
    (text,) = score_texts(["a b c"], ["c"], "none")
    assert text.edits == (WordEdit("a", ""), WordEdit("b", ""))


@pytest.mark.parametrize(
    ("reference", "hypothesis", "words", "characters"),
    [
        ("", "", ErrorCounts(), ErrorCounts()),
        ("", "a bc", ErrorCounts(insertions=2), ErrorCounts(insertions=4)),
        ("a bc", "", ErrorCounts(deletions=2), ErrorCounts(deletions=4)),
        ("  a   b ", "a b", ErrorCounts(hits=2), ErrorCounts(hits=3)),
    ],
)
def test_empty_texts_and_spaces(reference: str, hypothesis: str, words: ErrorCounts, characters: ErrorCounts) -> None:
    (text,) = score_texts([reference], [hypothesis], "none")
    assert (text.words, text.characters) == (words, characters)
    assert ErrorCounts().rate is None
    assert text.words.rate == (None if not reference else text.words.num_errors / len(reference.split()))


def test_confusions_are_counted() -> None:
    scored = score_texts(["a b", "a c", "a"], ["x b", "x d", "a e"], "none")
    assert count_confusions(scored).most_common(1) == [(WordEdit("a", "x"), 2)]
    assert set(count_confusions(scored)) == {("a", "x"), ("c", "d"), ("", "e")}


def test_normalizers() -> None:
    text = "  Mr. Smith's colour, uh, is TWENTY-one! "
    assert make_normalizer("none")(text) == "Mr. Smith's colour, uh, is TWENTY-one!"
    assert make_normalizer("basic")(text) == "mr smith s colour uh is twenty one"
    assert make_normalizer("basic")("Über Größe") == "über größe"
    assert make_normalizer("english")(text) == "mister smith is color is 21"
    (scored,) = score_texts([text], ["mister Smith is color is 21"], "english")
    assert scored.words.num_errors == 0
    assert len(NORMALIZERS) == 3
    with pytest.raises(ValueError, match="normalizer='whisper' is not supported; expected one of"):
        make_normalizer("whisper")


def test_a_function_normalizes_too() -> None:
    (scored,) = score_texts(["A b"], ["a B"], str.lower)
    assert scored.words.num_errors == 0


@pytest.mark.parametrize("missing", ["jiwer", "whisper_normalizer"])
def test_what_is_missing_is_named_with_its_command(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    make_normalizer.cache_clear()
    with pytest.raises(ImportError, match=rf"{missing.split('.')[0]}: pip install 'transformers-fastconformer\[train"):
        score_texts(["a"], ["a"], "english")


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="hypotheses=1 is not supported; expected 2, one for each reference"):
        score_texts(["a", "b"], ["a"])
    with pytest.raises(ValueError, match=r"references\[0\]=None is not supported; expected a text"):
        score_texts([None], ["a"])  # type: ignore[list-item]


# Intervals


def test_an_interval_is_seeded_and_holds_the_rate() -> None:
    counts = [text.words for text in score_texts(*random_texts(0, 100), "none")]
    rate = ErrorRate.of(counts, seed=3)
    assert rate.rate is not None
    assert rate.low is not None
    assert rate.high is not None
    assert rate.low < rate.rate < rate.high
    assert ErrorRate.of(counts, seed=3) == rate
    assert ErrorRate.of(counts, seed=4) != rate


def test_intervals_are_as_wide_as_theory_says() -> None:
    """Texts of one word, each wrong with the same chance: the interval is that of a binomial share."""
    wrong, right = ErrorCounts(substitutions=1), ErrorCounts(hits=1)
    number, share = 2000, 0.1
    counts = [wrong] * round(number * share) + [right] * round(number * (1 - share))
    low, high = bootstrap_interval(counts, 2000)
    assert low is not None
    assert high is not None
    deviation = 1.96 * np.sqrt(share * (1 - share) / number)
    assert share - low == pytest.approx(deviation, rel=0.1)
    assert high - share == pytest.approx(deviation, rel=0.1)


def test_errors_that_come_together_widen_the_interval() -> None:
    """The unit is the text: ten errors in one of ten texts say less than one in each."""
    together = [ErrorCounts(substitutions=10), *[ErrorCounts(hits=10)] * 9]
    apart = [ErrorCounts(hits=9, substitutions=1)] * 10
    assert bootstrap_interval(apart) == pytest.approx((0.1, 0.1))
    low, high = bootstrap_interval(together)
    assert low == 0.0
    assert high is not None
    assert high > 0.2


def test_texts_without_words_have_no_rate() -> None:
    assert bootstrap_interval([]) == (None, None)
    assert bootstrap_interval([ErrorCounts(insertions=3)]) == (None, None)
    low, high = bootstrap_interval([ErrorCounts(insertions=1), ErrorCounts(hits=1)])
    assert low == 0.0
    assert high is not None
