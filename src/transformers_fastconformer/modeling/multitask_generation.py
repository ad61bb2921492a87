"""`generate` of prompted decoders by Transformers' `GenerationMixin`: beams, sampling, scores, stopping criteria."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, GenerationMixin
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList

from ..decoding.options import DecodingOptions
from ..validation import require, require_choice, require_count
from .generation import NEUTRAL_VALUES, UNREAD, UNSAID_MAX_LENGTH, refuse_other_results
from .masking import lengths_to_mask
from .outputs import FastConformerMultitaskEncoderOutput

# Transformers 5.24 renamed the argument that holds the past.
CACHE_NAME = (
    "cache"
    if "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    else "past_key_values"
)
# Ids that a generation configuration takes over from that of the model.
TOKEN_ARGUMENTS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


# Arguments of `GenerationMixin.generate` and entries of a `GenerationConfig`.
TRANSFORMERS_ARGUMENTS = frozenset(
    (*vars(GenerationConfig()), *NEUTRAL_VALUES, *inspect.signature(GenerationMixin.generate).parameters)
) - {"self", "inputs", "kwargs"}


def split_arguments(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Arguments of `generate` in two: options of decoding, and those of Transformers.

    Raises:
        ValueError: for a name that is neither, which decoding would not read.
    """
    # Beams here are those of Transformers.
    names = [field.name for field in fields(DecodingOptions) if field.name not in ("num_beams", "beam")]
    options = {name: value for name, value in arguments.items() if name in names}
    others = {name: value for name, value in arguments.items() if name not in names and name not in UNREAD}
    unknown = sorted(others.keys() - TRANSFORMERS_ARGUMENTS)
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)}: not an argument of generate; expected some of {', '.join(names)}, and of those "
            "of Transformers' GenerationMixin.generate."
        )
    return options, others


def check_prompt_mask(mask: Any) -> None:
    """Raise a `ValueError` for a mask that hides tokens of a prompt: nothing here reads it."""
    if mask is not None and not bool(torch.as_tensor(mask, device=getattr(mask, "device", "cpu")).all()):
        raise ValueError(
            "decoder_attention_mask hides tokens of decoder_input_ids; expected only ones, or prompts of several "
            "lengths as lists, prompt_ids=[[...], [...]]."
        )


def asks_for_transformers(
    arguments: dict[str, Any], generation_config: GenerationConfig | None, own_ids: dict[str, Any]
) -> bool:
    """
    Tell whether arguments ask for another result than greedy decoding, which `GenerationMixin` then makes.

    Args:
        arguments: Arguments by name.
        generation_config: A configuration whose entries count, too.
        own_ids: The model's ids by the names of `TOKEN_ARGUMENTS`.
    """
    said = {} if generation_config is None else dict(vars(generation_config))
    given = {**said, **arguments}
    for name, value in own_ids.items():
        if given.get(name) in (None, value):
            given.pop(name, None)
    try:
        refuse_other_results(given, own_ids["pad_token_id"])
    except ValueError:
        return True
    return False


def check_num_beams(arguments: dict[str, Any], generation_config: GenerationConfig | None, beam_size: int) -> None:
    """
    Refuse arguments that would put Transformers' greedy search in the place of NeMo's beams without a word.

    Raises:
        ValueError: for a checkpoint that decodes with several beams, unless the call samples or says how many.
    """
    said = {} if generation_config is None else dict(vars(generation_config))
    if beam_size > 1 and "num_beams" not in arguments and said.get("num_beams") in (None, 1):
        samples = arguments.get("do_sample", said.get("do_sample"))
        require(
            bool(samples), "num_beams", None, f"a number: this checkpoint decodes with {beam_size} beams of NeMo's"
        )


def limit_of_tokens(
    arguments: dict[str, Any], generation_config: GenerationConfig | None, prompt_tokens: int
) -> int | None:
    """
    Largest number of tokens after the prompt that a call asks for; None: it does not say. The names are taken out.

    `max_length` counts the prompt, as everywhere in Transformers; `max_new_tokens` goes before it.

    Raises:
        ValueError: for a limit that is not a count.
    """
    limits = [arguments.pop(name, None) for name in ("max_new_tokens", "max_length")]
    if limits == [None, None] and generation_config is not None:
        limits = [getattr(generation_config, name, None) for name in ("max_new_tokens", "max_length")]
        limits[1] = None if limits[1] == UNSAID_MAX_LENGTH else limits[1]
    for name, limit in zip(("max_new_tokens", "max_length"), limits, strict=True):
        if limit is not None:
            require_count(name, limit)
    if limits[0] is not None:
        return int(limits[0])
    return None if limits[1] is None else max(int(limits[1]) - prompt_tokens, 0)


class ClipLimits(StoppingCriteria):
    """
    Ends each clip after a number of tokens of its own.

    Args:
        limits: (batch,), tokens with the prompt.
    """

    def __init__(self, limits: torch.Tensor) -> None:
        self.limits = limits

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        """True for rows that have as many tokens; a clip has several rows in a beam search."""
        rows_per_clip = input_ids.shape[0] // self.limits.shape[0]
        return self.limits.repeat_interleave(rows_per_clip) <= input_ids.shape[1]


def generate_by_transformers(
    model: Any,
    encoded: FastConformerMultitaskEncoderOutput,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: torch.Tensor,
    generation_config: GenerationConfig | None,
    arguments: dict[str, Any],
) -> Any:
    """
    Run `GenerationMixin.generate` over frames; its `sequences` come back without prompt and end.

    Args:
        model: The model.
        encoded: Frames of the clips.
        prompts: Ids of the prompt of each clip; shorter ones are padded on the left.
        max_new_tokens: (batch,), most tokens of each clip after the prompt.
        generation_config: As in `generate`.
        arguments: Further arguments of `GenerationMixin.generate`.
    """
    assert encoded.last_hidden_state is not None
    assert encoded.encoder_lengths is not None
    device = encoded.last_hidden_state.device
    length = max(map(len, prompts))
    rows = [[model.padding_id] * (length - len(prompt)) + list(prompt) for prompt in prompts]
    tokens = torch.tensor(rows, dtype=torch.int64, device=device)
    arguments = dict(arguments)
    cache = arguments.get("cache_implementation")
    require_choice("cache_implementation", cache, (None, "dynamic"))
    if any(len(prompt) < length for prompt in prompts):
        missing = torch.tensor([length - len(prompt) for prompt in prompts], dtype=torch.int64, device=device)
        places = torch.arange(length, dtype=torch.int64, device=device)
        arguments["decoder_attention_mask"] = (places >= missing[:, None]).long()
    if arguments.get("use_cache") is not False and cache is None:
        arguments[CACHE_NAME] = EncoderDecoderCache(DynamicCache(), DynamicCache())
    criteria = StoppingCriteriaList(
        [ClipLimits(max_new_tokens + length), *(arguments.pop("stopping_criteria", ()) or ())]
    )
    config = GenerationConfig() if generation_config is None else copy.deepcopy(generation_config)
    ends = {"eos_token_id": list(model.config.end_token_ids)}
    if config.eos_token_id not in (None, model.config.eos_token_id):
        ends = {}
    most = max(int(max_new_tokens.max()), 1)
    # Transformers puts a start before tokens that begin with another one.
    starts = {"decoder_start_token_id": tokens[:, 0].tolist()}
    arguments = config.update(**{**ends, **arguments, **starts, "max_new_tokens": most})
    result: Any = GenerationMixin.generate(
        model,
        generation_config=config,
        stopping_criteria=criteria,
        encoder_outputs=encoded,
        # Only Transformers asks for it: the frames come with their lengths.
        attention_mask=lengths_to_mask(encoded.encoder_lengths, encoded.last_hidden_state.shape[1]),
        decoder_input_ids=tokens,
        **arguments,
    )
    sequences = result if isinstance(result, torch.Tensor) else result.sequences
    rows_per_clip = sequences.shape[0] // len(prompts)
    sequences = cut_sequences(
        sequences[:, length:],
        config.eos_token_id,
        model.padding_id,
        max_new_tokens.repeat_interleave(rows_per_clip),
    )
    if isinstance(result, torch.Tensor):
        return sequences
    result.sequences = sequences
    return result


def cut_sequences(
    sequences: torch.Tensor, end_ids: Collection[int] | int, padding_id: int, limits: torch.Tensor
) -> torch.Tensor:
    """
    Tokens (rows, tokens) before the first that ends a text and within limits (rows,); the rest is padding.

    Columns that are padding in all rows are left out.
    """
    ends = [end_ids] if isinstance(end_ids, int) else list(end_ids)
    is_end = torch.isin(sequences, torch.tensor(ends, dtype=torch.int64, device=sequences.device))
    places = torch.arange(sequences.shape[1], dtype=torch.int64, device=sequences.device)
    is_token = (is_end.cumsum(dim=1) == 0) & (places < limits[:, None])
    cut = sequences.masked_fill(~is_token, padding_id)
    filled = (cut != padding_id).any(dim=0).nonzero()[:, 0].tolist()
    return cut[:, : filled[-1] + 1 if filled else 0]
