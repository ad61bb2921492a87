"""Text and times out of the tokens of multitask models, which write times as tokens next to their words."""

from __future__ import annotations

from collections.abc import Sequence

from .decoding.time_tokens import timed_words
from .decoding.timestamps import Span
from .tokenization_fastconformer import WORD_MARK, FastConformerTokenizer

MULTITASK = "multitask"
# Levels of times that multitask models have.
MULTITASK_LEVELS = ("word", "segment")


def multitask_levels(levels: Sequence[str], is_all: bool) -> tuple[str, ...]:
    """
    The levels of times that a multitask model has, of those asked for.

    Args:
        levels: As of `timestamp_levels`.
        is_all: They are all there are, not named one by one.

    Raises:
        ValueError: for a level by name that it does not have.
    """
    others = [level for level in levels if level not in MULTITASK_LEVELS]
    if others and not is_all:
        raise ValueError(
            f"timestamps={others[0]!r} is not supported by a multitask model; expected some of {MULTITASK_LEVELS}."
        )
    return tuple(level for level in levels if level in MULTITASK_LEVELS)


def text_of_multitask(tokenizer: FastConformerTokenizer, token_ids: Sequence[int], num_frames: int | None) -> str:
    """Text of a clip without times and the spaces around it; see `words_of_time_tokens` for the arguments."""
    if words := words_of_time_tokens(tokenizer, token_ids, num_frames):
        return " ".join(word.text for word in words)
    return tokenizer.decode(list(token_ids), skip_special_tokens=True).strip()


def words_of_time_tokens(
    tokenizer: FastConformerTokenizer, token_ids: Sequence[int], num_frames: int | None
) -> list[Span]:
    """
    Words with the times that a multitask model wrote next to them.

    Args:
        tokenizer: The model's.
        token_ids: Tokens of a clip.
        num_frames: Encoder frames of the clip, where they are known.

    Returns:
        The words; none where the model wrote no time.
    """
    pieces: list[int | str] = []
    text_ids: list[int] = []

    def close() -> None:
        if text_ids:
            begins_word = tokenizer.vocabulary_tokens(text_ids[:1])[0].startswith(WORD_MARK)
            text = tokenizer.decode(text_ids)
            pieces.append(f" {text.lstrip()}" if begins_word else text)
            text_ids.clear()

    for token_id in token_ids:
        if (frame := tokenizer.frame_of_time(token_id)) is not None:
            close()
            pieces.append(frame)
        elif token_id not in tokenizer.hidden_token_ids:
            text_ids.append(token_id)
    close()
    has_times = any(not isinstance(piece, str) for piece in pieces)
    return timed_words(pieces, num_frames) if has_times else []
