"""Fast blocks of live steps next to the modules, to the last bit."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from models import build_model
from nemo_streams import run_streams_whole

from transformers_fastconformer import StreamingSchedule, quantize_dynamic_int8
from transformers_fastconformer.kernels.layers import has_fused_product
from transformers_fastconformer.modeling import step_blocks
from transformers_fastconformer.modeling.step_blocks import find_step_blocks

CHUNKS: dict[str, Any] = {
    "causal_downsampling": True,
    "conv_context": [4, 0],
    "conv_norm_type": "layer_norm",
    "attention_context_style": "chunked_limited",
    "attention_context": [6, 2],
}
FORMS = ("float32", "bfloat16", "int8")


def build(form: str = "float32", **options: Any) -> Any:
    encoder = build_model("encoder", **{**CHUNKS, **options})
    if form == "int8":
        return quantize_dynamic_int8(encoder)
    return encoder.to(getattr(torch, form))


def make_clips(lengths: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(length, 8, generator=generator) for length in lengths]


def stream(encoder: Any, clips: list[torch.Tensor]) -> list[torch.Tensor]:
    return run_streams_whole(encoder, clips, StreamingSchedule.of(encoder.config, [6, 2]))


def is_fast(encoder: Any, starts: bool = False) -> bool:
    states = torch.zeros(1, 1, encoder.config.hidden_size, dtype=encoder.dtype)
    with torch.no_grad():
        return isinstance(find_step_blocks(encoder, states, starts)[0], step_blocks._Block)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{}, {"conv_norm_type": "batch_norm"}, {"attention_bias": True}])
def test_bits_are_those_of_the_modules(form: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    encoder = build(form, **options)
    clips = [clip.to(encoder.dtype) for clip in make_clips((58, 107, 8, 90))]
    found = stream(encoder, clips), stream(encoder, clips[:1])
    assert is_fast(encoder) == has_fused_product(encoder.dtype)
    monkeypatch.setattr("transformers_fastconformer.modeling.steady_step.find_step_blocks", _call_modules)
    expected = stream(encoder, clips), stream(encoder, clips[:1])
    for ours, reference in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        assert torch.equal(ours, reference)


def _call_modules(encoder: Any, states: torch.Tensor, starts: bool) -> Any:
    return step_blocks._call_modules(encoder)


def test_modules_are_called_where_they_are_something_else():
    heard = []
    encoder = build()
    assert is_fast(encoder)
    hook = encoder.layers[0].feed_forward1.register_forward_hook(lambda *_: heard.append(1))
    assert not is_fast(encoder)
    stream(encoder, make_clips((58,)))
    assert heard
    hook.remove()
    assert is_fast(encoder)
    encoder.layers[1].conv.pointwise_conv1 = torch.nn.Sequential(encoder.layers[1].conv.pointwise_conv1)
    assert not is_fast(encoder)
    for options in ({"conv_norm_type": "group_norm", "conv_norm_groups": 2}, {"hidden_act": "gelu"}):
        assert not is_fast(build(**options))
    plain = build()
    plain.set_attn_implementation("eager")
    assert not is_fast(plain)


@pytest.mark.parametrize("form", FORMS)
def test_changed_weights_count(form: str):
    encoder, clips = build(form), make_clips((107,))
    clips = [clip.to(encoder.dtype) for clip in clips]
    first = stream(encoder, clips)
    for change in (lambda weight: weight.mul_(2.0), lambda weight: weight.data.mul_(0.5)):
        with torch.no_grad():
            change(encoder.layers[0].self_attn.q_proj.weight)
        second = stream(encoder, clips)
        assert not torch.equal(first[0], second[0])
        first = second
    fresh = build(form)
    assert torch.equal(first[0], stream(fresh, clips)[0])  # doubled and halved


def test_nothing_is_kept_of_an_encoder_that_is_gone():
    encoder = build()
    assert is_fast(encoder)
    assert encoder in step_blocks._kept
    gone = weakref.ref(encoder)
    del encoder
    gc.collect()
    assert gone() is None
