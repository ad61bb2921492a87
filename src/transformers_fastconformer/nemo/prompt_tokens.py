"""Special tokens of Canary's tokenizers (NeMo's `CanaryTokenizer`, `CanaryBPETokenizer`), which its prompts name."""

from __future__ import annotations

import re

from ..configuration_fastconformer import FastConformerConfig
from ..configuration_multitask import FastConformerMultitaskConfig
from ..tokenization_fastconformer import FastConformerTokenizer

SPECIAL_LANGUAGE = "spl_tokens"  # the part of an aggregate that holds them
START_OF_TRANSCRIPT = "<|startoftranscript|>"
START_OF_CONTEXT = "<|startofcontext|>"
END_OF_TEXT = "<|endoftext|>"
PADDING = "<pad>"
SPECIAL_TOKEN = re.compile(r"<\|.+\|>", re.DOTALL)
TIME_TOKEN = re.compile(r"<\|\d+\|>")
# First token of a prompt, by its format.
FIRST_TOKENS = {"canary": START_OF_TRANSCRIPT, "canary2": START_OF_CONTEXT}


def complete_vocabulary(config: FastConformerConfig, tokenizer: FastConformerTokenizer, source: str) -> None:
    """
    Write the special tokens of a prompted decoder into its configuration; others stay as they are.

    Args:
        config: A configuration, changed in place.
        tokenizer: Its tokenizer.
        source: The archive, for messages.

    Raises:
        ValueError: for a tokenizer that lacks a token that every prompt needs; the message names it.
    """
    if not isinstance(config, FastConformerMultitaskConfig):
        return
    ids = _special_tokens(tokenizer)
    names = {
        "bos_token_id": START_OF_TRANSCRIPT,
        "eos_token_id": END_OF_TEXT,
        "pad_token_id": PADDING,
        "decoder_start_token_id": FIRST_TOKENS[config.prompt_format],
    }
    for option, token in names.items():
        if token not in ids:
            raise ValueError(f"{source}: the tokenizer lacks {token!r}; expected the special tokens of a Canary.")
        setattr(config, option, ids[token])
    config.num_tokens = tokenizer.blank_token_id
    config.prompt_token_ids = {
        token: number
        for token, number in ids.items()
        if SPECIAL_TOKEN.fullmatch(token) and not TIME_TOKEN.fullmatch(token)
    }


def _special_tokens(tokenizer: FastConformerTokenizer) -> dict[str, int]:
    """Ids of all tokens `<|...|>` and of the padding; in an aggregate those of the part that is made of them."""
    num_tokens = tokenizer.blank_token_id
    return {
        token: number
        for number, token in enumerate(tokenizer.vocabulary_tokens(range(num_tokens)))
        if (token == PADDING or SPECIAL_TOKEN.fullmatch(token))
        and tokenizer.language_of(number) in (None, SPECIAL_LANGUAGE)
    }
