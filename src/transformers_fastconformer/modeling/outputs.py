"""Outputs of the models and of their `generate()`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import ModelOutput

from ..decoding.hypotheses import Hypotheses
from ..decoding.options import DecodingOptions
from .encoder_cache import FastConformerEncoderCache


@dataclass
class FastConformerEncoderOutput(ModelOutput):
    """
    Output of [`FastConformerEncoder`] and [`FastConformerModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, encoder frames, hidden_size)`):
            Encoded frames. Frames at and beyond `encoder_lengths` carry no meaning.
        encoder_lengths (`torch.LongTensor` of shape `(batch,)`):
            Valid encoder frames of each clip.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            The input of the first block and the output of every block, each `(batch, frames, hidden_size)`.
        attentions (`tuple(torch.FloatTensor)`, *optional*):
            Attention probabilities of every block, each `(batch, heads, frames, frames)`.
        cache ([`FastConformerEncoderCache`], *optional*, returned when it is given):
            State of the live streams after their chunks; the object that was given.
        captured_states (`tuple(torch.FloatTensor)`, *optional*, returned with `capture_layers`):
            Output of these blocks after the output projection, each `(batch, frames, size)`.
        captured_lengths (`tuple(torch.LongTensor)`, *optional*): Valid frames of each of them, `(batch,)`.
    """

    last_hidden_state: torch.Tensor | None = None
    encoder_lengths: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cache: FastConformerEncoderCache | None = None
    captured_states: tuple[torch.Tensor, ...] | None = None
    captured_lengths: tuple[torch.Tensor, ...] | None = None


@dataclass
class FastConformerDiarizationOutput(ModelOutput):
    """
    Output of [`FastConformerForDiarization`].

    Args:
        logits (`torch.FloatTensor` of shape `(batch, encoder frames, num_speakers)`):
            Scores before the sigmoid, in the order in which the speakers first speak.
        probabilities (`torch.FloatTensor` of shape `(batch, encoder frames, num_speakers)`):
            That the speaker speaks; 0 in frames at and beyond `encoder_lengths`.
        encoder_lengths (`torch.LongTensor` of shape `(batch,)`): Valid encoder frames of each clip.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): As in [`FastConformerEncoderOutput`].
        attentions (`tuple(torch.FloatTensor)`, *optional*): As in [`FastConformerEncoderOutput`].
    """

    logits: torch.Tensor | None = None
    probabilities: torch.Tensor | None = None
    encoder_lengths: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class FastConformerPreTrainingOutput(ModelOutput):
    """
    Output of [`FastConformerForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            Cross-entropy of the tokens of hidden frames; 0 where none is hidden enough, None where nothing is hidden.
        logits (`torch.FloatTensor` of shape `(batch, encoder frames, num_codebooks, codebook_size)`):
            Scores of the tokens before the softmax.
        token_ids (`torch.LongTensor` of shape `(batch, encoder frames, num_codebooks)`):
            The quantiser's tokens, which are to be predicted.
        is_predicted (`torch.BoolTensor` of shape `(batch, encoder frames)`, *optional*):
            Frames that count in the loss.
        encoder_lengths (`torch.LongTensor` of shape `(batch,)`): Valid encoder frames of each clip.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): As in [`FastConformerEncoderOutput`].
        attentions (`tuple(torch.FloatTensor)`, *optional*): As in [`FastConformerEncoderOutput`].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    token_ids: torch.Tensor | None = None
    is_predicted: torch.Tensor | None = None
    encoder_lengths: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class FastConformerCTCOutput(ModelOutput):
    """
    Output of a CTC head's `forward`.

    Args:
        loss (`torch.FloatTensor`, *optional*, returned when `labels` are given):
            CTC loss, reduced as `config.ctc_loss_reduction` says, with the share that the intermediate losses have.
        logits (`torch.FloatTensor` of shape `(batch, encoder frames, vocab_size)`):
            Scores before the softmax; the last class is the blank, which is sure in frames at and beyond
            `encoder_lengths`.
        encoder_lengths (`torch.LongTensor` of shape `(batch,)`): Valid encoder frames of each clip.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): As in [`FastConformerEncoderOutput`].
        attentions (`tuple(torch.FloatTensor)`, *optional*): As in [`FastConformerEncoderOutput`].
        ctc_loss (`torch.FloatTensor`, *optional*, returned when `labels` are given):
            The loss at the end of the encoder, to be logged; no gradient goes through it.
        intermediate_ctc_losses (`torch.FloatTensor` of shape `(layers,)`, *optional*):
            Those of `config.intermediate_ctc_layers`, to be logged likewise.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    encoder_lengths: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    ctc_loss: torch.Tensor | None = None
    intermediate_ctc_losses: torch.Tensor | None = None


@dataclass
class FastConformerTransducerOutput(ModelOutput):
    """
    Output of a transducer head's `forward`.

    Args:
        loss (`torch.FloatTensor`, *optional*, returned when `labels` are given):
            RNN-T or TDT loss; in hybrids with the shares that the CTC losses have.
        logits (`torch.FloatTensor` of shape `(batch, encoder frames, tokens + 1, num_joint_outputs)`, *optional*):
            Joint outputs before the softmax, returned with `output_logits=True`.
        last_hidden_state (`torch.FloatTensor` of shape `(batch, encoder frames, hidden_size)`): Encoded frames.
        encoder_lengths (`torch.LongTensor` of shape `(batch,)`): Valid encoder frames of each clip.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): As in [`FastConformerEncoderOutput`].
        attentions (`tuple(torch.FloatTensor)`, *optional*): As in [`FastConformerEncoderOutput`].
        transducer_loss (`torch.FloatTensor`, *optional*, returned when `labels` are given):
            The transducer's loss before others are mixed in, to be logged; no gradient goes through it.
        ctc_loss (`torch.FloatTensor`, *optional*, returned where the loss holds one):
            That of a hybrid's CTC head, to be logged likewise.
        intermediate_ctc_losses (`torch.FloatTensor` of shape `(layers,)`, *optional*):
            Those of `config.intermediate_ctc_layers`, to be logged likewise.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    encoder_lengths: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    transducer_loss: torch.Tensor | None = None
    ctc_loss: torch.Tensor | None = None
    intermediate_ctc_losses: torch.Tensor | None = None


@dataclass
class FastConformerMultitaskEncoderOutput(FastConformerEncoderOutput):
    """
    Frames that the decoder of [`FastConformerForMultitask`] attends to.

    Args:
        padded_lengths (`torch.LongTensor` of shape `(batch,)`):
            Encoder frames of each clip and of the one masked mel frame after it, by which NeMo limits the tokens.
        kwargs: Those of [`FastConformerEncoderOutput`].
    """

    padded_lengths: torch.Tensor | None = None


@dataclass
class FastConformerMultitaskOutput(Seq2SeqLMOutput):
    """
    Output of [`FastConformerForMultitask.forward`].

    Args:
        encoder_lengths (`torch.LongTensor` of shape `(batch,)`): Valid encoder frames of each clip.
        kwargs: Those of Transformers' `Seq2SeqLMOutput`: `loss`, `logits` (batch, tokens, vocab_size),
            `past_key_values` (since Transformers 5.24 `cache`), states and attentions, and
            `encoder_last_hidden_state` (batch, encoder frames, decoder_hidden_size), which the decoder attends to.
    """

    encoder_lengths: torch.Tensor | None = None


@dataclass
class FastConformerGenerateOutput(ModelOutput):
    """
    Output of `generate(..., return_dict_in_generate=True)`.

    Args:
        sequences (`torch.LongTensor` of shape `(batch, tokens)`):
            Token ids without blanks, padded on the right with `config.pad_token_id`.
        sequence_lengths (`torch.LongTensor` of shape `(batch,)`): Tokens of each clip.
        frame_indices (`torch.LongTensor` of shape `(batch, tokens)`):
            Encoder frame in which each token was emitted (CTC: its first frame); 0 in the padding.
        durations (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
            Encoder frames that TDT predicted for each token. `None` for CTC and RNN-T.
        log_probs (`torch.FloatTensor` of shape `(batch, tokens)`):
            Log-probability of each token among the vocabulary and the blank, in the frame it was emitted in.
        token_confidences (`torch.FloatTensor` of shape `(batch, tokens)`, *optional*, returned with `confidence`):
            Confidence in each token, 0 to 1; 0 in the padding.
        confidence_aggregation (`str`, *optional*):
            Rule that makes the confidence of a word or clip of those of its tokens: `"mean"`, `"min"`, `"max"` or
            `"prod"`.
        encoder_lengths (`torch.LongTensor` of shape `(batch,)`): Valid encoder frames of each clip.
        decoder_type (`str`): `"ctc"`, `"rnnt"` or `"tdt"`, on which the rule for times of tokens depends.
        sequences_scores (`torch.FloatTensor` of shape `(batch * num_return_sequences,)`, *optional*):
            Log-probability of each text with the scores of phrases and language model, returned by a beam search;
            -inf in rows without a text, where fewer were found than asked for.
    """

    sequences: torch.Tensor | None = None
    sequence_lengths: torch.Tensor | None = None
    frame_indices: torch.Tensor | None = None
    durations: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    token_confidences: torch.Tensor | None = None
    confidence_aggregation: str | None = None
    encoder_lengths: torch.Tensor | None = None
    decoder_type: str | None = None
    sequences_scores: torch.Tensor | None = None

    @classmethod
    def of(
        cls, hypotheses: Hypotheses, encoder_lengths: torch.Tensor, decoder_type: str, decoding: DecodingOptions
    ) -> FastConformerGenerateOutput:
        """Bring hypotheses into the form in which models return them."""
        return cls(
            sequences=hypotheses.tokens,
            sequence_lengths=hypotheses.token_lengths,
            frame_indices=hypotheses.frame_indices,
            durations=hypotheses.durations,
            log_probs=hypotheses.log_probs,
            token_confidences=hypotheses.scores,
            confidence_aggregation=None if decoding.confidence is None else decoding.confidence.aggregation,
            encoder_lengths=encoder_lengths,
            decoder_type=decoder_type,
            sequences_scores=hypotheses.totals,
        )
