"""Sortformer: padding and neighbours, steps next to whole clips, checkpoints, 8 bits, gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diarizers import build_diarizer, make_features
from transformers import AutoModel, AutoModelForAudioFrameClassification

from transformers_fastconformer import FastConformerForDiarization, SpeakerStreamOptions, quantize_dynamic_int8


@pytest.fixture(scope="module")
def model() -> FastConformerForDiarization:
    return build_diarizer()


def test_a_clip_depends_on_no_neighbour(model: FastConformerForDiarization) -> None:
    clips = [make_features(count, seed) for seed, count in enumerate((300, 171, 33))]
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=7.0)
    together = model(padded, input_lengths=torch.tensor([len(clip) for clip in clips]))
    for row, clip in enumerate(clips):
        alone = model(clip[None])
        count = int(alone.encoder_lengths[0])
        assert int(together.encoder_lengths[row]) == count
        torch.testing.assert_close(together.probabilities[row, :count], alone.probabilities[0], rtol=1e-4, atol=1e-5)
        assert not together.probabilities[row, count:].any()
    assert torch.equal(alone.probabilities, alone.logits.sigmoid())


def test_one_chunk_of_all_is_the_whole_clip(model: FastConformerForDiarization) -> None:
    features = make_features(301)
    options = SpeakerStreamOptions(chunk_frames=100, cache_frames=15)
    found, _ = model.step([features], [model.start_stream()], [(0, 0)], options)
    torch.testing.assert_close(found[0], model(features[None]).probabilities[0], rtol=1e-4, atol=1e-5)


def test_steps_of_several_recordings_are_those_of_each(model: FastConformerForDiarization) -> None:
    chunks, contexts = [make_features(72, 4), make_features(51, 5)], [(8, 16), (0, 3)]
    before = model.step([make_features(64, 6)], [model.start_stream()], [(0, 16)])[1][0]
    states = [before, model.start_stream()]
    together, after = model.step(chunks, states, contexts)
    for row in range(2):
        alone, state = model.step(chunks[row : row + 1], states[row : row + 1], contexts[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after[row].queue, state[0].queue, rtol=1e-4, atol=1e-5)
    assert model.step([], [], []) == ([], [])


def test_what_is_refused(model: FastConformerForDiarization) -> None:
    with pytest.raises(ValueError, match="the number of states=0"):
        model.step([make_features(9)], [], [(0, 0)])
    with pytest.raises(ValueError, match="contexts"):
        model.step([make_features(9)], [model.start_stream()], [(8, 8)])


def test_checkpoints_and_auto_classes(model: FastConformerForDiarization, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    features = make_features(90)[None]
    expected = model(features).probabilities
    for auto_class in (AutoModelForAudioFrameClassification, FastConformerForDiarization):
        loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is FastConformerForDiarization
        assert not info["missing_keys"] | info["unexpected_keys"]
        assert torch.equal(loaded(features).probabilities, expected)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(encoder).__name__ == "FastConformerModel"
    assert not info["missing_keys"] | info["unexpected_keys"]


def test_8_bits_and_gradients() -> None:
    model, features = build_diarizer(), make_features(200)[None]
    expected = model(features).probabilities
    assert float((quantize_dynamic_int8(model)(features).probabilities - expected).abs().mean()) < 0.05
    trained = build_diarizer().train()
    trained(features).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in trained.parameters())
