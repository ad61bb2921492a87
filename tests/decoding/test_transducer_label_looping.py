"""Label looping equals the readable loop: scripted networks, random ones, and the fast forms of a model's networks."""

from __future__ import annotations

import copy
import random
from functools import partial
from typing import Any

import pytest
import torch
from models import BLANK as MODEL_BLANK
from models import TRANSDUCERS, build_model
from phrase_cases import random_tree
from scripted_transducer import BLANK, DURATIONS, STRATEGIES, ScriptedTransducer, emissions_of
from tolerances import DECODING
from torch import nn
from transducer_cases import assert_equal, assert_states_equal, random_cases, readable

from transformers_fastconformer.decoding.cuda_graphs import transducer_masked_decode
from transformers_fastconformer.decoding.hypotheses import Hypotheses
from transformers_fastconformer.decoding.phrase_boosting import PhraseBoosting, build_phrase_automaton
from transformers_fastconformer.decoding.state import TransducerState
from transformers_fastconformer.decoding.token_scorer import TokenScorer
from transformers_fastconformer.decoding.transducer_label_looping import transducer_label_looping_decode
from transformers_fastconformer.kernels.transducer_networks import Joint, LSTMPredictor, Projection
from transformers_fastconformer.modeling.decoding_networks import derive_decoding_networks
from transformers_fastconformer.modeling.transducer import PLAIN_NETWORKS

FRAMES_PER_LOOK = (1, 5)


@pytest.mark.parametrize("frames_per_look", FRAMES_PER_LOOK)
@pytest.mark.parametrize(("name", "strategy"), STRATEGIES)
def test_equals_the_readable_loop(name, frames_per_look, strategy):
    """Random batches with an empty clip, with one much longer than the others, and with the limit reached."""
    label_looping = partial(transducer_label_looping_decode, frames_per_look=frames_per_look)
    num_tokens = num_stuck = 0
    for networks, rows, lengths, max_symbols in random_cases(DURATIONS[name], 36):
        options = {"max_symbols_per_step": max_symbols, "strategy": strategy}
        expected, expected_state = networks.decode(rows, lengths, **options)
        found, state = networks.decode(rows, lengths, label_looping, **options)
        assert_equal(found, expected)
        assert_states_equal(state, expected_state)
        num_tokens += int(found.token_lengths.sum())
        num_stuck += any(
            (clip[:count].bincount() >= max_symbols).any()
            for clip, count in zip(found.frame_indices, found.token_lengths.tolist(), strict=True)
        )
    assert num_tokens > 120
    assert num_stuck > 5 or name == "tdt_without_0"


@pytest.mark.parametrize("duration", [0, 4])
@pytest.mark.parametrize("blank_bonus", [-100.0, 0.0, 100.0])
def test_one_duration_always(duration, blank_bonus):
    """All zero and all the longest, with tokens alone, both, and blanks alone."""
    durations = [0, 2, 4, 8] if duration else [0, 1]
    for frames_per_look in FRAMES_PER_LOOK:
        networks = ScriptedTransducer(2, durations, blank_bonus)
        networks.table[..., BLANK + 1 + (durations.index(duration) if duration else 0)] = 100.0
        rows, lengths = torch.arange(60).reshape(3, 20), torch.tensor([20, 1, 9])
        for clips in (slice(0, 3), slice(0, 1)):
            expected, _ = networks.decode(rows[clips], lengths[clips], max_symbols_per_step=4)
            found, _ = networks.decode(
                rows[clips],
                lengths[clips],
                transducer_label_looping_decode,
                max_symbols_per_step=4,
                frames_per_look=frames_per_look,
            )
            assert_equal(found, expected)


@pytest.mark.parametrize("frames_per_look", [1, 8])
@pytest.mark.parametrize("name", DURATIONS)
def test_split_at_every_point(name, frames_per_look):
    label_looping = partial(transducer_label_looping_decode, frames_per_look=frames_per_look)
    picker = random.Random(5)
    for batch_size in (1, 3):
        networks = ScriptedTransducer(batch_size, DURATIONS[name], blank_bonus=0.5)
        rows = torch.tensor([[picker.randrange(64) for _ in range(9)] for _ in range(batch_size)])
        lengths = torch.tensor([9, 6, 8][:batch_size])
        whole, final_state = networks.decode(rows, lengths)
        for cut in range(10):
            first_lengths = lengths.clamp(max=cut)
            first, state = networks.decode(rows[:, :cut], first_lengths, label_looping)
            second, state = networks.decode(rows[:, cut:], lengths - first_lengths, label_looping, state=state)
            for clip in range(batch_size):
                later = [(token, frame + cut, duration) for token, frame, duration in emissions_of(second, clip)]
                assert emissions_of(first, clip) + later == emissions_of(whole, clip)
            assert_states_equal(state, final_state)


def test_the_state_passed_in_is_not_changed():
    for batch_size in (1, 2):
        networks = ScriptedTransducer(3, [0, 1, 2, 3, 4])
        rows, lengths = torch.arange(24).reshape(2, 12)[:batch_size], torch.tensor([12, 7])[:batch_size]
        _, state = networks.decode(rows, lengths, transducer_label_looping_decode)
        parts = (*state.predictor_state, state.predictor_output, state.frames_ahead)
        before = [tensor.clone() for tensor in parts]
        first, _ = networks.decode(rows + 24, lengths, transducer_label_looping_decode, state=state)
        second, _ = networks.decode(rows + 24, lengths, transducer_label_looping_decode, state=state)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(before, parts, strict=True))
        assert torch.equal(first.tokens, second.tokens)


def test_the_prediction_network_runs_once_a_round():
    """Three clips of one token a frame, at different times: as many calls as the longest has tokens, and the start."""
    networks = ScriptedTransducer(0, [0, 1])
    networks.table[...] = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])  # always token 2, which lasts a frame
    networks.table[0] = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0])  # but a blank on frames of row 0
    calls: list[int] = []
    predict = networks.predict
    networks.predict = lambda tokens, state: (calls.append(len(tokens)), predict(tokens, state))[1]  # type: ignore
    rows = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 1, 0]])
    networks.decode(rows, torch.tensor([5, 5, 5]), transducer_label_looping_decode)
    assert calls == [3, 3, 2]


def test_a_clip_that_sees_blanks_does_not_hold_up_the_others():
    networks = ScriptedTransducer(0, [0, 1])
    networks.table[...] = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])  # always token 2, which lasts a frame
    networks.table[0] = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0])  # but a blank on frames of row 0
    rows = torch.ones(5, 6, dtype=torch.int64)
    rows[3, :5] = 0
    found, _ = networks.decode(rows, torch.full((5,), 6), transducer_label_looping_decode)
    assert found.token_lengths.tolist() == [6, 6, 6, 1, 6]
    assert networks.clips_asked == [5] * 6


@pytest.mark.parametrize("batch_size", [1, 3, 20])
@pytest.mark.parametrize("name", ["rnnt", "tdt", "tdt_far"])
def test_frames_projected_during_decoding(name, batch_size):
    """With many clips of TDT only the frames that are looked at."""
    networks = ScriptedTransducer(batch_size, DURATIONS[name])
    generator = torch.Generator().manual_seed(batch_size)
    lengths = torch.randint(0, 30, (batch_size,), generator=generator)
    rows = torch.randint(0, 64, (batch_size, 30), generator=generator)
    expected, expected_state = networks.decode(rows, lengths)
    projected = []

    def project(frames: torch.Tensor) -> torch.Tensor:
        projected.append(len(frames))
        return frames - 1000.0

    found, state = networks.decode(rows + 1000, lengths, transducer_label_looping_decode, project=project)
    assert_equal(found, expected)
    assert_states_equal(state, expected_state)
    if batch_size == 20 and name != "rnnt":
        assert len(projected) > 1
        assert sum(projected) < rows.numel() // 2
    else:
        assert projected == [rows.numel()]


def test_a_confident_token_has_log_probability_0():
    """Not -0, which prints otherwise, and no overflow on the way."""
    networks = ScriptedTransducer(0, None)
    networks.table[...] = torch.tensor([0.0, 3e5, 0.0, 0.0, 0.0])
    found, _ = networks.decode(
        torch.zeros(1, 3).long(), torch.tensor([3]), transducer_label_looping_decode, max_symbols_per_step=1
    )
    assert found.tokens.tolist() == [[1, 1, 1]]
    assert [str(value) for value in found.log_probs[0].tolist()] == ["0.0"] * 3


def test_many_frames_a_look_means_fewer_looks():
    counts = {}
    for frames_per_look in (1, 8):
        networks = ScriptedTransducer(0, None, blank_bonus=100.0)
        networks.decode(
            torch.zeros(1, 40, dtype=torch.int64),
            torch.tensor([40]),
            transducer_label_looping_decode,
            frames_per_look=frames_per_look,
        )
        counts[frames_per_look] = networks.clips_asked
    assert counts == {1: [1] * 40, 8: [8] * 5}


@pytest.mark.parametrize("durations", [None, [0, 1, 2]])
def test_empty_batch_and_empty_clips(durations):
    networks = ScriptedTransducer(0, durations)
    for batch_size, num_frames in ((0, 4), (1, 0), (2, 0)):
        rows, lengths = torch.zeros(batch_size, num_frames, dtype=torch.int64), torch.zeros(batch_size).long()
        found, state = networks.decode(rows, lengths, transducer_label_looping_decode)
        expected, expected_state = networks.decode(rows, lengths)
        assert_equal(found, expected)
        assert_states_equal(state, expected_state)


def test_lengths_beyond_the_frames_are_refused():
    networks = ScriptedTransducer(0, None)
    with pytest.raises(ValueError, match=r"encoder_lengths=\[3, 5\]"):
        networks.decode(torch.zeros(2, 4).long(), torch.tensor([3, 5]), transducer_label_looping_decode)


def derive(model: Any):
    return derive_decoding_networks(model.decoder, model.joint, PLAIN_NETWORKS, MODEL_BLANK)


def make_frames(batch_size: int, num_frames: int, seed: int) -> torch.Tensor:
    return 2.0 * torch.randn(batch_size, num_frames, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", TRANSDUCERS)
def test_a_models_fast_networks_equal_its_modules(kind):
    num_tokens = 0
    for seed in range(2):
        model = build_model(kind, seed)
        assert derive(model) is not None
        frames, lengths = make_frames(5, 14, seed), torch.tensor([14, 0, 3, 14, 9])
        expected, expected_state = readable(model, frames, lengths)
        found, state = model.decode_frames(frames, lengths)
        assert_equal(found, expected)
        assert_states_equal(state, expected_state, tolerance=DECODING)
        num_tokens += int(found.token_lengths.sum())
        for clip in range(5):
            alone, _ = model.decode_frames(frames[clip : clip + 1], lengths[clip : clip + 1])
            assert emissions(alone, 0) == emissions(found, clip)
    assert num_tokens > 10


def emissions(hypotheses: Hypotheses, clip: int) -> list[tuple[int, int]]:
    count = int(hypotheses.token_lengths[clip])
    return list(
        zip(hypotheses.tokens[clip, :count].tolist(), hypotheses.frame_indices[clip, :count].tolist(), strict=True)
    )


@pytest.mark.parametrize("overrides", [{"joint_activation": "tanh"}, {"joint_activation": "sigmoid"}])
def test_other_activations(overrides):
    model = build_model("tdt", **overrides)
    frames, lengths = make_frames(3, 20, 0), torch.tensor([20, 5, 13])
    assert_equal(model.decode_frames(frames, lengths)[0], readable(model, frames, lengths)[0])


@pytest.mark.parametrize("overrides", [{"decoder_layer_norm": True}, {"decoder_context_size": 1}])
def test_other_stateless_networks(overrides):
    model = build_model("rnnt_stateless", **overrides)
    frames, lengths = make_frames(3, 20, 0), torch.tensor([20, 5, 13])
    assert_equal(model.decode_frames(frames, lengths)[0], readable(model, frames, lengths)[0])


def test_fast_networks_follow_the_parameters():
    model = build_model("tdt")
    frames, lengths = make_frames(2, 25, 1), torch.tensor([25, 18])
    first = derive(model)
    assert derive(model) is first
    with torch.no_grad():
        model.decoder.lstm.weight_hh_l0.mul_(-1.0)
    assert derive(model) is not first
    assert_equal(model.decode_frames(frames, lengths)[0], readable(model, frames, lengths)[0])
    second = derive(model)
    model.joint.head.weight.data.mul_(-1.0)  # does not count as a new version
    assert derive(model) is not second
    assert_equal(model.decode_frames(frames, lengths)[0], readable(model, frames, lengths)[0])
    model.load_state_dict(build_model("tdt", seed=7).state_dict())
    assert_equal(model.decode_frames(frames, lengths)[0], readable(model, frames, lengths)[0])


def test_fast_networks_leave_no_trace_on_the_model():
    model = build_model("rnnt")
    before = set(model.state_dict())
    model.decode_frames(make_frames(1, 5, 0), torch.tensor([5]))
    assert set(model.state_dict()) == before
    assert not [name for name in vars(model.decoder) if "derive" in name or "fast" in name]


class LoudLinear(nn.Linear):
    """As an adapter would be: a linear layer with something added."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + torch.arange(self.out_features)


def test_what_is_not_plain_is_called_as_it_is():
    model = build_model("tdt")
    frames, lengths = make_frames(2, 20, 2), torch.tensor([20, 11])
    plain = model.decode_frames(frames, lengths)[0]
    loud = LoudLinear(14, model.joint.head.out_features)
    loud.load_state_dict(model.joint.head.state_dict())
    model.joint.head = loud
    assert derive(model) is None
    found = model.decode_frames(frames, lengths)[0]
    assert_equal(found, readable(model, frames, lengths)[0])
    assert not torch.equal(found.tokens, plain.tokens)


def test_hooks_training_and_autocast_are_not_passed_by():
    model = build_model("rnnt")
    assert derive(model) is not None
    handle = model.decoder.lstm.register_forward_hook(lambda *_: None)
    assert derive(model) is None
    handle.remove()
    assert derive(model) is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert derive(model) is None
    assert derive(model.train()) is None


def test_bfloat16_is_as_near_to_float32_as_the_modules_are():
    """What the prediction and the joint network give over twenty tokens, beside float32 from the same weights."""
    errors = {"fast": 0.0, "modules": 0.0}
    for seed in range(8):
        model = build_model("rnnt_two_layers", seed).bfloat16()
        exact = build_model("rnnt_two_layers", seed)
        exact.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
        networks = derive(model)
        assert networks is not None
        tokens = torch.randint(0, MODEL_BLANK, (20, 3), generator=torch.Generator().manual_seed(seed))
        frame = torch.randn(3, 14, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            states: dict[str, Any] = {"fast": None, "modules": None, "exact": None}
            for row in tokens:
                logits = {}
                output, states["exact"] = exact._predict(row, states["exact"])
                logits["exact"] = exact.joint(frame, output)
                output, states["modules"] = model._predict(row, states["modules"])
                logits["modules"] = model.joint(frame.bfloat16(), output)
                output, states["fast"] = networks.predict(row, states["fast"])
                logits["fast"] = networks.joint(frame.bfloat16(), output)
                assert output.dtype == states["fast"][1].dtype == torch.bfloat16
                for name in errors:
                    errors[name] += float((logits[name].float() - logits["exact"]).abs().mean())
    assert 0.0 < errors["fast"] < 1.05 * errors["modules"]


@pytest.mark.parametrize("kind", ["rnnt", "tdt_far", "rnnt_stateless"])
def test_bfloat16_split_at_every_point(kind):
    """
    One clip, projected before: in 16 bits logits tie often, and a matrix product over other rows may round otherwise.
    """
    model = build_model(kind).bfloat16()
    networks = derive(model)
    assert networks is not None
    with torch.no_grad():
        frames = model.joint.encoder_proj(make_frames(1, 8, 3).bfloat16())

    def decode(frames: torch.Tensor, state: TransducerState | None = None):
        return transducer_label_looping_decode(
            frames,
            torch.tensor([frames.shape[1]]),
            networks.predict,
            networks.joint,
            MODEL_BLANK,
            MODEL_BLANK,
            getattr(model.config, "durations", None),
            state=state,
        )

    whole, _ = decode(frames)
    assert whole.log_probs.dtype == torch.float32
    assert int(whole.token_lengths.sum()) > 0
    for cut in range(9):
        first, state = decode(frames[:, :cut])
        second, _ = decode(frames[:, cut:], state)
        later = [(token, frame + cut) for token, frame in emissions(second, 0)]
        assert emissions(first, 0) + later == emissions(whole, 0)


@pytest.mark.parametrize("num_rows", [1, 3, 9, 40])
def test_a_step_equals_torchs_lstm(num_rows):
    """With few values and with many, which take another way to the tanh; large ones too."""
    size = 160
    generator = torch.Generator().manual_seed(num_rows)
    embedding, lstm = nn.Embedding(20, size), nn.LSTM(size, size, num_layers=2, batch_first=True)
    with torch.no_grad():
        for parameter in (*embedding.parameters(), *lstm.parameters()):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    layers = [
        tuple(getattr(lstm, f"{name}_l{layer}").detach() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        for layer in range(2)
    ]
    predict = LSTMPredictor(embedding.weight.detach(), layers, torch.eye(size), torch.zeros(size))
    exact, exact_embedding = copy.deepcopy(lstm).double(), copy.deepcopy(embedding).double()
    state = exact_state = None
    with torch.no_grad():
        for _ in range(6):
            tokens = torch.randint(0, 20, (num_rows,), generator=generator)
            output, state = predict(tokens, state)
            expected, exact_state = exact(exact_embedding(tokens)[:, None], exact_state)
            torch.testing.assert_close(output.double(), expected[:, 0], rtol=0, atol=1e-5)
            for found_part, expected_part in zip(state, exact_state, strict=True):
                torch.testing.assert_close(found_part.double(), expected_part, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 2, 7, 8, 33])
def test_projection_equals_the_linear_layer(dtype, num_rows):
    generator = torch.Generator().manual_seed(num_rows)
    weight, bias = torch.randn(70, 48, generator=generator), torch.randn(70, generator=generator)
    rows = torch.randn(num_rows, 48, generator=generator)
    weight, bias, rows = weight.to(dtype), bias.to(dtype), rows.to(dtype)
    expected = torch.nn.functional.linear(rows.double(), weight.double(), bias.double())
    found = Projection(weight, bias)(rows)
    assert found.dtype == dtype
    largest = float(expected.abs().max())
    assert float((found.double() - expected).abs().max()) <= 8 * torch.finfo(dtype).eps * largest
    terms = torch.randn(num_rows, 70, generator=generator)
    for sum_dtype in {dtype, torch.float32}:
        found = Projection(weight, bias).add_to(terms.to(sum_dtype, copy=True), rows)
        error = (found.double() - expected - terms.to(sum_dtype).double()).abs().max()
        assert found.dtype == sum_dtype
        assert float(error) <= 8 * torch.finfo(dtype).eps * largest


def test_without_packed_weights_the_linear_layer_is_used(monkeypatch):
    import transformers_fastconformer.kernels.transducer_networks as networks

    model = build_model("rnnt_two_layers")
    frames, lengths = make_frames(2, 20, 4), torch.tensor([20, 11])
    packed, _ = model.decode_frames(frames, lengths)
    monkeypatch.setattr(networks, "pack_weight", lambda weight: None)
    other = build_model("rnnt_two_layers")
    found, _ = other.decode_frames(frames, lengths)
    fast = derive(other)
    assert fast is not None
    assert fast.joint.head.packed is None  # type: ignore[attr-defined]
    assert_equal(found, packed)


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation='swish'"):
        Joint("swish", torch.zeros(3, 2), torch.zeros(3))


@pytest.mark.parametrize("kinds", ["shared", "each clip its own"])
@pytest.mark.parametrize("name", ["rnnt", "tdt", "tdt_far"])
def test_scores_of_phrases_choose_the_token(name, kinds):
    """In all three loops alike, in one call and cut in two; blanks and durations stay the model's own."""
    num_changed = 0
    for case, (networks, rows, lengths, max_symbols) in enumerate(random_cases(DURATIONS[name], 8)):
        clips = len(lengths)
        trees = [random_tree(case + clip, BLANK)[0] for clip in range(clips)]
        scorer = TokenScorer([trees[0] if kinds == "shared" else trees, random_tree(99, BLANK)[0]])
        options = {"max_symbols_per_step": max_symbols}
        plain, _ = networks.decode(rows, lengths, **options)
        expected, expected_state = networks.decode(rows, lengths, **options, scorer=scorer)
        num_changed += int((plain.tokens.shape != expected.tokens.shape) or (plain.tokens != expected.tokens).any())
        for decode in (
            transducer_label_looping_decode,
            partial(transducer_label_looping_decode, frames_per_look=5),
            transducer_masked_decode,
        ):
            found, state = networks.decode(rows, lengths, decode, **options, scorer=scorer)
            assert_equal(found, expected)
            assert_states_equal(state, expected_state)
            assert torch.equal(state.scorer_states, expected_state.scorer_states)
            cut = rows.shape[1] // 2
            first, middle = networks.decode(rows[:, :cut], lengths.clamp(max=cut), decode, **options, scorer=scorer)
            rest_lengths = lengths - lengths.clamp(max=cut)
            rest, state = networks.decode(rows[:, cut:], rest_lengths, decode, **options, scorer=scorer, state=middle)
            assert torch.equal(state.scorer_states, expected_state.scorer_states)
            for clip in range(clips):
                tokens = [
                    *first.tokens[clip, : first.token_lengths[clip]].tolist(),
                    *rest.tokens[clip, : rest.token_lengths[clip]].tolist(),
                ]
                assert tokens == expected.tokens[clip, : expected.token_lengths[clip]].tolist()
    assert num_changed > 2


def test_log_probabilities_are_the_models_own():
    """Also of a token that is not the best one."""
    networks = ScriptedTransducer(3, None, blank_bonus=-1.0)
    tree = build_phrase_automaton([([2], 1)], PhraseBoosting(["x"], context_score=100.0), BLANK, 1.0)
    rows, lengths = torch.arange(12)[None], torch.tensor([12])
    found, _ = networks.decode(rows, lengths, transducer_label_looping_decode, scorer=TokenScorer([tree]))
    count = int(found.token_lengths[0])
    assert count > 5
    assert found.tokens[0, :count].tolist() == [2] * count
    for place in range(count):
        row = torch.tensor(networks.logits_of(int(found.frame_indices[0, place]), (2,) * place))
        assert float(found.log_probs[0, place]) == pytest.approx(float(row.log_softmax(dim=-1)[2]), abs=1e-5)
