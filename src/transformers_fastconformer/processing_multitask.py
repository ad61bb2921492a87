"""Text and times out of the tokens of multitask models, which write times as tokens next to their words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from .decoding.options import DecodingOptions
from .decoding.prompts import PROMPT_OPTIONS, PromptFacts, fill_prompt, prompt_ids
from .decoding.time_tokens import timed_words
from .decoding.timestamps import Span
from .tokenization_fastconformer import IGNORED_LABEL, FastConformerTokenizer
from .tokenization_piece_text import WORD_MARK

MULTITASK = "multitask"
TIME_PATTERN = re.compile(r"(<\|\d+\|>)")
# Levels of times that multitask models have.
MULTITASK_LEVELS = ("word", "segment")


# Arguments that say the prompt of transcripts.
PROMPT_ARGUMENTS = (*PROMPT_OPTIONS, "language")


class TrainingTokens(NamedTuple):
    """
    Tokens of a transcript for training: those that the decoder sees, and for each the one that it is to write next.

    Args:
        decoder_input_ids: The prompt and the text.
        labels: The prompt without its first token, the text and the end; -100 for tokens that are not learned.
    """

    decoder_input_ids: list[int]
    labels: list[int]


class PromptWriter(NamedTuple):
    """
    Transcripts to the tokens that a multitask model is trained with, as NeMo 3.0's data sets have them.

    Args:
        facts: Format and defaults of the prompts.
        tokenizer: The model's.
        learns_prompt: The tokens of the prompt count in the loss.
    """

    facts: PromptFacts
    tokenizer: FastConformerTokenizer
    learns_prompt: bool

    def write(self, texts: Sequence[str], arguments: Mapping[str, Any]) -> list[TrainingTokens]:
        """
        Tokens of each text after one prompt.

        Args:
            texts: The transcripts, which may hold time tokens, such as `"<|3|> the <|8|>"`.
            arguments: Options of the prompt by name, see `PROMPT_ARGUMENTS`.

        Raises:
            ValueError: for options that the prompts of this model do not have.
        """
        options = DecodingOptions(**arguments).prompt
        language = fill_prompt(self.facts, options)["target_lang"]
        if isinstance(options.context, str):
            options = replace(options, context=self.tokenizer.context_ids(options.context, language))
        prompt = prompt_ids(self.facts, options)
        of_prompt = prompt[1:] if self.learns_prompt else [IGNORED_LABEL] * (len(prompt) - 1)
        written = []
        for text in texts:
            answer = self.encode(text, language)
            written.append(TrainingTokens([*prompt, *answer], [*of_prompt, *answer, self.tokenizer.eos_token_id]))
        return written

    def encode(self, text: str, language: str) -> list[int]:
        """Ids of a text; between time tokens each word is one for itself."""
        tokenizer = self.tokenizer
        options = {"language": language} if tokenizer.text_rule == "aggregate" else {}
        pieces = TIME_PATTERN.split(text)
        if len(pieces) == 1:
            return list(tokenizer(text, **options)["input_ids"])
        ids: list[int] = []
        for piece in pieces:
            time_id = tokenizer.prompt_token_id(piece) if TIME_PATTERN.fullmatch(piece) else None
            if time_id is not None:
                ids.append(time_id)
            else:
                ids += [token_id for word in piece.split() for token_id in tokenizer(word, **options)["input_ids"]]
        return ids


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


def word_of_each_token(tokenizer: FastConformerTokenizer, token_ids: Sequence[int]) -> list[int]:
    """Place of the word, among those that spaces part, that each token of a text without times belongs to."""
    words: list[int] = []
    count, num_before, first = 0, 0, 0  # words so far, those before the last token that surely begins one, that token
    for place, token_id in enumerate(token_ids):
        if _begins_word(tokenizer, token_id):
            num_before, first = count, place
        count = num_before + len(
            tokenizer.decode(list(token_ids[first : place + 1]), skip_special_tokens=True).split()
        )
        words.append(max(count - 1, 0))
    return words


def _begins_word(tokenizer: FastConformerTokenizer, token_id: int) -> bool:
    """True for a token with a space before it that stays whatever follows."""
    tokens = tokenizer.vocabulary_tokens(tokenizer.spoken_ids([token_id]))
    return any(
        token.startswith(WORD_MARK) and len(token) > 1 and token[1] not in tokenizer.punctuation for token in tokens
    )


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

    for token_id in tokenizer.spoken_ids(token_ids):
        if (frame := tokenizer.frame_of_time(token_id)) is not None:
            close()
            pieces.append(frame)
        elif token_id not in tokenizer.hidden_token_ids:
            text_ids.append(token_id)
    close()
    has_times = any(not isinstance(piece, str) for piece in pieces)
    return timed_words(pieces, num_frames) if has_times else []
