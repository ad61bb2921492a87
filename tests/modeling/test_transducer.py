"""RNN-T and TDT: prediction and joint network, greedy decoding and losses against loops over single clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ctc_loss_loop import ctc_loss_of_clip
from decoding_loop import decode_transducer_clip
from models import BLANK, TRANSDUCERS, build_model, make_features
from tolerances import GRADIENT_SHARE
from transducer_loop import joint_logits, predict
from transducer_losses import rnnt_loss_of_clip, tdt_loss_of_clip

LENGTHS = [90, 41, 8, 0, 66]
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in TRANSDUCERS},
    "three layers, tanh": ("rnnt", {"num_decoder_layers": 3, "joint_activation": "tanh"}),
    "sigmoid": ("tdt", {"joint_activation": "sigmoid"}),
    "encoder of another width": ("tdt", {"encoder_output_size": 10}),
    "stateless, normed": ("rnnt_stateless", {"decoder_layer_norm": True, "decoder_context_size": 3}),
    "stateless, one token": ("rnnt_stateless", {"decoder_context_size": 1}),
    "stateless TDT": ("tdt", {"decoder_type": "stateless", "decoder_context_size": 2}),
    "durations without 0": ("tdt", {"durations": [1, 2, 4]}),
    "duration 0 alone": ("tdt", {"durations": [0]}),
    "durations out of order": ("tdt", {"durations": [2, 0, 1]}),
}


def build(name: str, seed: int = 0, **values: Any) -> Any:
    kind, overrides = SHAPES[name]
    model = build_model(kind, seed, **{**overrides, **values})
    # Every class must win at times: all start level, and the blank a little ahead.
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, BLANK, (3, 8), generator=generator)
    with torch.no_grad():
        logits = model.compute_joint_logits(model.encoder(make_features([90, 90, 90])).last_hidden_state, targets)
        model.joint.head.bias -= logits.mean(dim=(0, 1, 2))
        model.joint.head.bias[BLANK] += 0.5
    return model


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().astype(np.float64) for name, tensor in model.state_dict().items()}


def encode_alone(model: Any, clip: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return model.encoder(clip[None]).last_hidden_state[0].numpy().astype(np.float64)


@pytest.mark.parametrize("name", SHAPES)
def test_joint_outputs_equal_the_loop(name):
    model = build(name)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(2, 3, model.config.output_size, generator=generator)
    targets = torch.randint(0, BLANK, (2, 4), generator=generator)
    with torch.no_grad():
        ours = model.compute_joint_logits(frames, targets)
    assert ours.shape == (2, 3, 5, model.config.num_joint_outputs)
    weights = arrays(model)
    for clip, frame, count in np.ndindex(2, 3, 5):
        tokens = tuple(targets[clip, :count].tolist())
        truth = joint_logits(weights, model.config, frames[clip, frame].numpy().astype(np.float64), tokens)
        assert ours[clip, frame, count].tolist() == pytest.approx(truth, abs=2e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_token_by_token_equals_all_at_once(name):
    """State in, state out: the prediction network's steps join to its run over the whole text."""
    network = build(name).decoder
    tokens = torch.randint(0, BLANK, (3, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, last_state = network(tokens)
        state, steps = None, []
        for sizes in (1, 3, 1, 2):
            start = sum(step.shape[1] for step in steps)
            output, state = network(tokens[:, start : start + sizes], state)
            assert all(part.shape[1] == 3 for part in state)  # the batch stands in dimension 1
            steps.append(output)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-5, atol=1e-6)
    for ours, truth in zip(state, last_state, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_symbols", [2, None])
@pytest.mark.parametrize("name", SHAPES)
def test_a_batch_gives_each_clip_its_own_tokens(name, max_symbols):
    model, features = build(name, max_symbols_per_step=3), make_features(LENGTHS)
    found = model.generate(
        features,
        input_lengths=torch.tensor(LENGTHS),
        max_symbols_per_step=max_symbols,
        return_dict_in_generate=True,
    )
    durations = getattr(model.config, "durations", None)
    assert found.decoder_type == ("rnnt" if durations is None else "tdt")
    assert found.encoder_lengths.tolist() == [12, 6, 1, 0, 9]
    weights = arrays(model)
    num_blanks = 0
    for clip, length in enumerate(LENGTHS):
        count = int(found.sequence_lengths[clip])
        assert (found.sequences[clip, count:] == model.config.pad_token_id).all()
        if length == 0:
            assert count == 0
            continue
        frames = encode_alone(model, features[clip, :length])
        expected = decode_transducer_clip(
            lambda frame, tokens, frames=frames: joint_logits(weights, model.config, frames[frame], tokens),
            len(frames),
            BLANK,
            durations,
            max_symbols or 3,
        )
        assert found.sequences[clip, :count].tolist() == [emission.token for emission in expected]
        assert found.frame_indices[clip, :count].tolist() == [emission.frame for emission in expected]
        if durations is None:
            assert found.durations is None
        else:
            assert found.durations[clip, :count].tolist() == [emission.duration for emission in expected]
        log_probs = found.log_probs[clip, :count].tolist()
        assert log_probs == pytest.approx([emission.log_prob for emission in expected], abs=1e-4)
        num_blanks += len(frames) - len({emission.frame for emission in expected})
    assert num_blanks > 0
    assert found.sequence_lengths.sum() > 5


@pytest.mark.parametrize("name", ["rnnt", "tdt_hybrid", "rnnt_stateless"])
def test_generate_returns_the_tokens_alone_unless_asked(name):
    model, features, lengths = build(name), make_features(LENGTHS), torch.tensor(LENGTHS)
    sequences = model.generate(features, input_lengths=lengths)
    assert torch.equal(
        sequences, model.generate(features, input_lengths=lengths, return_dict_in_generate=True).sequences
    )
    mask = torch.arange(features.shape[1]) < lengths[:, None]
    assert torch.equal(sequences, model.generate(features, attention_mask=mask))


@pytest.mark.parametrize("option", [{"foo": 1}, {"beam_size": 4}])
@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
def test_unknown_options_are_refused(kind, option):
    (name,) = option
    with pytest.raises(ValueError, match=f"{name}: not an option of decoding; expected some of language"):
        build_model(kind).generate(make_features([20]), **option)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(ValueError, match=f"max_symbols_per_step={limit} is not supported; expected an integer of 1"):
        build_model("tdt").generate(make_features([20]), max_symbols_per_step=limit)


def test_nothing_to_transcribe():
    for kind in TRANSDUCERS:
        model = build_model(kind)
        found = model.generate(make_features([9, 9]), input_lengths=torch.tensor([0, 0]), return_dict_in_generate=True)
        assert found.sequences.shape == found.log_probs.shape == (2, 0)
        assert model.generate(torch.zeros(0, 9, 8)).shape == (0, 0)


# Losses

LABELS = [[1, 2, 2], [3], []]


@pytest.mark.parametrize(
    ("name", "padding"), [*((kind, -100) for kind in TRANSDUCERS), ("rnnt", BLANK), ("rnnt", 7), ("tdt_hybrid", 7)]
)
def test_the_loss_is_that_of_the_loops(name, padding):
    model = build(name, pad_token_id=7)
    lengths = [48, 30, 14]  # even numbers of frames: durations 0, 2, 4 and 8 cannot end an odd one
    features = make_features(lengths)
    labels = torch.tensor([row + [padding] * (3 - len(row)) for row in LABELS])
    weights = arrays(model)
    durations = getattr(model.config, "durations", None)
    transducer_losses, ctc_losses = [], []
    for clip, length in enumerate(lengths):
        frames = encode_alone(model, features[clip, :length])
        logits = torch.tensor(
            [
                [
                    joint_logits(weights, model.config, frame, tuple(LABELS[clip][:count]))
                    for count in range(len(LABELS[clip]) + 1)
                ]
                for frame in frames
            ]
        )
        if durations is None:
            transducer_losses.append(rnnt_loss_of_clip(logits, LABELS[clip], BLANK))
        else:
            transducer_losses.append(
                tdt_loss_of_clip(logits, LABELS[clip], BLANK, durations, sigma=model.config.sigma)
            )
        if model.ctc_head is not None:
            scores = torch.from_numpy(frames @ weights["ctc_head.weight"].T + weights["ctc_head.bias"])
            ctc_losses.append(ctc_loss_of_clip(scores.log_softmax(dim=-1).tolist(), LABELS[clip], BLANK))
    expected = sum(transducer_losses) / 3
    if ctc_losses:
        expected = 0.7 * expected + 0.3 * sum(ctc_losses) / 3
    output = model(features, input_lengths=torch.tensor(lengths), labels=labels)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    assert output.logits is None

    output.loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), parameter_name
    assert model.joint.head.weight.grad.abs().max() > 0
    assert model.encoder.layers[0].self_attn.q_proj.weight.grad.abs().max() > 0


def gradients_and_loss(model: Any, **options: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Of a batch with an empty text, by way of the lean or the full form."""
    labels = torch.tensor([row + [-100] * (3 - len(row)) for row in LABELS])
    model.zero_grad()
    torch.manual_seed(0)
    output = model(make_features([48, 30, 14]), input_lengths=torch.tensor([48, 30, 14]), labels=labels, **options)
    output.loss.backward()
    return output, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_there_when_asked_for_and_change_no_loss(name):
    if name == "duration 0 alone":
        pytest.skip("no alignment of any clip")
    model = build(name)
    output, gradients = gradients_and_loss(model)
    with_logits, expected = gradients_and_loss(model, output_logits=True)
    assert output.logits is None
    assert with_logits.logits.shape == (3, 6, 4, model.config.num_joint_outputs)
    torch.testing.assert_close(output.loss, with_logits.loss, rtol=1e-6, atol=0)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for parameter_name, gradient in gradients.items():
        difference = float((gradient - expected[parameter_name]).abs().max())
        assert difference <= GRADIENT_SHARE * largest, parameter_name


def test_logits_need_labels():
    with pytest.raises(ValueError, match="output_logits=True needs labels"):
        build_model("tdt")(make_features([40]), output_logits=True)


def test_a_joint_network_with_a_hook_is_called_as_it_is():
    model = build("tdt_hybrid")
    assert model.joint.for_loss(torch.zeros(1, 2, 16), torch.zeros(1, 3, 16)) is not None
    truth, expected = gradients_and_loss(model)
    calls: list[torch.Size] = []
    model.joint.head.register_forward_hook(lambda module, inputs, output: calls.append(output.shape))
    output, gradients = gradients_and_loss(model)
    assert calls == [(3, 6, 4, model.config.num_joint_outputs)]
    assert output.logits is None
    torch.testing.assert_close(output.loss, truth.loss, rtol=1e-6, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


def test_dropout_of_the_joint_network_acts_in_training_only():
    model = build("rnnt", joint_dropout=0.5)
    truth = gradients_and_loss(model.eval())[0].loss.item()
    model.joint.train()
    assert gradients_and_loss(model)[0].loss.item() != pytest.approx(truth, rel=1e-4)
    model.joint.dropout.p = 0.0
    assert gradients_and_loss(model)[0].loss.item() == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("kind", TRANSDUCERS)
def test_empty_clips_and_texts_keep_gradients_finite(kind):
    model = build_model(kind).train()
    labels = torch.tensor([[1, 2], [-100, -100], [-100, -100]])
    loss = model(make_features([48, 30, 0]), input_lengths=torch.tensor([48, 30, 0]), labels=labels).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_without_labels_there_is_no_loss():
    output = build_model("tdt")(make_features([40]))
    assert output.loss is None
    assert output.logits is None
    assert output.last_hidden_state.shape == (1, 5, 16)


def test_the_plain_loss_is_drawn_in_training_only():
    values = dict.fromkeys(
        (
            "dropout",
            "activation_dropout",
            "attention_dropout",
            "dropout_pre_encoder",
            "decoder_dropout",
            "joint_dropout",
        ),
        0.0,
    )
    model = build_model("tdt", omega=0.5, conv_norm_type="layer_norm", **values)
    features, labels = make_features([40]), torch.tensor([[1, 2]])
    torch.manual_seed(0)
    with torch.no_grad():
        assert len({round(model(features, labels=labels).loss.item(), 4) for _ in range(12)}) == 1
        model.train()
        assert len({round(model(features, labels=labels).loss.item(), 4) for _ in range(12)}) == 2


def test_predictions_depend_on_the_context_of_a_stateless_network_alone():
    model = build("rnnt_stateless")
    weights = arrays(model)
    assert np.array_equal(predict(weights, model.config, (1, 2, 3)), predict(weights, model.config, (9, 2, 3)))
    with torch.no_grad():
        one, _ = model.decoder(torch.tensor([[1, 2, 3]]))
        other, _ = model.decoder(torch.tensor([[9, 2, 3]]))
    assert torch.equal(one[:, -1], other[:, -1])
    assert not torch.equal(one[:, 1], other[:, 1])
