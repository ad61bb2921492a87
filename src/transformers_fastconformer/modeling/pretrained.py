"""The parent of all FastConformer models: conventions of Transformers, fresh weights, and what attention sees."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from itertools import chain
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..checkpoint_sources import HUB_OPTIONS, LoadsFromSources, resolve_checkpoint
from ..configuration_checks import POSITION_TYPES, check_attention_context
from ..configuration_fastconformer import FastConformerConfig
from ..kernels.int8_linear import Int8Linear
from .attention import FastConformerAttention
from .conv_norms import SCALE_AND_SHIFT_NORMS
from .int8_config import dequantizing, is_int8_config
from .original_config import OriginalConfig

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound="FastConformerPreTrainedModel")

# Parts after the encoder.
HEADS = frozenset(
    {"ctc_head", "decoder", "joint", "prompt_kernel", "encoder_proj", "transformer_encoder", "token_head"}
    | {"speaker_head", "prediction_head", "quantizer", "masking"}
)
# What an encoder leaves out, on purpose, of a checkpoint with heads.
HEAD_KEYS = [rf"^{head}\." for head in sorted(HEADS)]


def _heads_of_checkpoint(name: str, options: Mapping[str, Any]) -> set[str]:
    """Parts that a checkpoint has next to its encoder, as its configuration says."""
    of_config = {key: value for key, value in options.items() if key in HUB_OPTIONS}
    stored, _ = PreTrainedConfig.get_config_dict(
        resolve_checkpoint(name, PreTrainedConfig, options) or name, **of_config
    )
    kind = stored.get("model_type")
    heads = {"ctc_head"} if kind == "fastconformer_ctc" or stored.get("has_ctc_head") else set()
    if kind in ("fastconformer_rnnt", "fastconformer_tdt"):
        heads |= {"decoder", "joint"}
    if kind == "fastconformer_multitask":
        heads |= {"decoder", "encoder_proj", "transformer_encoder", "token_head"}
    if kind == "fastconformer_diarization":
        heads |= {"encoder_proj", "transformer_encoder", "speaker_head"}
    if kind == "fastconformer_pretraining":
        heads |= {"prediction_head", "quantizer", "masking"}
    return heads | ({"prompt_kernel"} if stored.get("num_prompts") else set())


def wants_dict(config: FastConformerConfig, return_dict: bool | None) -> bool:
    """The choice of a call to return a dictionary or a tuple; None leaves it to the configuration."""
    return bool(config.return_dict) if return_dict is None else return_dict


class FastConformerPreTrainedModel(LoadsFromSources, PreTrainedModel):
    """The configuration class, conventions and fresh weights that all FastConformer models share."""

    config: FastConformerConfig
    config_class = FastConformerConfig
    base_model_prefix = "encoder"
    main_input_name = "input_features"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FastConformerBlock"]
    _supports_sdpa = True
    # The folder in our form that a checkpoint of another form was converted to.
    loaded_folder: str | None = None
    # What `save_pretrained` writes next to the weights for the way back.
    original_config = OriginalConfig()

    def __init__(self, config: FastConformerConfig, *args: Any, **kwargs: Any) -> None:
        config.check_values()  # they may have been set one by one
        super().__init__(config, *args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """
        Save as Transformers does, with the original configuration of a converted checkpoint.

        A model of floating weights is saved as one, also if its configuration was of 8 bits.
        """
        config: Any = self.config
        has_8_bits = any(isinstance(layer, Int8Linear) for layer in self.modules())
        if is_int8_config(getattr(config, "quantization_config", None)) and not has_8_bits:
            del config.quantization_config
        if kwargs.get("is_main_process", True):
            self.original_config.write(kwargs["save_directory"] if "save_directory" in kwargs else args[0])
        return super().save_pretrained(*args, **kwargs)

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        """Upload as Transformers does, with the file that is written before its changes are watched."""
        self.original_config.write(working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs: Any,
    ) -> Any:
        """
        Load as in Transformers, from every registered format, and only whole checkpoints.

        A head that the checkpoint's configuration does not have is made fresh; weights that are missing elsewhere,
        or that have no place, are an error and not random numbers with a warning. Whoever asks for the report, by
        `output_loading_info=True`, has them told there instead. `quantization_config` may be a
        [`FastConformerInt8Config`], for 8-bit weights.

        Raises:
            ValueError: for a checkpoint whose files are damaged or do not fit together.
            OSError: for a name that holds no checkpoint.
        """
        name = pretrained_model_name_or_path
        # Sizes that differ are refused here, where the tensor can be named.
        with dequantizing(kwargs):
            model, info = super().from_pretrained(
                name, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        if info["mismatched_keys"] and not ignore_mismatched_sizes:
            key, stored, expected = min(info["mismatched_keys"])
            raise ValueError(
                f"{name}: {key} is {tuple(stored)}; expected {tuple(expected)}, as the configuration says, or "
                "ignore_mismatched_sizes=True for fresh weights."
            )
        if name is not None:
            model.original_config = OriginalConfig.find(model.loaded_folder or name, kwargs)
        if output_loading_info:
            return model, info
        if name is not None and kwargs.get("state_dict") is None and not ignore_mismatched_sizes:
            model._check_loaded(str(name), info, kwargs)
        return model

    def _check_loaded(self, name: str, info: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Raise a `ValueError` where weights of the checkpoint are missing, or have no place in the model."""
        missing = [key for key in info["missing_keys"] if not key.endswith(".num_batches_tracked")]
        parts = {name for name, _ in self.named_children()}
        unexpected = [key for key in info["unexpected_keys"] if key.partition(".")[0] not in HEADS - parts]
        if missing:
            fresh = {part for part in HEADS & parts if part not in _heads_of_checkpoint(name, options)}
            fresh -= {key.partition(".")[0] for key in set(self.state_dict()).difference(missing)}
            missing = [key for key in missing if key.partition(".")[0] not in fresh]
        for keys, problem, expected in (
            (missing, "lacks", "all the weights of the configuration"),
            (unexpected, "holds", "only weights that the model has a place for"),
        ):
            if keys:
                raise ValueError(
                    f"{name} {problem} {len(keys)} weights of {type(self).__name__}, such as {min(keys)!r}; "
                    f"expected {expected}."
                )

    def _init_weights(self, module: nn.Module) -> None:
        """
        Normal weights of `initializer_range`; norms and biases as usual; position biases start at zero.

        Weights of convolutions are uniform within 1 / sqrt(inputs of an output), as in NeMo's `ConvSubsampling`: one
        range for all would let the front, whose depthwise convolutions have nine inputs, fade to nothing.
        """
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, FastConformerAttention) and module.has_relative_positions:
            nn.init.zeros_(module.bias_u)
            nn.init.zeros_(module.bias_v)
        elif isinstance(module, SCALE_AND_SHIFT_NORMS):
            if module.weight is not None and module.bias is not None:
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                if name.startswith("weight"):
                    nn.init.normal_(parameter, std=self.config.initializer_range)
                else:
                    nn.init.zeros_(parameter)

    def set_attention_context(
        self,
        attention_context: list[int] | tuple[int, ...],
        attention_context_style: str | None = None,
        position_embedding_type: str | None = None,
    ) -> None:
        """
        Choose what attention sees from now on; the weights stay as they are and nothing is loaded again.

        `with_attention_context` leaves the model as it is.

        Args:
            attention_context: Encoder frames to the left and right, as in [`FastConformerConfig`]. A multi-latency
                model was trained with those of `config.attention_contexts`; another one is taken, with a warning.
            attention_context_style: Another style, e.g. `"chunked_limited"`.
            position_embedding_type: `"rel_pos_local_attn"` turns full attention into a sliding window (linear in the
                length of the audio), `"rel_pos"` turns it back.

        Raises:
            ValueError: for a context that does not fit the style, and for position embeddings that the weights at hand
                are not made for.
        """
        config = self.config
        position_type = position_embedding_type or config.position_embedding_type
        accepted = [name for name, kind in POSITION_TYPES.items() if kind.is_relative == config.has_relative_positions]
        if position_type not in accepted:
            raise ValueError(
                f"position_embedding_type={position_type!r} is not supported for a model with "
                f"position_embedding_type={config.position_embedding_type!r}; expected "
                f"{' or '.join(map(repr, accepted))}."
            )
        style = attention_context_style or config.attention_context_style
        context = list(attention_context)
        check_attention_context(context, style, position_type)
        is_trained = POSITION_TYPES[position_type].is_local or context in (config.attention_contexts or [context])
        if not is_trained:
            logger.warning(
                "attention_context=%s is none of the contexts that the model was trained with: %s.",
                context,
                config.attention_contexts,
            )
        config.attention_context = context
        config.attention_context_style = style
        config.position_embedding_type = position_type

    def with_attention_context(
        self: Model,
        attention_context: list[int] | tuple[int, ...],
        attention_context_style: str | None = None,
        position_embedding_type: str | None = None,
    ) -> Model:
        """
        Make a model that shares all parameters and buffers, none of which is copied, and whose attention sees others.

        This one does not change, so that it serves other calls meanwhile: for a single call,
        `model.with_attention_context([70, 1]).generate(...)`.

        Args:
            attention_context: As in `set_attention_context`, as are the other arguments and the errors.
            attention_context_style: As there.
            position_embedding_type: As there.
        """
        # What is in the memo is not copied: tensors, and all modules that do not read the configuration.
        fixed = [part for part in self.modules() if not any(hasattr(inner, "config") for inner in part.modules())]
        kept: dict[int, Any] = {id(part): part for part in chain(self.parameters(), self.buffers(), fixed)}
        shared = copy.deepcopy(self, kept)
        shared.set_attention_context(attention_context, attention_context_style, position_embedding_type)
        return shared

    def get_input_embeddings(self) -> nn.Module:
        """
        The layer that brings mel frames to the width of the blocks; there are no embeddings of tokens at the input.

        Those that ask for it, such as adapters (PEFT) under gradient checkpointing, want the place where frames enter.
        """
        encoder: Any = self.base_model
        return encoder.subsampling.linear

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another layer where `get_input_embeddings` finds it."""
        encoder: Any = self.base_model
        encoder.subsampling.linear = value

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Not supported: the vocabulary is the tokenizer's, and the blank is the class after its last token."""
        raise ValueError(
            f"resize_token_embeddings is not supported by {type(self).__name__}; expected replace_tokenizer(model, "
            "processor, tokenizer), which keeps the rows of pieces that stay, or a model from a configuration with "
            "another vocab_size."
        )
