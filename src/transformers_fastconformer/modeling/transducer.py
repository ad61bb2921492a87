"""Encoder with a transducer head: RNN-T or TDT, in hybrids with a CTC head next to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..configuration_fastconformer import FastConformerRNNTConfig, FastConformerTDTConfig
from ..decoding.confidence import TransducerScore
from ..decoding.cuda_graphs import transducer_masked_decode
from ..decoding.hypotheses import Hypotheses
from ..decoding.options import DEFAULT_DECODING, DecodingOptions
from ..decoding.state import TransducerState
from ..decoding.transducer_adaptive_beam import transducer_adaptive_beam_decode
from ..decoding.transducer_beam import transducer_beam_decode
from ..decoding.transducer_label_looping import transducer_label_looping_decode
from ..kernels.layers import is_as_built
from ..losses.ctc import split_labels
from ..losses.fused_joint import fused_rnnt_loss, fused_tdt_loss
from ..losses.joint_slices import JointForm, JointNetwork
from ..losses.reductions import reduce_clips
from ..losses.rnnt import rnnt_loss
from ..losses.tdt import tdt_loss
from .adapted_linear import effective_weights
from .ctc_losses import add_intermediate_losses, head_loss, layers_to_capture
from .decoding_networks import DecodingNetworks, derive_decoding_networks
from .encoder import FastConformerEncoder
from .encoder_cache import FastConformerEncoderCache
from .finite_check import OVERFLOW_HINT, FiniteCheck
from .outputs import FastConformerEncoderOutput, FastConformerTransducerOutput
from .pretrained import wants_dict
from .prompt import FastConformerPromptKernel, Language, check_language, find_prompt_ids
from .recognizer import FastConformerRecognizer

JOINT_ACTIVATION_MODULES = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}

PredictorState = tuple[torch.Tensor, ...]


class FastConformerLSTMPredictionNetwork(nn.Module):
    """Token embedding and LSTM (NeMo's `RNNTDecoder`). The blank stands for the start; its embedding is zero."""

    def __init__(self, config: FastConformerRNNTConfig) -> None:
        super().__init__()
        size = config.decoder_hidden_size
        self.embedding = nn.Embedding(config.vocab_size, size, padding_idx=config.blank_token_id)
        self.lstm = nn.LSTM(
            size,
            size,
            config.num_decoder_layers,
            dropout=config.decoder_dropout if config.num_decoder_layers > 1 else 0.0,
            batch_first=True,
        )
        self.dropout = nn.Dropout(config.decoder_dropout)

    def forward(
        self, tokens: torch.Tensor, state: PredictorState | None = None
    ) -> tuple[torch.Tensor, PredictorState]:
        """
        Read tokens after those of a state.

        Args:
            tokens: (batch, tokens).
            state: Hidden and cell state, each (layers, batch, decoder_hidden_size); None at the start.

        Returns:
            (batch, tokens, decoder_hidden_size) and the state after the last token.
        """
        _renew_weights(self.lstm)
        output, state = self.lstm(self.embedding(tokens), state)
        return self.dropout(output), state


def _renew_weights(lstm: nn.Module) -> None:
    """
    Let an LSTM compute with the parameters that it has, of which torch keeps a list.

    `fully_shard` (FSDP) puts gathered weights in the place of the parameters, past the list: the LSTM would go on with
    its first weights, and never learn. What others put in its place (torch's own LSTM in 8 bits) has no such list.
    """
    if torch.compiler.is_compiling() or not isinstance(lstm, nn.LSTM):
        return
    if lstm._flat_weights[0] is not getattr(lstm, lstm._flat_weights_names[0]):
        lstm._flat_weights = [getattr(lstm, name) for name in lstm._flat_weights_names]


class FastConformerStatelessPredictionNetwork(nn.Module):
    """
    Embeddings of the last few tokens side by side (NeMo's `StatelessTransducerDecoder`; Ghodsi et al., 2020).

    Each place in the context has an embedding of its own. The older tokens share half of the width, rounded down to
    equal widths; the newest has the rest.
    """

    def __init__(self, config: FastConformerRNNTConfig) -> None:
        super().__init__()
        self.context_size = config.decoder_context_size
        self.blank_token_id = config.vocab_size - 1
        older = config.decoder_hidden_size // 2 // self.context_size
        widths = [config.decoder_hidden_size - older * (self.context_size - 1)] + [older] * (self.context_size - 1)
        self.embeddings = nn.ModuleList(
            nn.Embedding(config.vocab_size, width, padding_idx=config.blank_token_id) for width in widths
        )
        self.norm = (
            nn.LayerNorm(config.decoder_hidden_size, elementwise_affine=False) if config.decoder_layer_norm else None
        )
        self.dropout = nn.Dropout(config.decoder_dropout)

    def forward(
        self, tokens: torch.Tensor, state: PredictorState | None = None
    ) -> tuple[torch.Tensor, PredictorState]:
        """
        Read tokens after those of a state.

        Args:
            tokens: (batch, tokens).
            state: The tokens before, oldest first, (context_size - 1, batch); None at the start.

        Returns:
            (batch, tokens, decoder_hidden_size) and the state after the last token.
        """
        num_tokens, num_older = tokens.shape[1], self.context_size - 1
        if state is None:
            state = (tokens.new_full((num_older, tokens.shape[0]), self.blank_token_id),)
        history = torch.cat([state[0].transpose(0, 1), tokens], dim=1)  # (batch, older + tokens)
        output = torch.cat(
            [
                embedding(history[:, num_older - age : num_older - age + num_tokens])
                for age, embedding in enumerate(self.embeddings)
            ],
            dim=-1,
        )
        output = self.dropout(output)
        if self.norm is not None:
            output = self.norm(output)
        return output, (history[:, num_tokens:].transpose(0, 1),)


class FastConformerJointNetwork(nn.Module):
    """Activation and linear layer over the sum of a projected encoder frame and prediction (NeMo's `RNNTJoint`)."""

    def __init__(self, config: FastConformerRNNTConfig) -> None:
        super().__init__()
        self.encoder_proj = nn.Linear(config.output_size, config.joint_hidden_size)
        self.decoder_proj = nn.Linear(config.decoder_hidden_size, config.joint_hidden_size)
        self.activation = JOINT_ACTIVATION_MODULES[config.joint_activation]()
        self.dropout = nn.Dropout(config.joint_dropout)
        self.head = nn.Linear(config.joint_hidden_size, config.num_joint_outputs)

    def forward(self, projected_frames: torch.Tensor, projected_predictions: torch.Tensor) -> torch.Tensor:
        """
        Join projected frames and predictions, whose shapes are broadcast.

        Args:
            projected_frames: (..., joint_hidden_size).
            projected_predictions: (..., joint_hidden_size).

        Returns:
            Logits, (..., num_joint_outputs).
        """
        return self.head(self.dropout(self.activation(projected_frames + projected_predictions)))

    def for_loss(self, projected_frames: torch.Tensor, projected_predictions: torch.Tensor) -> JointNetwork | None:
        """
        This network over (batch, frames, size) and (batch, tokens + 1, size) in the form that lean losses take.

        Of a head with LoRA the adapters count too. None where its modules must be called as they are: with hooks,
        other adapters, dropout in front of them, or quantised layers.
        """
        is_plain = type(self) is FastConformerJointNetwork and all(
            is_as_built(module) for module in (self, self.activation, self.dropout)
        )
        if not is_plain or type(self.dropout) is not nn.Dropout:
            return None
        names = {kind: name for name, kind in JOINT_ACTIVATION_MODULES.items()}
        head = effective_weights(self.head)
        if type(self.activation) not in names or head is None:
            return None
        dropout = self.dropout.p if self.dropout.training else 0.0
        form = JointForm(names[type(self.activation)], dropout)
        return JointNetwork(projected_frames, projected_predictions, head.weight, head.bias, form)


PLAIN_NETWORKS = (
    FastConformerLSTMPredictionNetwork,
    FastConformerStatelessPredictionNetwork,
    FastConformerJointNetwork,
)


class FastConformerTransducerPreTrainedModel(FastConformerRecognizer):
    """
    Parameters of every transducer: encoder, prediction network, joint network, and in checkpoints that have them the
    CTC head of a hybrid and the kernel of language prompts.
    """

    config_class = FastConformerRNNTConfig

    def __init__(self, config: FastConformerRNNTConfig) -> None:
        super().__init__(config)
        self.encoder = FastConformerEncoder(config)
        if config.decoder_type == "stateless":
            self.decoder: nn.Module = FastConformerStatelessPredictionNetwork(config)
        else:
            self.decoder = FastConformerLSTMPredictionNetwork(config)
        self.joint = FastConformerJointNetwork(config)
        self.ctc_head: Any = nn.Linear(config.output_size, config.vocab_size) if config.has_ctc_head else None
        self.prompt_kernel = FastConformerPromptKernel(config) if config.num_prompts > 0 else None
        self.post_init()

    @property
    def follows_speakers(self) -> bool:
        return self.config.follows_speakers

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
        speaker_activities: torch.Tensor | None = None,
    ) -> FastConformerEncoderOutput:
        """Encode features and, in models with prompts, mix the language in; arguments are those of `forward`."""
        encoded = self.encoder(
            input_features,
            attention_mask=attention_mask,
            input_lengths=input_lengths,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            cache=cache,
            is_last=is_last,
            capture_layers=capture_layers,
            speaker_activities=speaker_activities,
        )
        encoded.last_hidden_state = self.apply_prompt(encoded.last_hidden_state, language)
        return encoded

    def apply_prompt(self, frames: torch.Tensor, language: Language | None = None) -> torch.Tensor:
        """
        Mix the language into encoder frames; a model without prompts returns them as they are.

        Args:
            frames: (batch, frames, size), the encoder's output.
            language: One code for all clips or one for each; None is `config.default_language`.

        Returns:
            (batch, frames, size)

        Raises:
            ValueError: for a language that the model does not know, and for any language in a model without prompts.
        """
        if self.prompt_kernel is None:
            check_language(self.config, language)
            return frames
        config: Any = self.config
        prompt_ids = find_prompt_ids(config, language, frames.shape[0])
        return self.prompt_kernel(frames, torch.tensor(prompt_ids, dtype=torch.int64, device=frames.device))


class FastConformerForTransducer(FastConformerTransducerPreTrainedModel):
    """Base of RNN-T and TDT models, which differ in the loss and in the meaning of the joint network's classes."""

    decoder_type = "rnnt"
    decoding_options = FastConformerRecognizer.decoding_options | {
        "max_symbols_per_step",
        "decoding_strategy",
    }
    # Measured: a token comes about every four frames, and the joint network takes four rows in the time of one.
    frames_per_look = 4

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
        output_logits: bool | None = None,
        speaker_activities: torch.Tensor | None = None,
    ) -> FastConformerTransducerOutput | tuple[Any, ...]:
        r"""
        Encode features and, with labels, compute the loss.

        Args:
            input_features (`torch.FloatTensor` of shape `(batch, mel frames, num_mel_bins)`):
                Log-mel features, as in [`FastConformerEncoder.forward`].
            attention_mask (`torch.Tensor` of shape `(batch, mel frames)`, *optional*):
                Nonzero for the mel frames that count, as in [`FastConformerEncoder.forward`].
            input_lengths (`torch.LongTensor` of shape `(batch,)`, *optional*):
                Mel frames of each clip that count, in place of the mask.
            labels (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                Token ids to compute the loss with; -100 or `config.pad_token_id` is padding. In a hybrid the loss
                includes the CTC loss, with a share of `config.ctc_loss_weight`.
            language (`str` or `list[str]`, *optional*):
                Code of the language, or a list with the code of each clip, for models with language prompts
                (`config.prompt_languages`); default `config.default_language`.
            output_hidden_states (`bool`, *optional*): Return the states between blocks; default: the configuration's.
            output_attentions (`bool`, *optional*): Return attention probabilities; default: the configuration's.
            return_dict (`bool`, *optional*): Return an output object, not a tuple; default: the configuration's.
            output_logits (`bool`, *optional*, defaults to `False`):
                Return the joint outputs for the labels too, `(batch, frames, tokens + 1, num_joint_outputs)`, and
                compute the loss of them. Without it they are computed slice by slice and never held whole.
            speaker_activities (`torch.Tensor` of shape `(batch, encoder frames)` or `(batch, encoder frames, 2)`):
                Whom a multi-talker model follows in each clip, as in [`FastConformerEncoder.forward`]. None (default):
                everybody.

        Returns:
            [`FastConformerTransducerOutput`]; without labels only the encoder's output is in it.

        Raises:
            ValueError: for features, lengths or labels of a wrong shape, ids that are not tokens, a language that
                the model does not know, and `output_logits` without labels.
        """
        if output_logits and labels is None:
            raise ValueError(
                "output_logits=True needs labels: the logits of a transducer exist only for given tokens. "
                "`compute_joint_logits` takes encoder frames and tokens."
            )
        encoded: Any = self.encode(
            input_features,
            attention_mask=attention_mask,
            input_lengths=input_lengths,
            language=language,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            capture_layers=layers_to_capture(self.config, labels),
            speaker_activities=speaker_activities,
        )
        output = FastConformerTransducerOutput(
            last_hidden_state=encoded.last_hidden_state,
            encoder_lengths=encoded.encoder_lengths,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        if labels is not None:
            targets, target_lengths = split_labels(
                labels, input_features.shape[0], self.config.blank_token_id, self.config.pad_token_id
            )
            projected = self._project(encoded.last_hidden_state, targets)
            network = None if output_logits else self.joint.for_loss(*projected)
            joint = self._join(*projected) if network is None else network
            losses = self._transducer_losses(joint, targets, encoded.encoder_lengths, target_lengths)  # (batch,)
            output.logits = joint if output_logits and isinstance(joint, torch.Tensor) else None
            if self.config.transducer_zero_infinity:
                losses = losses.masked_fill(losses.isinf(), 0.0)
            loss = reduce_clips(losses, target_lengths, self.config.transducer_loss_reduction)
            output.transducer_loss = loss.detach()
            if self.ctc_head is not None:
                loss = self._add_ctc_losses(loss, output, encoded, targets, target_lengths)
            output.loss = loss
        return output if wants_dict(self.config, return_dict) else output.to_tuple()

    def _add_ctc_losses(
        self,
        loss: torch.Tensor,
        output: FastConformerTransducerOutput,
        encoded: Any,
        targets: torch.Tensor,
        target_lengths: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of a hybrid; a CTC loss without weight is not computed, as in NeMo."""
        weight = self.config.ctc_loss_weight
        if weight > 0:
            logits = self.ctc_head(encoded.last_hidden_state)
            loss_of_ctc = head_loss(self.config, logits, encoded.encoder_lengths, targets, target_lengths)
            output.ctc_loss = loss_of_ctc.detach()
            loss = (1.0 - weight) * loss + weight * loss_of_ctc
        loss, output.intermediate_ctc_losses = add_intermediate_losses(
            self.config, self.ctc_head, loss, encoded, targets, target_lengths
        )
        return loss

    def compute_joint_logits(self, last_hidden_state: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """
        Joint outputs for given tokens, before the softmax.

        Args:
            last_hidden_state: (batch, frames, size), as `encode` and `forward` return it.
            targets: (batch, tokens), ids below the blank.

        Returns:
            (batch, frames, tokens + 1, num_joint_outputs)
        """
        return self._join(*self._project(last_hidden_state, targets))

    def _project(self, last_hidden_state: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of the joint network: (batch, frames, joint_hidden_size) and (batch, tokens + 1, the same)."""
        start = targets.new_full((targets.shape[0], 1), self.config.blank_token_id)
        predictions, _ = self.decoder(torch.cat([start, targets], dim=1))  # (batch, tokens + 1, decoder_hidden_size)
        return self.joint.encoder_proj(last_hidden_state), self.joint.decoder_proj(predictions)

    def _join(self, frames: torch.Tensor, predictions: torch.Tensor) -> torch.Tensor:
        return self.joint(frames[:, :, None], predictions[:, None])

    def _transducer_losses(
        self,
        joint: JointNetwork | torch.Tensor,
        targets: torch.Tensor,
        encoder_lengths: torch.Tensor,
        target_lengths: torch.Tensor,
    ) -> torch.Tensor:
        """Losses of the clips, (batch,), from the joint network or from its outputs."""
        arguments: Any = (targets, encoder_lengths, target_lengths, self.config.blank_token_id)
        options = self._loss_options()
        if isinstance(joint, JointNetwork):
            return fused_rnnt_loss(joint, *arguments, **options)
        return rnnt_loss(joint, *arguments, **options)

    def _loss_options(self) -> dict[str, Any]:
        """Options that the losses of RNN-T and TDT share."""
        return {
            "reduction": "none",
            "fastemit_lambda": self.config.fastemit_lambda,
            "clamp": self.config.transducer_gradient_clamp,
        }

    def _predict(self, tokens: torch.Tensor, state: PredictorState | None) -> tuple[torch.Tensor, PredictorState]:
        """One step of the prediction network for decoding: (clips,) to (clips, joint_hidden_size)."""
        output, state = self.decoder(tokens[:, None], state)
        return self.joint.decoder_proj(output[:, 0]), state

    @torch.no_grad()
    def decode_frames(
        self,
        last_hidden_state: torch.Tensor,
        encoder_lengths: torch.Tensor,
        decoding: DecodingOptions = DEFAULT_DECODING,
        state: TransducerState | None = None,
    ) -> tuple[Hypotheses, TransducerState]:
        """
        Decode encoder frames by label looping, on a CUDA device in graphs, or by beams; see the base class for
        arguments.
        """
        frames_check = FiniteCheck("last_hidden_state", last_hidden_state, encoder_lengths, OVERFLOW_HINT)
        networks = derive_decoding_networks(
            self.decoder, self.joint, PLAIN_NETWORKS, self.config.blank_token_id
        ) or DecodingNetworks(self._predict, self.joint, self.joint.encoder_proj)
        confidence = decoding.confidence
        arguments: dict[str, Any] = {
            "encoder_lengths": encoder_lengths,
            "predict": networks.predict,
            "joint": networks.joint,
            "blank_id": self.config.blank_token_id,
            "padding_id": self.config.pad_token_id,
            "durations": getattr(self.config, "durations", None),
            "max_symbols_per_step": decoding.max_symbols_per_step or self.config.max_symbols_per_step,
            "strategy": decoding.decoding_strategy or self.config.decoding_strategy,
            "state": state,
            "scorer": decoding.make_scorer(last_hidden_state.shape[0], self.config.blank_token_id),
            "score": None if confidence is None else TransducerScore(self.config.blank_token_id, confidence),
        }
        if decoding.beam is not None and decoding.beam.strategy == "maes_batch":
            for name in ("strategy", "durations", "max_symbols_per_step"):
                del arguments[name]
            frames = networks.project(last_hidden_state)
            decoded = transducer_adaptive_beam_decode(frames, **arguments, beam=decoding.beam)
        elif decoding.beam is not None:
            del arguments["strategy"]
            decoded = transducer_beam_decode(networks.project(last_hidden_state), **arguments, beam=decoding.beam)
        elif last_hidden_state.device.type == "cuda" and networks.graphs is not None:
            frames = networks.project(last_hidden_state)
            decoded = transducer_masked_decode(frames, **arguments, graphs=networks.graphs)
        else:
            decoded = transducer_label_looping_decode(
                last_hidden_state, **arguments, frames_per_look=self.frames_per_look, project=networks.project
            )
        frames_check.finish()
        return decoded

    def restart_clips(
        self, state: TransducerState, last_hidden_state: torch.Tensor, clips: list[int]
    ) -> TransducerState:
        """The state with the prediction network of some clips at its start; the position in the frames is kept."""
        no_frames = torch.zeros(len(clips), dtype=torch.int64, device=last_hidden_state.device)
        _, start = self.decode_frames(last_hidden_state[clips, :1], no_frames)
        return state.with_prediction_of(
            start, torch.tensor(clips, dtype=torch.int64, device=state.frames_ahead.device)
        )


class FastConformerForRNNT(FastConformerForTransducer):
    r"""
    FastConformer with an RNN-T head (NeMo's `EncDecRNNTModel`, `EncDecRNNTBPEModel`).

    If the checkpoint is a hybrid (`EncDecHybridRNNTCTCModel`, `EncDecHybridRNNTCTCBPEModel`), the model has its CTC
    head too.

    Args:
        config ([`FastConformerRNNTConfig`]): Shape of encoder and heads.
    """


class FastConformerForTDT(FastConformerForTransducer):
    r"""
    FastConformer with a token-and-duration transducer head.

    If the checkpoint is a hybrid, the model has its CTC head too.

    Args:
        config ([`FastConformerTDTConfig`]): Shape of encoder and heads.
    """

    config_class = FastConformerTDTConfig
    decoder_type = "tdt"
    # Durations skip the frames that lie between.
    frames_per_look = 1

    def _transducer_losses(
        self,
        joint: JointNetwork | torch.Tensor,
        targets: torch.Tensor,
        encoder_lengths: torch.Tensor,
        target_lengths: torch.Tensor,
    ) -> torch.Tensor:
        arguments: Any = (targets, encoder_lengths, target_lengths, self.config.blank_token_id, self.config.durations)
        options = self._loss_options() | {
            "sigma": self.config.sigma,
            # The plain RNN-T loss is drawn at random only in training: an evaluation loss must not be random.
            "omega": self.config.omega if self.training else 0.0,
        }
        if isinstance(joint, JointNetwork):
            return fused_tdt_loss(joint, *arguments, **options)
        return tdt_loss(joint, *arguments, **options)
