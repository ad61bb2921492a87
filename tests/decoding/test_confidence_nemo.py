"""Confidences beside NeMo's own functions, and through its greedy decoding of the same networks."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models import BLANK, build_model
from tolerances import CONFIDENCE

from transformers_fastconformer.decoding.confidence import (
    AGGREGATIONS,
    ConfidenceOptions,
    aggregate_confidence,
    ctc_confidence,
    measure_confidence,
    word_confidences,
)
from transformers_fastconformer.decoding.ctc import ctc_greedy_decode
from transformers_fastconformer.decoding.options import DecodingOptions

pytestmark = pytest.mark.nemo

MEASURES = [
    ("max_prob", "tsallis", "exp"),
    *(("entropy", kind, norm) for kind in ("gibbs", "tsallis", "renyi") for norm in ("lin", "exp")),
]


@pytest.fixture(scope="module")
def confidence_utils() -> Any:
    return pytest.importorskip("nemo.collections.asr.parts.utils.asr_confidence_utils")


@pytest.mark.parametrize("alpha", [0.25, 0.33, 1.0, 1.5])
@pytest.mark.parametrize(("method", "kind", "norm"), MEASURES)
def test_measures(confidence_utils, method, kind, norm, alpha):
    name = method if method == "max_prob" else f"entropy_{kind}_{norm}"
    theirs = confidence_utils.get_confidence_measure_bank()[name]
    options = ConfidenceOptions(method=method, entropy_type=kind, entropy_norm=norm, alpha=alpha)
    generator = torch.Generator().manual_seed(0)
    for num_classes, scale in itertools.product((2, 29, 1025), (0.1, 1.0, 8.0, 60.0)):
        log_probs = (scale * torch.randn(40, num_classes, generator=generator)).log_softmax(dim=-1)
        expected = theirs(torch.nan_to_num(log_probs), v=num_classes, t=alpha)
        found = measure_confidence(log_probs, num_classes, options)
        torch.testing.assert_close(found, expected, rtol=0, atol=CONFIDENCE, equal_nan=True)


def test_aggregations(confidence_utils):
    bank = confidence_utils.get_confidence_aggregation_bank()
    assert set(bank) == set(AGGREGATIONS)
    for name, function in bank.items():
        for values in ([0.5], [0.25, 0.75, 0.9], [0.1] * 7):
            assert aggregate_confidence(values, name) == function(values)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(
    "tokens",
    [
        ["▁the", "▁qu", "ick", "▁", "fox"],
        ["▁a", "<unk>", "b", "▁c"],
        ["a", "▁", "▁b"],
        ["▁"],
        [],
        ["▁one", "two", ",", "▁three", "."],
    ],
)
def test_words_of_sentencepiece(confidence_utils, tokens, aggregation):
    def text_of(token: str) -> str:
        return " ⁇ " if token == "<unk>" else token.replace("▁", "")

    class Theirs(confidence_utils.ConfidenceMixin):
        cfg = SimpleNamespace(strategy="beam")

        def compute_confidence(self, hypotheses_list: Any) -> Any: ...

        def _aggregate_token_confidence(self, hypothesis: Any) -> Any: ...

        def decode_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [tokens[number] for number in ids]

        def decode_ids_to_str(self, ids: list[int]) -> str:
            return "".join(text_of(tokens[number]) for number in ids)

    theirs = Theirs()
    theirs._init_confidence({"aggregation": aggregation})
    values = [0.9 - 0.1 * position for position in range(len(tokens))]
    found = word_confidences(tokens, [text_of(token) for token in tokens], values, "word_mark", aggregation)
    words = ["word"] * len(found)
    expected = theirs._aggregate_token_confidence_subwords_sentencepiece(words, values, list(range(len(tokens))))
    assert found == expected


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_words_of_characters(confidence_utils, aggregation):
    class Theirs(confidence_utils.ConfidenceMixin):
        cfg = SimpleNamespace(strategy="beam")

        def compute_confidence(self, hypotheses_list: Any) -> Any: ...

        def _aggregate_token_confidence(self, hypothesis: Any) -> Any: ...

    theirs = Theirs()
    theirs._init_confidence({"aggregation": aggregation})
    text = "a few words"
    values = [0.05 * position + 0.1 for position in range(len(text))]
    expected = theirs._aggregate_token_confidence_chars(text.split(), values)
    assert word_confidences(list(text), list(text), values, "character", aggregation) == expected


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_ctc_tokens(confidence_utils, aggregation):
    """Through NeMo's own decoding of log-probabilities."""
    ctc_decoding = pytest.importorskip("nemo.collections.asr.parts.submodules.ctc_decoding")
    vocabulary = [" ", "a", "b", "c"]
    blank = len(vocabulary)
    method = {"name": "entropy", "entropy_type": "renyi", "alpha": 0.5, "entropy_norm": "lin"}
    theirs = ctc_decoding.CTCDecoding(
        {
            "strategy": "greedy_batch",
            "preserve_alignments": None,
            "compute_timestamps": True,
            "ctc_timestamp_type": "char",
            "word_seperator": " ",
            "greedy": {"preserve_alignments": False, "compute_timestamps": False},
            "confidence_cfg": {
                "preserve_token_confidence": True,
                "exclude_blank": True,
                "aggregation": aggregation,
                "method_cfg": method,
            },
        },
        vocabulary,
    )
    generator = torch.Generator().manual_seed(3)
    log_probs = (2.0 * torch.randn(6, 30, blank + 1, generator=generator)).repeat_interleave(2, dim=1)
    log_probs = (log_probs + 0.5 * torch.randn(log_probs.shape, generator=generator)).log_softmax(dim=-1)
    lengths = torch.tensor([60, 1, 59, 31, 2, 44])
    expected = theirs.ctc_decoder_predictions_tensor(log_probs, lengths, return_hypotheses=True)
    options = ConfidenceOptions("entropy", "renyi", 0.5, "lin", aggregation)
    found = ctc_greedy_decode(log_probs, lengths, blank, blank)
    confidences = ctc_confidence(log_probs, lengths, found.frame_indices, found.token_lengths, options)
    num_tokens = 0
    for clip, hypothesis in enumerate(expected):
        count = int(found.token_lengths[clip])
        assert confidences[clip, :count].tolist() == pytest.approx(hypothesis.token_confidence, abs=CONFIDENCE)
        assert (confidences[clip, count:] == 0).all()
        num_tokens += count
    assert num_tokens > 60


@pytest.mark.parametrize(
    ("family", "include_durations"), [("rnnt", False), ("tdt", False), ("tdt", True)], ids=["rnnt", "tdt", "durations"]
)
def test_transducer_tokens(confidence_utils, family, include_durations):
    """NeMo's `greedy_batch` over the same prediction and joint network, and its own aggregation."""
    from nemo.collections.asr.modules.rnnt import RNNTDecoder, RNNTJoint
    from nemo.collections.asr.parts.submodules.rnnt_decoding import RNNTDecoding

    omegaconf = pytest.importorskip("omegaconf")
    vocabulary = [chr(ord("a") + number) for number in range(BLANK)]
    model = build_model(family)
    size, joint_size = model.config.decoder_hidden_size, model.config.joint_hidden_size
    decoder = RNNTDecoder({"pred_hidden": size, "pred_rnn_layers": 1, "dropout": 0.0}, vocab_size=BLANK)
    joint = RNNTJoint(
        {"joint_hidden": joint_size, "activation": "relu", "encoder_hidden": 16, "pred_hidden": size, "dropout": 0.2},
        num_classes=BLANK,
        num_extra_outputs=5 if family == "tdt" else 0,
        vocabulary=vocabulary,
    )
    decoder.eval().prediction["embed"].load_state_dict(model.decoder.embedding.state_dict())
    decoder.prediction["dec_rnn"].lstm.load_state_dict(model.decoder.lstm.state_dict())
    joint.eval().enc.load_state_dict(model.joint.encoder_proj.state_dict())
    joint.pred.load_state_dict(model.joint.decoder_proj.state_dict())
    joint.joint_net[-1].load_state_dict(model.joint.head.state_dict())
    durations = {"model_type": "tdt", "durations": [0, 1, 2, 3, 4]} if family == "tdt" else {}
    theirs = RNNTDecoding(
        omegaconf.OmegaConf.create(
            {
                "strategy": "greedy_batch",
                **durations,
                "compute_timestamps": False,
                "greedy": {"max_symbols": 10},
                "confidence_cfg": {
                    "preserve_token_confidence": True,
                    "exclude_blank": True,
                    "aggregation": "prod",
                    "tdt_include_duration": include_durations,
                    "method_cfg": {"name": "entropy", "entropy_type": "gibbs", "alpha": 0.5, "entropy_norm": "exp"},
                },
            }
        ),
        decoder,
        joint,
        vocabulary,
    )
    frames = 2.0 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(4))
    lengths = torch.tensor([16, 1, 9])
    with torch.no_grad():
        expected = theirs.rnnt_decoder_predictions_tensor(frames.transpose(1, 2), lengths, return_hypotheses=True)
    options = ConfidenceOptions("entropy", "gibbs", 0.5, "exp", "prod", include_durations)
    found, _ = model.decode_frames(frames, lengths, DecodingOptions(max_symbols_per_step=10, confidence=options))
    assert found.scores is not None
    num_tokens = 0
    for clip, hypothesis in enumerate(expected):
        count = int(found.token_lengths[clip])
        assert found.tokens[clip, :count].tolist() == [int(token) for token in hypothesis.y_sequence]
        theirs_of_clip = [float(value) for value in hypothesis.token_confidence]
        assert found.scores[clip, :count].tolist() == pytest.approx(theirs_of_clip, abs=CONFIDENCE)
        num_tokens += count
    assert num_tokens > 10
