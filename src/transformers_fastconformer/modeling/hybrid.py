"""
The two heads of one hybrid checkpoint, each a class of its own.

Both hold all the parameters, so that either saves a checkpoint that the other loads.
"""

from __future__ import annotations

from typing import Any

import torch

from ..configuration_fastconformer import FastConformerRNNTConfig, FastConformerTDTConfig
from .ctc import FastConformerCTCHead
from .ctc_losses import layers_to_capture
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
            f"{class_name} needs a hybrid checkpoint; this one has has_ctc_head=False, that is no CTC head next to a "
            "transducer. Load a pure transducer with AutoModelForTDT or AutoModelForRNNT, and a CTC model with "
            "AutoModelForCTC."
        )


class FastConformerHybridForCTC(FastConformerCTCHead, FastConformerTransducerPreTrainedModel):
    r"""
    The CTC head of a hybrid RNNT-CTC checkpoint (NeMo's `EncDecHybridRNNTCTCModel` with `cur_decoder="ctc"`).

    The prediction and the joint network are kept and saved, and frozen, as the CTC loss does not reach them.

    Args:
        config ([`FastConformerRNNTConfig`]): Shape of encoder and heads, with `has_ctc_head=True`.

    Raises:
        ValueError: when the checkpoint has no CTC head.
    """

    config_class = FastConformerRNNTConfig

    def __init__(self, config: FastConformerRNNTConfig) -> None:
        _require_ctc_head(config, type(self).__name__)
        super().__init__(config)
        self._freeze_transducer()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as every model does; Transformers makes all loaded parameters trainable."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
        model._freeze_transducer()
        return loaded

    def _freeze_transducer(self) -> None:
        """Freeze what the CTC loss does not reach, for whose gradients distributed training would wait."""
        self.decoder.requires_grad_(False)
        self.joint.requires_grad_(False)

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
        r"""
        Compute the logits of the CTC head for every encoder frame and, with labels, its loss.

        Args:
            input_features (`torch.FloatTensor` of shape `(batch, mel frames, num_mel_bins)`):
                Log-mel features, as in [`FastConformerEncoder.forward`].
            attention_mask (`torch.Tensor` of shape `(batch, mel frames)`, *optional*):
                Nonzero for the mel frames that count, as in [`FastConformerEncoder.forward`].
            input_lengths (`torch.LongTensor` of shape `(batch,)`, *optional*):
                Mel frames of each clip that count, in place of the mask.
            labels (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                Token ids to compute the CTC loss with; -100 or `config.pad_token_id` is padding. The transducer's loss
                is not in it.
            language (`str` or `list[str]`, *optional*):
                Code of the language, or a list with the code of each clip, for models with language prompts
                (`config.prompt_languages`); default `config.default_language`.
            output_hidden_states (`bool`, *optional*): Return the states between blocks; default: the configuration's.
            output_attentions (`bool`, *optional*): Return attention probabilities; default: the configuration's.
            return_dict (`bool`, *optional*): Return an output object, not a tuple; default: the configuration's.

        Returns:
            [`FastConformerCTCOutput`]

        Raises:
            ValueError: for features, lengths or labels of a wrong shape, ids that are not tokens, and a language that
                the model does not know.
        """
        encoded = self.encode(
            input_features,
            attention_mask=attention_mask,
            input_lengths=input_lengths,
            language=language,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            capture_layers=layers_to_capture(self.config, labels),
        )
        return self.apply_ctc_head(encoded, labels, return_dict)


class ParakeetTDTForCTC(FastConformerHybridForCTC):
    r"""
    The CTC head of a hybrid TDT-CTC checkpoint, such as `nvidia/parakeet-tdt_ctc-110m`.

    Args:
        config ([`FastConformerTDTConfig`]): Shape of encoder and heads, with `has_ctc_head=True`.

    Raises:
        ValueError: when the checkpoint has no CTC head.
    """

    config_class = FastConformerTDTConfig


class ParakeetTDTForTDT(FastConformerForTDT):
    r"""
    The transducer head of a hybrid TDT-CTC checkpoint; the CTC head is kept, trained too, and saved.

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
    Make the CTC head of a loaded hybrid a model of its own with the same parameters; nothing is copied.

    Raises:
        ValueError: when the model has no CTC head.
    """
    ctc_class = ParakeetTDTForCTC if isinstance(model, FastConformerForTDT) else FastConformerHybridForCTC
    config: Any = model.config
    with torch.device("meta"):
        shared = ctc_class(config)
    shared.encoder, shared.decoder, shared.joint = model.encoder, model.decoder, model.joint
    shared.ctc_head, shared.prompt_kernel = model.ctc_head, model.prompt_kernel
    shared.generation_config, shared.original_config = model.generation_config, model.original_config
    return shared.train(model.training)
