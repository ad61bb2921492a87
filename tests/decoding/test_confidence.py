"""Confidence measures at their ends, of words and clips, and through `generate()`."""

from __future__ import annotations

import math

import pytest
import torch
from models import BLANK, build_model, make_features

from transformers_fastconformer.decoding.confidence import (
    AGGREGATIONS,
    ENTROPY_NORMS,
    ENTROPY_TYPES,
    METHODS,
    ConfidenceOptions,
    aggregate_confidence,
    ctc_confidence,
    measure_confidence,
    transducer_confidence,
    word_confidences,
    word_positions,
)
from transformers_fastconformer.decoding.ctc import ctc_greedy_decode

MEASURES = [
    (method, kind, norm, alpha)
    for method in METHODS
    for kind in ENTROPY_TYPES
    for norm in ENTROPY_NORMS
    for alpha in (0.33, 1.0, 1.5)
]


@pytest.mark.parametrize(("method", "kind", "norm", "alpha"), MEASURES)
def test_between_certain_and_uniform(method, kind, norm, alpha):
    options = ConfidenceOptions(method, kind, alpha, norm)
    certain = torch.full((7,), -math.inf)
    certain[3] = 0.0
    uniform = torch.full((7,), -math.log(7))
    half = torch.tensor([0.7] + [0.05] * 6).log()
    found = measure_confidence(torch.stack([certain, half, uniform]), 7, options)
    assert found[0] == pytest.approx(1.0, abs=1e-5)
    assert 1e-3 < found[1] < 0.99
    assert found[2] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [{"method": "mean"}, {"entropy_type": "shannon"}, {"entropy_norm": "log"}, {"aggregation": "sum"}, {"alpha": 0.0}],
)
def test_unknown_options_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=rf"{name}={value!r} is not supported; expected"):
        ConfidenceOptions(**wrong)


def test_aggregations():
    values = [0.5, 0.25, 0.75]
    found = {name: aggregate_confidence(values, name) for name in AGGREGATIONS}
    assert found == {"mean": 0.5, "min": 0.25, "max": 0.75, "prod": 0.09375}
    assert aggregate_confidence([], "mean") == 1.0
    with pytest.raises(ValueError, match="aggregation='sum'"):
        aggregate_confidence(values, "sum")


@pytest.mark.parametrize(
    ("tokens", "texts", "rule", "expected"),
    [
        (["▁the", "▁qu", "ick"], ["the", "qu", "ick"], "word_mark", [(0, 1), (1, 3)]),
        (["▁a", "▁", "▁b"], ["a", "", "b"], "word_mark", [(0, 1), (2, 3)]),
        (["▁a", "<unk>", "b"], ["a", " ⁇ ", "b"], "word_mark", [(0, 1), (1, 2), (2, 3)]),
        (["play", "##ing", "it"], ["play", "##ing", "it"], "continuation_mark", [(0, 2), (2, 3)]),
        (["a", " ", "b", "c", " "], ["a", " ", "b", "c", " "], "character", [(0, 1), (2, 4)]),
        ([], [], "word_mark", []),
    ],
)
def test_words(tokens, texts, rule, expected):
    assert word_positions(tokens, texts, rule) == expected
    confidences = [0.9 / (1 + position) for position in range(len(tokens))]
    assert word_confidences(tokens, texts, confidences, rule, "min") == [confidences[end - 1] for _, end in expected]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_ctc_takes_the_frames_of_a_token(aggregation):
    """Against a loop over clips and frames."""
    options = ConfidenceOptions("max_prob", alpha=1.0, aggregation=aggregation)
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(5, 12, 4, generator=generator).repeat_interleave(2, dim=1)
    log_probs = (log_probs + 0.1 * torch.randn(log_probs.shape, generator=generator)).log_softmax(dim=-1)
    lengths = torch.tensor([24, 0, 1, 13, 20])
    found = ctc_greedy_decode(log_probs, lengths, 3, 3)
    confidences = ctc_confidence(log_probs, lengths, found.frame_indices, found.token_lengths, options)
    of_frames = measure_confidence(log_probs, 4, options)
    for clip, length in enumerate(lengths.tolist()):
        best = log_probs[clip].argmax(dim=-1).tolist()
        for rank in range(int(found.token_lengths[clip])):
            frame = int(found.frame_indices[clip, rank])
            values = []
            while frame < length and best[frame] == int(found.tokens[clip, rank]):
                values.append(float(of_frames[clip, frame]))
                frame += 1
            assert float(confidences[clip, rank]) == pytest.approx(aggregate_confidence(values, aggregation), abs=1e-6)
    assert (confidences[1] == 0).all()
    assert int(found.token_lengths.sum()) > 20


@pytest.mark.parametrize("kind", ["rnnt", "tdt", "ctc", "tdt_hybrid_ctc"])
def test_generate_returns_confidences(kind):
    model = build_model(kind)
    features, lengths = make_features([96, 40]), torch.tensor([96, 40])
    options = ConfidenceOptions("max_prob", alpha=1.0, aggregation="mean")
    plain = model.generate(features, input_lengths=lengths, return_dict_in_generate=True)
    found = model.generate(features, input_lengths=lengths, return_dict_in_generate=True, confidence=options)
    assert plain.token_confidences is None
    assert plain.confidence_aggregation is None
    assert found.confidence_aggregation == "mean"
    assert torch.equal(found.sequences, plain.sequences)
    assert found.token_confidences.shape == found.sequences.shape
    is_token = torch.arange(found.sequences.shape[1]) < found.sequence_lengths[:, None]
    assert is_token.sum() > 3
    assert (found.token_confidences[~is_token] == 0).all()
    if not kind.endswith("ctc"):  # one look a token: its probability is known
        expected = (found.log_probs.exp() * (BLANK + 1) - 1) / BLANK
        torch.testing.assert_close(found.token_confidences[is_token], expected[is_token], rtol=0, atol=1e-5)


def test_what_generate_refuses():
    model = build_model("rnnt")
    features = make_features([40])
    with pytest.raises(ValueError, match="return_dict_in_generate=True"):
        model.generate(features, confidence=ConfidenceOptions())
    with pytest.raises(ValueError, match="expected ConfidenceOptions"):
        model.generate(features, confidence=True, return_dict_in_generate=True)
    with pytest.raises(ValueError, match="include_durations=True"):
        model.generate(features, confidence=ConfidenceOptions(include_durations=True), return_dict_in_generate=True)
    with pytest.raises(ValueError, match="include_durations=True"):
        build_model("ctc").generate(
            features, confidence=ConfidenceOptions(include_durations=True), return_dict_in_generate=True
        )


def test_durations_join_the_token():
    logits = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    alone = transducer_confidence(logits, 4, ConfidenceOptions())
    joined = transducer_confidence(logits, 4, ConfidenceOptions(aggregation="prod", include_durations=True))
    in_duration = measure_confidence(logits[:, 5:].log_softmax(dim=-1), 5, ConfidenceOptions())
    torch.testing.assert_close(joined, alone * in_duration)
    assert (joined < alone).all()
