"""Encoder with a CTC head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..configuration_fastconformer import FastConformerCTCConfig
from ..decoding.ctc import ctc_decode_frames
from ..decoding.hypotheses import Hypotheses
from ..decoding.options import DEFAULT_DECODING, DecodingOptions
from ..decoding.state import CTCState
from ..losses.ctc import split_labels
from .ctc_losses import add_intermediate_losses, head_loss, layers_to_capture
from .encoder import FastConformerEncoder
from .encoder_cache import FastConformerEncoderCache
from .finite_check import OVERFLOW_HINT, FiniteCheck
from .masking import lengths_to_mask
from .outputs import FastConformerCTCOutput, FastConformerEncoderOutput
from .pretrained import wants_dict
from .prompt import Language, check_language
from .recognizer import FastConformerRecognizer

# Score of all classes but the blank, whose is 0, in frames beyond the end of a clip.
PADDING_LOGIT = -100.0


class FastConformerCTCHead(FastConformerRecognizer):
    """A linear layer over encoder frames, its loss and its decoding: of CTC models and of the hybrids' CTC heads."""

    decoder_type = "ctc"
    ctc_head: Any

    def apply_ctc_head(
        self, encoded: Any, labels: torch.Tensor | None, return_dict: bool | None
    ) -> FastConformerCTCOutput | tuple[Any, ...]:
        """Logits and, with labels, the loss of a [`FastConformerEncoderOutput`]."""
        logits = self.ctc_head(encoded.last_hidden_state)  # (batch, frames, vocab_size)
        # Who takes the best class of every frame must find nothing in the padding.
        is_frame = lengths_to_mask(encoded.encoder_lengths, logits.shape[1])
        blank_row = logits.new_full((logits.shape[-1],), PADDING_LOGIT)
        blank_row[self.config.blank_token_id] = 0.0
        logits = torch.where(is_frame[..., None], logits, blank_row)
        loss, final_loss, intermediate_losses = None, None, None
        if labels is not None:
            targets, target_lengths = split_labels(
                labels, logits.shape[0], self.config.blank_token_id, self.config.pad_token_id
            )
            loss = head_loss(self.config, logits, encoded.encoder_lengths, targets, target_lengths)
            final_loss = loss.detach()
            loss, intermediate_losses = add_intermediate_losses(
                self.config, self.ctc_head, loss, encoded, targets, target_lengths
            )
        output = FastConformerCTCOutput(
            loss=loss,
            logits=logits,
            encoder_lengths=encoded.encoder_lengths,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            ctc_loss=final_loss,
            intermediate_ctc_losses=intermediate_losses,
        )
        return output if wants_dict(self.config, return_dict) else output.to_tuple()

    @torch.no_grad()
    def decode_frames(
        self,
        last_hidden_state: torch.Tensor,
        encoder_lengths: torch.Tensor,
        decoding: DecodingOptions = DEFAULT_DECODING,
        state: CTCState | None = None,
    ) -> tuple[Hypotheses, CTCState]:
        """Decode encoder frames: best classes, repetitions merged, blanks dropped. Arguments: see the base class."""
        logits = self.ctc_head(last_hidden_state)  # (batch, frames, vocab_size)
        logits_check = FiniteCheck("logits", logits, encoder_lengths, OVERFLOW_HINT)
        decoded = ctc_decode_frames(
            logits.float().log_softmax(dim=-1),
            encoder_lengths,
            self.config.blank_token_id,
            self.config.pad_token_id,
            decoding.confidence,
            state,
            decoding.make_scorer(last_hidden_state.shape[0], self.config.blank_token_id),
            decoding.beam,
        )
        logits_check.finish()
        return decoded


class FastConformerForCTC(FastConformerCTCHead):
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

    def encode(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        language: Language | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        cache: FastConformerEncoderCache | None = None,
        is_last: bool | Sequence[bool] | None = None,
        capture_layers: Sequence[int] = (),
    ) -> FastConformerEncoderOutput:
        """Encode features; arguments are those of `forward`, and a `language` is refused: the model has no prompts."""
        check_language(self.config, language)
        return self.encoder(
            input_features,
            attention_mask=attention_mask,
            input_lengths=input_lengths,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            cache=cache,
            is_last=is_last,
            capture_layers=capture_layers,
        )

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
        Compute the logits of every encoder frame and, with labels, the loss.

        Args:
            input_features (`torch.FloatTensor` of shape `(batch, mel frames, num_mel_bins)`):
                Log-mel features, as in [`FastConformerEncoder.forward`].
            attention_mask (`torch.Tensor` of shape `(batch, mel frames)`, *optional*):
                Nonzero for the mel frames that count, as in [`FastConformerEncoder.forward`].
            input_lengths (`torch.LongTensor` of shape `(batch,)`, *optional*):
                Mel frames of each clip that count, in place of the mask.
            labels (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                Token ids to compute the loss with; -100 or `config.pad_token_id` is padding.
            output_hidden_states (`bool`, *optional*): Return the states between blocks; default: the configuration's.
            output_attentions (`bool`, *optional*): Return attention probabilities; default: the configuration's.
            return_dict (`bool`, *optional*): Return an output object, not a tuple; default: the configuration's.

        Returns:
            [`FastConformerCTCOutput`]

        Raises:
            ValueError: for features, lengths or labels of a wrong shape, and for ids that are not tokens.
        """
        encoded = self.encode(
            input_features,
            attention_mask=attention_mask,
            input_lengths=input_lengths,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            capture_layers=layers_to_capture(self.config, labels),
        )
        return self.apply_ctc_head(encoded, labels, return_dict)
