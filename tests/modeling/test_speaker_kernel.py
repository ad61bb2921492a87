"""The networks of a multi-talker model, without a speaker to follow and with one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import HEAD_SHAPE, TRANSDUCER_SHAPE

from transformers_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerEncoderCache,
    FastConformerForCTC,
    FastConformerForRNNT,
    FastConformerModel,
    FastConformerRNNTConfig,
    StreamingSchedule,
    follow_speaker,
)
from transformers_fastconformer.modeling.speaker_kernel import FastConformerSpeakerKernel

STREAMING = {
    "causal_downsampling": True,
    "conv_context": [4, 0],
    "conv_norm_type": "layer_norm",
    "attention_context_style": "chunked_limited",
    "attention_context": [6, 1],
}


@pytest.mark.parametrize("has_background", [False, True])
@torch.no_grad()
def test_everybody_is_the_speaker_and_nobody_the_background(has_background: bool) -> None:
    config = FastConformerConfig(
        hidden_size=8, num_attention_heads=2, has_speaker_kernel=True, has_background_kernel=has_background
    )
    kernel = FastConformerSpeakerKernel(config).eval()
    states = torch.randn(2, 5, 8)
    expected = states + kernel.speaker(states)
    if kernel.background is not None:
        first, _, _, second = kernel.background
        expected = expected + second(torch.relu(first.bias))
    assert (kernel.background is not None) == has_background
    torch.testing.assert_close(kernel(states), expected)
    everybody = torch.tensor([1.0, 0.0]).expand(2, 5, 2)
    torch.testing.assert_close(kernel(states, everybody), expected)


def build(**options: Any) -> FastConformerForRNNT:
    torch.manual_seed(0)
    options = {"has_speaker_kernel": True, "later_speaker_kernels": [1], "has_background_kernel": True, **options}
    model = FastConformerForRNNT(FastConformerRNNTConfig(**TRANSDUCER_SHAPE, **options)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def draw(num_clips: int, num_frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(num_clips, num_frames, 2, generator=generator)


@torch.no_grad()
def test_a_batch_follows_the_speakers_of_its_clips() -> None:
    model = build()
    lengths = torch.tensor([160, 57, 90])  # packed
    features = torch.randn(3, 160, 8, generator=torch.Generator().manual_seed(1))
    activities = draw(3, 20)
    together = model.encode(features, input_lengths=lengths, speaker_activities=activities)
    for clip, length in enumerate(lengths.tolist()):
        count = int(together.encoder_lengths[clip])
        told = activities[clip : clip + 1, :count]
        alone = model.encode(features[clip : clip + 1, :length], speaker_activities=told).last_hidden_state[0]
        torch.testing.assert_close(together.last_hidden_state[clip, :count], alone)
        plain = model.encoder(features[clip : clip + 1, :length], output_hidden_states=True, speaker_activities=told)
        torch.testing.assert_close(plain.last_hidden_state[0], alone)
        everybody = model.encode(features[clip : clip + 1, :length]).last_hidden_state[0]
        assert float((everybody - alone).abs().max()) > 0.1
    of_speaker = model.encode(features, input_lengths=lengths, speaker_activities=activities[..., 0]).last_hidden_state
    activities[..., 1] = 0
    expected = model.encode(features, input_lengths=lengths, speaker_activities=activities).last_hidden_state
    assert torch.equal(of_speaker, expected)
    generated = model.generate(features, input_lengths=lengths, speaker_activities=activities)
    hypotheses, _ = model.decode_frames(expected, together.encoder_lengths)
    assert torch.equal(generated, hypotheses.tokens)
    bare = FastConformerModel(model.config)
    bare.encoder.load_state_dict(model.encoder.state_dict())
    found = bare.eval()(features, input_lengths=lengths, speaker_activities=activities).last_hidden_state
    assert torch.equal(found, expected)


def test_training_reaches_the_kernels() -> None:
    model = build().train()
    features = torch.randn(2, 80, 8, generator=torch.Generator().manual_seed(1))
    output: Any = model(features, labels=torch.tensor([[1, 2], [3, 4]]), speaker_activities=draw(2, 10))
    output.loss.backward()
    kernels = [model.encoder.speaker_kernel, model.encoder.later_speaker_kernels["1"]]
    assert all(float(parameter.grad.abs().sum()) > 0 for kernel in kernels for parameter in kernel.parameters())


@torch.no_grad()
def test_a_stream_follows_the_speaker_that_it_followed_offline() -> None:
    model = build(**STREAMING)
    schedule = StreamingSchedule.of(model.config, is_exact=True)
    features = torch.randn(2, 97, 8, generator=torch.Generator().manual_seed(1))
    rows = model.config.subsampling.count_rows(97)
    activities = draw(2, rows)
    expected = model.encode(features, speaker_activities=activities).last_hidden_state
    cache = FastConformerEncoderCache.for_model(model, schedule, num_streams=2)
    found, start = [], 0
    padded = torch.nn.functional.pad(activities, (0, 0, 0, schedule.chunk_frames))
    while start < 97:
        size = cache.next_mel_frames(0)
        place = cache.counts[0].encoder_frames
        output = model.encode(
            features[:, start : start + size],
            cache=cache,
            is_last=start + size >= 97,
            speaker_activities=padded[:, place : place + schedule.chunk_frames],
        )
        found.append(output.last_hidden_state)
        start += size
    torch.testing.assert_close(torch.cat(found, dim=1), expected)
    cache.reset([0, 1])
    size = cache.next_mel_frames(0)
    with pytest.raises(ValueError, match=r"the encoder frames of speaker_activities=3 is not supported; expected 2"):
        model.encode(features[:, :size], cache=cache, speaker_activities=draw(2, 3))


@pytest.mark.parametrize(
    ("activities", "message"),
    [
        (torch.zeros(2, 10, 3), r"the shape of speaker_activities=\(2, 10, 3\) is not supported"),
        (torch.zeros(1, 10), r"expected \(2, encoder frames\) or \(2, encoder frames, 2\)"),
        (torch.zeros(2, 8), "the encoder frames of speaker_activities=8 is not supported; expected 9 to 10"),
        (torch.zeros(2, 11), "the encoder frames of speaker_activities=11 is not supported"),
        (torch.full((2, 10), 1.5), "expected values between 0 and 1"),
        (torch.full((2, 10), float("nan")), "expected values between 0 and 1"),
    ],
)
def test_activities_that_do_not_fit(activities: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build().encode(torch.zeros(2, 80, 8), input_lengths=torch.tensor([70, 40]), speaker_activities=activities)


def test_models_that_follow_no_speaker() -> None:
    model = FastConformerForRNNT(FastConformerRNNTConfig(**TRANSDUCER_SHAPE)).eval()
    assert not model.follows_speakers
    assert build().follows_speakers
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="None, as this model follows no speaker"):
            call(torch.zeros(1, 80, 8), speaker_activities=torch.zeros(1, 10))
    ctc = FastConformerForCTC(FastConformerCTCConfig(**HEAD_SHAPE)).eval()
    with pytest.raises(ValueError, match="None, as this model follows no speaker"):
        ctc.generate(torch.zeros(1, 80, 8), speaker_activities=torch.zeros(1, 10))
    for blocks in ([3], [0], [2, 1], [1, 1]):
        with pytest.raises(ValueError, match="later_speaker_kernels"):
            build(later_speaker_kernels=blocks)


def test_others_are_all_but_the_speaker() -> None:
    probabilities = torch.tensor([[0.9, 0.2, 0.6], [0.1, 0.5, 0.0], [0.7, 0.8, 0.1]])
    found = follow_speaker(probabilities, 1)
    assert found.tolist() == [[pytest.approx(0.2), 1.0], [0.5, 0.0], [pytest.approx(0.8), 1.0]]
    assert follow_speaker(probabilities, 1, threshold=0.65)[:, 1].tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="speaker=3 is not supported; expected 0 to 2"):
        follow_speaker(probabilities, 3)
