"""Tokens grouped into words in one loop over the whole clip, which looks ahead and back as it likes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from transformers_fastconformer.decoding.timestamps import Span


def _starts_word(
    token: str, text: str, next_text: str | None, word_separator: str, word_rule: str, punctuation: Collection[str]
) -> bool:
    """Tell whether a token opens a new word; a separator before punctuation does not."""
    if word_separator != " ":
        return text == word_separator
    is_separator = text == word_separator and next_text not in punctuation
    if word_rule == "word_mark":  # a token without its mark in the text, or any token whose text differs from it
        return token != text or is_separator
    if word_rule == "continuation_mark":
        return (bool(text) and not text.startswith("##")) or is_separator
    return is_separator


def word_spans(
    tokens: Sequence[str],
    token_texts: Sequence[str],
    offsets: Sequence[tuple[int, int]],
    text_of: Callable[[list[int]], str],
    *,
    word_rule: str,
    punctuation: Collection[str] = (),
    word_separator: str = " ",
) -> list[Span]:
    """
    Group tokens into words.

    Args:
        tokens: Vocabulary strings, with their word or continuation marks.
        token_texts: The text of each token on its own.
        offsets: Start and end frame of each token.
        text_of: Text of the tokens at the given positions.
        word_rule: `"word_mark"` (SentencePiece), `"continuation_mark"` (WordPiece, `##`) or `"character"`.
        punctuation: Punctuation characters that the vocabulary can write; they join the word before them.
        word_separator: Text that separates words in character vocabularies.
    """
    words: list[Span] = []
    open_word: list[int] = []  # positions of the tokens of the word being built
    first_position = 0  # where the word being built starts

    # For each position: the next text that is neither empty nor the separator, found from the end.
    next_texts: list[str | None] = [None] * len(tokens)
    for position in range(len(tokens) - 2, -1, -1):
        text = token_texts[position + 1]
        next_texts[position] = text if text and text != word_separator else next_texts[position + 1]

    for position, (token, text) in enumerate(zip(tokens, token_texts, strict=True)):
        is_punctuation = text in punctuation and text != word_separator
        if is_punctuation and open_word:
            if tokens[open_word[-1]] in (" ", "_", "▁"):
                open_word.pop()
            open_word.append(position)
        elif is_punctuation and words:  # the word before is closed already
            last = words[-1]
            words[-1] = Span(last.text.removesuffix(" ") + text, last.start_offset, offsets[position][1])
        elif not is_punctuation and _starts_word(
            token, text, next_texts[position], word_separator, word_rule, punctuation
        ):
            if open_word:
                words.append(Span(text_of(open_word), offsets[first_position][0], offsets[position - 1][1]))
            open_word = []
            if text != word_separator:
                open_word.append(position)
                first_position = position
        else:
            if not open_word:
                first_position = position
            open_word.append(position)

    if open_word:
        words.append(Span(text_of(open_word), offsets[first_position][0], offsets[-1][1]))
    if words:  # everything before the first word belongs to it
        words[0] = words[0]._replace(start_offset=offsets[0][0])
    return words
