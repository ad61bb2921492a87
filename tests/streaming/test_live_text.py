"""Tokens to updates: ends of utterances cut the text, and what follows begins with a space."""

from __future__ import annotations

from typing import Any

import pytest

from transformers_fastconformer import EndpointingOptions, load_model
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.streaming.live_text import LiveText, LiveTextState
from transformers_fastconformer.streaming.text import NewTokens

ENDS = EndpointingOptions(kinds=("blanks",), blank_ms=400.0, residue_frames=0)


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_model(CHECKPOINT_PATH)[1]


def tokens_of(processor: Any, text: str, first_frame: int) -> NewTokens:
    """Tokens of a text, one a frame."""
    ids = list(processor.tokenizer(text)["input_ids"])
    return NewTokens(ids, list(range(first_frame, first_frame + len(ids))))


def join(first: NewTokens, second: NewTokens) -> NewTokens:
    return NewTokens([*first.token_ids, *second.token_ids], [*first.frame_indices, *second.frame_indices])


def test_an_utterance_that_ends_is_committed_and_the_next_one_has_a_space(processor: Any) -> None:
    live = LiveText(processor, "rnnt", None, ENDS)
    first, second = tokens_of(processor, "one two", 0), tokens_of(processor, "three", 40)
    update, state = live.advance(LiveTextState(), first, 3)
    assert update.committed + update.tentative == "one two"
    words = list(update.words)
    assert len(words) < 2
    update, state = live.advance(state, NewTokens(), 30)
    assert [event.cause for event in update.endpoints] == ["blanks"]
    assert [word.text for word in [*words, *update.words]] == ["one", "two"]
    assert update.tentative == ""
    update, state = live.advance(state, second, 44)
    assert update.committed + update.tentative == " three"
    update, state = live.advance(state, NewTokens(), 46, is_last=True)
    assert [(word.text, word.start_offset) for word in update.words] == [("three", 40)]


def test_the_cut_lies_between_the_tokens_of_one_step(processor: Any) -> None:
    live = LiveText(processor, "rnnt", None, ENDS)
    together = join(tokens_of(processor, "one two", 0), tokens_of(processor, "three", 40))
    update, _ = live.advance(LiveTextState(), together, 44, is_last=True)
    assert update.committed == "one two three"
    assert [word.text for word in update.words] == ["one", "two", "three"]
    assert len(update.endpoints) == 1


def test_what_may_still_change_is_only_shown(processor: Any) -> None:
    live = LiveText(processor, "rnnt", None, None)
    first, following = tokens_of(processor, "one", 0), tokens_of(processor, "two", 5)
    update, state = live.advance(LiveTextState(), first, 5, following)
    assert update.committed + update.tentative == "one two"
    assert "two" not in update.committed
    assert [word.text for word in update.tentative_words] == ["one", "two"]
    update, _ = live.advance(state, tokens_of(processor, "six", 5), 8, is_last=True)
    assert [word.text for word in update.words] == ["one", "six"]


def test_a_revised_confidence_is_that_of_the_word(processor: Any) -> None:
    live = LiveText(processor, "ctc", "min", None)
    ids = list(processor.tokenizer("one")["input_ids"])
    tokens = NewTokens(ids, list(range(len(ids))), confidences=[0.9] * len(ids))
    _, state = live.advance(LiveTextState(), tokens, 10)
    update, _ = live.advance(state, NewTokens(confidences=[]), 11, is_last=True, revised_confidence=0.25)
    assert [word.confidence for word in update.words] == [0.25]
