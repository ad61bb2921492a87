"""Options of a run: defaults that depend on one another, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from transformers_fastconformer import ClipFilterOptions, FinetuneOptions, LoraOptions


def test_the_learning_rate_follows_what_is_trained() -> None:
    assert FinetuneOptions("out").chosen_learning_rate == 1e-4
    assert FinetuneOptions("out", lora=LoraOptions()).chosen_learning_rate == 1e-3
    assert FinetuneOptions("out", learning_rate=3e-5, lora=LoraOptions()).chosen_learning_rate == 3e-5


def test_options_are_json() -> None:
    stored = json.loads(json.dumps(FinetuneOptions("out", lora=LoraOptions(("joint",)), freeze=()).to_dict()))
    assert stored["lora"]["targets"] == ["joint"]
    assert stored["clips"] == {"min_seconds": 0.1, "max_seconds": 30.0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output_dir", ""),
        ("max_steps", 0),
        ("num_epochs", 0),
        ("learning_rate", 1),
        ("warmup_steps", -1),
        ("batch_seconds", 20.0),
        ("accumulation_steps", 0),
        ("weight_decay", -1),
        ("adam_beta2", 1),
        ("max_grad_norm", 0),
        ("ctc_weight", 1.5),
        ("precision", "int8"),
        ("eval_steps", 0),
        ("early_stopping", 0),
        ("keep_checkpoints", 0),
        ("seed", -1),
        ("num_workers", -1),
    ],
)
def test_refusals(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}={value!r} is not supported"):
        FinetuneOptions(**{"output_dir": "out", name: value})


def test_adapters_and_frozen_parts_exclude_one_another() -> None:
    with pytest.raises(ValueError, match="expected nothing with lora"):
        FinetuneOptions("out", lora=LoraOptions(), freeze=("encoder",))
    FinetuneOptions("out", batch_seconds=20.0, clips=ClipFilterOptions(max_seconds=15.0))
