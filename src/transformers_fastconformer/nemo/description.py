"""Facts about a checkpoint that its conversion and its inspection both tell, without its weights in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from transformers import GenerationConfig

from ..checkpoints.model_classes import ARCHITECTURES, build_without_memory, shapes_of
from ..checkpoints.name_table import Shape
from ..configuration_fastconformer import FastConformerConfig
from ..configuration_multitask import VOCABULARY_MULTIPLE, FastConformerMultitaskConfig
from ..tokenization_fastconformer import FastConformerTokenizer
from .config_map import MappedConfig
from .weight_map import PART_LEFT_OUT, part_of_tensor
from .weights import WEIGHTS_MEMBER

WEIGHTS_SUFFIX = "_weights.ckpt"


def check_vocabulary(tokenizer: FastConformerTokenizer, config: FastConformerConfig, source: str) -> None:
    """
    Raise a `ValueError` unless the head has a class for each token and one for the blank, or as many as NeMo pads a
    prompted decoder's tokens to.
    """
    num_tokens, vocab_size = tokenizer.blank_token_id, getattr(config, "vocab_size", None)
    if isinstance(config, FastConformerMultitaskConfig):
        expected = -(-num_tokens // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        if vocab_size != expected:
            raise ValueError(
                f"{source}: the tokenizer has {num_tokens} tokens and the head {vocab_size} classes; expected "
                f"{expected}, the next multiple of {VOCABULARY_MULTIPLE} (tokenizer, head.num_classes)."
            )
        return
    if num_tokens + 1 != vocab_size:
        raise ValueError(
            f"{source}: the tokenizer has {num_tokens} tokens and the head {vocab_size} classes; expected one class "
            "more, the blank (tokenizer, labels or vocabulary)."
        )


def describe_model(mapped: MappedConfig) -> tuple[dict[str, Shape], int, GenerationConfig | None]:
    """Shapes of the model's tensors, its number of parameters and its generation configuration, without its memory."""
    model = build_without_memory(ARCHITECTURES[mapped.architecture], mapped.config)
    generation_config = model.generation_config if model.can_generate() else None
    return shapes_of(model), sum(parameter.numel() for parameter in model.parameters()), generation_config


def describe_parts_left_out(dropped_tensors: Mapping[str, str], member_names: list[str]) -> dict[str, str]:
    """Parts that an encoder without heads comes without: name, and how many tensors or which member they are."""
    counts = Counter(part_of_tensor(name) for name, reason in dropped_tensors.items() if reason == PART_LEFT_OUT)
    parts = {part: f"{count} tensor{'' if count == 1 else 's'}" for part, count in sorted(counts.items())}
    bundled = [name for name in member_names if name.endswith(WEIGHTS_SUFFIX) and name != WEIGHTS_MEMBER]
    return parts | {name.removesuffix(WEIGHTS_SUFFIX): f"a model of its own in {name}" for name in sorted(bundled)}
