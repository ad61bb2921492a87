"""Self-supervised pre-training: the encoder predicts the tokens of frames that are hidden from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..configuration_pretraining import FastConformerPreTrainingConfig
from ..kernels.layers import choose_linear
from ..validation import require
from .encoder import FastConformerEncoder
from .masked_tokens import FastConformerFrameMasking, FastConformerRandomQuantizer
from .masking import lengths_to_mask, require_features, resolve_lengths
from .outputs import FastConformerPreTrainingOutput
from .pretrained import FastConformerPreTrainedModel, wants_dict


class FastConformerForPreTraining(FastConformerPreTrainedModel):
    r"""
    FastConformer with the head of its self-supervised pre-training (NEST): for each encoder frame the token that a
    random-projection quantiser makes of its mel frames.

    Args:
        config ([`FastConformerPreTrainingConfig`]): Shape of encoder, quantiser and masks.
    """

    config_class: Any = FastConformerPreTrainingConfig
    config: FastConformerPreTrainingConfig

    def __init__(self, config: FastConformerPreTrainingConfig) -> None:
        super().__init__(config)
        self.encoder = FastConformerEncoder(config)
        self.quantizer = FastConformerRandomQuantizer(config)
        self.masking = FastConformerFrameMasking(config)
        classes = config.num_codebooks * config.codebook_size
        self.prediction_head = nn.Linear(config.output_size, classes, bias=config.prediction_bias)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FastConformerRandomQuantizer):
            module.draw()
        elif isinstance(module, FastConformerFrameMasking):
            nn.init.normal_(module.embedding, std=0.1)

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        clean_features: torch.Tensor | None = None,
        hidden_frames: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> FastConformerPreTrainingOutput | tuple[Any, ...]:
        r"""
        Predict the tokens of clips. In training frames are hidden by chance, and there is a loss.

        Args:
            input_features (`torch.FloatTensor` of shape `(batch, mel frames, num_mel_bins)`):
                Log-mel features that the encoder hears, with noise if it is to learn to leave it out.
            attention_mask (`torch.Tensor` of shape `(batch, mel frames)`, *optional*):
                Nonzero for real frames, zero for the padding after them.
            input_lengths (`torch.LongTensor` of shape `(batch,)`, *optional*): Real frames of each clip.
            clean_features (`torch.FloatTensor` of the same shape, *optional*, defaults to `input_features`):
                Features that the tokens are made of.
            hidden_frames (`torch.BoolTensor` of shape `(batch, frames)`, *optional*):
                Frames that are hidden: mel frames, or encoder frames with `config.masks_after_subsampling`. None
                (default): in training drawn by chance, in evaluation none.
            output_hidden_states, output_attentions, return_dict (`bool`, *optional*): Those of the encoder.

        Returns:
            [`FastConformerPreTrainingOutput`], with a loss where frames are hidden.

        Raises:
            ValueError: for features, lengths or hidden frames of a wrong shape.
        """
        require_features(input_features)
        num_mels, shape = self.config.num_mel_bins, tuple(input_features.shape)
        is_form = len(shape) == 3 and shape[1] > 0 and shape[2] == num_mels
        require(is_form, "the shape of input_features", shape, f"(batch, mel frames, {num_mels})")
        lengths = resolve_lengths(attention_mask, input_lengths, *input_features.shape[:2])
        if lengths is None:
            lengths = torch.full((len(input_features),), input_features.shape[1], dtype=torch.int64, device="cpu")
        lengths = lengths.to(input_features.device)
        if clean_features is not None:
            clean_shape = tuple(clean_features.shape)
            require(
                clean_shape == shape, "the shape of clean_features", clean_shape, f"that of input_features, {shape}"
            )
        heard = self._whole_frames(input_features, lengths)
        clean = heard if clean_features is None else self._whole_frames(clean_features, lengths)
        if self.config.masks_after_subsampling:
            for name, value in (
                ("output_hidden_states", output_hidden_states),
                ("output_attentions", output_attentions),
            ):
                require(not value, name, value, "False with masks after the subsampling")
            frames, frame_lengths = self.encoder.subsample(heard, lengths)
            tokens = self.quantizer(frames if clean is heard else self.encoder.subsample(clean, lengths)[0])
            hidden_frames = self._choose_hidden(hidden_frames, frame_lengths, frames.shape[1])
            if hidden_frames is not None:
                # As in NeMo's `ConvFeatureMaksingWrapper`, the front learns nothing from hidden frames.
                frames = self.masking(frames, hidden_frames).detach()
            encoded: Any = self.encoder.encode_subsampled(frames, frame_lengths)
        else:
            tokens = self.quantizer(clean)
            hidden_frames = self._choose_hidden(hidden_frames, lengths, heard.shape[1], input_features.shape[1])
            if hidden_frames is not None:
                heard = self.masking(heard, hidden_frames)
            encoded = self.encoder(
                heard,
                input_lengths=lengths,
                output_hidden_states=output_hidden_states,
                output_attentions=output_attentions,
                return_dict=True,
            )
        logits = choose_linear(self.config)(self.prediction_head, encoded.last_hidden_state)
        # NeMo's `MultiSoftmaxDecoder` has the codebooks side by side in each class.
        logits = logits.unflatten(-1, (self.config.codebook_size, self.config.num_codebooks)).transpose(-1, -2)
        tokens = functional.pad(tokens, (0, 0, 0, logits.shape[1] - tokens.shape[1]))[:, : logits.shape[1]]
        output = FastConformerPreTrainingOutput(
            logits=logits,
            token_ids=tokens,
            encoder_lengths=encoded.encoder_lengths,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        if hidden_frames is not None:
            output.is_predicted = self._find_predicted(hidden_frames, logits.shape[1])
            output.loss = _loss(logits, tokens, output.is_predicted)
        return output if wants_dict(self.config, return_dict) else output.to_tuple()

    def draw_hidden_frames(self, lengths: torch.Tensor, num_frames: int) -> torch.Tensor:
        """
        Draw the frames to hide, as training does.

        Args:
            lengths: (batch,), real frames of each clip: mel frames, or encoder frames with
                `config.masks_after_subsampling`.
            num_frames: Frames of the batch.

        Returns:
            (batch, num_frames), True where a frame is hidden.
        """
        return self.masking.draw(lengths, num_frames)

    def _whole_frames(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Features with zeros after each clip, a multiple of the frames of an encoder frame (NeMo's `pad_to`)."""
        padding = ~lengths_to_mask(lengths, features.shape[1])
        features = features.to(self.dtype).masked_fill(padding[..., None], 0.0)
        missing = -features.shape[1] % self.config.mel_frames_per_encoder_frame
        return functional.pad(features, (0, 0, 0, missing))

    def _choose_hidden(
        self, hidden_frames: torch.Tensor | None, lengths: torch.Tensor, num_frames: int, num_given: int | None = None
    ) -> torch.Tensor | None:
        """Frames to hide, (batch, num_frames); None where there is no loss."""
        if hidden_frames is None:
            return self.masking.draw(lengths, num_frames) if self.training else None
        shape, widths = (
            tuple(hidden_frames.shape),
            sorted({num_frames if num_given is None else num_given, num_frames}),
        )
        accepted = [(len(lengths), width) for width in widths]
        require(shape in accepted, "the shape of hidden_frames", shape, " or ".join(map(str, accepted)))
        hidden_frames = hidden_frames.to(device=lengths.device, dtype=torch.bool)
        return functional.pad(hidden_frames, (0, num_frames - shape[1]))

    def _find_predicted(self, hidden_frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Encoder frames that count in the loss, (batch, num_frames)."""
        per_token = self.config.frames_per_token
        shares = hidden_frames.unflatten(1, (-1, per_token)).float().mean(dim=-1)
        found = shares > self.config.mask_threshold
        return functional.pad(found, (0, num_frames - found.shape[1]))[:, :num_frames]


def _loss(logits: torch.Tensor, tokens: torch.Tensor, is_predicted: torch.Tensor) -> torch.Tensor:
    """Mean over the frames that count and the codebooks (NeMo's `MultiMLMLoss`); 0 where no frame counts."""
    found, expected = logits[is_predicted].float(), tokens[is_predicted]  # (frames, books, vectors)
    total = functional.cross_entropy(found.flatten(0, 1), expected.flatten(), reduction="sum")
    return total / max(expected.numel(), 1)
