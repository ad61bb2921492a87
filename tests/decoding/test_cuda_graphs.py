"""The masked loop equals the readable one on the CPU; with graphs it does on a GPU too."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from models import BLANK as BLANK_OF_MODELS
from models import build_model
from scripted_transducer import BLANK, DURATIONS, STRATEGIES, ScriptedTransducer
from tolerances import DECODING
from transducer_cases import assert_equal, assert_states_equal, random_cases, readable

from transformers_fastconformer.configuration_fastconformer import DECODING_STRATEGIES
from transformers_fastconformer.decoding.confidence import ConfidenceOptions, TransducerScore
from transformers_fastconformer.decoding.cuda_graphs import round_up_sizes, transducer_masked_decode
from transformers_fastconformer.decoding.options import DecodingOptions
from transformers_fastconformer.decoding.transducer_label_looping import transducer_label_looping_decode
from transformers_fastconformer.kernels.graph_cache import GraphCache
from transformers_fastconformer.modeling.decoding_networks import derive_decoding_networks
from transformers_fastconformer.modeling.transducer import PLAIN_NETWORKS


@pytest.mark.parametrize("looks_per_round", [1, 3])
@pytest.mark.parametrize(("name", "strategy"), STRATEGIES)
def test_equals_the_readable_loop(name, looks_per_round, strategy):
    masked = partial(transducer_masked_decode, looks_per_round=looks_per_round)
    num_tokens = 0
    for networks, rows, lengths, max_symbols in random_cases(DURATIONS[name], 20):
        options = {"max_symbols_per_step": max_symbols, "strategy": strategy}
        expected, expected_state = networks.decode(rows, lengths, **options)
        found, state = networks.decode(rows, lengths, masked, **options)
        assert_equal(found, expected)
        assert_states_equal(state, expected_state)
        num_tokens += int(found.token_lengths.sum())
    assert num_tokens > 60


@pytest.mark.parametrize("name", ["rnnt", "tdt_far"])
def test_rounded_sizes_change_nothing(name):
    """With a cache the buffers are larger than the batch; what an earlier, larger batch left in them is not seen."""
    networks = ScriptedTransducer(1, DURATIONS[name])
    rows = torch.randint(0, 64, (3, 30), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([30, 4, 17])
    graphs = GraphCache()
    masked = partial(transducer_masked_decode, graphs=graphs)
    for clips in (slice(0, 3), slice(1, 2), slice(0, 2)):
        expected, expected_state = networks.decode(rows[clips], lengths[clips])
        found, state = networks.decode(rows[clips], lengths[clips], masked)
        assert_equal(found, expected)
        assert_states_equal(state, expected_state)
    assert graphs.num_captures == 0  # no device to capture on


@pytest.mark.parametrize("name", DURATIONS)
def test_split_at_every_point(name):
    networks = ScriptedTransducer(2, DURATIONS[name], blank_bonus=0.5)
    rows = torch.randint(0, 64, (2, 8), generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([8, 5])
    whole, final_state = networks.decode(rows, lengths)
    for cut in range(9):
        first_lengths = lengths.clamp(max=cut)
        first, state = networks.decode(rows[:, :cut], first_lengths, transducer_masked_decode)
        second, state = networks.decode(rows[:, cut:], lengths - first_lengths, transducer_masked_decode, state=state)
        assert_states_equal(state, final_state)
        assert torch.equal(first.token_lengths + second.token_lengths, whole.token_lengths)
        for clip, count in enumerate(first.token_lengths.tolist()):
            joined = [*first.tokens[clip, :count].tolist(), *second.tokens[clip].tolist()]
            expected = whole.tokens[clip, : int(whole.token_lengths[clip])].tolist()
            assert joined[: len(expected)] == expected


def test_empty_batch_and_empty_clips():
    networks = ScriptedTransducer(0, [0, 1, 2])
    for batch_size, num_frames in ((0, 4), (1, 0), (2, 0)):
        rows, lengths = torch.zeros(batch_size, num_frames, dtype=torch.int64), torch.zeros(batch_size).long()
        found, state = networks.decode(rows, lengths, transducer_masked_decode)
        expected, expected_state = networks.decode(rows, lengths)
        assert_equal(found, expected)
        assert_states_equal(state, expected_state)


@pytest.mark.parametrize("include_durations", [False, True])
def test_confidences_are_those_of_label_looping(include_durations):
    """Scores are worked out in the rounds, of the logits that a token was read from."""
    model = build_model("tdt")
    score = TransducerScore(BLANK_OF_MODELS, ConfidenceOptions(include_durations=include_durations))
    frames = 2.0 * torch.randn(4, 60, 16, generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([60, 0, 17, 44])
    arguments = {
        "encoder_lengths": lengths,
        "predict": model._predict,
        "joint": model.joint,
        "blank_id": BLANK_OF_MODELS,
        "padding_id": BLANK_OF_MODELS,
        "durations": model.config.durations,
        "score": score,
    }
    with torch.no_grad():
        projected = model.joint.encoder_proj(frames)
        expected, _ = transducer_label_looping_decode(projected, **arguments)
        found, _ = transducer_masked_decode(projected, **arguments)
        nothing, _ = transducer_masked_decode(projected, **{**arguments, "encoder_lengths": torch.zeros(4).long()})
    assert_equal(found, expected)
    assert expected.scores is not None
    assert expected.token_lengths.sum() > 20
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
    assert nothing.scores.shape == (4, 0)


def test_equal_scores_share_a_captured_loop():
    """A loop is found by its score: equal options are one key, others another."""
    options = ConfidenceOptions(alpha=0.5)
    assert hash(TransducerScore(3, options)) == hash(TransducerScore(3, ConfidenceOptions(alpha=0.5)))
    assert len({TransducerScore(3, options), TransducerScore(3, ConfidenceOptions(alpha=0.5))}) == 1
    assert TransducerScore(3, options) != TransducerScore(3, ConfidenceOptions())


def test_rounded_sizes():
    assert round_up_sizes(1, 10) == (1, 128)
    assert round_up_sizes(5, 129) == (8, 256)
    assert round_up_sizes(128, 1024) == (128, 1024)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["rnnt", "rnnt_two_layers", "tdt", "tdt_far", "rnnt_stateless"])
def test_graphs_equal_the_readable_loop(kind):
    """Many sizes through one model: few captures, and the same tokens, frames and durations."""
    model = build_model(kind).to("cuda")
    generator = torch.Generator().manual_seed(0)
    for batch_size, num_frames in ((1, 20), (3, 30), (5, 200), (2, 90), (4, 128), (6, 250), (1, 1)):
        frames = (2.0 * torch.randn(batch_size, num_frames, 16, generator=generator)).to("cuda")
        lengths = torch.randint(0, num_frames + 1, (batch_size,), generator=generator).to("cuda")
        expected, expected_state = readable(model, frames, lengths)
        found, state = model.decode_frames(frames, lengths)
        assert_equal(found, expected)
        assert_states_equal(state, expected_state, tolerance=DECODING)


@pytest.mark.gpu
def test_a_strategy_is_captured_by_itself():
    """One model, both rules in turn, with a limit that frames reach: a loop of the other rule is not replayed."""
    model = build_model("tdt").to("cuda")
    frames = (2.0 * torch.randn(3, 90, 16, generator=torch.Generator().manual_seed(5))).to("cuda")
    lengths = torch.tensor([90, 31, 64]).to("cuda")
    found = {}
    for strategy in (*DECODING_STRATEGIES, *DECODING_STRATEGIES):
        expected, _ = readable(model, frames, lengths, strategy=strategy, max_symbols_per_step=1)
        decoding = DecodingOptions(decoding_strategy=strategy, max_symbols_per_step=1)
        found[strategy], _ = model.decode_frames(frames, lengths, decoding)
        assert_equal(found[strategy], expected)
    assert found["greedy"].tokens.shape != found["greedy_batch"].tokens.shape or not torch.equal(
        found["greedy"].frame_indices, found["greedy_batch"].frame_indices
    )


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
def test_confidences_do_not_switch_graphs_off(kind):
    """With confidences too a loop is captured, and they are those of the CPU."""
    model = build_model(kind)
    decoding = DecodingOptions(confidence=ConfidenceOptions())
    frames = 2.0 * torch.randn(3, 90, 16, generator=torch.Generator().manual_seed(4))
    lengths = torch.tensor([90, 31, 64])
    expected, _ = model.decode_frames(frames, lengths, decoding)
    model.cuda()
    found, _ = model.decode_frames(frames.cuda(), lengths.cuda(), decoding)
    networks = derive_decoding_networks(model.decoder, model.joint, PLAIN_NETWORKS, BLANK_OF_MODELS)
    assert networks is not None
    assert networks.graphs is not None
    assert networks.graphs.num_captures == 1
    assert torch.equal(found.tokens.cpu(), expected.tokens)
    torch.testing.assert_close(found.scores.cpu(), expected.scores, rtol=0, atol=1e-4)


@pytest.mark.gpu
def test_sizes_that_come_back_are_captured_once():
    networks = ScriptedTransducer(0, [0, 1, 2])
    networks.table = networks.table.cuda()
    graphs = GraphCache()

    def predict(tokens, state):
        number = tokens if state is None else (5 * state[0][0, :, 0] + 3 * tokens + 1) % 13
        number = number % 13
        return number[:, None].float(), (number[None, :, None],)

    def joint(frames, predictions):
        return networks.table[frames[:, 0].long(), predictions[:, 0].long()]

    rows = torch.randint(0, 64, (3, 100, 1)).float().cuda()
    lengths = torch.tensor([100, 7, 50]).cuda()
    for _ in range(3):
        found, _ = transducer_masked_decode(rows, lengths, predict, joint, BLANK, BLANK, [0, 1, 2], graphs=graphs)
    plain, _ = transducer_masked_decode(rows, lengths, predict, joint, BLANK, BLANK, [0, 1, 2])
    assert graphs.num_captures == 1
    assert_equal(found, plain)
