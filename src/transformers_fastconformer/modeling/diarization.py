"""Sortformer: who speaks in each frame, for whole clips and chunk by chunk (NeMo's `SortformerEncLabelModel`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..configuration_diarization import FastConformerDiarizationConfig
from ..kernels.layers import choose_linear
from ..validation import require
from .encoder import FastConformerEncoder
from .masking import lengths_to_mask
from .outputs import FastConformerDiarizationOutput
from .pretrained import FastConformerPreTrainedModel, wants_dict
from .speaker_cache import SpeakerCache, SpeakerStreamOptions, advance
from .transformer import FastConformerTransformerEncoder, LayerShape


class FastConformerSpeakerHead(nn.Module):
    """Activities of speakers from the states of frames (NeMo's `SortformerModules.forward_speaker_sigmoids`)."""

    def __init__(self, config: FastConformerDiarizationConfig) -> None:
        super().__init__()
        size = config.transformer_hidden_size
        self.config = config
        self.dense = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, config.num_speakers)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(batch, frames, size) to logits, (batch, frames, speakers)."""
        linear, dropout = choose_linear(self.config), self.config.speaker_dropout
        states = functional.dropout(states.relu(), dropout, self.training)
        states = functional.dropout(linear(self.dense, states).relu(), dropout, self.training)
        return linear(self.out_proj, states)


class FastConformerForDiarization(FastConformerPreTrainedModel):
    r"""
    FastConformer that tells speakers apart: for each frame the probability that each of them speaks.

    Speakers are numbered in the order in which they first speak. `forward` sees whole clips, `step` chunks of
    recordings of any length.

    Args:
        config ([`FastConformerDiarizationConfig`]): Shape of encoder, transformer and head.
    """

    config_class: Any = FastConformerDiarizationConfig
    config: FastConformerDiarizationConfig

    def __init__(self, config: FastConformerDiarizationConfig) -> None:
        super().__init__(config)
        size = config.transformer_hidden_size
        self.encoder = FastConformerEncoder(config)
        self.encoder_proj = nn.Linear(config.output_size, size) if config.has_encoder_projection else None
        shape = LayerShape(
            hidden_size=size,
            num_heads=config.num_transformer_encoder_attention_heads,
            intermediate_size=config.transformer_encoder_intermediate_size,
            activation=config.transformer_encoder_activation,
            is_pre_norm=config.transformer_encoder_pre_norm,
            attention_dropout=config.transformer_encoder_attention_dropout,
            residual_dropout=config.transformer_encoder_residual_dropout,
            feed_forward_dropout=config.transformer_encoder_feed_forward_dropout,
        )
        self.transformer_encoder = FastConformerTransformerEncoder(
            config, shape, config.num_transformer_encoder_layers, config.transformer_encoder_final_norm
        )
        self.speaker_head = FastConformerSpeakerHead(config)
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> FastConformerDiarizationOutput | tuple[Any, ...]:
        r"""
        Compute the activities of the speakers of whole clips.

        Args:
            input_features (`torch.FloatTensor` of shape `(batch, mel frames, num_mel_bins)`): Log-mel features.
            attention_mask (`torch.Tensor` of shape `(batch, mel frames)`, *optional*):
                Nonzero for real frames, zero for the padding after them.
            input_lengths (`torch.LongTensor` of shape `(batch,)`, *optional*): Real frames of each clip.
            output_hidden_states, output_attentions, return_dict (`bool`, *optional*): Those of the encoder.

        Returns:
            [`FastConformerDiarizationOutput`]

        Raises:
            ValueError: for features of another shape, and for a mask and lengths that disagree.
        """
        encoded: Any = self.encoder(
            input_features,
            attention_mask=attention_mask,
            input_lengths=input_lengths,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        logits = self._find_speakers(encoded.last_hidden_state, encoded.encoder_lengths)
        real = lengths_to_mask(encoded.encoder_lengths, logits.shape[1])
        output = FastConformerDiarizationOutput(
            logits=logits,
            probabilities=logits.sigmoid() * real[..., None],
            encoder_lengths=encoded.encoder_lengths,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return output if wants_dict(self.config, return_dict) else output.to_tuple()

    def start_stream(self) -> SpeakerCache:
        """The state of a recording before its first chunk."""
        return SpeakerCache.empty(self.config, self.dtype, self.device)

    @torch.no_grad()
    def step(
        self,
        chunks: Sequence[torch.Tensor],
        states: Sequence[SpeakerCache],
        contexts: Sequence[tuple[int, int]],
        options: SpeakerStreamOptions | None = None,
    ) -> tuple[list[torch.Tensor], list[SpeakerCache]]:
        """
        Go on with recordings that may be at different places: what one of them says depends on no other.

        Args:
            chunks: Log-mel features of the next chunk of each recording with its context, (mel frames, num_mel_bins).
            states: The state of each, see `start_stream`.
            contexts: Mel frames before and after the chunk's own that are context, for each recording. All but the
                last chunk have whole encoder frames of both.
            options: How frames are kept; None: what the checkpoint was trained with.

        Returns:
            Probabilities of each recording's own new frames, float32, (frames, speakers), and the states after them.

        Raises:
            ValueError: for lists of other lengths, and for contexts that are longer than their chunks.
        """
        options = SpeakerStreamOptions.of(self.config) if options is None else options
        for name, given in (("states", states), ("contexts", contexts)):
            require(
                len(given) == len(chunks), f"the number of {name}", len(given), f"{len(chunks)}, one for each chunk"
            )
        if not chunks:
            return [], []
        factor = self.config.mel_frames_per_encoder_frame
        for chunk, context in zip(chunks, contexts, strict=True):
            require(min(context) >= 0 and sum(context) <= chunk.shape[0], "contexts", context, "frames of the chunk")
        features, lengths = self._pad([chunk.to(self.device) for chunk in chunks])
        frames, frame_lengths = self.encoder.subsample(features, lengths)
        counts = frame_lengths.tolist()
        rows = [
            torch.cat([state.cache, state.queue, row[:count]])
            for state, row, count in zip(states, frames, counts, strict=True)
        ]
        padded, row_lengths = self._pad(rows)
        encoded: Any = self.encoder.encode_subsampled(padded, row_lengths)
        logits = self._find_speakers(encoded.last_hidden_state, row_lengths)
        found, after = [], []
        for state, row, scores, count, (left, right) in zip(states, rows, logits, counts, contexts, strict=True):
            # NeMo's way of rounding: a context to the right may end within a frame.
            first, last = round(left / factor), count - -(-right // factor)
            probabilities = scores[: len(row)].float().sigmoid()
            own = slice(state.num_frames + first, state.num_frames + max(last, first))
            found.append(probabilities[own])
            heard = torch.cat([probabilities[: state.num_frames], probabilities[own]])
            after.append(advance(state, row[own], heard, self.config, options))
        return found, after

    def _pad(self, rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Rows as a batch, and their lengths; None where all are as long, for which nothing need be masked."""
        counts = [len(row) for row in rows]
        if len(set(counts)) == 1:
            return torch.stack(list(rows)), None
        lengths = torch.tensor(counts, dtype=torch.int64, device=self.device)
        return nn.utils.rnn.pad_sequence(list(rows), batch_first=True), lengths

    def _find_speakers(self, frames: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Logits of the speakers, (batch, frames, speakers); lengths of None: all frames are real."""
        if self.encoder_proj is not None:
            frames = choose_linear(self.config)(self.encoder_proj, frames)
        mask = None if lengths is None else lengths_to_mask(lengths, frames.shape[1])[:, None, None]
        return self.speaker_head(self.transformer_encoder(frames, mask))
