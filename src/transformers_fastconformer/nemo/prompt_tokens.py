"""Special tokens of Canary's tokenizers, of which prompts are made, written into the configuration."""

from __future__ import annotations

from ..configuration_fastconformer import FastConformerConfig
from ..configuration_multitask import FastConformerMultitaskConfig
from ..decoding.prompts import FORMATS
from ..tokenization_fastconformer import FastConformerTokenizer
from .tokenizers import PROMPT_ROLES


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
    first_token = FORMATS[config.prompt_format][0]
    names = {**{f"{role}_id": token for role, token in PROMPT_ROLES.items()}, "decoder_start_token_id": first_token}
    for option, token in names.items():
        token_id = tokenizer.prompt_token_id(token)
        if token_id is None:
            raise ValueError(f"{source}: the tokenizer lacks {token!r}; expected the special tokens of a Canary.")
        setattr(config, option, token_id)
    config.num_tokens = tokenizer.blank_token_id
    config.prompt_token_ids = tokenizer.prompt_token_ids
