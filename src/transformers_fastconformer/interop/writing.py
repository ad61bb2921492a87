"""
Checkpoints of Transformers' own FastConformer classes, written from ours.

The class is built on the meta device, so that names and shapes are those that it loads.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import FeatureExtractionMixin, GenerationConfig, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from ..checkpoints.model_card import write_model_card
from ..checkpoints.model_classes import build_without_memory, shapes_of
from ..checkpoints.name_table import Shape, Target, check_fit
from ..checkpoints.output_folder import check_output, written_as_one
from ..checkpoints.own_checkpoint import OurProcessor, open_our_checkpoint, stored_names
from ..checkpoints.safetensors_writer import TensorEntry, parse_bytes, write_checkpoint
from ..checkpoints.stored_tensors import main_dtype
from ..configuration_fastconformer import FastConformerConfig, FastConformerRNNTConfig
from ..configuration_multitask import FastConformerMultitaskConfig
from ..processing_fastconformer import FastConformerProcessor
from ..tokenization_piece_text import WORD_MARK
from .canary_form import prompt_template
from .config_form import config_to_transformers, look_aheads_of, options_left_out
from .extractor_form import extractor_to_transformers
from .families import Family
from .model_card import describe_export
from .tokenizer_form import tokenizer_to_transformers
from .weight_names import TIED_HEAD, name_table

# Of our processor: the rules that tell words and segments of timestamps apart, which theirs does not do.
TIMESTAMP_OPTIONS = ("word_separator", "segment_separators", "segment_gap_frames")
# First parts of the names of tensors that belong to a head.
HEAD_STARTS: tuple[str, ...] = ("ctc_head.", "decoder.", "joint.")


@dataclass(frozen=True)
class ExportResult:
    """
    The outcome of writing in their form.

    Args:
        output_dir: The folder that `class_name` loads.
        class_name: The class of Transformers.
        options_left_out: Options of ours that it has no place for, of training and of timestamps, with the reasons.
        tensors_left_out: Tensors of ours that are not written (the other head of a hybrid), with the reasons.
        files: Names of the files in `output_dir`.
    """

    output_dir: Path
    class_name: str
    options_left_out: dict[str, str] = field(default_factory=dict)
    tensors_left_out: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)


def export_to_transformers(
    source: str | os.PathLike[str] | PreTrainedModel,
    output_dir: str | os.PathLike[str],
    *,
    head: str | None = None,
    processor: OurProcessor | None = None,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
) -> ExportResult:
    """
    Write a checkpoint that Transformers' own classes load: `ParakeetForCTC`, `ParakeetForRNNT`, `ParakeetForTDT`,
    `ParakeetEncoder`, `NemotronAsrStreamingForRNNT`, `NemotronAsrStreamingEncoder` or
    `CanaryForConditionalGeneration`, whichever the model is one of.

    Args:
        source: A folder in our form, one of our models, or a checkpoint that `from_pretrained` converts on the way,
            such as a `.nemo` file: it is converted into the cache first.
        output_dir: Folder to make. It must not exist, be empty, or be replaced on request.
        head: Of a hybrid, the head to write: `"transducer"` or `"ctc"`.
        processor: Next to a model, its processor or (for an encoder) feature extractor; a folder has its own.
        max_shard_size: Most bytes of weights in a file, as a number or text such as `"5GB"`.
        overwrite: Replace what is at `output_dir`.

    Raises:
        ValueError: naming an option that their class cannot express, its value and what is accepted; for a class that
            the installed Transformers does not have; for an output folder that is in use.
    """
    max_shard_bytes = parse_bytes(max_shard_size)
    output_dir = Path(output_dir)
    check_output(output_dir, overwrite)
    ours = open_our_checkpoint(source, processor)
    if getattr(ours.config, "quantization_config", None):
        raise ValueError(
            "weights stored in 8 bits are not supported by Transformers' own classes; expected floating weights, such "
            "as those that the checkpoint was made from (or `model.dequantize()`)."
        )
    family, values = config_to_transformers(ours.config, head)
    model_class = _their_class(family.class_name, family)
    their_config: PreTrainedConfig = _their_class(family.config_class_name, family)(**values)
    their_shapes = shapes_of(build_without_memory(model_class, their_config))
    their_shapes.pop(TIED_HEAD, None)  # loading ties it to the embedding
    sources, left_out = _plan_export(family, ours.config, ours.tensors.shapes, their_shapes)
    parts = [] if ours.processor is None else _their_processor(ours.processor, family, ours.config)
    entries = [
        TensorEntry(name, target.shape, ours.tensors.dtypes[stored]) for name, (stored, target) in sources.items()
    ]

    def fetch(name: str) -> torch.Tensor:
        stored, target = sources[name]
        return target.form.to_theirs(ours.tensors.read(stored), target.shape)

    with written_as_one(output_dir, overwrite) as folder:
        write_checkpoint(folder, entries, fetch, max_shard_bytes)
        for part in parts:
            part.save_pretrained(folder)
        if isinstance(ours.config, FastConformerMultitaskConfig):
            _multitask_generation_config(ours.config).save_pretrained(folder)
        elif issubclass(family.config_class, FastConformerRNNTConfig):
            _generation_config(values).save_pretrained(folder)
        write_model_card(folder, describe_export(family, ours.card))
        their_config.architectures = [family.class_name]
        # A model in memory may have another type by now than its configuration says.
        named = None if isinstance(source, PreTrainedModel) else ours.config.dtype
        their_config.dtype = named or main_dtype(entries)
        their_config.save_pretrained(folder)
    return ExportResult(
        output_dir,
        family.class_name,
        options_left_out(ours.config, family) | _timestamp_options_left_out(ours.processor),
        left_out,
        sorted(path.name for path in output_dir.iterdir()),
    )


def _timestamp_options_left_out(processor: OurProcessor | None) -> dict[str, str]:
    if not isinstance(processor, FastConformerProcessor):
        return {}
    default = FastConformerProcessor(processor.feature_extractor, processor.tokenizer)
    changed = [name for name in TIMESTAMP_OPTIONS if getattr(processor, name) != getattr(default, name)]
    return dict.fromkeys(changed, "of timestamps; theirs has only tokens")


# Theirs


def _their_class(name: str, family: Family) -> Any:
    found = getattr(transformers, name, None)
    if found is None:
        raise ValueError(
            f"{family.class_name} is not in transformers {transformers.__version__}; expected a release that has it."
        )
    return found


def _plan_export(
    family: Family, config: FastConformerConfig, stored_shapes: Mapping[str, Shape], their_shapes: Mapping[str, Shape]
) -> tuple[dict[str, tuple[str, Target]], dict[str, str]]:
    """Our stored name and their place for each name of theirs, in their order; and our tensors without a place."""
    stored_name = stored_names(config, stored_shapes)
    our_shapes = {ours: stored_shapes[stored] for ours, stored in stored_name.items()}
    plan = name_table(family, config).plan_writing(our_shapes, their_shapes)
    other_heads = () if family.is_multitask else HEAD_STARTS
    if family.model_type == "parakeet_tdt":
        other_heads = ("ctc_head.",)
    unknown = [name for name in plan.left_out if not name.startswith(other_heads)]
    check_fit(family.class_name, unknown, plan.wrong, plan.missing)
    sources = {target.name: (stored_name[ours], target) for ours, target in plan.targets.items()}
    left_out = dict.fromkeys(plan.left_out, f"{family.class_name} has no place for it")
    return {name: sources[name] for name in their_shapes}, left_out


def _generation_config(values: Mapping[str, Any]) -> GenerationConfig:
    """Options that `generate` of their transducers needs: it starts with the blank, and a duration is not a token."""
    vocab_size, blank_token_id = values["vocab_size"], values["blank_token_id"]
    return GenerationConfig(
        decoder_start_token_id=blank_token_id,
        pad_token_id=blank_token_id,
        suppress_tokens=list(range(vocab_size, vocab_size + len(values.get("durations", ())))) or None,
    )


def _multitask_generation_config(config: FastConformerMultitaskConfig) -> GenerationConfig:
    """Options of `generate`: it puts the first token before prompts that lack it, and ends texts as NeMo does."""
    is_beam = config.decoding_strategy == "beam"
    ends = list(config.end_token_ids)
    return GenerationConfig(
        decoder_start_token_id=(config.prompt_token_ids or {}).get(WORD_MARK, config.decoder_start_token_id),
        bos_token_id=config.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else config.eos_token_id,
        pad_token_id=config.pad_token_id,
        max_length=config.decoder_max_positions + int(is_beam),
    )


def _their_processor(
    processor: OurProcessor, family: Family, config: FastConformerConfig
) -> list[FeatureExtractionMixin | ProcessorMixin]:
    """Their feature extractor, or for models with a head the processor with their tokenizer."""
    extractor = processor.feature_extractor if isinstance(processor, FastConformerProcessor) else processor
    class_name, values = extractor_to_transformers(extractor, family)
    their_extractor = _their_class(class_name, family)(**values)
    if not isinstance(processor, FastConformerProcessor) or family.is_encoder_alone:
        return [their_extractor]
    backend, arguments = tokenizer_to_transformers(processor.tokenizer, family)
    tokenizer = _their_class(family.tokenizer_class_name, family)(tokenizer_object=backend, **arguments)
    name, options = _processor_options(family, config)
    processor_class: Callable[..., ProcessorMixin] = _their_class(name, family)
    options["blank_token"] = arguments["pad_token"]
    accepted = inspect.signature(processor_class).parameters
    options = {name: value for name, value in options.items() if name in accepted}
    return [processor_class(their_extractor, tokenizer, **options)]


def _processor_options(family: Family, config: FastConformerConfig) -> tuple[str, dict[str, Any]]:
    """The class of their processor and its options; releases differ in which of them they take."""
    if isinstance(config, FastConformerMultitaskConfig):
        return "CanaryProcessor", {"chat_template": prompt_template(config)}
    if not family.is_streaming:
        return "ParakeetProcessor", {"decoder_type": family.model_type.removeprefix("parakeet_")}
    options: dict[str, Any] = {
        "supported_num_lookahead_tokens": look_aheads_of(config),
        "default_num_lookahead_tokens": config.attention_context[1],
    }
    if not family.has_prompts:
        return "NemotronAsrStreamingProcessor", options
    assert isinstance(config, FastConformerRNNTConfig)
    prompts = {"prompt_dictionary": dict(config.prompt_languages or {}), "num_prompts": config.num_prompts}
    return "Nemotron3_5AsrProcessor", options | prompts
