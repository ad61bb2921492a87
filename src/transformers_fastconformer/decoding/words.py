"""
Tokens to words, for tokens that come a few at a time.

A pure function of rules, state and tokens; `timestamps.word_spans` does a whole clip with it. The rules, including odd
ones, are those of NeMo 3.0.0 (`timestamp_utils.get_words_offsets`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..validation import require_choice

WORD_RULES = ("word_mark", "continuation_mark", "character")
# Tokens that only part words: punctuation takes their place.
MARKS = (" ", "_", "▁")


class WordToken(NamedTuple):
    """
    A token with its times.

    Args:
        token_id: Its id, or whatever `text_of` knows it by.
        string: In the vocabulary, with its word or continuation mark.
        text: On its own.
        start_offset, end_offset: Its first encoder frame, and the frame after its last one.
        confidence: Confidence in it, where there is one.
        log_prob: Its log-probability, where it is known.
    """

    token_id: int
    string: str
    text: str
    start_offset: int
    end_offset: int
    confidence: float | None = None
    log_prob: float | None = None


class GroupedWord(NamedTuple):
    """
    A word with its times and tokens.

    Args:
        text: The word.
        start_offset, end_offset: Its first encoder frame, and the frame after its last one.
        tokens: Its tokens.
    """

    text: str
    start_offset: int
    end_offset: int
    tokens: tuple[WordToken, ...]


@dataclass(frozen=True)
class WordRules:
    """
    Rules by which tokens become words.

    Args:
        word_rule: `"word_mark"` (SentencePiece), `"continuation_mark"` (WordPiece, `##`) or `"character"`.
        punctuation: Punctuation characters that the vocabulary can write; they join the word before them.
        word_separator: Text that separates words in character vocabularies.
        text_of: Text of the tokens of a word.
        max_tokens: A word of so many tokens ends, for streams of languages that do not part words, in which what is
            kept would grow without end; None: it goes on.
    """

    word_rule: str
    punctuation: Collection[str]
    word_separator: str
    text_of: Callable[[Sequence[WordToken]], str]
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        require_choice("word_rule", self.word_rule, WORD_RULES)

    def opens_word(self, token: WordToken, next_text: str | None) -> bool:
        """Tell whether a token opens a new word; a separator before punctuation does not."""
        if self.word_separator != " ":
            return token.text == self.word_separator
        is_separator = token.text == self.word_separator and next_text not in self.punctuation
        if self.word_rule == "word_mark":  # a token without its mark in the text, or any whose text differs from it
            return token.string != token.text or is_separator
        if self.word_rule == "continuation_mark":
            return (bool(token.text) and not token.text.startswith("##")) or is_separator
        return is_separator


@dataclass(frozen=True)
class WordState:
    """
    Words that later tokens may still change.

    Args:
        open_tokens: Tokens of the word that is being built.
        open_start: Frame in which it starts.
        closed: The word before, as long as punctuation may still join it.
        waiting: A separator whose effect depends on the text that follows, and the tokens without text after it.
        first_start: Frame of the first token of all, None before it.
        last_end: End of the last token.
        has_words: There was a word already.
    """

    open_tokens: tuple[WordToken, ...] = ()
    open_start: int = 0
    closed: GroupedWord | None = None
    waiting: tuple[WordToken, ...] = ()
    first_start: int | None = None
    last_end: int = 0
    has_words: bool = False


def group_words(
    rules: WordRules, state: WordState, tokens: Sequence[WordToken], is_last: bool = False
) -> tuple[list[GroupedWord], WordState]:
    """
    Words that are finished, and the state for the tokens that follow.

    Args:
        rules: The rules.
        state: What the call before returned; `WordState()` at the start.
        tokens: The next tokens.
        is_last: No more follow, so that all words are finished.
    """
    finished: list[GroupedWord] = []
    for token in tokens:
        if token.text and token.text != rules.word_separator:
            for waiting in state.waiting:
                state = _add(rules, state, waiting, token.text, finished)
            state = _add(rules, replace(state, waiting=()), token, None, finished)
        elif state.waiting or _needs_next_text(rules, token):
            state = replace(state, waiting=(*state.waiting, token))
        else:
            state = _add(rules, state, token, None, finished)
    if is_last:
        for waiting in state.waiting:
            state = _add(rules, state, waiting, None, finished)
        state = _close(rules, replace(state, waiting=()), finished)
        finished += [state.closed] if state.closed is not None else []
        state = replace(state, closed=None)
    return finished, state


def revise_last_confidence(state: WordState, confidence: float) -> WordState:
    """The state with another confidence in its last token: CTC revises it while the token goes on."""
    if state.waiting:
        return replace(state, waiting=(*state.waiting[:-1], state.waiting[-1]._replace(confidence=confidence)))
    if state.open_tokens:
        tokens = (*state.open_tokens[:-1], state.open_tokens[-1]._replace(confidence=confidence))
        return replace(state, open_tokens=tokens)
    if state.closed is not None:
        tokens = (*state.closed.tokens[:-1], state.closed.tokens[-1]._replace(confidence=confidence))
        return replace(state, closed=state.closed._replace(tokens=tokens))
    return state


def _needs_next_text(rules: WordRules, token: WordToken) -> bool:
    next_punctuation = next(iter(rules.punctuation), None)
    return rules.opens_word(token, None) != rules.opens_word(token, next_punctuation)


def _add(
    rules: WordRules, state: WordState, token: WordToken, next_text: str | None, finished: list[GroupedWord]
) -> WordState:
    """
    The state after one more token.

    Args:
        rules, state: As in `group_words`.
        token: The token.
        next_text: The text after it that is neither empty nor the separator, where that counts; None: the end.
        finished: Words that are finished by the token are added to it.
    """
    if state.first_start is None:
        state = replace(state, first_start=token.start_offset)
    is_punctuation = token.text in rules.punctuation and token.text != rules.word_separator
    if is_punctuation and state.open_tokens:
        kept = state.open_tokens[:-1] if state.open_tokens[-1].string in MARKS else state.open_tokens
        state = replace(state, open_tokens=(*kept, token))
    elif is_punctuation and state.closed is not None:
        word = state.closed
        text = word.text.removesuffix(" ") + token.text
        joined = GroupedWord(text, word.start_offset, token.end_offset, (*word.tokens, token))
        state = replace(state, closed=joined)
    else:
        is_full = rules.max_tokens is not None and len(state.open_tokens) >= rules.max_tokens
        if not is_punctuation and (is_full or rules.opens_word(token, next_text)):
            state = _close(rules, state, finished)
            is_part = token.text != rules.word_separator
        else:
            is_part = True
        if is_part:
            if not state.open_tokens:
                state = replace(state, open_start=token.start_offset)
            state = replace(state, open_tokens=(*state.open_tokens, token))
            if state.closed is not None:
                finished.append(state.closed)
                state = replace(state, closed=None)
    return replace(state, last_end=token.end_offset)


def _close(rules: WordRules, state: WordState, finished: list[GroupedWord]) -> WordState:
    """The state in which the open word, if there is one, is closed; the one before it is finished then."""
    if not state.open_tokens:
        return state
    if state.closed is not None:
        finished.append(state.closed)
    start = state.open_start
    if not state.has_words:  # everything before the first word belongs to it
        assert state.first_start is not None
        start = state.first_start
    word = GroupedWord(rules.text_of(state.open_tokens), start, state.last_end, state.open_tokens)
    return replace(state, open_tokens=(), closed=word, has_words=True)
