"""Uneven batches without padding: the numbers of the padded form, less computed, and never where padding counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from transformers_fastconformer import FastConformerConfig, FastConformerEncoder
from transformers_fastconformer.modeling.block import FastConformerBlock
from transformers_fastconformer.modeling.masking import ContextWindow
from transformers_fastconformer.modeling.packing import PackedRows

NUM_MELS = 16
MEL_LENGTHS = [400, 130, 7, 261, 1]
SHAPES: dict[str, dict[str, Any]] = {
    "full attention": {},
    "several blocks of queries": {"subsampling_factor": 2},
    "narrow context": {"attention_context": [6, 2]},
    "chunks": {
        "attention_context": [8, 3],
        "attention_context_style": "chunked_limited",
        "causal_downsampling": True,
        "conv_context_size": "causal",
        "conv_norm_type": "layer_norm",
    },
    "local attention": {"position_embedding_type": "rel_pos_local_attn", "attention_context": [6, 6]},
    "global tokens": {
        "position_embedding_type": "rel_pos_local_attn",
        "attention_context": [6, 6],
        "num_global_tokens": 2,
        "global_tokens_spacing": 3,
        "global_attention_separate": True,
    },
    "absolute positions": {"position_embedding_type": "abs_pos"},
    "no subsampling": {"subsampling_type": "none", "subsampling_factor": 1},
    "a projection behind": {"encoder_output_size": 12},
    "speakers": {"has_speaker_kernel": True},
}
# Where padding is part of the result, or lengths are not those of the frames.
PADDED_SHAPES: dict[str, dict[str, Any]] = {
    "group norm": {"conv_norm_type": "group_norm", "conv_norm_groups": 2},
    "stacking": {"subsampling_type": "stacking"},
    "a reduction among the blocks": {"reduction_type": "pooling", "reduction_factor": 2, "reduction_position": 0},
}


def build_encoder(**options: Any) -> FastConformerEncoder:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "num_mel_bins": NUM_MELS,
        "subsampling_conv_channels": 8,
    }
    encoder = FastConformerEncoder(FastConformerConfig(**(shape | options))).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder


def build_batch() -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.randn(len(MEL_LENGTHS), max(MEL_LENGTHS), NUM_MELS)
    for clip, length in enumerate(MEL_LENGTHS):
        features[clip, length:] = float("nan")
    return features, torch.tensor(MEL_LENGTHS)


@pytest.fixture
def block_shapes(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of what the first block was given. No hook: with one the blocks see a padded batch."""
    shapes: list[torch.Size] = []
    forward = FastConformerBlock.forward

    def record(self: Any, hidden_states: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if self.self_attn.layer_index == 0:
            shapes.append(hidden_states.shape)
        return forward(self, hidden_states, *arguments, **options)

    monkeypatch.setattr(FastConformerBlock, "forward", record)
    return shapes


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_a_packed_batch_equals_each_clip_alone(name: str, block_shapes: list[torch.Size]) -> None:
    encoder = build_encoder(**SHAPES[name])
    features, lengths = build_batch()
    packed = encoder(features, input_lengths=lengths)
    (shape,) = block_shapes
    frames = packed.encoder_lengths.tolist()
    assert shape[0] == 1
    assert sum(frames) <= shape[1] < 0.9 * len(frames) * packed.last_hidden_state.shape[1]
    for clip, (length, num_frames) in enumerate(zip(MEL_LENGTHS, frames, strict=True)):
        alone = encoder(features[clip, None, :length])
        assert alone.encoder_lengths.tolist() == [num_frames]
        found = packed.last_hidden_state[clip, :num_frames]
        torch.testing.assert_close(found, alone.last_hidden_state[0], rtol=1e-5, atol=1e-5)
        assert not packed.last_hidden_state[clip, num_frames:].any()


@pytest.mark.parametrize("name", [*SHAPES, *PADDED_SHAPES])
@torch.no_grad()
def test_the_padded_form_has_the_same_shape_and_frames(name: str, block_shapes: list[torch.Size]) -> None:
    encoder = build_encoder(**(SHAPES | PADDED_SHAPES)[name])
    features, lengths = build_batch()
    chosen = encoder(features, input_lengths=lengths)
    padded = encoder(features, input_lengths=lengths, output_hidden_states=True)
    assert block_shapes[1][0] == len(MEL_LENGTHS)
    assert (block_shapes[0][0] == 1) == (name in SHAPES)
    assert torch.equal(chosen.encoder_lengths, padded.encoder_lengths)
    assert chosen.last_hidden_state.shape == padded.last_hidden_state.shape
    for clip, num_frames in enumerate(padded.encoder_lengths.tolist()):
        found, expected = chosen.last_hidden_state[clip, :num_frames], padded.last_hidden_state[clip, :num_frames]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "case", ["even", "one clip", "an empty clip", "training", "eager", "attentions", "no lengths"]
)
def test_padded_where_nothing_is_gained_or_padding_counts(case: str, block_shapes: list[torch.Size]) -> None:
    encoder = build_encoder()
    features, lengths = torch.randn(3, 160, NUM_MELS), torch.tensor([160, 20, 30])
    arguments: dict[str, Any] = {}
    if case == "even":
        lengths = torch.tensor([160, 150, 155])
    elif case == "one clip":
        features, lengths = features[:1], lengths[:1]
    elif case == "an empty clip":
        lengths[1] = 0
    elif case == "training":
        encoder.train()
    elif case == "eager":
        encoder.set_attn_implementation("eager")
    elif case == "attentions":
        arguments["output_attentions"] = True
    elif case == "a hook":
        encoder.layers[1].register_forward_hook(lambda module, inputs, output: None)
    elif case == "a hook inside":
        encoder.layers[1].self_attn.register_forward_hook(lambda module, inputs, output: None)
    with torch.set_grad_enabled(case == "training"):
        encoder(features, input_lengths=None if case == "no lengths" else lengths, **arguments)
    assert block_shapes[0][:2] == (features.shape[0], 20)


def test_gradients_of_a_packed_batch_are_those_of_its_clips(block_shapes: list[torch.Size]) -> None:
    """An encoder that is frozen, or not, in front of a head in training is in evaluation mode itself."""
    encoder = build_encoder()
    features, lengths = build_batch()
    features = features.nan_to_num()
    weights = torch.randn(50, 32)

    def gradients(batched: bool) -> list[torch.Tensor]:
        encoder.zero_grad()
        if batched:
            output = encoder(features, input_lengths=lengths)
            rows = zip(output.last_hidden_state, output.encoder_lengths.tolist(), strict=True)
            clips = [row[:length] for row, length in rows]
        else:
            clips = [
                encoder(features[clip, None, :length]).last_hidden_state[0]
                for clip, length in enumerate(lengths.tolist())
            ]
        sum((clip * weights[: clip.shape[0]]).sum() for clip in clips).backward()
        return [parameter.grad.clone() for parameter in encoder.parameters() if parameter.grad is not None]

    together = gradients(batched=True)
    assert block_shapes[0][0] == 1
    for found, expected in zip(together, gradients(batched=False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max() + 1e-3))


@torch.no_grad()
def test_autocast_gives_one_dtype_packed_or_not() -> None:
    encoder = build_encoder()
    features, lengths = build_batch()
    with torch.autocast("cpu", torch.bfloat16):
        packed = encoder(features, input_lengths=lengths).last_hidden_state
        alone = encoder(features[:1, :400]).last_hidden_state
    assert packed.dtype == alone.dtype
    torch.testing.assert_close(packed[0, :50].float(), alone[0].float(), rtol=0.1, atol=0.1)


@torch.no_grad()
def test_a_batch_of_no_clips() -> None:
    output = build_encoder()(torch.zeros(0, 80, NUM_MELS), input_lengths=torch.zeros(0, dtype=torch.int64))
    assert output.last_hidden_state.shape == (0, 10, 32)


def test_rows_of_clips() -> None:
    packed = PackedRows((3, 0, 2), gap_frames=2, num_padded_frames=4)
    assert packed.spans == ((0, 3), (5, 5), (7, 9))
    assert packed.num_rows == 11
    mask = packed.build_mask(ContextWindow(), torch.device("cpu"))
    assert mask.spans == ((0, 3), (7, 9))
    assert mask.padding_mask is not None
    assert mask.padding_mask.int().tolist() == [[1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0]]
    rows = torch.arange(11.0)[None, :, None]
    states, lengths = packed.unpack(rows)
    assert states[..., 0].tolist() == [[0, 1, 2, 0], [0, 0, 0, 0], [7, 8, 0, 0]]
    assert lengths.tolist() == [3, 0, 2]
