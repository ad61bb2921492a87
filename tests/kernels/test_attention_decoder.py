"""The fast form of a decoder against its modules: room that grows, clips that leave, several tokens at first."""

from __future__ import annotations

import pytest
import torch
from multitask_models import build_multitask

from transformers_fastconformer.kernels.attention_decoder import FIRST_ROOM, AttentionDecoderState
from transformers_fastconformer.modeling.multitask_networks import derive_attention_decoder
from transformers_fastconformer.modeling.outputs import FastConformerEncoderOutput

NUM_TOKENS = FIRST_ROOM + 8


@torch.no_grad()
@pytest.mark.parametrize("is_pre_norm", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_steps_give_the_scores_of_the_modules(is_pre_norm: bool, activation: str) -> None:
    model = build_multitask(
        spread=1.0, decoder_pre_norm=is_pre_norm, decoder_activation=activation, decoder_max_positions=2 * NUM_TOKENS
    )
    networks = derive_attention_decoder(model.decoder, model.token_head)
    assert networks is not None
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(3, 9, 24, generator=generator)
    lengths = torch.tensor([9, 4, 6])
    tokens = torch.randint(0, 40, (3, NUM_TOKENS), generator=generator)
    encoded = FastConformerEncoderOutput(frames, lengths)
    expected = model(encoder_outputs=encoded, decoder_input_ids=tokens, use_cache=False).logits
    mask = (torch.arange(9) < lengths[:, None])[:, None, None]
    state = networks.start(frames, mask)
    scores, state = networks.step(tokens[:, :3], state)
    torch.testing.assert_close(scores, expected[:, 2], rtol=1e-4, atol=1e-4)
    clips = torch.tensor([0, 1, 2])
    for place in range(3, NUM_TOKENS):
        if place == 5:
            clips = torch.tensor([1, 2])
            state = state.select(clips)
            assert state.frames[0].shape[3] == 6  # those of the longest clip that is left
        if place == 7:
            clips, state = torch.tensor([2]), state.select(torch.tensor([1]))
            assert state.frames_mask is None
        scores, state = networks.step(tokens[clips, place : place + 1], state)
        torch.testing.assert_close(scores, expected[clips, place], rtol=1e-4, atol=1e-4)


def test_a_state_of_some_clips_is_a_copy() -> None:
    part = torch.arange(2 * 3 * 1 * 4 * 2.0).reshape(2, 3, 1, 4, 2)
    state = AttentionDecoderState((part,), (part,), None, 2)
    chosen = state.select(torch.tensor([2, 0]))
    assert torch.equal(chosen.tokens[0], part[:, [2, 0]])
    assert chosen.tokens[0].data_ptr() != part.data_ptr()
    assert chosen.length == 2
