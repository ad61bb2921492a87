"""Times of tokens, words and segments, on cases small enough to check by hand."""

from __future__ import annotations

import pytest

from transformers_fastconformer.decoding.timestamps import (
    Span,
    segment_spans,
    token_offsets,
    with_punctuation_narrowed,
    word_spans,
)

PUNCTUATION = frozenset(".,?!'-")


def words_of(tokens: list[str], offsets: list[tuple[int, int]], word_rule: str = "word_mark", **options) -> list[Span]:
    """Words of tokens whose text is the token without its word mark."""
    is_marked = word_rule == "word_mark"
    texts = [token.removeprefix("▁") if is_marked else token for token in tokens]

    def text_of(positions: list[int]) -> str:
        return "".join(tokens[position] for position in positions).replace("▁", " ").removeprefix(" ")

    return word_spans(tokens, texts, offsets, text_of, word_rule=word_rule, **{"punctuation": PUNCTUATION, **options})


def test_ctc_tokens_span_from_the_token_before() -> None:
    assert token_offsets("ctc", [4, 9, 10]) == [(3, 4), (4, 9), (9, 10)]
    assert token_offsets("ctc", [0, 2]) == [(0, 0), (0, 2)]


def test_rnnt_tokens_last_one_frame_and_tdt_tokens_their_duration() -> None:
    assert token_offsets("rnnt", [4, 4, 9]) == [(4, 5), (4, 5), (9, 10)]
    assert token_offsets("tdt", [4, 4, 9], [0, 8, 2]) == [(4, 4), (4, 12), (9, 11)]


@pytest.mark.parametrize("decoder_type", ["ctc", "rnnt", "tdt"])
def test_nothing_emitted_has_no_times(decoder_type: str) -> None:
    assert token_offsets(decoder_type, [], []) == []
    assert with_punctuation_narrowed(decoder_type, [], [], PUNCTUATION) == []
    assert words_of([], []) == []
    assert segment_spans([]) == []


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="decoder_type='aed'"):
        token_offsets("aed", [1])
    with pytest.raises(ValueError, match="durations: found None"):
        token_offsets("tdt", [1])
    with pytest.raises(ValueError, match=r"durations: found 1 durations.*2 tokens"):
        token_offsets("tdt", [1, 2], [1])
    with pytest.raises(ValueError, match="word_rule='bpe'"):
        words_of(["a"], [(0, 1)], word_rule="bpe")


def test_punctuation_lasts_no_time() -> None:
    offsets = [(0, 2), (2, 9), (9, 12)]
    assert with_punctuation_narrowed("ctc", offsets, ["no", "'s", "."], PUNCTUATION) == [(0, 2), (2, 2), (9, 9)]
    assert with_punctuation_narrowed("tdt", offsets, ["no", "'s", "."], PUNCTUATION) == [(0, 2), (2, 9), (9, 9)]
    assert with_punctuation_narrowed("tdt", [(0, 2), (7, 9)], ["no", "."], PUNCTUATION) == [(0, 2), (2, 2)]
    assert with_punctuation_narrowed("rnnt", offsets, ["no", "'s", "."], PUNCTUATION) == offsets
    assert with_punctuation_narrowed("tdt", [(3, 5)], ["."], PUNCTUATION) == [(3, 5)]


def test_words_begin_at_word_marks() -> None:
    tokens = ["▁he", "llo", "▁wor", "ld", "."]
    offsets = [(1, 2), (2, 4), (6, 7), (7, 9), (9, 9)]
    assert words_of(tokens, offsets) == [Span("hello", 1, 4), Span("world.", 6, 9)]


def test_punctuation_joins_the_word_it_stands_in() -> None:
    words = words_of(["▁a", "▁", ".", "▁b"], [(0, 1), (1, 2), (2, 3), (5, 6)])
    assert words == [Span("a", 0, 1), Span(".", 1, 3), Span("b", 5, 6)]  # the bare word mark opened a word
    offsets = [(position, position + 1) for position in range(4)]
    assert words_of(list("a .b"), offsets, word_rule="character") == [Span("a.b", 0, 4)]
    assert words_of(list("a b."), offsets, word_rule="character") == [Span("a", 0, 1), Span("b.", 2, 4)]


def test_punctuation_joins_a_word_closed_already() -> None:
    tokens = ["a", " ", "b", " ", "c", ",", "!"]
    offsets = [(position, position + 1) for position in range(7)]
    assert words_of(tokens, offsets, word_rule="character")[-1] == Span("c,!", 4, 7)
    # A separator that another token follows closes the word; punctuation after two separators still finds it.
    words = word_spans(
        ["a", "|", ","], ["a", "|", ","], offsets[:3], lambda p: "a", word_rule="character", punctuation=PUNCTUATION,
        word_separator="|",
    )  # fmt: skip
    assert words == [Span("a,", 0, 3)]


def test_a_leading_separator_belongs_to_the_first_word() -> None:
    assert words_of([" ", "a"], [(2, 3), (7, 8)], word_rule="character") == [Span("a", 2, 8)]
    assert words_of([" ", " "], [(2, 3), (7, 8)], word_rule="character") == []


def test_continuation_marks_continue_a_word() -> None:
    tokens = ["play", "##ing", ".", "now"]
    words = word_spans(
        tokens,
        tokens,
        [(0, 1), (1, 2), (2, 3), (4, 5)],
        lambda positions: "".join(tokens[p].removeprefix("##") for p in positions),
        word_rule="continuation_mark",
        punctuation=PUNCTUATION,
    )
    assert words == [Span("playing.", 0, 3), Span("now", 4, 5)]


def test_segments_end_at_separators() -> None:
    words = [Span("a.", 0, 1), Span("b", 2, 3), Span("c?", 4, 5), Span("d", 6, 7)]
    assert segment_spans(words) == [Span("a.", 0, 1), Span("b c?", 2, 5), Span("d", 6, 7)]
    assert segment_spans(words, segment_separators=["b"]) == [Span("a. b", 0, 3), Span("c? d", 4, 7)]
    assert segment_spans([Span("", 0, 1), Span("a", 1, 2)]) == [Span(" a", 0, 2)]


def test_segments_end_at_gaps_and_separators_then_count_for_first_words_alone() -> None:
    words = [Span("a", 0, 1), Span("b.", 2, 3), Span("c", 4, 5), Span("d", 9, 10), Span("e", 13, 14)]
    assert segment_spans(words, segment_gap_frames=4) == [Span("a b. c", 0, 5), Span("d e", 9, 14)]
    first = [Span("a.", 0, 1), Span("b", 1, 2)]
    assert segment_spans(first, segment_gap_frames=4) == [Span("a.", 0, 1), Span("b", 1, 2)]
