"""The fast form of a prompted decoder: made where it computes the same, anew when parameters change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from multitask_models import PROMPT, build_multitask, random_features
from torch import nn

from transformers_fastconformer import (
    FastConformerForMultitask,
    FastConformerInt8Config,
    quantize_dynamic_int8,
    remove_int8,
)
from transformers_fastconformer.modeling.multitask_networks import derive_attention_decoder


def derive(model: FastConformerForMultitask) -> object:
    return derive_attention_decoder(model.decoder, model.token_head)


def add_hook(model: FastConformerForMultitask) -> None:
    model.decoder.layers[0].register_forward_hook(lambda *_: None)


def replace_layer(model: FastConformerForMultitask) -> None:
    model.decoder.layers[1].feed_forward.linear1 = type("Adapted", (nn.Linear,), {})(24, 48)


def change_dtype(model: FastConformerForMultitask) -> None:
    model.decoder.norm.half()


@pytest.mark.parametrize(
    "change",
    [
        FastConformerForMultitask.train,
        lambda model: model.set_attn_implementation("eager"),
        add_hook,
        replace_layer,
        change_dtype,
    ],
)
def test_modules_that_are_not_plain_are_called_as_they_are(
    change: Callable[[FastConformerForMultitask], None],
) -> None:
    model = build_multitask()
    assert derive(model) is not None
    change(model)
    assert derive(model) is None


def test_the_fast_form_follows_its_parameters() -> None:
    model = build_multitask()
    first = derive(model)
    assert derive(model) is first
    with torch.no_grad():
        model.token_head.bias[20] += 100
    assert derive(model) is not first
    tokens = model.generate(**random_features([56]), prompt_ids=PROMPT)
    assert (tokens == 20).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_tokens_are_those_of_the_modules(seed: int) -> None:
    model = build_multitask(seed)
    inputs = random_features([160, 97, 56])
    fast = model.generate(**inputs, prompt_ids=PROMPT, return_dict_in_generate=True)
    add_hook(model)
    plain = model.generate(**inputs, prompt_ids=PROMPT, return_dict_in_generate=True)
    assert torch.equal(fast.sequences, plain.sequences)
    torch.testing.assert_close(fast.log_probs, plain.log_probs, rtol=1e-4, atol=1e-4)
    assert fast.sequences.unique().numel() > 3


def test_bfloat16_is_no_further_from_float32_than_the_modules() -> None:
    model = build_multitask()
    inputs = random_features([160, 97])
    encoded = model.encode(**inputs)
    tokens = torch.tensor([PROMPT, PROMPT])
    exact = model(encoder_outputs=encoded, decoder_input_ids=tokens).logits[:, -1]
    model.to(torch.bfloat16)
    frames = encoded.last_hidden_state.to(torch.bfloat16)
    encoded.last_hidden_state = frames
    by_modules = model(encoder_outputs=encoded, decoder_input_ids=tokens).logits[:, -1].float()
    networks = derive_attention_decoder(model.decoder, model.token_head)
    assert networks is not None
    mask = (torch.arange(frames.shape[1]) < encoded.encoder_lengths[:, None])[:, None, None]
    found, _ = networks.step(tokens, networks.start(frames, mask))
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact).abs().mean() <= 2 * (by_modules - exact).abs().mean()


@torch.no_grad()
def test_8_bits_are_those_of_the_modules() -> None:
    model = build_multitask(spread=1.0)
    inputs = random_features([160, 97])
    tokens = torch.tensor([PROMPT, PROMPT])
    exact = model(**inputs, decoder_input_ids=tokens).logits[:, -1]
    quantize_dynamic_int8(model)
    encoded = model.encode(**inputs)
    rounded = model(encoder_outputs=encoded, decoder_input_ids=tokens).logits[:, -1]
    assert 0 < (rounded - exact).abs().max() < 0.2 * exact.abs().max()
    networks = derive_attention_decoder(model.decoder, model.token_head)
    assert networks is not None
    mask = (torch.arange(encoded.last_hidden_state.shape[1]) < encoded.encoder_lengths[:, None])[:, None, None]
    found, _ = networks.step(tokens, networks.start(encoded.last_hidden_state, mask))
    torch.testing.assert_close(found, rounded, rtol=0, atol=0.02 * float(rounded.abs().max()))
    remove_int8(model)
    assert derive_attention_decoder(model.decoder, model.token_head) is not networks
    again = model(**inputs, decoder_input_ids=tokens).logits[:, -1]
    torch.testing.assert_close(again, exact)


@torch.no_grad()
def test_stored_8_bits_are_those_of_the_modules_and_shared_with_them(tmp_path: Path) -> None:
    build_multitask(spread=1.0).save_pretrained(tmp_path)
    model = FastConformerForMultitask.from_pretrained(tmp_path, quantization_config=FastConformerInt8Config()).eval()
    inputs = random_features([160, 97, 56])
    networks = derive_attention_decoder(model.decoder, model.token_head)
    assert networks is not None
    assert networks.layers[1].outer.rounded is model.decoder.layers[1].feed_forward.linear2.pack()
    assert derive(model) is networks
    fast = model.generate(**inputs, prompt_ids=PROMPT, return_dict_in_generate=True)
    hook = model.decoder.layers[0].register_forward_hook(lambda *_: None)
    assert derive(model) is None
    plain = model.generate(**inputs, prompt_ids=PROMPT, return_dict_in_generate=True)
    assert torch.equal(fast.sequences, plain.sequences)
    torch.testing.assert_close(fast.log_probs, plain.log_probs, rtol=0, atol=0.02)
    hook.remove()
    model.decoder.layers[0].cross_attn.q_proj.weight_int8.neg_()
    assert derive(model) is not networks
    model.dequantize()
    assert derive(model) is not None
    model.decoder.layers[0].cross_attn.q_proj.__class__ = type("Other", (nn.Linear,), {})
    assert derive(model) is None
