"""Encoder with a CTC head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..configuration_fastconformer import FastConformerCTCConfig
from ..decoding.confidence import ConfidenceOptions, ctc_confidence
from ..decoding.ctc import ctc_greedy_decode
from ..losses.ctc import ctc_loss, split_labels
from .encoder import FastConformerEncoder, FastConformerPreTrainedModel
from .generation import (
    OVERFLOW_HINT,
    FiniteCheck,
    build_generate_output,
    check_confidence,
    refuse_unknown_options,
)
from .outputs import FastConformerCTCOutput, FastConformerGenerateOutput


class FastConformerForCTC(FastConformerPreTrainedModel):
    r"""
    FastConformer with a CTC head (NeMo's `EncDecCTCModel` and `EncDecCTCModelBPE`).

    Args:
        config ([`FastConformerCTCConfig`]): Shape of encoder and head.
    """

    config_class = FastConformerCTCConfig

    def __init__(self, config: FastConformerCTCConfig) -> None:
        super().__init__(config)
        self.encoder = FastConformerEncoder(config)
        self.ctc_head = nn.Linear(config.output_size, config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> FastConformerCTCOutput | tuple[Any, ...]:
        r"""
        Args:
            input_features, attention_mask, input_lengths, output_hidden_states, output_attentions, return_dict:
                As in [`FastConformerEncoder.forward`].
            labels (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                Token ids to compute the loss with; -100 or `config.pad_token_id` is padding.

        Returns:
            [`FastConformerCTCOutput`]
        """
        encoded = self.encoder(
            input_features,
            attention_mask=attention_mask,
            input_lengths=input_lengths,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        return self._apply_ctc_head(encoded, labels, return_dict)

    def _apply_ctc_head(
        self, encoded: Any, labels: torch.Tensor | None, return_dict: bool | None
    ) -> FastConformerCTCOutput | tuple[Any, ...]:
        """Logits and, with labels, the loss of a [`FastConformerEncoderOutput`]."""
        logits = self.ctc_head(encoded.last_hidden_state)  # (batch, frames, vocab_size)
        loss = None
        if labels is not None:
            targets, target_lengths = split_labels(
                labels, logits.shape[0], self.config.blank_token_id, self.config.pad_token_id
            )
            loss = ctc_loss(
                logits,
                targets,
                encoded.encoder_lengths,
                target_lengths,
                self.config.blank_token_id,
                self.config.ctc_loss_reduction,
                self.config.ctc_zero_infinity,
            )
        output = FastConformerCTCOutput(
            loss=loss,
            logits=logits,
            encoder_lengths=encoded.encoder_lengths,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return output if self._return_dict(return_dict) else output.to_tuple()

    @torch.no_grad()
    def generate(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        return_dict_in_generate: bool | None = None,
        confidence: ConfidenceOptions | None = None,
        **kwargs: Any,
    ) -> FastConformerGenerateOutput | torch.Tensor:
        r"""
        Greedy decoding: best class of each frame, repetitions merged, blanks dropped.

        Args:
            input_features, attention_mask, input_lengths: As in [`FastConformerEncoder.forward`].
            return_dict_in_generate (`bool`, *optional*): Return frames and log-probabilities too.
            confidence ([`ConfidenceOptions`], *optional*):
                Return `token_confidences` too, by these of NeMo's measures.

        Returns:
            Token ids (batch, tokens) padded with `config.pad_token_id`, or [`FastConformerGenerateOutput`].

        Raises:
            ValueError: for an option that greedy decoding does not have, and for features that are not finite.
        """
        refuse_unknown_options(kwargs, ("return_dict_in_generate", "confidence"))
        check_confidence(confidence, return_dict_in_generate)
        features_check = self._check_features(input_features, attention_mask, input_lengths)
        output = self(input_features, attention_mask=attention_mask, input_lengths=input_lengths, return_dict=True)
        return self._decode_greedily(output, return_dict_in_generate, features_check, confidence)

    def _decode_greedily(
        self,
        output: Any,
        return_dict_in_generate: bool | None,
        features_check: FiniteCheck,
        confidence: ConfidenceOptions | None = None,
    ) -> FastConformerGenerateOutput | torch.Tensor:
        """What `generate` returns of a [`FastConformerCTCOutput`]."""
        logits_check = FiniteCheck("logits", output.logits, output.encoder_lengths, OVERFLOW_HINT)
        log_probs = output.logits.float().log_softmax(dim=-1)
        hypotheses = ctc_greedy_decode(
            log_probs, output.encoder_lengths, self.config.blank_token_id, self.config.pad_token_id
        )
        if confidence is not None:
            scores = ctc_confidence(
                log_probs, output.encoder_lengths, hypotheses.frame_indices, hypotheses.token_lengths, confidence
            )
            hypotheses = hypotheses._replace(scores=scores)
        features_check.finish()
        logits_check.finish()
        return build_generate_output(hypotheses, output.encoder_lengths, "ctc", return_dict_in_generate, confidence)
