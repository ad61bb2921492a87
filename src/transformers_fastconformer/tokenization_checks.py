"""Checks of tokenizers before they are made: their files, tokens and options."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from .tokenization_character_map import PrecompiledCharacterMap
from .validation import is_number, reading, require, shown

# About ten times what the largest published tokenizers have, of 16 thousand tokens.
MAX_TOKENS = 2**18
MAX_TOKEN_CHARACTERS = 256
MAX_VOCABULARY_CHARACTERS = 2**22
MAX_PADDING = 2**20
# Keys of an entry of `added_tokens` in a tokenizer.json.
ADDED_TOKEN_KEYS = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")


def check_tokens(tokens: Collection[Any], name: str) -> None:
    """
    Raise a `ValueError` for tokens that are not texts of a sensible length, or more than a vocabulary has.

    Args:
        tokens: The tokens.
        name: Where they come from, for messages.
    """
    if len(tokens) > MAX_TOKENS:
        raise ValueError(f"{name}: {len(tokens)} tokens are not supported; expected at most {MAX_TOKENS}.")
    for token in tokens:
        if not isinstance(token, str):
            raise ValueError(f"{name}: the token {shown(token)} is not supported; expected text.")
        if not 0 < len(token) <= MAX_TOKEN_CHARACTERS:
            raise ValueError(
                f"{name}: the token {shown(token)} has {len(token)} characters; expected 1 to {MAX_TOKEN_CHARACTERS}."
            )
        if not token.isascii():
            try:
                token.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{name}: the token {shown(token)} is not Unicode ({error}); expected text."
                ) from None
    num_characters = sum(map(len, tokens))
    if num_characters > MAX_VOCABULARY_CHARACTERS:
        raise ValueError(
            f"{name}: the tokens have {num_characters} characters; expected at most {MAX_VOCABULARY_CHARACTERS}."
        )


def check_tokenizer_json(text: str, name: str) -> dict[str, Any]:
    """
    The content of a `tokenizer.json`, looked at before the tokenizers library sees it.

    Args:
        text: The file.
        name: Its name in messages.

    Raises:
        ValueError: for what is not JSON of a tokenizer, and for what would end the process or never end.
    """
    with reading(name, "the JSON of a tokenizer"):
        state = json.loads(text)
        model = state["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, list):
            wrong = [score for _, score in vocabulary if not is_number(score)]
            if wrong:
                raise ValueError(f"model.vocab: the score {shown(wrong[0])} is not supported; expected a number.")
            check_tokens([token for token, _ in vocabulary], "model.vocab")
        else:
            check_tokens(dict(vocabulary).keys(), "model.vocab")
        for step in _steps(state.get("normalizer")):
            if step["type"] == "Precompiled":
                PrecompiledCharacterMap(base64.b64decode(step["precompiled_charsmap"], validate=True))
        check_added_tokens(state)
        strategy = (state.get("padding") or {}).get("strategy")
        length = strategy.get("Fixed", 0) if isinstance(strategy, dict) else 0
        require(0 <= length <= MAX_PADDING, "padding.strategy.Fixed", length, f"0 to {MAX_PADDING}")
    return state


def check_added_tokens(state: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for keys of an entry in `added_tokens` that the tokenizers library prints and drops."""
    for token in state.get("added_tokens") or ():
        unknown = sorted(set(token).difference(ADDED_TOKEN_KEYS))
        if unknown:
            raise ValueError(f"added_tokens: key {shown(unknown[0])} is unknown; expected {ADDED_TOKEN_KEYS}.")


def _steps(normalizer: Any) -> Iterator[Any]:
    """The normalizers of a `tokenizer.json`, those of sequences one by one."""
    if normalizer is not None and normalizer["type"] == "Sequence":
        for step in normalizer["normalizers"]:
            yield from _steps(step)
    elif normalizer is not None:
        yield normalizer


def check_bytes(tokens: Collection[str], name: str) -> None:
    """Raise a `ValueError` where a token of one of the 256 bytes is missing."""
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in tokens]
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} tokens such as '<0x{missing[0]:02X}>' are missing; expected all 256 of the bytes."
        )


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of another kind than their default."""
    for name, value in options.items():
        if name.endswith(("_tokens", "_symbols")) and name != "byte_tokens":
            is_list = isinstance(value, list | tuple) and all(isinstance(token, str) for token in value)
            require(is_list, name, value, "a list of tokens")
        elif name == "unknown_text":
            require(isinstance(value, str) and len(value) <= MAX_TOKEN_CHARACTERS, name, value, "a short text")
        else:
            require(isinstance(value, bool), name, value, "True or False")
