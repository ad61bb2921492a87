"""The module of attention: its memory, its outputs and its parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_cases import (
    CPU,
    LOCAL,
    build_config,
    build_encoder,
    draw,
)
from torch.utils._python_dispatch import TorchDispatchMode

from transformers_fastconformer.modeling.attention import FastConformerAttention
from transformers_fastconformer.modeling.masking import FrameMask, lengths_to_mask, resolve_context
from transformers_fastconformer.modeling.positions import build_position_table


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return output


@pytest.mark.parametrize(
    "options",
    [
        {"position_embedding_type": "rel_pos_local_attn", "attention_context": [16, 16], "num_global_tokens": 2},
        {"attention_context": [70, 1], "attention_context_style": "chunked_limited"},
        {"attention_context": [16, 16]},
        {"attention_context": [8, 4, 2], "attention_context_style": "chunked_limited_with_rc"},
        {"attention_context": [-1, -1]},
    ],
)
@torch.no_grad()
def test_no_tensor_of_frames_by_frames(options: dict[str, Any]) -> None:
    """Four times the frames make tensors at most four times as large, in every kind of attention."""
    config = build_config(**options)
    attention = FastConformerAttention(config, 0).eval()
    largest = []
    for num_frames in (1024, 4096):
        with LargestTensor() as mode:
            mask = FrameMask(
                num_frames,
                resolve_context(config.attention_context_style, config.attention_context),
                lengths_to_mask(torch.tensor([num_frames - 5]), num_frames),
            )
            table = build_position_table(config, num_frames, torch.float32, CPU)
            attention(draw(1, num_frames, 8), table, mask)
        largest.append(mode.elements)
    assert largest[1] <= 4.2 * largest[0]
    assert largest[1] < 4096 * 4096 / 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"position_embedding_type": "abs_pos"},
        LOCAL,
        {**LOCAL, "num_global_tokens": 3, "global_tokens_spacing": 2},
        {**LOCAL, "num_global_tokens": 3, "global_attention_separate": True},
        {"attention_context": [6, 2], "attention_context_style": "chunked_limited"},
    ],
)
@torch.no_grad()
def test_asking_for_attentions_changes_nothing_else(options: dict[str, Any]) -> None:
    encoder = build_encoder(**options)
    features, lengths = draw(2, 80, 8), torch.tensor([80, 33])
    plain = encoder(features, input_lengths=lengths)
    outputs = encoder(features, input_lengths=lengths, output_attentions=True)
    for frames, expected, length in zip(
        outputs.last_hidden_state, plain.last_hidden_state, plain.encoder_lengths, strict=True
    ):
        torch.testing.assert_close(frames[:length], expected[:length], rtol=1e-4, atol=1e-5)
    assert outputs.attentions is not None
    columns = 20 + options.get("num_global_tokens", 0)
    assert [tuple(attention.shape) for attention in outputs.attentions] == [(2, 2, 20, columns)] * 2
    assert torch.allclose(outputs.attentions[0][0].sum(-1), torch.tensor(1.0))


def test_global_projections_exist_only_where_they_are_separate() -> None:
    names = set(FastConformerAttention(build_config(**LOCAL, global_attention_separate=True), 0).state_dict())
    shared = set(FastConformerAttention(build_config(**LOCAL), 0).state_dict())
    assert {name.split(".")[0] for name in names - shared} == {"global_q_proj", "global_k_proj", "global_v_proj"}
    assert shared == set(FastConformerAttention(build_config(), 0).state_dict())
