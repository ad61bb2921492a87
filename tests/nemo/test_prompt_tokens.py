"""Special tokens of both kinds of Canary's tokenizers, written into the configuration."""

from __future__ import annotations

import pytest
from multitask_archives import SPECIAL_MODEL, SYMBOLS, make_canary_config
from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer.nemo.config_map import map_config
from transformers_fastconformer.nemo.prompt_tokens import complete_vocabulary
from transformers_fastconformer.nemo.tokenizer_map import build_tokenizer

MEMBERS = {
    "special.model": lambda: train_sentencepiece_model(**SPECIAL_MODEL),
    "text.model": train_sentencepiece_model,
}


@pytest.mark.parametrize("prompt_format", ["canary", "canary2"])
@pytest.mark.parametrize("is_aggregate", [True, False])
def test_ids_are_those_of_the_tokens(is_aggregate: bool, prompt_format: str) -> None:
    nemo_config = make_canary_config(is_aggregate) | {"prompt_format": prompt_format, "prompt_defaults": None}
    config = map_config(nemo_config).config
    tokenizer = build_tokenizer(nemo_config, lambda name: MEMBERS[name]())
    complete_vocabulary(config, tokenizer, "some.nemo")
    tokens = tokenizer.vocabulary_tokens(range(tokenizer.blank_token_id))
    assert tokens[config.bos_token_id] == "<|startoftranscript|>"
    assert tokens[config.eos_token_id] == "<|endoftext|>"
    assert tokens[config.pad_token_id] == "<pad>"
    first = "<|startofcontext|>" if prompt_format == "canary2" else "<|startoftranscript|>"
    assert tokens[config.decoder_start_token_id] == first
    of_prompts = {s for s in SYMBOLS if s not in ("<pad>", "<|0|>", "<|12|>")}
    assert set(config.prompt_token_ids) == (of_prompts if is_aggregate else of_prompts | {"\u2581"})
    assert all(tokens[number] == token for token, number in config.prompt_token_ids.items())
    assert config.num_tokens == len(tokens)


def test_a_tokenizer_without_them_is_refused() -> None:
    nemo_config = make_canary_config(is_aggregate=False)
    tokenizer = build_tokenizer(nemo_config, lambda name: train_sentencepiece_model())
    with pytest.raises(ValueError, match=r"some.nemo: the tokenizer lacks '<\|startoftranscript\|>'"):
        complete_vocabulary(map_config(nemo_config).config, tokenizer, "some.nemo")
