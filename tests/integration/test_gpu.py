"""On a CUDA device: the same numbers as on the CPU, with TF32 off, and nothing that waits for the host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from models import HEADS, build_model
from tolerances import FLOAT32_SHARE

from transformers_fastconformer import FastConformerFeatureExtractor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def without_tf32() -> Iterator[None]:
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


def make_batch(num_mel_bins: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 300, num_mel_bins, generator=generator), torch.tensor([300, 211, 9, 0])


def test_features_on_the_device_are_those_of_the_cpu() -> None:
    extractor = FastConformerFeatureExtractor()
    generator = torch.Generator().manual_seed(2)
    speech = [torch.randn(count, generator=generator) * 0.1 for count in (16000, 40001, 800)]
    on_cpu = extractor(speech, sampling_rate=16000, return_tensors="pt")
    on_gpu = extractor(speech, sampling_rate=16000, return_tensors="pt", device="cuda")
    assert on_gpu.input_features.device.type == "cuda"
    assert torch.equal(on_gpu.attention_mask.cpu(), on_cpu.attention_mask)
    difference = (on_gpu.input_features.cpu() - on_cpu.input_features).abs().max()
    # Another Fourier transform rounds otherwise; logarithms near the guard widen that.
    assert difference < 1e-3


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
def test_results_on_the_device_are_those_of_the_cpu(kind: str, attn_implementation: str) -> None:
    model = build_model(kind)
    model.set_attn_implementation(attn_implementation)
    features, lengths = make_batch(model.config.num_mel_bins)
    with torch.no_grad():
        expected = model.encoder(features, input_lengths=lengths)
        expected_output = model.generate(features, input_lengths=lengths, return_dict_in_generate=True)
        model.cuda()
        found = model.encoder(features.cuda(), input_lengths=lengths.cuda())
        output = model.generate(features.cuda(), input_lengths=lengths.cuda(), return_dict_in_generate=True)
    assert torch.equal(found.encoder_lengths.cpu(), expected.encoder_lengths)
    for clip, count in enumerate(expected.encoder_lengths.tolist()):
        reference = expected.last_hidden_state[clip, :count]
        difference = (found.last_hidden_state[clip, :count].cpu() - reference).abs()
        assert difference.numel() == 0 or difference.max() <= FLOAT32_SHARE * expected.last_hidden_state.abs().max()
    assert torch.equal(output.sequences.cpu(), expected_output.sequences)
    assert torch.equal(output.frame_indices.cpu(), expected_output.frame_indices)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_stay_finite_and_near(dtype: torch.dtype) -> None:
    model = build_model("tdt").cuda()
    features, lengths = make_batch(model.config.num_mel_bins)
    with torch.no_grad():
        reference = model.encoder(features.cuda(), input_lengths=lengths.cuda()).last_hidden_state
        found = model.to(dtype).encoder(features.cuda(), input_lengths=lengths.cuda()).last_hidden_state
    valid = torch.arange(found.shape[1], device="cuda") < 26
    assert torch.isfinite(found).all()
    assert (found[:1, valid].float() - reference[:1, valid]).abs().mean() < 0.05 * reference.abs().mean()


def test_the_encoder_does_not_wait_for_the_host() -> None:
    model = build_model("encoder").cuda()
    features, lengths = (tensor.cuda() for tensor in make_batch(model.config.num_mel_bins))
    with torch.no_grad():
        model(features, input_lengths=lengths)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(features, input_lengths=lengths)
        finally:
            torch.cuda.set_sync_debug_mode("default")
