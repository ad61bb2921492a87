"""CTC losses between the blocks, and the shares of a hybrid's losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import build_model, make_features

from transformers_fastconformer.losses.ctc import ctc_loss

LENGTHS = torch.tensor([150, 90])
LABELS = torch.tensor([[1, 2, 3], [4, -100, -100]])
TARGET_LENGTHS = torch.tensor([3, 1])
INTERMEDIATE: dict[str, Any] = {"intermediate_ctc_layers": [1, 0], "intermediate_ctc_weights": [0.25, 0.125]}


def loss_of(logits: torch.Tensor, lengths: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    return ctc_loss(logits, LABELS.clamp(min=0), lengths, TARGET_LENGTHS, 10, reduction, True)


@pytest.mark.parametrize("kind", ["ctc", "tdt_hybrid_ctc", "tdt_hybrid", "rnnt_hybrid"])
@pytest.mark.parametrize("output_size", [None, 24])
def test_losses_between_blocks(kind: str, output_size: int | None) -> None:
    model = build_model(kind, num_hidden_layers=3, encoder_output_size=output_size, **INTERMEDIATE)
    features = make_features(LENGTHS.tolist())
    output = model(features, input_lengths=LENGTHS, labels=LABELS)
    encoded = model.encoder(features, input_lengths=LENGTHS, output_hidden_states=True)
    expected = []
    for layer in (1, 0):
        states = encoded.hidden_states[layer + 1]
        if model.encoder.output_proj is not None:
            states = model.encoder.output_proj(states)
        expected.append(loss_of(model.ctc_head(states), encoded.encoder_lengths))
    torch.testing.assert_close(output.intermediate_ctc_losses, torch.stack(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        output.ctc_loss, loss_of(model.ctc_head(encoded.last_hidden_state), encoded.encoder_lengths)
    )
    main = output.ctc_loss
    if "ctc" not in kind.rpartition("_")[2]:
        main = 0.7 * output.transducer_loss + 0.3 * output.ctc_loss
    torch.testing.assert_close(output.loss, 0.625 * main + 0.25 * expected[0] + 0.125 * expected[1])
    without = build_model(kind, num_hidden_layers=3, encoder_output_size=output_size)
    output = without(features, input_lengths=LENGTHS, labels=LABELS)
    torch.testing.assert_close(output.loss, main)
    assert output.intermediate_ctc_losses is None


def test_without_labels_nothing_is_captured_and_packed_rows_are_unpacked() -> None:
    model = build_model("ctc", **INTERMEDIATE)
    features = make_features(LENGTHS.tolist())
    assert model(features, input_lengths=LENGTHS).intermediate_ctc_losses is None
    padded = model(features, input_lengths=LENGTHS, labels=LABELS, output_hidden_states=True)
    packed = model(features, input_lengths=LENGTHS, labels=LABELS)
    torch.testing.assert_close(packed.intermediate_ctc_losses, padded.intermediate_ctc_losses)


def test_a_ctc_loss_without_weight_is_not_computed() -> None:
    model = build_model("tdt_hybrid", ctc_loss_weight=0.0).train()
    output = model(make_features(LENGTHS.tolist()), input_lengths=LENGTHS, labels=LABELS)
    assert output.ctc_loss is None
    assert torch.equal(output.loss.detach(), output.transducer_loss)
    output.loss.backward()
    assert model.ctc_head.weight.grad is None


def test_logged_losses_carry_no_gradient_and_the_loss_reaches_all_blocks() -> None:
    model = build_model("ctc", **INTERMEDIATE).train()
    output = model(make_features(LENGTHS.tolist()), input_lengths=LENGTHS, labels=LABELS)
    assert not output.ctc_loss.requires_grad
    assert not output.intermediate_ctc_losses.requires_grad
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
def test_options_of_the_transducer_loss_come_from_the_configuration(kind: str) -> None:
    features = make_features(LENGTHS.tolist())

    def run(**options: Any) -> tuple[float, torch.Tensor]:
        model = build_model(kind, **options)
        gradients = []
        for output_logits in (None, True):  # from the joint's inputs, and from its outputs
            model.zero_grad()
            output = model(features, input_lengths=LENGTHS, labels=LABELS, output_logits=output_logits)
            output.loss.backward()
            gradients.append(model.joint.head.weight.grad.clone())
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
        return float(output.loss.detach()), gradients[0]

    plain, gradient = run()
    fastemit, of_fastemit = run(fastemit_lambda=0.5)
    assert fastemit == pytest.approx(1.5 * plain)  # NeMo scales what it reports
    assert not torch.allclose(of_fastemit, gradient)
    clamped, of_clamp = run(transducer_gradient_clamp=0.05)
    assert clamped == pytest.approx(plain)
    assert not torch.allclose(of_clamp, gradient)
    total, of_total = run(transducer_loss_reduction="sum")
    assert total == pytest.approx(2 * plain)
    torch.testing.assert_close(of_total, 2 * gradient, rtol=1e-4, atol=1e-6)
    # The limit is of a clip's loss: the reduction scales it afterwards.
    _, of_both = run(transducer_loss_reduction="sum", transducer_gradient_clamp=0.05)
    torch.testing.assert_close(of_both, 2 * of_clamp, rtol=1e-4, atol=1e-6)
    volume, _ = run(transducer_loss_reduction="mean_volume")
    assert volume == pytest.approx(2 * plain / 4)
