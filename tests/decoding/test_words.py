"""Tokens to words: against the loop over the whole clip, in pieces of any size, and bounded."""

from __future__ import annotations

import random

import pytest
from word_spans_loop import word_spans

from transformers_fastconformer.decoding.words import GroupedWord, WordRules, WordState, WordToken, group_words

PUNCTUATION = frozenset(".,'-")
# Vocabulary strings and their texts.
TOKENS: dict[str, list[tuple[str, str]]] = {
    "word_mark": [
        ("▁a", "a"), ("▁", ""), ("▁", " "), ("b", "b"), (" ", " "), ("", ""), (".", "."), (",", ","), ("'", "'"),
        ("<unk>", " ⁇ "), ("▁.", "."), ("_", "_"), ("-", "-"),
    ],
    "continuation_mark": [("a", "a"), ("##b", "##b"), (".", "."), ("##.", "##."), (" ", " "), ("", ""), ("-", "-")],
    "character": [(" ", " "), ("a", "a"), ("b", "b"), (".", "."), ("'", "'"), ("", ""), ("|", "|"), ("_", "_")],
}  # fmt: skip


def draw(rng: random.Random, word_rule: str, num_tokens: int) -> list[WordToken]:
    tokens, frame = [], 0
    for place in range(num_tokens):
        frame += rng.randrange(3)
        string, text = rng.choice(TOKENS[word_rule])
        tokens.append(WordToken(place, string, text, frame, frame + rng.randrange(3)))
    return tokens


def rules_of(word_rule: str, separator: str = " ", max_tokens: int | None = None) -> WordRules:
    def text_of(tokens: tuple[WordToken, ...]) -> str:
        return "".join(token.text for token in tokens)

    return WordRules(word_rule, PUNCTUATION, separator, text_of, max_tokens)


@pytest.mark.parametrize("separator", [" ", "|"])
@pytest.mark.parametrize("word_rule", TOKENS)
def test_words_are_those_of_the_loop_for_every_cutting(word_rule: str, separator: str) -> None:
    rng = random.Random(word_rule + separator)
    rules = rules_of(word_rule, separator)
    num_words = 0
    for _ in range(1500):
        tokens = draw(rng, word_rule, rng.randrange(14))
        expected = word_spans(
            [token.string for token in tokens],
            [token.text for token in tokens],
            [(token.start_offset, token.end_offset) for token in tokens],
            lambda places, tokens=tokens: "".join(tokens[place].text for place in places),
            word_rule=word_rule,
            punctuation=PUNCTUATION,
            word_separator=separator,
        )
        words: list[GroupedWord] = []
        state, start = WordState(), 0
        while start < len(tokens):
            size = rng.randrange(4)
            finished, state = group_words(rules, state, tokens[start : start + size])
            words += finished
            start += size
        finished, state = group_words(rules, state, [], is_last=True)
        words += finished
        assert [word[:3] for word in words] == [tuple(span) for span in expected]
        assert (state.open_tokens, state.closed, state.waiting) == ((), None, ())
        num_words += len(words)
    assert num_words > 1000


def test_a_word_comes_when_the_next_one_begins() -> None:
    rules, state = rules_of("word_mark"), WordState()
    arrivals = []
    for token in (("▁a", "a"), ("b", "b"), (".", "."), ("▁a", "a")):
        finished, state = group_words(rules, state, [WordToken(0, *token, 0, 1)])
        arrivals.append([word.text for word in finished])
    assert arrivals == [[], [], [], ["ab."]]


def test_a_separator_waits_for_what_follows() -> None:
    """Punctuation may still join the word before it."""
    rules, state = rules_of("character"), WordState()
    arrivals = []
    for text in ("a", " ", ".", "b", " ", "b"):
        finished, state = group_words(rules, state, [WordToken(0, text, text, 0, 1)])
        arrivals.append([word.text for word in finished])
    assert arrivals == [[], [], [], [], [], ["a.b"]]


def test_words_of_languages_without_spaces_are_bounded() -> None:
    rules, state = rules_of("word_mark", max_tokens=5), WordState()
    words, state = group_words(rules, state, [WordToken(0, "字", "字", place, place + 1) for place in range(23)])
    assert [word.text for word in words] == ["字" * 5] * 4
    assert len(state.open_tokens) == 3
    assert [word.start_offset for word in words] == [0, 5, 10, 15]


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(ValueError, match="word_rule='syllable' is not supported; expected one of"):
        rules_of("syllable")
