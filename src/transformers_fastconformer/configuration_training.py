"""Fields of configurations that only training reads: SpecAugment, losses between the blocks, weights of losses."""

# No `from __future__ import annotations` here: `strict` checks the types of the fields, and skips those in quotes.
from dataclasses import dataclass
from typing import Any

from .validation import is_integer, is_number, require, require_choice

# Rules by which the losses of the clips of a batch become one: the mean over the clips, the mean of their losses for
# each token, the sum of the losses over the sum of tokens, and the sum.
LOSS_REDUCTIONS = ("mean", "mean_per_token", "mean_volume", "sum")
# More masks, or wider ones, no recipe has.
MAX_MASKS = 4096
MAX_MASK_WIDTH = 2**16


@dataclass(kw_only=True)
class SpecAugmentFields:
    r"""
    SpecAugment (Park et al., 2019) and Cutout of the features, as NeMo's `SpectrogramAugmentation`: in training the
    encoder sets bands of frames and mels, and rectangles, to one value. All widths are drawn anew for each mask.

    Args:
        apply_spec_augment (`bool`, defaults to `True`): False switches all of it off.
        mask_time_count (`int`, defaults to 0): Bands of frames in a clip.
        mask_time_width (`int` or `float`, defaults to 10):
            Mel frames that such a band stays below; a `float` is a share of the clip's frames, 0 to 1.
        mask_feature_count (`int`, defaults to 0): Bands of mels in a clip.
        mask_feature_width (`int`, defaults to 10): Mels that such a band stays below.
        mask_rectangle_count (`int`, defaults to 0): Rectangles in a clip.
        mask_rectangle_frames (`int`, defaults to 5), mask_rectangle_features (`int`, defaults to 20):
            Mel frames and mels that a rectangle has at most.
        mask_value (`float`, defaults to 0.0): Value of the bands; that of rectangles is always 0.
    """

    apply_spec_augment: bool = True
    mask_time_count: int = 0
    mask_time_width: int | float = 10
    mask_feature_count: int = 0
    mask_feature_width: int = 10
    mask_rectangle_count: int = 0
    mask_rectangle_frames: int = 5
    mask_rectangle_features: int = 20
    mask_value: float | int = 0.0

    @property
    def has_spec_augment(self) -> bool:
        """True where training masks features."""
        counts = (self.mask_time_count, self.mask_feature_count, self.mask_rectangle_count)
        return self.apply_spec_augment and any(counts)


@dataclass(kw_only=True)
class IntermediateCTCFields:
    r"""
    CTC losses of the states between the blocks (Lee and Watanabe, 2021, "Intermediate Loss Regularization for
    CTC-based Speech Recognition"; NeMo's `interctc`), by the CTC head of the model.

    Args:
        intermediate_ctc_layers (`list[int]`, *optional*): Indices of the blocks whose output is taken.
        intermediate_ctc_weights (`list[float]`, *optional*):
            Share of each of these losses; what is left of 1 is the share of the loss at the end.
    """

    intermediate_ctc_layers: list[int] | None = None
    intermediate_ctc_weights: list[float | int] | None = None


@dataclass(kw_only=True)
class TransducerLossFields:
    r"""
    Options of the loss of a transducer.

    Args:
        transducer_loss_reduction (`str`, defaults to `"mean"`):
            `"mean"` over the clips, `"mean_per_token"` (each loss over its tokens, then the mean), `"mean_volume"`
            (sum of the losses over the sum of tokens) or `"sum"`.
        fastemit_lambda (`float`, defaults to 0.0): Strength of FastEmit (Yu et al., 2021), which prefers early tokens.
        transducer_gradient_clamp (`float`, defaults to 0.0):
            Largest magnitude of the gradient of a clip's loss with respect to a token output of the joint network,
            before the reduction; 0: no limit.
    """

    transducer_loss_reduction: str = "mean"
    fastemit_lambda: float | int = 0.0
    transducer_gradient_clamp: float | int = 0.0


TRAINING_FIELDS = (SpecAugmentFields, IntermediateCTCFields, TransducerLossFields)


def check_training_fields(config: Any) -> None:
    """Raise a `ValueError` for values of these fields that are not accepted; a configuration may have some of them."""
    if isinstance(config, SpecAugmentFields):
        _check_spec_augment(config)
    if isinstance(config, IntermediateCTCFields):
        _check_intermediate_ctc(config)
    if isinstance(config, TransducerLossFields):
        require_choice("transducer_loss_reduction", config.transducer_loss_reduction, LOSS_REDUCTIONS)
        for name in ("fastemit_lambda", "transducer_gradient_clamp"):
            value = getattr(config, name)
            require(is_number(value) and value >= 0, name, value, "a number of 0 or more")


def _check_spec_augment(config: SpecAugmentFields) -> None:
    for kind in ("time", "feature", "rectangle"):
        name = f"mask_{kind}_count"
        value = getattr(config, name)
        require(is_integer(value) and 0 <= value <= MAX_MASKS, name, value, f"an integer of 0 to {MAX_MASKS}")
    for name in ("mask_feature_width", "mask_rectangle_frames", "mask_rectangle_features"):
        value = getattr(config, name)
        is_width = is_integer(value) and 0 <= value <= MAX_MASK_WIDTH
        require(is_width, name, value, f"an integer of 0 to {MAX_MASK_WIDTH}")
    width = config.mask_time_width
    is_width = is_number(width) and 0 <= width <= (MAX_MASK_WIDTH if is_integer(width) else 1)
    expected = f"an integer of 0 to {MAX_MASK_WIDTH}, or a share of the clip from 0.0 to 1.0"
    require(is_width, "mask_time_width", width, expected)
    require(is_number(config.mask_value), "mask_value", config.mask_value, "a finite number")


def _check_intermediate_ctc(config: Any) -> None:
    layers, weights = config.intermediate_ctc_layers or (), config.intermediate_ctc_weights or ()
    name, count = "intermediate_ctc_layers", config.num_hidden_layers
    require(all(is_integer(layer) and 0 <= layer < count for layer in layers), name, layers, f"0 to {count - 1} each")
    require(
        len(weights) == len(layers) and all(is_number(weight) and weight >= 0 for weight in weights),
        "intermediate_ctc_weights",
        weights,
        f"a number of 0 or more for each of the {len(layers)} intermediate_ctc_layers",
    )
    require(sum(weights) < 1, "intermediate_ctc_weights", weights, "less than 1 in sum: the rest is of the main loss")
    has_head = getattr(config, "has_ctc_head", True)
    require(has_head or not layers, name, layers, "None where has_ctc_head is False: a CTC head computes these losses")
