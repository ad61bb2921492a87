"""The prompted decoder of Transformers' Canary in configurations, both ways."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..checkpoints.key_table import Refusal, SectionReader, Values, check_pins, write_section
from ..configuration_multitask import FastConformerMultitaskConfig
from ..decoding.prompts import FLAGS, FORMATS, PromptOptions, fill_prompt, token_of
from .config_tables import MULTITASK_DECODER, MULTITASK_PINS

SECTION = "decoder_config"
# Their sinusoids of a width of 2 are a division by zero.
SMALLEST_WIDTH = 4
# Their `generate` searches greedily until the end, and has no limit of its own.
READ_OPTIONS: Values = {"decoding_strategy": "greedy", "max_generation_delta": -1, "prompt_format": "canary2"}

# Their processor's names of languages, and a template over the parts of a message, one of which is the request.
LANGUAGE_KEYS = {"source_lang": "source_language", "target_lang": "target_language"}
TEMPLATE = (
    "{{%- for message in messages -%}}{{%- for part in message['content'] -%}}{{%- if part['type'] == 'text' -%}}"
    "{prompt}{{%- endif -%}}{{%- endfor -%}}{{%- endfor -%}}"
)


def read_decoder(section: Any, options: Values, reader: SectionReader) -> Values:
    """
    Options of ours for the section of the decoder.

    Args:
        section: The section; None: it is absent, and all is as their class has it by itself.
        options: Our options of encoder and head.
        reader: Applies the tables.

    Raises:
        ValueError: for a key that is not known and a value that is not accepted.
    """
    decoder, values = reader.apply({} if section is None else section, MULTITASK_DECODER, SECTION)
    if values["vocab_size"] != options["vocab_size"]:
        name, expected = f"{SECTION}.vocab_size", f"{options['vocab_size']}, the vocab_size of the whole"
        raise reader.refuse(name, values["vocab_size"], expected)
    _check_width(decoder["decoder_hidden_size"], options["hidden_size"], f"{SECTION}.hidden_size", reader.refuse)
    return {**decoder, **READ_OPTIONS}


def write_decoder(config: FastConformerMultitaskConfig, refuse: Refusal) -> Values:
    """
    Their section of the decoder.

    Args:
        config: Our configuration.
        refuse: Makes the error for an option that their class cannot express.
    """
    check_pins(MULTITASK_PINS, partial(getattr, config), refuse)
    _check_width(config.decoder_hidden_size, config.hidden_size, "decoder_hidden_size", refuse)
    written = write_section(MULTITASK_DECODER, partial(getattr, config))
    heads = config.num_decoder_attention_heads
    names = ("vocab_size", "pad_token_id", "eos_token_id", "bos_token_id")
    return {
        **written,
        **{name: getattr(config, name) for name in names},
        "num_key_value_heads": heads,
        "head_dim": config.decoder_hidden_size // heads,
    }


def prompt_template(config: FastConformerMultitaskConfig) -> str | None:
    """
    Template of the prompts that their processor makes of two languages and a choice of punctuation.

    The other slots have the values of the checkpoint's defaults. None: it lacks tokens of its default prompt.
    """
    try:
        values = fill_prompt(config, PromptOptions())
    except ValueError:
        return None
    slots = []
    for slot in FORMATS[config.prompt_format]:
        if slot in LANGUAGE_KEYS:
            slots.append(f"<|{{{{ part['{LANGUAGE_KEYS[slot]}'] | default({values[slot]!r}) }}}}|>")
        elif slot == "pnc":
            on, off = FLAGS[slot]
            slots.append(f"{{{{ {on!r} if part['punctuation'] | default({values[slot]!r}) else {off!r} }}}}")
        elif slot != "context":
            slots.append(slot if slot.startswith("<|") else token_of(slot, values[slot]))
    return TEMPLATE.format(prompt="".join(slots))


def _check_width(decoder_width: int, encoder_width: int, name: str, refuse: Refusal) -> None:
    """Refuse widths between which a projection would stand, which their class does not have."""
    if decoder_width != encoder_width:
        raise refuse(name, decoder_width, f"{encoder_width}, the width of the encoder")
    if decoder_width < SMALLEST_WIDTH:
        raise refuse(name, decoder_width, f"{SMALLEST_WIDTH} or more")
