"""Languages to tokens: letters, what may be written, and what is refused."""

from __future__ import annotations

import pytest

from transformers_fastconformer import compile_languages, writable_languages
from transformers_fastconformer.nemo.tokenizers import character_tokenizer
from transformers_fastconformer.tokenization_languages import WRITING, letters_of

LABELS = [" ", "a", "Z", "ą", "ö", "ä", "ü", "ß", "ж", "9", ",", "<|pl|>", "a\u0308"]


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer(LABELS)


def allowed(languages, tokenizer) -> list[str]:
    scores = compile_languages(languages, tokenizer).automaton.root_weights[0]
    return [label for label, score in zip(LABELS, scores.tolist(), strict=True) if score == 0]


def test_letters_of_the_languages_and_what_is_no_letter(tokenizer) -> None:
    others = [" ", "a", "Z", "9", ",", "<|pl|>"]
    assert allowed("de", tokenizer) == [" ", "a", "Z", "ö", "ä", "ü", "ß", "9", ",", "<|pl|>", "a\u0308"]
    assert allowed(["de"], tokenizer) == allowed("de-AT", tokenizer) == allowed("de_DE", tokenizer)
    assert allowed("en", tokenizer) == others
    assert allowed(["en", "de"], tokenizer) == allowed("de", tokenizer)


def test_made_once(tokenizer) -> None:
    assert compile_languages(["de"], tokenizer) is compile_languages("de", tokenizer)


def test_languages_that_cannot_be_written_are_refused_with_those_that_can(tokenizer) -> None:
    assert {"de", "en"} <= set(writable_languages(tokenizer))
    assert not {"pl", "ru", "el", "bg"} & set(writable_languages(tokenizer))
    with pytest.raises(ValueError, match=r"language='pl' cannot be written .* expected one of \['de', 'en'"):
        compile_languages("pl", tokenizer)
    with pytest.raises(ValueError, match=r"language='xx' is not known; expected one of \['bg', 'ca'"):
        compile_languages(["de", "xx"], tokenizer)


@pytest.mark.parametrize("code", WRITING)
def test_letters_are_letters_in_both_cases(code) -> None:
    letters = letters_of(code)
    assert all(len(letter) == 1 for letter in letters)
    assert {letter.upper() for letter in letters if len(letter.upper()) == 1} <= letters
    assert len(letters) >= 48
