"""The parent of all FastConformer models: conventions of Transformers, fresh weights, and what attention sees."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..checkpoint_sources import LoadsFromSources
from ..configuration_fastconformer import POSITION_TYPES, FastConformerConfig
from .attention import FastConformerAttention
from .conv_norms import SCALE_AND_SHIFT_NORMS
from .int8_config import dequantizing

logger = logging.getLogger(__name__)

# What an encoder leaves out, on purpose, of a checkpoint with heads.
HEAD_KEYS = [r"^ctc_head\.", r"^decoder\.", r"^joint\.", r"^prompt_kernel\."]


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

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """
        Load as in Transformers, from every registered format (see `docs/hub.md`).

        `quantization_config` may be a [`FastConformerInt8Config`], for 8-bit weights.
        """
        with dequantizing(kwargs):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights of `initializer_range`; norms and biases as usual; position biases start at zero."""
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
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
        config.check_attention_context(context, style, position_type)
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
            f"resize_token_embeddings is not supported by {type(self).__name__}; expected the vocabulary that the "
            "checkpoint was trained with. For another one build a model from a configuration with its vocab_size."
        )
