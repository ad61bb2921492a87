"""Sources of checkpoints are asked in their order; what they load keeps the name that the user typed."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from transformers_fastconformer.checkpoint_sources import (
    HUB_OPTIONS,
    load_from_folder,
    register_source,
    registered_sources,
    resolve_checkpoint,
    unregister_source,
)

NAMES = ("a test's first", "a test's second")


@pytest.fixture
def asked() -> Iterator[list[str]]:
    """Two sources that know one checkpoint each, and the order in which they were asked."""
    order: list[str] = []

    def make(name: str, known: str) -> Any:
        def find(checkpoint: str, loaded_class: type, options: Any) -> str | None:
            order.append(name)
            return f"/cache/{name}" if checkpoint == known else None

        return find

    for name, known in zip(NAMES, ("one.first", "two.second"), strict=True):
        register_source(name, make(name, known))
    yield order
    for name in NAMES:
        unregister_source(name)


def test_sources_are_asked_in_order_until_one_knows(asked: list[str]) -> None:
    assert tuple(registered_sources())[-2:] == NAMES
    assert resolve_checkpoint("one.first", object, {}) == "/cache/a test's first"
    assert asked == [NAMES[0]]
    assert resolve_checkpoint("two.second", object, {}) == "/cache/a test's second"
    assert asked[1:] == list(NAMES)


def test_a_source_that_is_taken_back_is_not_asked(asked: list[str]) -> None:
    unregister_source(NAMES[0])
    assert resolve_checkpoint("two.second", object, {}) == "/cache/a test's second"
    assert asked == [NAMES[1]]
    unregister_source(NAMES[0])  # again, which is no error
    assert NAMES[0] not in registered_sources()


@pytest.mark.parametrize("gives_a_pair", [False, True])
def test_what_is_loaded_keeps_its_name(gives_a_pair: bool) -> None:
    given: dict[str, Any] = {}

    def load(folder: str, *arguments: Any, **options: Any) -> Any:
        given.update(folder=folder, arguments=arguments, options=options)
        tokenizer = SimpleNamespace(name_or_path=folder, init_kwargs={"name_or_path": folder})
        model = SimpleNamespace(name_or_path=folder, config=SimpleNamespace(name_or_path="other"), tokenizer=tokenizer)
        return (model, {}) if gives_a_pair else model

    options = {**dict.fromkeys(HUB_OPTIONS, "x"), "dtype": "float32"}
    loaded = load_from_folder(load, "/cache/f", "org/name", (1,), options)
    model = loaded[0] if gives_a_pair else loaded
    assert given == {"folder": "/cache/f", "arguments": (1,), "options": {"dtype": "float32"}}
    assert (model.name_or_path, model.config.name_or_path) == ("org/name", "other")
    assert (model.tokenizer.name_or_path, model.tokenizer.init_kwargs) == ("org/name", {"name_or_path": "org/name"})
