"""The lists of classes, and models without memory."""

from __future__ import annotations

from models import build_model

from transformers_fastconformer.checkpoints.model_classes import (
    ARCHITECTURES,
    CONFIG_CLASSES,
    build_without_memory,
    shapes_of,
)


def test_every_class_is_listed_by_its_own_name() -> None:
    assert all(name == model_class.__name__ for name, model_class in ARCHITECTURES.items())
    assert all(name == config_class.model_type for name, config_class in CONFIG_CLASSES.items())
    assert {model_class.config_class for model_class in ARCHITECTURES.values()} <= set(CONFIG_CLASSES.values())


def test_shapes_are_those_of_a_real_model() -> None:
    real = build_model("ctc")
    empty = build_without_memory(type(real), real.config)
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    assert shapes_of(empty) == shapes_of(real)
