"""Configuration of Sortformer: the encoder, a transformer over its frames, and the activities of speakers."""

# No `from __future__ import annotations` here: `strict` checks the types of the fields, and skips those in quotes.
from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_fastconformer import FastConformerConfig
from .configuration_multitask import TRANSFORMER_ACTIVATIONS
from .validation import require, require_choice

DIARIZATION_DROPOUTS = (
    "transformer_encoder_attention_dropout",
    "transformer_encoder_residual_dropout",
    "transformer_encoder_feed_forward_dropout",
    "speaker_dropout",
)


@strict
class FastConformerDiarizationConfig(FastConformerConfig):
    r"""
    Encoder, a transformer and the probability that each speaker speaks in a frame (NeMo's `SortformerEncLabelModel`).

    Args:
        num_speakers (`int`, defaults to 4): Speakers that are told apart, in the order in which they first speak.
        transformer_hidden_size (`int`, defaults to 192):
            Width of the transformer; the frames are projected to it where the encoder has another width.
        num_transformer_encoder_layers (`int`, defaults to 18): Its layers.
        num_transformer_encoder_attention_heads (`int`, defaults to 8): Its attention heads.
        transformer_encoder_intermediate_size (`int`, defaults to 768): Width of its feed-forward modules.
        transformer_encoder_activation (`str`, defaults to `"relu"`): Their activation, `"relu"` or `"gelu"`.
        transformer_encoder_pre_norm (`bool`, defaults to `False`): Norms stand before the modules, not after the sums.
        transformer_encoder_final_norm (`bool`, defaults to `True`):
            A norm after the last layer; only with `transformer_encoder_pre_norm`.
        transformer_encoder_attention_dropout (`float`, defaults to 0.5): Dropout in training, of probabilities.
        transformer_encoder_residual_dropout (`float`, defaults to 0.5): Of the attentions' outputs.
        transformer_encoder_feed_forward_dropout (`float`, defaults to 0.5): Of the feed-forward modules' outputs.
        speaker_dropout (`float`, defaults to 0.5): Of the states that become activities.
        is_streaming (`bool`, defaults to `False`):
            The model was trained to go through a recording in chunks, with a cache of what each speaker said.
        chunk_frames (`int`, defaults to 188): Encoder frames of a chunk.
        left_context_frames (`int`, defaults to 1): Frames before the chunk that only its own are computed with.
        right_context_frames (`int`, defaults to 1): Frames after it.
        queue_frames (`int`, defaults to 0): Latest frames that are kept as they are (NeMo: `fifo_len`).
        update_frames (`int`, defaults to 188): Frames that leave the queue at a time (`spkcache_update_period`).
        cache_frames (`int`, defaults to 188): Frames in the cache of speakers (`spkcache_len`).
        cache_silence_frames (`int`, defaults to 3): Frames of silence in the cache for each speaker.
        cache_latest_score (`float`, defaults to 0.05): Added to the scores of new frames (`scores_boost_latest`).
        cache_min_probability (`float`, defaults to 0.25): Least probability in scores (`pred_score_threshold`).
        cache_silence_threshold (`float`, defaults to 0.2): A frame whose probabilities sum to less is silence.
        cache_strong_share (`float`, defaults to 0.75): Share of a speaker's room that is sure (`strong_boost_rate`).
        cache_weak_share (`float`, defaults to 1.5): Share that is likely (`weak_boost_rate`).
        cache_positive_share (`float`, defaults to 0.5):
            With so many frames of only one speaker, as a share of the room, those with others are left out
            (`min_pos_scores_rate`).
        kwargs: Those of [`FastConformerConfig`].
    """

    model_type = "fastconformer_diarization"

    num_speakers: int = 4
    transformer_hidden_size: int = 192
    num_transformer_encoder_layers: int = 18
    num_transformer_encoder_attention_heads: int = 8
    transformer_encoder_intermediate_size: int = 768
    transformer_encoder_activation: str = "relu"
    transformer_encoder_pre_norm: bool = False
    transformer_encoder_final_norm: bool = True
    transformer_encoder_attention_dropout: float | int = 0.5
    transformer_encoder_residual_dropout: float | int = 0.5
    transformer_encoder_feed_forward_dropout: float | int = 0.5
    speaker_dropout: float | int = 0.5
    is_streaming: bool = False
    chunk_frames: int = 188
    left_context_frames: int = 1
    right_context_frames: int = 1
    queue_frames: int = 0
    update_frames: int = 188
    cache_frames: int = 188
    cache_silence_frames: int = 3
    cache_latest_score: float | int = 0.05
    cache_min_probability: float | int = 0.25
    cache_silence_threshold: float | int = 0.2
    cache_strong_share: float | int = 0.75
    cache_weak_share: float | int = 1.5
    cache_positive_share: float | int = 0.5

    def _validate_head(self) -> None:
        for name in (
            "num_speakers",
            "transformer_hidden_size",
            "num_transformer_encoder_layers",
            "num_transformer_encoder_attention_heads",
            "transformer_encoder_intermediate_size",
            "chunk_frames",
            "update_frames",
        ):
            self._require_positive(name)
        for name in ("left_context_frames", "right_context_frames", "queue_frames", "cache_silence_frames"):
            self._require_that(getattr(self, name) >= 0, name, "0 or more")
        self._require_that(
            self.transformer_hidden_size % self.num_transformer_encoder_attention_heads == 0,
            "num_transformer_encoder_attention_heads",
            f"a divisor of transformer_hidden_size={self.transformer_hidden_size}",
        )
        least = (1 + self.cache_silence_frames) * self.num_speakers
        self._require_that(self.cache_frames >= least, "cache_frames", f"{least} or more, for num_speakers")
        require_choice("transformer_encoder_activation", self.transformer_encoder_activation, TRANSFORMER_ACTIVATIONS)
        for name in DIARIZATION_DROPOUTS:
            self._require_that(0 <= getattr(self, name) <= 1, name, "a probability")
        probability = self.cache_min_probability
        require(0 < probability < 1, "cache_min_probability", probability, "a probability above 0 and below 1")
        for name in ("cache_strong_share", "cache_weak_share", "cache_positive_share", "cache_latest_score"):
            self._require_that(getattr(self, name) >= 0, name, "0 or more")

    def estimate_parameters(self) -> int:
        width = self.transformer_hidden_size
        layer = width * (4 * width + 2 * self.transformer_encoder_intermediate_size)
        return super().estimate_parameters() + self.num_transformer_encoder_layers * layer + width * self.output_size

    @property
    def has_encoder_projection(self) -> bool:
        """True where frames are projected to the width of the transformer."""
        return self.output_size != self.transformer_hidden_size

    def speaker_stream(self) -> dict[str, Any]:
        """The options of [`SpeakerStreamOptions`] that the checkpoint was trained with."""
        names = (
            "chunk_frames",
            "left_context_frames",
            "right_context_frames",
            "queue_frames",
            "update_frames",
            "cache_frames",
        )
        return {name: getattr(self, name) for name in names}
