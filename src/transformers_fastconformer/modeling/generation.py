"""Arguments of `generate` that Transformers' other models take: accepted where they ask for what happens anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import GenerationConfig

from ..decoding.options import DecodingOptions
from ..validation import is_number, require, require_count

# Names and the values that ask for nothing else than greedy decoding and its tokens; None, which is "not said", and
# empty lists are accepted for all of them.
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), (1,)),
    **dict.fromkeys(("do_sample", "early_stopping", "renormalize_logits", "token_healing", "low_memory"), (False,)),
    "temperature": (1.0, 0.0),
    "top_k": (50, 1, 0),
    **dict.fromkeys(("top_p", "typical_p", "repetition_penalty", "encoder_repetition_penalty"), (1.0,)),
    **dict.fromkeys(("length_penalty", "guidance_scale"), (1.0,)),
    **dict.fromkeys(("min_p", "epsilon_cutoff", "eta_cutoff", "diversity_penalty", "penalty_alpha"), (0.0,)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens"), (0,)),
    **dict.fromkeys(("output_scores", "output_logits", "output_attentions", "output_hidden_states"), (False,)),
    **dict.fromkeys(("remove_invalid_values", "return_timestamps", "synced_gpus"), (False,)),
    "use_cache": (True, False),  # nothing is computed twice, with or without
    "task": ("transcribe",),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "stopping_criteria", "logits_processor"), ()),
    **dict.fromkeys(("bad_words_ids", "force_words_ids", "constraints", "sequence_bias", "stop_strings"), ()),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "decoder_start_token_id", "decoder_input_ids"), ()),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "prompt_ids", "max_time", "streamer"), ()),
    **dict.fromkeys(("prefix_allowed_tokens_fn", "assistant_model", "negative_prompt_ids"), ()),
    **dict.fromkeys(("exponential_decay_length_penalty", "watermarking_config", "compile_config"), ()),
    **dict.fromkeys(("cache_implementation", "past_key_values", "dola_layers", "custom_generate"), ()),
}
# Arguments that ask for a beam search, which is an option of decoding.
BEAM_ARGUMENTS = ("num_beams", "num_return_sequences")
# Parts of a training batch, which `generate` does not read.
UNREAD = ("labels", "decoder_attention_mask")
# What some versions of Transformers, and `Seq2SeqTrainer`, write into a configuration that does not say `max_length`.
UNSAID_MAX_LENGTH = 20


def take_generation_arguments(
    arguments: Mapping[str, Any], generation_config: GenerationConfig | None, padding_id: int
) -> tuple[dict[str, Any], int | None, int | None]:
    """
    Take out of the arguments of `generate` those that Transformers' other models know.

    Args:
        arguments: Arguments by name.
        generation_config: A configuration whose entries are arguments too, after those given.
        padding_id: What the model pads with.

    Returns:
        The arguments that are not known here, `num_beams` among them; the largest number of tokens of a clip, None: as
        many as there are; and the number of texts of each clip, None: not said.

    Raises:
        ValueError: for a value that asks for another result than that of greedy decoding; the message names it.
    """
    rest = {name: value for name, value in arguments.items() if name not in UNREAD}
    limits = [rest.pop(name, None) for name in ("max_new_tokens", "max_length")]
    beams = {name: rest.pop(name, None) for name in BEAM_ARGUMENTS}
    if generation_config is not None:
        said: dict[str, Any] = dict(vars(generation_config))
        for name in BEAM_ARGUMENTS:
            of_config = said.pop(name, None)
            # 1 is what some versions of Transformers write into a configuration that does not say it.
            is_said = of_config is True or of_config != 1
            beams[name] = beams[name] if beams[name] is not None or not is_said else of_config
        refuse_other_results(said, padding_id)
        if limits == [None, None]:
            limits = [said.get("max_new_tokens"), said.get("max_length")]
            limits[1] = None if limits[1] == UNSAID_MAX_LENGTH else limits[1]
    rest = refuse_other_results(rest, padding_id)
    for name, limit in zip(("max_new_tokens", "max_length"), limits, strict=True):
        if limit is not None:
            require_count(name, limit)
    # There is no prompt, so that both count the same; where both are given Transformers goes by the first.
    if beams["num_beams"] is not None:
        rest["num_beams"] = beams["num_beams"]
    return rest, next((int(limit) for limit in limits if limit is not None), None), beams["num_return_sequences"]


def with_return_sequences(decoding: DecodingOptions, count: int | None) -> DecodingOptions:
    """
    Put `num_return_sequences` into options of decoding.

    Raises:
        ValueError: for more texts than the search holds, and for a number that contradicts that of the options.
    """
    if count is None:
        return decoding
    require_count("num_return_sequences", count)
    beam = decoding.beam
    num_beams = 1 if beam is None else beam.num_beams
    require(count <= num_beams, "num_return_sequences", count, f"at most num_beams={num_beams}")
    if beam is None:
        return decoding
    require(beam.num_best in (1, count), "num_return_sequences", count, f"num_best={beam.num_best} of beam")
    return replace(decoding, beam=replace(beam, num_best=int(count)))


def refuse_other_results(
    arguments: Mapping[str, Any], padding_id: int, reason: str = "as decoding is greedy"
) -> dict[str, Any]:
    """
    Raise for known arguments that ask for another result than that of greedy decoding; the unknown ones are returned.

    Args:
        arguments: Arguments by name.
        padding_id: What the model pads with.
        reason: The end of the message: why nothing else is accepted.

    Raises:
        ValueError: the message names the argument, its value and what is accepted.
    """
    neutral_values = {**NEUTRAL_VALUES, "pad_token_id": (padding_id,)}
    rest = {}
    for name, value in arguments.items():
        if name not in neutral_values:
            rest[name] = value
            continue
        accepted = neutral_values[name]
        is_empty = value is None or (isinstance(value, list | tuple | dict) and not value)
        expected = " or ".join(map(repr, accepted)) or "None"
        why = "with which the model pads" if name == "pad_token_id" else reason
        is_accepted = is_empty or any(_is_same(value, other) for other in accepted)
        require(is_accepted, name, value, f"{expected}, {why}")
    return rest


def _is_same(value: Any, other: Any) -> bool:
    """Equal as values of one kind: 1 is not True, but 1.0."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    return is_number(value) and value == other if is_number(other) else isinstance(value, str) and value == other
