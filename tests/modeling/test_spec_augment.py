"""Masks of features in training."""

from __future__ import annotations

import pytest
import torch
from models import build_model, make_features

from transformers_fastconformer import FastConformerConfig
from transformers_fastconformer.modeling.spec_augment import spec_augment

LENGTHS = torch.tensor([400, 120, 33])
ONES = torch.ones(3, 400, 80)


def mask(seed: int = 0, lengths: torch.Tensor | None = LENGTHS, **options: float) -> torch.Tensor:
    """True where the features are masked."""
    torch.manual_seed(seed)
    return spec_augment(FastConformerConfig(**options), ONES, lengths) == options.get("mask_value", 0.0)


def count_runs(flags: torch.Tensor) -> int:
    """Runs of True along the last axis, at most over all rows."""
    starts = flags & ~torch.nn.functional.pad(flags, (1, 0))[..., :-1]
    return int(starts.sum(-1).max())


def test_bands_of_frames_lie_in_the_clip_and_are_narrower_than_the_width() -> None:
    for seed in range(20):
        frames = mask(seed, mask_time_count=2, mask_time_width=0.25).all(dim=2)
        assert torch.equal(frames, mask(seed, mask_time_count=2, mask_time_width=0.25).any(dim=2))
        for clip, length in zip(frames, LENGTHS.tolist(), strict=True):
            assert not clip[length:].any()
            assert clip.sum() <= 2 * (length // 4)
            assert count_runs(clip) <= 2


def test_widths_in_frames_and_shares_have_their_means() -> None:
    # floor(width * u) of a uniform u is (width - 1) / 2 in the mean.
    lengths = torch.tensor([400, 400, 400])
    for width, expected in ((41, 20.0), (0.1025, 20.0)):
        found = [mask(seed, lengths, mask_time_count=1, mask_time_width=width).all(2).sum(1) for seed in range(200)]
        assert torch.stack(found).float().mean() == pytest.approx(expected, rel=0.1)


def test_bands_of_mels_go_through_the_whole_batch_tensor() -> None:
    found = mask(mask_feature_count=3, mask_feature_width=20)
    assert torch.equal(found, found[:, :1].expand_as(found))
    assert count_runs(found[:, 0]) <= 3
    assert not torch.equal(found[0], found[1])


def test_rectangles_are_no_larger_than_asked_for() -> None:
    sizes = []
    for seed in range(100):
        found = mask(seed, mask_rectangle_count=1, mask_rectangle_frames=7, mask_rectangle_features=5)
        frames, mels = found.any(dim=2).sum(1), found.any(dim=1).sum(1)
        assert torch.equal(found.sum((1, 2)), frames * mels)
        sizes += [(int(a), int(b)) for a, b in zip(frames, mels, strict=True) if a]
    assert {a for a, _ in sizes} == set(range(1, 8))  # the widest too
    assert {b for _, b in sizes} == set(range(1, 6))


def test_rectangles_wider_than_the_features_and_bands_longer_than_a_clip() -> None:
    assert mask(mask_rectangle_count=2, mask_rectangle_frames=500, mask_rectangle_features=90).any()
    mask(mask_time_count=2, mask_time_width=1000)


def test_the_value_of_bands_and_no_lengths() -> None:
    found = mask(lengths=None, mask_time_count=5, mask_time_width=50, mask_value=-2.0)
    assert found[2, 33:].any()


def test_only_training_masks_and_it_can_be_switched_off() -> None:
    features = make_features([200])
    model = build_model("encoder", mask_time_count=2, mask_time_width=0.4, conv_norm_type="layer_norm")
    for name in ("dropout", "activation_dropout", "attention_dropout", "dropout_pre_encoder"):
        setattr(model.config, name, 0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain = model(features)[0]
    assert torch.equal(model(features)[0], plain)
    model.train()
    torch.manual_seed(1)
    first, second = model(features)[0], model(features)[0]
    torch.manual_seed(1)
    assert torch.equal(model(features)[0], first)
    assert not torch.equal(first, second)
    assert not torch.allclose(first, plain)
    model.config.apply_spec_augment = False
    assert torch.allclose(model(features)[0], plain, atol=1e-5)
    assert torch.equal(model(features)[0], model(features)[0])
