"""
Another vocabulary for a trained model: rows of pieces that stay are kept to the last bit, the blank and durations too.

A new piece begins as the mean of the old pieces that spell it, and a little less likely. Its score can then never
pass the best of theirs: a model whose vocabulary has grown transcribes as before, until it is trained.

NeMo 3.0's `change_vocabulary` of transducers builds a plain RNN-T loss over all outputs of the joint network, the
durations of a TDT model among them. Here the loss comes from the configuration of the model, which stays what it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from ..configuration_fastconformer import FastConformerConfig
from ..configuration_multitask import VOCABULARY_MULTIPLE, FastConformerMultitaskConfig
from ..modeling.multitask_decoder import FastConformerTokenHead
from ..modeling.pretrained import FastConformerPreTrainedModel
from ..nemo.description import check_vocabulary
from ..nemo.prompt_tokens import complete_vocabulary
from ..processing_fastconformer import FastConformerProcessor
from ..tokenization_fastconformer import FastConformerTokenizer
from ..validation import require
from .piece_rows import PieceRows, match_pieces, pieces_of

# By which the score of a new piece lies below the mean of those that spell it, in nats. Without it a piece that one
# old piece spells, such as "a" by "▁a", would tie with that, and rounding would choose.
NEW_PIECE_MARGIN = 1.0
# Ids in a configuration of generation that name tokens; where they are set, they may mean pieces that have moved.
OTHER_TOKEN_OPTIONS = (
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "sequence_bias",
)
ROLES = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
MAX_SHOWN = 10


@dataclass(frozen=True)
class VocabularyChange:
    """
    The outcome of a change of vocabulary.

    Args:
        stayed: Pieces whose rows were kept to the last bit, in the order of their new ids.
        came: New pieces.
        went: Pieces that the new vocabulary lacks, whose rows are gone.
        num_spelled: Pieces of `came` that begin as the mean of the old pieces that spell them; the others begin as the
            mean of all.
        parameters: Names of the parameters that changed.
    """

    stayed: tuple[str, ...]
    came: tuple[str, ...]
    went: tuple[str, ...]
    num_spelled: int
    parameters: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.stayed)} pieces stayed, {len(self.came)} came ({self.num_spelled} begin as what old pieces "
            f"spell), {len(self.went)} went."
        )


class _Layer(NamedTuple):
    """A parameter with a row for each class: the module and name that hold it, its full name, and what it is."""

    module: Any
    attribute: str
    name: str
    is_bias: bool


def replace_tokenizer(
    model: PreTrainedModel, processor: FastConformerProcessor, tokenizer: FastConformerTokenizer
) -> VocabularyChange:
    """
    Give a model and its processor another tokenizer; both are changed in place.

    Pieces are compared by their text with the mark of a word's beginning, and in aggregates by their language. Rows of
    pieces that stay are kept to the last bit in the prediction network, the joint network, the CTC head and the
    decoder of a multitask model; those of the blank and of the durations always. Make optimisers afterwards: the
    parameters are new. All checks come before the first change.

    Args:
        model: A model of this package with a head: CTC, RNN-T, TDT, a hybrid (both heads), or multitask.
        processor ([`FastConformerProcessor`]): Its processor, with the tokenizer that it has.
        tokenizer ([`FastConformerTokenizer`]): The new tokenizer, from [`train_tokenizer`], [`extend_tokenizer`] or
            another checkpoint.

    Returns:
        A [`VocabularyChange`], which says which pieces stayed, came and went.

    Raises:
        ValueError: for a model without a head or with adapters, for layers in 8 bits, for parameters that others
            share, for a tokenizer that is not that of the model, and for a multitask model without the tokens of its
            prompts.
    """
    config = _check(model, processor, tokenizer)
    old_tokenizer = processor.tokenizer
    rows = match_pieces(pieces_of(old_tokenizer), pieces_of(tokenizer))
    changed = copy.deepcopy(config)
    changed_generation = copy.deepcopy(getattr(model, "generation_config", None))
    if isinstance(changed, FastConformerMultitaskConfig):
        _check_prompts(old_tokenizer, tokenizer)
        _set_multitask_ids(changed, tokenizer)
    else:
        _set_ids(changed, tokenizer.blank_token_id, rows)
    _set_generation_ids(changed_generation, config, changed)
    changed.check_values()
    layers = list(_find_layers(model))
    _check_layers(model, layers)
    with torch.no_grad():
        values = [_new_values(layer, rows, config, changed) for layer in layers]

    for layer, value in zip(layers, values, strict=True):
        old = getattr(layer.module, layer.attribute)
        setattr(layer.module, layer.attribute, nn.Parameter(value, requires_grad=old.requires_grad))
        _resize(layer.module, value.shape[0], changed)
    decoder: Any = getattr(model, "decoder", None)
    if hasattr(decoder, "blank_token_id"):
        decoder.blank_token_id = changed.blank_token_id
    for name in ("vocab_size", "blank_token_id", "num_tokens", "prompt_token_ids", *ROLES):
        if hasattr(changed, name):
            setattr(config, name, getattr(changed, name))
    if changed_generation is not None:
        for name in ROLES:
            setattr(model.generation_config, name, getattr(changed_generation, name, None))
    processor.tokenizer = tokenizer
    return _describe(old_tokenizer, tokenizer, rows, layers)


def _check(model: Any, processor: Any, tokenizer: Any) -> Any:
    """The configuration of a model that can be changed."""
    if not isinstance(model, FastConformerPreTrainedModel):
        raise ValueError(
            f"model of type {type(model).__name__} is not supported; expected a model of this package (one with "
            "adapters after `merge_and_unload`)."
        )
    if getattr(model.config, "vocab_size", None) is None:
        raise ValueError(f"{type(model).__name__} has no vocabulary; expected a model with a head.")
    for name, value, kind in (
        ("processor", processor, FastConformerProcessor),
        ("tokenizer", tokenizer, FastConformerTokenizer),
    ):
        require(isinstance(value, kind), name, type(value).__name__, f"a {kind.__name__}")
    config: FastConformerConfig = model.config
    check_vocabulary(processor.tokenizer, config, "processor")
    require(tokenizer.blank_token_id > 0, "tokenizer", tokenizer.blank_token_id, "one that has pieces")
    return config


def _check_prompts(old: FastConformerTokenizer, new: FastConformerTokenizer) -> None:
    """Refuse a tokenizer that lacks tokens of the prompts of a multitask model, or its times."""
    missing = [token for token in old.prompt_token_ids if new.prompt_token_ids.get(token) is None]
    if missing or (old.has_time_tokens and not new.has_time_tokens):
        shown = missing[:MAX_SHOWN] or ["<|0|>", "..."]
        raise ValueError(
            f"tokenizer lacks {len(missing) or 'the'} tokens of the prompts of a multitask model, such as {shown}; "
            "expected all of them: `extend_tokenizer` keeps them."
        )


# Layers


def _find_layers(model: Any) -> Iterator[_Layer]:
    """The parameters with a row for each class, and no others."""
    decoder = getattr(model, "decoder", None)
    names = {
        "ctc_head": getattr(model, "ctc_head", None),
        "joint.head": getattr(getattr(model, "joint", None), "head", None),
        "decoder.embedding": getattr(decoder, "embedding", None),
        "token_head": getattr(model, "token_head", None),
    }
    names |= {f"decoder.embeddings.{index}": part for index, part in enumerate(getattr(decoder, "embeddings", ()))}
    for name, module in names.items():
        if module is None:
            continue
        if type(module) not in (nn.Linear, nn.Embedding, FastConformerTokenHead):
            raise ValueError(
                f"{name} is a {type(module).__name__} and cannot get other rows; expected a plain layer: floating "
                "weights (`remove_int8`, `dequantize`) and no adapters (`merge_and_unload`)."
            )
        for attribute in ("weight", "bias"):
            if getattr(module, attribute, None) is not None:
                yield _Layer(module, attribute, f"{name}.{attribute}", attribute == "bias")


def _check_layers(model: nn.Module, layers: Sequence[_Layer]) -> None:
    """Refuse parameters that have no values yet, and those that are also in another place."""
    places: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), []).append(name)
    for layer in layers:
        parameter = getattr(layer.module, layer.attribute)
        if parameter.is_meta:
            raise ValueError(f"{layer.name} has no values (a meta tensor); expected a loaded model.")
        if not parameter.is_floating_point():
            raise ValueError(f"{layer.name} is {parameter.dtype}; expected floating weights.")
        shared = places.get(id(parameter), [])
        if len(shared) > 1:
            raise ValueError(f"{layer.name} is one parameter in several places, {shared}; expected each its own.")


def _new_values(layer: _Layer, rows: PieceRows, old: Any, new: Any) -> torch.Tensor:
    """The rows of a layer for a new vocabulary."""
    values = getattr(layer.module, layer.attribute).detach()
    num_old = getattr(old, "num_tokens", None) or old.blank_token_id
    kept = [(place, number) for place, number in enumerate(rows.kept) if number is not None]
    # After the tokens: the blank and the durations, or the classes that pad a multitask model's.
    rest = values[num_old:]
    if isinstance(new, FastConformerMultitaskConfig):
        num_padding = new.vocab_size - len(rows.kept)
        padding = (rest if len(rest) else values).float().mean(0, keepdim=True).to(values.dtype)
        rest = padding.expand(num_padding, *values.shape[1:])
    result = values.new_empty((len(rows.kept) + len(rest), *values.shape[1:]))
    result[len(rows.kept) :] = rest
    for place, sources in enumerate(rows.sources):
        if rows.kept[place] is None:
            mean = values[sources].float().mean(0)
            result[place] = mean - NEW_PIECE_MARGIN if layer.is_bias else mean
    places, numbers = [place for place, _ in kept], [number for _, number in kept]
    result[places] = values[numbers]
    return result


def _resize(module: Any, num_rows: int, config: Any) -> None:
    """Tell a layer how many rows it has."""
    if isinstance(module, nn.Embedding):
        module.num_embeddings = num_rows
        if module.padding_idx is not None:
            module.padding_idx = config.blank_token_id
    elif isinstance(module, nn.Linear):
        module.out_features = num_rows


# Configurations


def _set_ids(config: Any, num_tokens: int, rows: PieceRows) -> None:
    """Move the ids of a model with a blank: its own, and the padding, which is the blank or a piece that stays."""
    old_blank, padding = config.blank_token_id, config.pad_token_id
    if padding == old_blank:
        config.pad_token_id = num_tokens
    elif padding < old_blank:
        new_ids = [place for place, number in enumerate(rows.kept) if number == padding]
        require(len(new_ids) == 1, "pad_token_id", padding, "the blank, or a piece that the new tokenizer has too")
        config.pad_token_id = new_ids[0]
    else:
        require(padding > num_tokens, "pad_token_id", padding, f"an id that is no class of the new {num_tokens + 1}")
    config.vocab_size, config.blank_token_id = num_tokens + 1, num_tokens


def _set_multitask_ids(config: FastConformerMultitaskConfig, tokenizer: FastConformerTokenizer) -> None:
    num_tokens = tokenizer.blank_token_id
    config.vocab_size = -(-num_tokens // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    complete_vocabulary(config, tokenizer, "tokenizer")


def _set_generation_ids(generation_config: Any, old: Any, new: Any) -> None:
    """Move the ids in the configuration of `generate` that are the model's."""
    if generation_config is None:
        return
    for name in OTHER_TOKEN_OPTIONS:
        value = getattr(generation_config, name, None)
        require(value is None, f"generation_config.{name}", value, "None when the vocabulary changes")
    for name in ROLES:
        value = getattr(generation_config, name, None)
        if value is None:
            continue
        known = getattr(old, name, None)
        require(value == known, f"generation_config.{name}", value, f"that of the model, {known}")
        setattr(generation_config, name, getattr(new, name, None))


def _describe(
    old: FastConformerTokenizer, new: FastConformerTokenizer, rows: PieceRows, layers: Sequence[_Layer]
) -> VocabularyChange:
    old_tokens = old.vocabulary_tokens(range(old.blank_token_id))
    new_tokens = new.vocabulary_tokens(range(new.blank_token_id))
    kept = set(rows.kept)
    return VocabularyChange(
        stayed=tuple(token for token, number in zip(new_tokens, rows.kept, strict=True) if number is not None),
        came=tuple(token for token, number in zip(new_tokens, rows.kept, strict=True) if number is None),
        went=tuple(token for number, token in enumerate(old_tokens) if number not in kept),
        num_spelled=rows.num_spelled,
        parameters=tuple(layer.name for layer in layers),
    )
