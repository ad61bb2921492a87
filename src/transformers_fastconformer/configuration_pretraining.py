"""Configuration of self-supervised pre-training: the encoder, the tokens that it learns to predict, and its masks."""

# No `from __future__ import annotations` here: `strict` checks the types of the fields, and skips those in quotes.
from huggingface_hub.dataclasses import strict

from .configuration_fastconformer import FastConformerConfig


@strict
class FastConformerPreTrainingConfig(FastConformerConfig):
    r"""
    Encoder that predicts the tokens of frames that are hidden from it (NEST, Huang et al., 2024; NeMo's
    `EncDecMaskedTokenPredModel` and `EncDecDenoiseMaskedTokenPredModel`).

    Args:
        num_codebooks (`int`, defaults to 1): Tokens of a frame, each of a codebook of its own.
        codebook_size (`int`, defaults to 8192): Vectors of a codebook.
        codebook_dim (`int`, defaults to 16): Width of its vectors.
        frames_per_token (`int`, defaults to 8):
            Mel frames that a token is made of; 1 with `masks_after_subsampling`, where it is an encoder frame.
        prediction_bias (`bool`, defaults to `False`): The prediction has biases.
        masks_after_subsampling (`bool`, defaults to `False`):
            Encoder frames are hidden, and tokens are made of them (NeMo: `mask_position: post_conv`). Otherwise both
            are of mel frames.
        mask_probability (`float`, defaults to 0.01):
            Chance that a hidden block starts at a frame; without overlaps, about the share of frames that are hidden.
        mask_block_frames (`int`, defaults to 40): Frames of a hidden block.
        mask_overlap (`bool`, defaults to `True`): Hidden blocks may overlap.
        mask_threshold (`float`, defaults to 0.8):
            Tokens count in the loss if more than this share of their frames is hidden.
        kwargs: Those of [`FastConformerConfig`].
    """

    model_type = "fastconformer_pretraining"

    num_codebooks: int = 1
    codebook_size: int = 8192
    codebook_dim: int = 16
    frames_per_token: int = 8
    prediction_bias: bool = False
    masks_after_subsampling: bool = False
    mask_probability: float | int = 0.01
    mask_block_frames: int = 40
    mask_overlap: bool = True
    mask_threshold: float | int = 0.8

    def _validate_head(self) -> None:
        for name in ("num_codebooks", "codebook_size", "codebook_dim", "frames_per_token", "mask_block_frames"):
            self._require_positive(name)
        expected = 1 if self.masks_after_subsampling else self.mel_frames_per_encoder_frame
        self._require_that(
            self.frames_per_token == expected, "frames_per_token", f"{expected}, so that a token is an encoder frame"
        )
        self._require_that(
            self.reduction_type is None or not self.masks_after_subsampling,
            "masks_after_subsampling",
            "False with a reduction, after which frames are not those of the tokens",
        )
        self._require_that(0 <= self.mask_probability <= 1, "mask_probability", "a probability")
        self._require_that(0 <= self.mask_threshold < 1, "mask_threshold", "0 or more, and below 1")

    def estimate_parameters(self) -> int:
        classes = self.num_codebooks * self.codebook_size
        return super().estimate_parameters() + classes * self.output_size

    @property
    def token_frame_size(self) -> int:
        """Width of the frames that tokens are made of and that are hidden."""
        return self.hidden_size if self.masks_after_subsampling else self.num_mel_bins
