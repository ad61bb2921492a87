"""Options of decoding are checked when they are made, by name."""

from __future__ import annotations

import dataclasses

import pytest

from transformers_fastconformer.decoding.confidence import ConfidenceOptions
from transformers_fastconformer.decoding.options import DEFAULT_DECODING, DecodingOptions
from transformers_fastconformer.decoding.phrase_boosting import CompiledPhrases, PhraseBoosting
from transformers_fastconformer.decoding.token_automaton import TokenAutomaton


def test_the_default_asks_for_nothing():
    assert DecodingOptions() == DEFAULT_DECODING
    assert all(value is None for value in dataclasses.asdict(DEFAULT_DECODING).values())


def test_what_is_accepted():
    options = DecodingOptions(["de", "en"], 3, ConfidenceOptions(), "greedy")
    assert options.language == ("de", "en")
    assert hash(options) == hash(DecodingOptions(("de", "en"), 3, ConfidenceOptions(), "greedy"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.language = "fr"  # type: ignore[misc]


@pytest.mark.parametrize(
    "options",
    [
        {"language": 3},
        {"language": ["de", None]},
        {"max_symbols_per_step": 0},
        {"max_symbols_per_step": 2.0},
        {"max_symbols_per_step": True},
        {"decoding_strategy": "beam"},
        {"decoding_strategy": True},
        {"confidence": True},
        {"confidence": {"method": "entropy"}},
    ],
)
def test_what_is_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}=.* is not supported; expected"):
        DecodingOptions(**options)


def compiled_phrases(vocab_size: int = 4) -> CompiledPhrases:
    return CompiledPhrases(PhraseBoosting(["a"]), TokenAutomaton.empty(vocab_size))


class Model:
    """What has an automaton is a language model."""

    automaton = TokenAutomaton.empty(4)


def test_scores_of_phrases_and_language_models():
    assert DecodingOptions().make_scorer(2, 4) is None
    both = DecodingOptions(boosting=compiled_phrases(), language_model=Model(), language_model_weight=0.5)
    scorer = both.make_scorer(2, 4)
    assert scorer is not None
    assert scorer.num_kinds == 2
    assert scorer.is_shared
    each = DecodingOptions(boosting=[compiled_phrases(), None]).make_scorer(2, 4)
    assert each is not None
    assert not each.is_shared
    hash(both)
    assert set(both.describe()) == {"boosting", "language_model", "language_model_weight"}
    assert all(isinstance(both.describe()[name], str) for name in ("boosting", "language_model"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boosting": "one"}, "boosting='one'"),
        ({"boosting": []}, "boosting"),
        ({"boosting": [compiled_phrases(), "one"]}, "boosting"),
        ({"language_model": "lm.arpa"}, "language_model='lm.arpa'"),
        ({"language_model": Model(), "language_model_weight": 0.0}, r"language_model_weight=0\.0"),
        ({"language_model": Model(), "language_model_weight": True}, "language_model_weight=True"),
        ({"language_model_weight": 0.5}, "needs language_model"),
    ],
)
def test_wrong_scores_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecodingOptions(**options)


def test_scores_that_do_not_fit_the_model_are_refused():
    with pytest.raises(ValueError, match="expected compile_phrases"):
        DecodingOptions(boosting=PhraseBoosting(["a"])).make_scorer(1, 4)
    with pytest.raises(ValueError, match="4 tokens; expected 5"):
        DecodingOptions(boosting=compiled_phrases()).make_scorer(1, 5)
    with pytest.raises(ValueError, match="2 lists; expected 3"):
        DecodingOptions(boosting=[compiled_phrases(), None]).make_scorer(3, 4)
