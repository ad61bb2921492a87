"""Training in 16 bits: losses are computed in float32, stay near those of float32, and fall."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import build_model, make_features

LENGTHS = torch.tensor([150, 90])
LABELS = torch.tensor([[1, 2, 3], [4, 5, -100]])
KINDS = ["ctc", "rnnt_stateless", "tdt_hybrid"]
INTERMEDIATE = {"intermediate_ctc_layers": [0], "intermediate_ctc_weights": [0.2]}
QUIET = dict.fromkeys(("dropout", "activation_dropout", "attention_dropout", "dropout_pre_encoder"), 0.0)


def options_of(kind: str) -> dict[str, Any]:
    options = {**QUIET, "num_hidden_layers": 3, "mask_time_count": 1, "mask_time_width": 0.1}
    if kind != "ctc":
        options |= {"decoder_dropout": 0.0, "joint_dropout": 0.0}
    if kind == "tdt_hybrid":
        # An LSTM in bfloat16 needs a CPU that has it.
        options |= {"omega": 0.0, "decoder_type": "stateless"}
    return options | ({} if kind == "rnnt_stateless" else INTERMEDIATE)


def train(kind: str, form: str, num_steps: int, output_logits: bool = False) -> list[float]:
    model = build_model(kind, **options_of(kind)).train()
    if form == "bfloat16":
        model = model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    features = make_features(LENGTHS.tolist())
    extra = {"output_logits": True} if output_logits else {}
    losses = []
    torch.manual_seed(0)
    for _ in range(num_steps):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=form == "autocast"):
            output = model(features, input_lengths=LENGTHS, labels=LABELS, **extra)
        assert output.loss.dtype == torch.float32
        for name in ("ctc_loss", "transducer_loss", "intermediate_ctc_losses"):
            assert getattr(output, name, None) is None or getattr(output, name).dtype == torch.float32
        optimizer.zero_grad()
        output.loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in model.parameters())
        optimizer.step()
        losses.append(float(output.loss.detach()))
    return losses


@pytest.mark.parametrize("form", ["autocast", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_near_those_of_float32_and_fall(kind: str, form: str) -> None:
    expected, found = train(kind, "float32", 25), train(kind, form, 25)
    assert found[0] == pytest.approx(expected[0], rel=0.03)
    assert expected[-1] < 0.7 * expected[0]
    assert found[-1] < 0.75 * found[0]
    assert sum(found) == pytest.approx(sum(expected), rel=0.1)


@pytest.mark.parametrize("kind", ["rnnt_stateless", "tdt_hybrid"])
def test_the_joint_is_normalised_in_float32_whole_and_in_slices(kind: str) -> None:
    """Sums over the classes in bfloat16 would be off by percents; both forms agree far below that."""
    for form in ("autocast", "bfloat16"):
        (whole,), (sliced,) = train(kind, form, 1, output_logits=True), train(kind, form, 1)
        assert sliced == pytest.approx(whole, rel=2e-3)
