"""Times of tokens, words and segments, in encoder frames.

Pure functions: they get token strings, texts and frames, and know neither models nor tokenizers. The rules, including
odd ones, are those of NeMo 3.0.0 for one clip (`AbstractCTCDecoding.compute_ctc_timestamps`,
`AbstractRNNTDecoding.compute_rnnt_timestamps`, `timestamp_utils`); `tests/equivalence/test_timestamps_nemo.py` runs
both side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from .words import WordRules, WordState, WordToken, group_words

DECODER_TYPES = ("ctc", "rnnt", "tdt")
SEGMENT_SEPARATORS = (".", "?", "!")


class Span(NamedTuple):
    """Text with its first encoder frame and the frame after its last one."""

    text: str
    start_offset: int
    end_offset: int


def token_offsets(
    decoder_type: str, frame_indices: Sequence[int], durations: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Start and end frame of each token.

    CTC: from the first frame of the token before to its own first frame; the first token starts one frame before its
    own first frame. RNN-T: the frame it was emitted in. TDT: from that frame, for the predicted duration.
    """
    if decoder_type not in DECODER_TYPES:
        raise ValueError(f"decoder_type={decoder_type!r} is not supported; expected one of {DECODER_TYPES}.")
    frames = [int(frame) for frame in frame_indices]
    if decoder_type == "ctc":
        starts = [max(0, frames[0] - 1), *frames[:-1]] if frames else []
        return list(zip(starts, frames, strict=True))
    if decoder_type == "rnnt":
        return [(frame, frame + 1) for frame in frames]
    if durations is None or len(durations) != len(frames):
        found = "None" if durations is None else f"{len(durations)} durations"
        raise ValueError(f"durations: found {found}; decoder_type='tdt' needs one for each of {len(frames)} tokens.")
    return [(frame, frame + int(duration)) for frame, duration in zip(frames, durations, strict=True)]


def with_punctuation_narrowed(
    decoder_type: str,
    offsets: Sequence[tuple[int, int]],
    token_texts: Sequence[str],
    punctuation: Collection[str],
) -> list[tuple[int, int]]:
    """Offsets in which punctuation has no duration, since it is often emitted long after the word it belongs to.

    CTC: a token whose text begins with punctuation ends where it starts. TDT: a token that is one punctuation
    character moves to the end of the token before. The first token and RNN-T are left as they are.
    """
    narrowed = list(offsets)
    for position in range(1, len(narrowed)):
        text = token_texts[position]
        if decoder_type == "ctc" and text and text[0] in punctuation:
            start = narrowed[position][0]
            narrowed[position] = (start, start)
        elif decoder_type == "tdt" and text in punctuation:
            previous_end = narrowed[position - 1][1]
            narrowed[position] = (previous_end, previous_end)
    return narrowed


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
    rules = WordRules(
        word_rule, punctuation, word_separator, lambda grouped: text_of([token.token_id for token in grouped])
    )
    columns = zip(range(len(tokens)), tokens, token_texts, offsets, strict=True)
    placed = [WordToken(position, token, text, *offset) for position, token, text, offset in columns]
    words, _ = group_words(rules, WordState(), placed, is_last=True)
    return [Span(word.text, word.start_offset, word.end_offset) for word in words]


def segment_spans(
    words: Sequence[Span],
    *,
    segment_separators: Collection[str] = SEGMENT_SEPARATORS,
    segment_gap_frames: int | None = None,
) -> list[Span]:
    """
    Group words into segments.

    Args:
        words: The words, in order.
        segment_separators: A word that ends in one of these, or is one, ends its segment.
        segment_gap_frames: A word that starts at least this many frames after the end of the one before opens a
            segment. With a gap, separators count only for the first word of a segment, as in NeMo 3.0.0.
    """
    segments: list[Span] = []
    open_segment: list[Span] = []

    def close() -> None:
        text = " ".join(word.text for word in open_segment)
        segments.append(Span(text, open_segment[0].start_offset, open_segment[-1].end_offset))
        open_segment.clear()

    for word in words:
        if segment_gap_frames and open_segment:
            if word.start_offset - open_segment[-1].end_offset >= segment_gap_frames:
                close()
            open_segment.append(word)
            continue
        open_segment.append(word)
        if word.text and (word.text[-1] in segment_separators or word.text in segment_separators):
            close()
    if open_segment:
        close()
    return segments
