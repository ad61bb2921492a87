from __future__ import annotations

from typing import Any

import pytest

from transformers_fastconformer.server.options import ServedModel, ServerOptions


def test_a_model_may_have_another_name_for_clients() -> None:
    assert ServedModel.parse("demo") == ("demo", "demo")
    assert ServedModel.parse("whisper-1 = nvidia/parakeet") == ("whisper-1", "nvidia/parakeet")
    for text in ("", "=demo", "name="):
        with pytest.raises(ValueError, match="--model"):
            ServedModel.parse(text)


def test_the_default_models_need_no_network() -> None:
    assert [model.source for model in ServerOptions().models] == ["demo", "demo-streaming"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("models", []),
        ("models", [ServedModel("a", "demo"), ServedModel("a", "demo")]),
        ("dtype", "float8"),
        ("api_key", ""),
        ("max_queue", 0),
        ("max_wait_seconds", float("nan")),
        ("unload_seconds", 0),
        ("gather_ms", -1),
    ],
)
def test_values_that_are_not_accepted_are_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        ServerOptions(**{name: value})
