"""The norms after the depthwise convolution: their values, what they need, and torch's own classes in their place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import build_model, make_features
from torch import nn

from transformers_fastconformer import FastConformerConfig
from transformers_fastconformer.configuration_checks import CONV_NORM_TYPES
from transformers_fastconformer.modeling.conv_norms import CONV_NORMS

SIZE, GROUPS = 6, 3
LENGTHS = torch.tensor([9, 4])


def normalize(name: str, clip: torch.Tensor, num_frames: int, norm: Any) -> torch.Tensor:
    """A clip (frames, channels) by a norm of that name, from its formula."""
    if name == "batch_norm":
        clip = (clip - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    elif name == "layer_norm":
        clip = (clip - clip.mean(1, keepdim=True)) / (clip.var(1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    elif name != "fused_batch_norm":
        width = SIZE // GROUPS if name == "group_norm" else 1
        columns = []
        for group in clip.split(width, dim=1):
            real = group[:num_frames]
            columns.append((group - real.mean()) / (real.var(unbiased=False) + norm.epsilon).sqrt())
        clip = torch.cat(columns, dim=1)
    return clip if norm.weight is None else clip * norm.weight + norm.bias


@pytest.mark.parametrize("name", CONV_NORMS)
@torch.no_grad()
def test_a_norm_is_its_formula(name: str) -> None:
    config = FastConformerConfig(hidden_size=SIZE, num_attention_heads=1, conv_norm_type=name, conv_norm_groups=GROUPS)
    norm: Any = CONV_NORMS[name].build(config).eval()
    for tensor in (*norm.parameters(), *(buffer for buffer in norm.buffers() if buffer.is_floating_point())):
        nn.init.uniform_(tensor, 0.5, 2.0)
    states = torch.randn(2, 9, SIZE)
    norm_frames = LENGTHS if CONV_NORMS[name].counts_frames else None
    found = CONV_NORMS[name].apply(norm, states, norm_frames)
    assert found.shape[1] == (8 if CONV_NORMS[name].counts_frames else 9)
    for clip, num_frames in enumerate(LENGTHS.tolist()):
        expected = normalize(name, states[clip], num_frames, norm)
        torch.testing.assert_close(found[clip], expected[: found.shape[1]])


def test_the_configuration_names_every_norm() -> None:
    assert tuple(CONV_NORMS) == CONV_NORM_TYPES


@torch.no_grad()
def test_a_batch_norm_of_several_gpus_stands_in_for_one() -> None:
    """As distributed training makes of a model, which is then evaluated: such a norm is called, not folded."""
    model, features = build_model("encoder"), make_features([70, 33])
    lengths = torch.tensor([70, 33])
    expected = model(features, input_lengths=lengths).last_hidden_state
    names = list(model.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(converted.layers[0].conv.norm) is nn.SyncBatchNorm
    assert list(converted.state_dict()) == names
    found = converted(features, input_lengths=lengths).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
