"""Parts that are not trained, by their names; batch norms that keep their statistics."""

from __future__ import annotations

import pytest
import torch
from models import build_model, make_features

from transformers_fastconformer import freeze_parts
from transformers_fastconformer.training.freezing import count_parameters, hold_batch_norms, list_parts


def frozen(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize(
    ("parts", "prefixes"),
    [
        (("encoder",), ("encoder.",)),
        (("encoder.layers.0-1",), ("encoder.layers.0.", "encoder.layers.1.")),
        (("encoder.layers.2", "joint"), ("encoder.layers.2.", "joint.")),
        (("prediction_network",), ("decoder.",)),
        (("encoder.subsampling", "ctc_head"), ("encoder.subsampling.", "ctc_head.")),
        ((), ("nothing.",)),
    ],
)
def test_parts_by_name(parts: tuple[str, ...], prefixes: tuple[str, ...]) -> None:
    model = build_model("tdt_hybrid", num_hidden_layers=4)
    freeze_parts(model, parts)
    assert frozen(model) == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            ("decoder_layers",),
            "freeze='decoder_layers' is not supported; expected some of encoder, prediction_network",
        ),
        (("encoder.layers.0-4",), "freeze='encoder.layers.0-4' is not supported; expected blocks of 0 to 3"),
        (("encoder.layers.3-2",), "expected blocks of 0 to 3"),
        (("encoder", "prediction_network", "joint", "ctc_head"), "leaves nothing to train"),
    ],
)
def test_refusals(parts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        freeze_parts(build_model("tdt_hybrid", num_hidden_layers=4), parts)


def test_parts_that_a_model_lacks_are_not_among_those_it_has() -> None:
    assert "ctc_head" in list_parts(build_model("ctc"))
    assert "joint" not in list_parts(build_model("ctc"))
    assert list_parts(build_model("tdt"))[:3] == ["encoder", "prediction_network", "joint"]


def test_parameters_are_counted() -> None:
    model = build_model("ctc")
    total = sum(parameter.numel() for parameter in model.parameters())
    freeze_parts(model, ("encoder",))
    counted = count_parameters(model)
    assert counted == (16 * 11 + 11, total)
    assert str(counted).startswith(f"187 of {total:,} parameters (")


@pytest.mark.parametrize(("only_frozen", "moved"), [(False, set()), (True, {1}), (None, {0, 1})])
def test_batch_norms_keep_their_statistics(only_frozen: bool | None, moved: set[int]) -> None:
    model = build_model("ctc").train()
    freeze_parts(model, ("encoder.layers.0",))
    before = [layer.conv.norm.running_mean.clone() for layer in model.encoder.layers]
    if only_frozen is not None:
        hold_batch_norms(model, only_frozen)
    model(make_features([64, 64]))
    after = [layer.conv.norm.running_mean for layer in model.encoder.layers]
    assert {place for place in (0, 1) if not torch.equal(before[place], after[place])} == moved
