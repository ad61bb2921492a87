"""What every head offers: options of decoding whole or one by one, checked first, and encoding and decoding apart."""

from __future__ import annotations

import pytest
import torch
from models import HEADS, build_model, few_of, make_features

from transformers_fastconformer import ConfidenceOptions, DecodingOptions


@pytest.mark.parametrize("kind", few_of(HEADS))
def test_generate_is_encoding_and_decoding_of_frames(kind: str) -> None:
    model = build_model(kind)
    features, lengths = make_features([200, 57]), torch.tensor([200, 57])
    expected = model.generate(features, input_lengths=lengths, return_dict_in_generate=True)
    with torch.no_grad():
        encoded = model.encode(features, input_lengths=lengths)
    found, _ = model.decode_frames(encoded.last_hidden_state, encoded.encoder_lengths)
    assert torch.equal(found.tokens, expected.sequences)
    assert torch.equal(found.frame_indices, expected.frame_indices)
    assert torch.equal(found.log_probs, expected.log_probs)
    assert expected.decoder_type == model.decoder_type


@pytest.mark.parametrize("kind", few_of(HEADS))
def test_frames_in_two_calls_are_as_in_one(kind: str) -> None:
    """The state that one call returns is where the next one goes on, for whatever head."""
    model = build_model(kind)
    frames = 2.0 * torch.randn(2, 60, model.config.output_size, generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([60, 41])
    whole, _ = model.decode_frames(frames, lengths)
    first, state = model.decode_frames(frames[:, :25], torch.tensor([25, 25]))
    second, _ = model.decode_frames(frames[:, 25:], torch.tensor([35, 16]), state=state)
    for clip, count in enumerate(whole.token_lengths.tolist()):
        parts = [found.tokens[clip, : int(found.token_lengths[clip])] for found in (first, second)]
        assert torch.equal(torch.cat(parts), whole.tokens[clip, :count])


@pytest.mark.parametrize("kind", few_of(HEADS))
def test_options_whole_and_one_by_one_are_the_same(kind: str) -> None:
    model = build_model(kind)
    features = make_features([100])
    confidence = ConfidenceOptions()
    whole = model.generate(features, decoding=DecodingOptions(confidence=confidence), return_dict_in_generate=True)
    named = model.generate(features, confidence=confidence, return_dict_in_generate=True)
    assert torch.equal(whole.token_confidences, named.token_confidences)
    assert whole.confidence_aggregation == confidence.aggregation


@pytest.mark.parametrize("kind", HEADS)
def test_what_the_head_does_not_read_is_refused(kind: str) -> None:
    model = build_model(kind)
    with pytest.raises(ValueError, match="language='de' is not supported: this model has no language prompts"):
        model.generate(make_features([20]), language="de")
    with pytest.raises(ValueError, match=r"confidence needs return_dict_in_generate=True"):
        model.generate(make_features([20]), confidence=ConfidenceOptions())
    with pytest.raises(ValueError, match="decoding=3 is not supported; expected DecodingOptions or None"):
        model.generate(make_features([20]), decoding=3)
    if model.decoder_type == "ctc":
        with pytest.raises(ValueError, match="max_symbols_per_step=2 is not supported by a model with a CTC head"):
            model.generate(make_features([20]), max_symbols_per_step=2)


def test_a_contradiction_is_refused() -> None:
    model = build_model("tdt")
    with pytest.raises(ValueError, match="max_symbols_per_step=2 contradicts decoding, which has 3"):
        model.generate(make_features([20]), decoding=DecodingOptions(max_symbols_per_step=3), max_symbols_per_step=2)
