"""Phrases to tokens of the demonstration's tokenizer and of small ones: variants, splits, and what is refused."""

from __future__ import annotations

import pytest
from nemo_models import train_sentencepiece

from transformers_fastconformer.decoding.phrase_boosting import CompiledPhrases, PhraseBoosting
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.nemo.tokenizers import sentencepiece_tokenizer
from transformers_fastconformer.tokenization_phrases import compile_phrases


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("demo")[1].tokenizer


def texts_of(compiled: CompiledPhrases, tokenizer) -> set[str]:
    """Texts of all ways from the start to a state that raises the end, as tokens."""
    tree = compiled.automaton
    found, ways = set(), [(int(tree.start_states[0]), ())]
    while ways:
        state, tokens = ways.pop()
        if float(tree.end_weights[state]) > 0:
            found.add(" ".join(tokenizer.vocabulary_tokens(tokens)))
        if state == 0:
            arcs = [(token, int(target)) for token, target in enumerate(tree.root_targets[0].tolist()) if target]
        else:
            first, last = tree.arc_starts[state : state + 2].tolist()
            arcs = list(zip(tree.arc_tokens[first:last].tolist(), tree.arc_targets[first:last].tolist(), strict=True))
        ways += [(target, (*tokens, token)) for token, target in arcs]
    return found


def test_phrases_are_cut_like_texts(tokenizer):
    compiled = compile_phrases(PhraseBoosting(["seven", "eight nine"]), tokenizer)
    expected = {
        " ".join(tokenizer.vocabulary_tokens(tokenizer(text)["input_ids"])) for text in ("seven", "eight nine")
    }
    assert texts_of(compiled, tokenizer) == expected
    assert compiled.automaton.vocab_size == tokenizer.blank_token_id


def test_the_same_phrases_are_compiled_once(tokenizer):
    one = compile_phrases(PhraseBoosting(["one", "two"]), tokenizer)
    assert compile_phrases(PhraseBoosting(("one", "two")), tokenizer) is one
    assert compile_phrases(PhraseBoosting(["one", "two"], strength=2.0), tokenizer) is not one


def test_what_cannot_be_written_is_refused_by_name(tokenizer):
    with pytest.raises(ValueError, match=r"'Quebec', 'Łódź' cannot be written"):
        compile_phrases(PhraseBoosting(["one", "Quebec", "Łódź"]), tokenizer)
    many = PhraseBoosting([f"Q{number}" for number in range(9)])
    with pytest.raises(ValueError, match="and 4 more cannot"):
        compile_phrases(many, tokenizer)


def test_case_variants_are_used_as_far_as_they_can_be_written(tokenizer):
    """The demonstration writes only small letters."""
    compiled = compile_phrases(PhraseBoosting(["SEVEN One"], case_variants=True), tokenizer)
    assert texts_of(compiled, tokenizer) == texts_of(
        compile_phrases(PhraseBoosting(["seven one"]), tokenizer), tokenizer
    )


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_splits_are_drawn_anew_from_a_seed(model_type, tmp_path):
    pytest.importorskip("sentencepiece", reason="trains a tokenizer")
    folder = train_sentencepiece(tmp_path / model_type, model_type)
    tokenizer = sentencepiece_tokenizer((folder / "tokenizer.model").read_bytes())
    phrases = ["harbour morning", "children"]
    boosting = PhraseBoosting(phrases, num_splits=6)
    compiled = compile_phrases(boosting, tokenizer)
    found = texts_of(compiled, tokenizer)
    assert 4 <= len(found) <= 12
    assert {text.replace(" ", "") for text in found} == {"▁harbour▁morning", "▁children"}
    own = {" ".join(tokenizer.tokenize(phrase)) for phrase in phrases}
    assert own <= found
    assert not any(text.startswith("▁ ") for text in found - own)
    again = PhraseBoosting(phrases, num_splits=6, context_score=1.0)
    assert texts_of(compile_phrases(again, tokenizer), tokenizer) == found
    other = PhraseBoosting(phrases, num_splits=6, seed=1)
    assert texts_of(compile_phrases(other, tokenizer), tokenizer) != found
