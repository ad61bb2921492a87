"""The FastConformer encoder, and the bare model that `AutoModel` returns."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..configuration_fastconformer import FastConformerConfig
from ..kernels.layers import is_as_built, is_reference
from ..validation import require
from .attention import prepare_mask
from .block import FastConformerBlock, drop_block, layerdrop_probability
from .conv_norms import CONV_NORMS
from .encoder_cache import FastConformerEncoderCache
from .masking import (
    ContextWindow,
    FrameMask,
    is_loop_over_frames_allowed,
    require_features,
    resolve_context,
    resolve_lengths,
)
from .outputs import FastConformerEncoderOutput
from .packing import PackedRows, PaddedBatch, plan_packing, subsample_packed, subsample_padded
from .positions import build_position_table
from .pretrained import HEAD_KEYS, FastConformerPreTrainedModel, wants_dict
from .speaker_kernel import FastConformerSpeakerKernel, build_later_kernels, prepare_activities
from .spec_augment import spec_augment
from .streaming_step import run_streams
from .subsampling import build_reduction, build_subsampling


class FastConformerEncoder(FastConformerPreTrainedModel):
    r"""
    FastConformer encoder (Rekesh et al., 2023): mel frames to encoder frames.

    Follows NeMo 3.0's `ConformerEncoder`; positions are computed for the length at hand, so that there is no longest
    input. `attn_implementation="sdpa"` (default) has linear memory; `"eager"` is the plain form.

    Args:
        config ([`FastConformerConfig`]): Shape of the encoder.
    """

    _keys_to_ignore_on_load_unexpected = HEAD_KEYS

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__(config)
        self.subsampling = build_subsampling(config)
        self.reduction = build_reduction(config)
        self.speaker_kernel = FastConformerSpeakerKernel(config) if config.has_speaker_kernel else None
        self.later_speaker_kernels = build_later_kernels(config) if config.later_speaker_kernels else None
        self.layers = nn.ModuleList(FastConformerBlock(config, index) for index in range(config.num_hidden_layers))
        has_projection = config.encoder_output_size not in (None, config.hidden_size)
        self.output_proj = nn.Linear(config.hidden_size, config.output_size) if has_projection else None
        # Transformers ties what this names, when a model is built and again when weights are loaded.
        self._tied_weights_keys = self._tied_position_biases()
        self.gradient_checkpointing = False
        self.post_init()

    def _tied_position_biases(self) -> dict[str, str]:
        """With `tie_position_biases`, the position biases of later blocks and those of the first, which they are."""
        if not self.config.tie_position_biases or not self.config.has_relative_positions:
            return {}
        return {
            f"layers.{index}.self_attn.{name}": f"layers.0.self_attn.{name}"
            for index in range(1, self.config.num_hidden_layers)
            for name in ("bias_u", "bias_v")
        }

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Tied weights by name; position biases are tied whatever `config.tie_word_embeddings` says."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels=True)
        return self._tied_position_biases()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        cache: FastConformerEncoderCache | None = None,
        is_last: bool | Sequence[bool] | None = None,
        capture_layers: Sequence[int] = (),
        speaker_activities: torch.Tensor | None = None,
    ) -> FastConformerEncoderOutput | tuple[Any, ...]:
        r"""
        Compute encoder frames. In training features are masked by SpecAugment first, as the configuration says.

        Args:
            input_features (`torch.FloatTensor` of shape `(batch, mel frames, num_mel_bins)`): Log-mel features.
            attention_mask (`torch.Tensor` of shape `(batch, mel frames)`, *optional*):
                Nonzero for real frames, zero for the padding after them.
            input_lengths (`torch.LongTensor` of shape `(batch,)`, *optional*): Real frames of each clip. Says the same
                as `attention_mask`; either suffices, and with neither every frame is real.
            output_hidden_states, output_attentions, return_dict (`bool`, *optional*): As everywhere in Transformers;
                attentions take the memory of the eager form.
            cache ([`FastConformerEncoderCache`], *optional*):
                State of live streams, which is changed in place and returned: the features are the next chunk of each
                of its rows, with a length of 0 for those that have none. A first chunk has
                `cache.schedule.first_mel_frames`, a later one `cache.schedule.mel_frames`.
            is_last (`bool` or `list[bool]`, *optional*, defaults to `False`):
                With a cache: this is the last chunk, of all streams or of each; it may have fewer mel frames, or none.
            capture_layers (`Sequence[int]`, defaults to `()`):
                Indices of blocks whose output is returned as `captured_states`, for losses between the blocks.
            speaker_activities (`torch.Tensor` of shape `(batch, encoder frames)` or `(batch, encoder frames, 2)`):
                Of a multi-talker model: how much the speaker to follow speaks in each frame, 0 to 1, and the same of
                the others, who are silent where they are not given ([`follow_speaker`] makes both of a Sortformer's
                probabilities). As many frames as the longest clip of the batch has, or as its padding has too; with a
                cache `cache.schedule.chunk_frames`. None (default): everybody is followed.

        Returns:
            [`FastConformerEncoderOutput`]

        Raises:
            ValueError: for features of another shape or without frames, for a mask and lengths that disagree, for
                chunks of another number of mel frames than the schedule of the cache has, and for speaker activities
                that do not fit.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        for name, value in (
            ("output_hidden_states", output_hidden_states),
            ("output_attentions", output_attentions),
        ):
            require(isinstance(value, bool | None), name, value, "a bool; all layers are returned, to be picked from")
        lengths = self._resolve_lengths(input_features, attention_mask, input_lengths, cache is not None)
        if cache is not None:
            require(not output_hidden_states, "output_hidden_states", output_hidden_states, "False with a cache")
            require(not output_attentions, "output_attentions", output_attentions, "False with a cache")
            output = self._step_streams(input_features, lengths, cache, is_last, speaker_activities)
            return output if wants_dict(self.config, return_dict) else output.to_tuple()
        require(not is_last, "is_last", is_last, "None without a cache")

        if self.training and self.config.has_spec_augment:
            input_features = spec_augment(self.config, input_features, lengths)
        activities = self._prepare_activities(speaker_activities, input_features, lengths)
        may_pack = not (output_hidden_states or output_attentions)
        hidden_states, batch = self._subsample(input_features.to(self.dtype), lengths, may_pack)
        output = self._run_blocks(
            hidden_states, batch, bool(output_hidden_states), bool(output_attentions), capture_layers, activities
        )
        return output if wants_dict(self.config, return_dict) else output.to_tuple()

    def subsample(
        self, input_features: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Compute only the front of the encoder (NeMo's `pre_encode`), whose frames `encode_subsampled` goes on with.

        Args:
            input_features: (batch, mel frames, num_mel_bins).
            lengths: (batch,), real frames of each clip; None: all are.

        Returns:
            (batch, encoder frames, hidden_size) and the real frames of each clip, (batch,).
        """
        require_features(input_features)
        frames, batch = subsample_padded(self.subsampling, input_features.to(self.dtype), lengths, None)
        return frames, _full_lengths(frames) if batch.lengths is None else batch.lengths

    def encode_subsampled(
        self, frames: torch.Tensor, lengths: torch.Tensor | None = None
    ) -> FastConformerEncoderOutput:
        """
        Compute encoder frames from those of `subsample` (NeMo's `bypass_pre_encode`), in any order.

        Args:
            frames: (batch, encoder frames, hidden_size).
            lengths: (batch,), real frames of each clip; None: all are.

        Raises:
            ValueError: for frames of another width, and for a model whose norms or reduction count mel frames.
        """
        size = self.config.hidden_size
        is_form = frames.ndim == 3 and frames.shape[-1] == size
        require(is_form, "the shape of frames", tuple(frames.shape), f"(batch, frames, {size})")
        norm = self.config.conv_norm_type
        require(not CONV_NORMS[norm].counts_frames, "conv_norm_type", norm, "a norm that does not count frames")
        return self._run_blocks(frames, PaddedBatch(frames.shape[1], lengths, None), False, False, ())

    def _run_blocks(
        self,
        hidden_states: torch.Tensor,
        batch: PaddedBatch | PackedRows,
        output_hidden_states: bool,
        output_attentions: bool,
        capture_layers: Sequence[int],
        activities: torch.Tensor | None = None,
    ) -> FastConformerEncoderOutput:
        """All that comes after the subsampling; `activities` are (batch, frames, 2)."""
        activities = None if activities is None else batch.lay_out(activities)
        if self.config.scale_input:
            hidden_states = hidden_states * math.sqrt(self.config.hidden_size)
        positions = self._position_table(hidden_states, batch)
        if not self.config.has_relative_positions:
            hidden_states = batch.add_positions(hidden_states, positions)
        hidden_states = nn.functional.dropout(hidden_states, self.config.dropout_pre_encoder, self.training)
        if self.speaker_kernel is not None:
            hidden_states = self.speaker_kernel(hidden_states, activities)
        window = resolve_context(self.config.attention_context_style, self._choose_context())
        mask = self._build_mask(hidden_states, batch, window)

        all_hidden_states = [hidden_states] if output_hidden_states else []
        all_attentions: list[torch.Tensor] = []
        captured: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for index in range(len(self.layers)):
            hidden_states, probabilities = self._run_block(
                index, hidden_states, positions, mask, batch.norm_frames, output_attentions, activities
            )
            if self.reduction is not None and index == self.config.reduction_position:
                hidden_states, batch = self._reduce(hidden_states, batch)
                positions = self._position_table(hidden_states, batch)
                mask = self._build_mask(hidden_states, batch, window)
            if output_hidden_states:
                all_hidden_states.append(hidden_states)
            if probabilities is not None:
                all_attentions.append(probabilities)
            if index in capture_layers:
                captured[index] = self._capture(hidden_states, batch)

        if self.output_proj is not None:
            hidden_states = self.output_proj(hidden_states)
        hidden_states, lengths = batch.unpack(hidden_states)
        if self.reduction is not None and self.config.reduction_position == -1:
            hidden_states, lengths = self.reduction(hidden_states, lengths)
        return FastConformerEncoderOutput(
            last_hidden_state=hidden_states,
            encoder_lengths=_full_lengths(hidden_states) if lengths is None else lengths,
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            attentions=tuple(all_attentions) if output_attentions else None,
            captured_states=tuple(captured[index][0] for index in capture_layers) or None,
            captured_lengths=tuple(captured[index][1] for index in capture_layers) or None,
        )

    def _capture(
        self, hidden_states: torch.Tensor, batch: PaddedBatch | PackedRows
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States between the blocks as the end of the encoder would give them: (batch, frames, size), and lengths."""
        if self.output_proj is not None:
            hidden_states = self.output_proj(hidden_states)
        states, lengths = batch.unpack(hidden_states)
        return states, _full_lengths(states) if lengths is None else lengths

    def _run_block(
        self,
        index: int,
        hidden_states: torch.Tensor,
        positions: torch.Tensor,
        mask: FrameMask,
        norm_frames: torch.Tensor | None,
        output_attentions: bool,
        activities: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A block and the kernel after it, in training with stochastic depth."""
        output, probabilities = self.layers[index](hidden_states, positions, mask, norm_frames, output_attentions)
        output = self.follow_later(index, output, activities)
        drop_probability = layerdrop_probability(self.config, index) if self.training else 0.0
        if drop_probability > 0:
            output = drop_block(hidden_states, output, drop_probability)
        return output, probabilities

    def follow_later(self, index: int, hidden_states: torch.Tensor, activities: torch.Tensor | None) -> torch.Tensor:
        """States after a block (its index, from 0) as the kernel there leaves them: without activities as they are."""
        name = str(index + 1)
        if activities is None or self.later_speaker_kernels is None or name not in self.later_speaker_kernels:
            return hidden_states
        return self.later_speaker_kernels[name](hidden_states, activities)

    def _prepare_activities(
        self, speaker_activities: torch.Tensor | None, input_features: torch.Tensor, lengths: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Activities of the speakers of whole clips, (batch, rows of encoder frames, 2), checked."""
        if speaker_activities is None:
            return None
        num_clips, num_mel_frames = input_features.shape[:2]
        front = self.config.subsampling
        num_frames = front.count_rows(num_mel_frames)
        least_frames = num_frames if lengths is None else int(front.count_frames(lengths).max())
        activities = prepare_activities(self.config, speaker_activities, num_clips, least_frames, num_frames)
        return activities.to(device=input_features.device, dtype=self.dtype)

    def _step_streams(
        self,
        input_features: torch.Tensor,
        lengths: torch.Tensor | None,
        cache: FastConformerEncoderCache,
        is_last: bool | Sequence[bool] | None,
        speaker_activities: torch.Tensor | None = None,
    ) -> FastConformerEncoderOutput:
        """The next chunk of live streams, without gradients."""
        require(not self.training, "training", self.training, "False with a cache (`model.eval()`)")
        cache.check_model(self.config)
        num_streams, num_mel_frames = input_features.shape[:2]
        require(
            num_streams == cache.num_streams,
            "the batch of input_features",
            num_streams,
            f"{cache.num_streams}, a row for each stream of the cache",
        )
        for name, value, expected in (("dtype", cache.dtype, self.dtype), ("device", cache.device, self.device)):
            require(value == expected, f"cache.{name}", value, f"that of the model, {expected} (`cache.to`)")
        mel_lengths = [num_mel_frames] * num_streams if lengths is None else lengths.tolist()
        ends = [bool(is_last)] * num_streams if isinstance(is_last, bool | None) else list(is_last)
        require(len(ends) == num_streams, "is_last", is_last, f"a bool, or one for each of the {num_streams} streams")
        features = input_features.to(self.dtype)
        activities = None
        if speaker_activities is not None:
            frames = cache.schedule.lookahead_frames
            require(frames == 0, "speaker_activities", "a tensor", "None for steps that compute frames twice")
            num_frames = cache.schedule.chunk_frames
            activities = prepare_activities(self.config, speaker_activities, num_streams, num_frames, num_frames)
            activities = activities.to(device=self.device, dtype=self.dtype)
        hidden_states, encoder_lengths = run_streams(self, features, mel_lengths, ends, cache, activities)
        return FastConformerEncoderOutput(
            last_hidden_state=hidden_states, encoder_lengths=encoder_lengths, cache=cache
        )

    def _resolve_lengths(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None,
        input_lengths: torch.Tensor | None,
        may_be_empty: bool = False,
    ) -> torch.Tensor | None:
        """Mel frames of each clip, on the device of the features, which are checked; None: all are real."""
        require_features(input_features)
        num_mel_bins = self.config.num_mel_bins
        if input_features.ndim != 3 or input_features.shape[-1] != num_mel_bins:
            raise ValueError(
                f"input_features has shape {tuple(input_features.shape)}; expected (batch, mel frames, "
                f"{num_mel_bins}), as {num_mel_bins} mel features are what this model reads."
            )
        if input_features.shape[1] == 0 and not may_be_empty:
            raise ValueError("input_features has 0 mel frames; expected 1 or more (an empty clip is one of length 0).")
        lengths = resolve_lengths(attention_mask, input_lengths, *input_features.shape[:2])
        return None if lengths is None else lengths.to(input_features.device)

    def _subsample(
        self, input_features: torch.Tensor, lengths: torch.Tensor | None, may_pack: bool
    ) -> tuple[torch.Tensor, PaddedBatch | PackedRows]:
        """The front, which decides too in which form the batch goes through the blocks."""
        if lengths is not None and may_pack and self._allows_packing(lengths, input_features.shape[1]):
            mel_lengths = lengths.tolist()
            packed = plan_packing(self.config, mel_lengths, input_features.shape[1])
            # Hooks are shown a whole batch.
            if packed is not None and all(map(is_as_built, self.modules())):
                return subsample_packed(self.subsampling, input_features, mel_lengths, packed), packed
        norm_frames = self._count_norm_frames(input_features, lengths)
        return subsample_padded(self.subsampling, input_features, lengths, norm_frames)

    def _allows_packing(self, lengths: torch.Tensor, num_mel_frames: int) -> bool:
        """
        True on a CPU, where a frame of padding costs as much as any other.

        In training padding counts in the statistics of batch norm, as in NeMo; a graph must not depend on lengths.
        """
        if self.training or is_reference(self.config) or not is_loop_over_frames_allowed(num_mel_frames):
            return False
        return lengths.device.type == "cpu"

    def _count_norm_frames(self, input_features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor | None:
        """Encoder frames of each clip with one masked mel frame after it, for the norms that count them: (batch,)."""
        if not CONV_NORMS[self.config.conv_norm_type].counts_frames:
            return None
        lengths = _full_lengths(input_features) if lengths is None else lengths
        return self.config.subsampling.count_rows(lengths + 1)

    def _position_table(self, hidden_states: torch.Tensor, batch: PaddedBatch | PackedRows) -> torch.Tensor:
        """Sinusoids for a batch, of the dtype and on the device of its states; with dropout in training."""
        table = build_position_table(self.config, batch.longest_frames, hidden_states.dtype, hidden_states.device)
        return nn.functional.dropout(table, self.config.dropout_positions, self.training)

    def _choose_context(self) -> list[int]:
        """The context in use; in training one of those the model is trained with, drawn for the batch, as in NeMo."""
        config = self.config
        if self.training and config.attention_contexts and not config.has_local_attention:
            return random.choices(config.attention_contexts, weights=config.attention_context_probabilities)[0]
        return list(config.attention_context)

    def _build_mask(
        self, hidden_states: torch.Tensor, batch: PaddedBatch | PackedRows, window: ContextWindow
    ) -> FrameMask:
        """Real frames, and those that attention may look at, the same in all blocks."""
        return prepare_mask(self.config, batch.build_mask(window, hidden_states.device), hidden_states.device)

    def _reduce(
        self, hidden_states: torch.Tensor, batch: PaddedBatch | PackedRows
    ) -> tuple[torch.Tensor, PaddedBatch]:
        """The reduction among the blocks, of states and of counts of frames."""
        assert self.reduction is not None
        assert isinstance(batch, PaddedBatch)
        hidden_states, lengths = self.reduction(hidden_states, batch.lengths)
        norm_frames = batch.norm_frames
        if norm_frames is not None:
            norm_frames = self.config.reduction.count_rows(norm_frames)
        return hidden_states, PaddedBatch(hidden_states.shape[1], lengths, norm_frames)


def _full_lengths(states: torch.Tensor) -> torch.Tensor:
    """All frames of every clip of (batch, frames, size): (batch,)."""
    return torch.full((states.shape[0],), states.shape[1], dtype=torch.int64, device=states.device)


class FastConformerModel(FastConformerPreTrainedModel):
    r"""
    The bare model, an encoder without a head: what `AutoModel` returns for every FastConformer checkpoint, whatever
    head it was trained with.

    Args:
        config ([`FastConformerConfig`]): Shape of the encoder.
    """

    _keys_to_ignore_on_load_unexpected = HEAD_KEYS

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__(config)
        self.encoder = FastConformerEncoder(config)
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        cache: FastConformerEncoderCache | None = None,
        is_last: bool | Sequence[bool] | None = None,
        speaker_activities: torch.Tensor | None = None,
    ) -> FastConformerEncoderOutput | tuple[Any, ...]:
        """Encode features; arguments and result are those of [`FastConformerEncoder.forward`]."""
        return self.encoder(
            input_features,
            attention_mask=attention_mask,
            input_lengths=input_lengths,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=wants_dict(self.config, return_dict),
            cache=cache,
            is_last=is_last,
            speaker_activities=speaker_activities,
        )
