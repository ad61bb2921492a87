"""Options of decoding with phrases and languages as tokens."""

from __future__ import annotations

import pytest

from transformers_fastconformer import DecodingOptions, PhraseBoosting, compile_languages, compile_phrases
from transformers_fastconformer.nemo.tokenizers import character_tokenizer
from transformers_fastconformer.tokenization_decoding import compile_decoding


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer([" ", *"abäöüß"])


def test_phrases_and_languages_are_made_into_tokens(tokenizer) -> None:
    phrases = PhraseBoosting(["ab"])
    options = compile_decoding(DecodingOptions(language="de", boosting=phrases), tokenizer, False)
    assert options.language is None
    assert options.languages is compile_languages("de", tokenizer)
    assert options.boosting is compile_phrases(phrases, tokenizer)
    assert compile_decoding(options, tokenizer, False) == options
    several = compile_decoding(DecodingOptions(languages=["de", "en"]), tokenizer, False)
    assert several.languages is compile_languages(["de", "en"], tokenizer)
    each = compile_decoding(DecodingOptions(language=["de", "en"], boosting=[phrases, None]), tokenizer, False)
    assert each.languages == (compile_languages("de", tokenizer), compile_languages("en", tokenizer))
    assert each.boosting == (compile_phrases(phrases, tokenizer), None)
    assert compile_decoding(each, tokenizer, False) == each
    assert compile_decoding(DecodingOptions(), tokenizer, False) == DecodingOptions()


def test_a_model_that_is_told_its_language_gets_it(tokenizer) -> None:
    options = DecodingOptions(language="de")
    assert compile_decoding(options, tokenizer, True) is options
    with pytest.raises(ValueError, match="is not supported by a model that is told its language; expected language"):
        compile_decoding(DecodingOptions(languages="de"), tokenizer, True)


def test_one_of_the_two(tokenizer) -> None:
    with pytest.raises(ValueError, match="exclude one another"):
        compile_decoding(DecodingOptions(language="de", languages=["en"]), tokenizer, False)
