"""Where sentences end, in several languages; the words are those of recordings, meetings and books."""

from __future__ import annotations

import time

import pytest

from transformers_fastconformer.writers.sentence_ends import BEFORE_NUMBERS, OTHERS, TITLES, ends_sentence


@pytest.mark.parametrize(
    ("word", "following"),
    [
        ("is.", "The"),
        ("is?", "The"),
        ('yes."', "The"),
        ("yes.\u201d", "\u201cThe"),
        ("why?)", "The"),
        ("stop!\u00bb", "\u00abDer"),
        ("\u0644\u0645\u0627\u0630\u0627\u061f", "\u0646\u0639\u0645"),
        ("\u06c1\u06d2\u06d4", "\u0648\u06c1"),
        ("\u0939\u0948\u0964", "\u0935\u0939"),
        ("\u3067\u3059\u3002", "\u306f\u3044"),
        ("well\u2026", "The"),
        ("well...", "The"),
        ("1990.", "Then"),
        ("I.", "Then"),
        ("no.", "Then"),
        ("No.", "Five"),
        ("p.m.", "We"),
        ("art.", "Then"),
        ("rep.", "Then"),
        ("me.", "Go"),
        ("Inc.", "The"),
        ("3.5.", "The"),
        ("example.com.", "The"),
        ("\u00e9t\u00e9.", "\u00c0"),
    ],
)
def test_a_sentence_ends(word: str, following: str) -> None:
    assert ends_sentence(word, following)


@pytest.mark.parametrize(
    ("word", "following"),
    [
        ("is", "The"),
        ("is,", "The"),
        ("Mr.", "Smith"),
        ("(Mr.", "Smith"),
        ("St.", "Louis"),
        ("U.S.", "Army"),
        ("e.g.", "Paris"),
        ("etc.", "and"),
        ("Inc.", "is"),
        ("z.B.", "Berlin"),
        ("bzw.", "Hamburg"),
        ("3.", "Mai"),
        ("21.", "Jahrhundert"),
        ("J.", "Bach"),
        ("\u0433.", "\u041c\u043e\u0441\u043a\u0432\u0430"),
        ("\u0443\u043b.", "\u041b\u0435\u043d\u0438\u043d\u0430"),
        ("No.", "5"),
        ("Nr.", "5"),
        ("Sra.", "Garc\u00eda"),
        ("Mme.", "Dupont"),
        ("p.m.", "on"),
        ("well\u2026", "then"),
        ("3.14", "The"),
        ('"', "The"),
        ("", "The"),
    ],
)
def test_a_sentence_goes_on(word: str, following: str) -> None:
    assert not ends_sentence(word, following)


def test_the_tables_are_as_they_are_asked() -> None:
    for name in TITLES | OTHERS | BEFORE_NUMBERS:
        assert name == name.lower().strip()
        assert not name.endswith(".")
    assert not (TITLES | OTHERS) & BEFORE_NUMBERS


def test_it_is_quick() -> None:
    start = time.process_time()
    for _ in range(20_000):
        ends_sentence("Mr.", "Smith")
    assert time.process_time() - start < 2.0
