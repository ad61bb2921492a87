"""
The two heads of one hybrid checkpoint, each a class of its own.

Both hold all the parameters, so that either saves a checkpoint that the other loads.
"""

from __future__ import annotations

from typing import Any

import torch

from ..configuration_fastconformer import FastConformerRNNTConfig, FastConformerTDTConfig
from .ctc import FastConformerCTCHead
from .outputs import FastConformerCTCOutput
from .prompt import Language
from .transducer import (
    FastConformerForRNNT,
    FastConformerForTDT,
    FastConformerTransducerPreTrainedModel,
)


def _require_ctc_head(config: FastConformerRNNTConfig, class_name: str) -> None:
    if not config.has_ctc_head:
        raise ValueError(
            f"{class_name} needs a hybrid checkpoint; this one has has_ctc_head=False, that is no CTC head. "
            f"Load it with its transducer head, as model_type={config.model_type!r} says."
        )


class FastConformerHybridForCTC(FastConformerCTCHead, FastConformerTransducerPreTrainedModel):
    r"""
    The CTC head of a hybrid RNNT-CTC checkpoint (NeMo's `EncDecHybridRNNTCTCModel` with `cur_decoder="ctc"`).

    Args:
        config ([`FastConformerRNNTConfig`]): Shape of encoder and heads, with `has_ctc_head=True`.

    Raises:
        ValueError: when the checkpoint has no CTC head.
    """

    config_class = FastConformerRNNTConfig

    def __init__(self, config: FastConformerRNNTConfig) -> None:
        _require_ctc_head(config, type(self).__name__)
        super().__init__(config)

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        language: Language | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> FastConformerCTCOutput | tuple[Any, ...]:
        """As [`FastConformerForCTC.forward`], with a `language` in models with prompts; the transducer has no part."""
        encoded = self.encode(
            input_features,
            attention_mask=attention_mask,
            input_lengths=input_lengths,
            language=language,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        return self.apply_ctc_head(encoded, labels, return_dict)


class ParakeetTDTForCTC(FastConformerHybridForCTC):
    r"""
    The CTC head of a hybrid TDT-CTC checkpoint, such as `nvidia/parakeet-tdt_ctc-110m`.

    Args:
        config ([`FastConformerTDTConfig`]): Shape of encoder and heads, with `has_ctc_head=True`.
    """

    config_class = FastConformerTDTConfig


class ParakeetTDTForTDT(FastConformerForTDT):
    r"""
    The transducer head of a hybrid TDT-CTC checkpoint; the CTC head is kept, trained with and saved.

    Args:
        config ([`FastConformerTDTConfig`]): Shape of encoder and heads, with `has_ctc_head=True`.

    Raises:
        ValueError: when the checkpoint has no CTC head.
    """

    def __init__(self, config: FastConformerTDTConfig) -> None:
        _require_ctc_head(config, type(self).__name__)
        super().__init__(config)


def share_as_ctc(model: FastConformerForRNNT | FastConformerForTDT) -> FastConformerHybridForCTC:
    """
    The CTC head of a loaded hybrid as a model of its own, with the same parameters: nothing is copied.

    Raises:
        ValueError: when the model has no CTC head.
    """
    ctc_class = ParakeetTDTForCTC if isinstance(model, FastConformerForTDT) else FastConformerHybridForCTC
    config: Any = model.config
    with torch.device("meta"):
        shared = ctc_class(config)
    shared.encoder, shared.decoder, shared.joint = model.encoder, model.decoder, model.joint
    shared.ctc_head, shared.prompt_kernel = model.ctc_head, model.prompt_kernel
    return shared.train(model.training)
