from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from transformers_fastconformer.kernels.module_tree import ModuleTree


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())).eval()


CHANGES: dict[str, Callable[[Any], Any]] = {
    "training of a part": lambda model: model[1][0].train(),
    "a hook": lambda model: model[1][1].register_forward_hook(lambda *_: None),
    "a hook before": lambda model: model[0].register_forward_pre_hook(lambda *_: None),
    "a replaced forward": lambda model: setattr(model[0], "forward", lambda states: states),
    "a replaced part": lambda model: model[1].__setitem__(1, nn.ReLU()),
    "another part": lambda model: model[1].append(nn.ReLU()),
    "a replaced parameter": lambda model: setattr(model[0], "bias", nn.Parameter(torch.zeros(3))),
    "a parameter that is gone": lambda model: setattr(model[0], "bias", None),
    "values in place": lambda model: nn.init.zeros_(model[0].weight),
    "statistics": lambda model: model[1][0].running_mean.add_(1.0),
    "other memory": lambda model: setattr(model[0].weight, "data", torch.zeros(3, 2)),
    "another dtype": lambda model: model.to(torch.float64),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_seen(name: str):
    model = build()
    tree = ModuleTree(model)
    model(torch.ones(1, 2))
    assert tree.is_unchanged()
    CHANGES[name](model)
    assert not tree.is_unchanged()


def test_tensors_of_inference_mode_have_no_version():
    with torch.inference_mode():
        model = build()
        tree = ModuleTree(model)
        assert tree.is_unchanged()
        model[0].weight.data = torch.zeros(3, 2)
    assert not tree.is_unchanged()
