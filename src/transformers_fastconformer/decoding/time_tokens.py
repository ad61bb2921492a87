"""
Words and their times out of text with time tokens, such as `<|3|> Hello,<|8|><|9|> world.<|14|>`.

A pure function; for text in which every word stands between two times the result is that of NeMo 3.0
(`process_aed_timestamp_outputs`). Text that stands elsewhere, the full stop in `<|9|> world<|14|>.`, is lost there and
kept here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from .timestamps import Span


def timed_words(pieces: Sequence[int | str], num_frames: int | None = None) -> list[Span]:
    """
    Words between time tokens.

    Several words between two times are one item. Text that goes on where a word ended (without a space before it), and
    punctuation, belong to the word before.

    Args:
        pieces: Encoder frames of time tokens, and the text between them, with a space in front where a word begins.
        num_frames: Encoder frames of the clip, in which text without a time after it ends; None: where it started.

    Returns:
        Words in order; none ends before it starts or starts before an earlier one.
    """
    words: list[Span] = []
    frame: int | None = None  # of the time token before
    for position, piece in enumerate(pieces):
        if not isinstance(piece, str):
            frame = piece
            continue
        text = piece.strip()
        if not text:
            continue
        is_mark = all(unicodedata.category(character).startswith("P") for character in text)
        if words and (is_mark or not piece[0].isspace()):
            last = words[-1]
            words[-1] = last._replace(text=last.text + piece.rstrip())
            continue
        following = (other for other in pieces[position + 1 :] if not isinstance(other, str))
        earliest = words[-1].start_offset if words else 0
        start = max(frame if frame is not None else 0, earliest)
        end = next(following, num_frames if num_frames is not None else start)
        words.append(Span(text, start, max(start, end)))
    return words
