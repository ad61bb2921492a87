from __future__ import annotations

import threading
from typing import Any

import pytest

from transformers_fastconformer.server import models
from transformers_fastconformer.server.errors import ApiError
from transformers_fastconformer.server.models import ModelStore
from transformers_fastconformer.server.options import ServedModel, ServerOptions

SERVED = [ServedModel(name, f"{name}.nemo") for name in ("one", "two", "three")]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []

    def load(source: str, **options: Any) -> tuple[Any, Any]:
        threading.Event().wait(0.01)
        done.append(source)
        return object(), object()

    monkeypatch.setattr(models, "load_model", load)
    return done


def test_models_are_loaded_at_their_first_use_once(loads: list[str]) -> None:
    store = ModelStore(ServerOptions(models=SERVED))
    assert store.loaded == []
    threads = [threading.Thread(target=store.acquire, args=("two",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert loads == ["two.nemo"]
    assert store.loaded == ["two"]


def test_the_one_that_was_not_used_for_longest_makes_room(loads: list[str]) -> None:
    store = ModelStore(ServerOptions(models=SERVED, max_loaded_models=2))
    for name in ("one", "two", "one", "three"):
        with store.using(name):
            pass
    assert store.loaded == ["one", "three"]
    with store.using("one"), store.using("three"), store.using("two"):
        assert store.loaded == ["one", "two", "three"]  # those in use stay


def test_idle_models_are_unloaded_and_come_again(loads: list[str]) -> None:
    store = ModelStore(ServerOptions(models=SERVED, unload_seconds=0.02))
    with store.using("one"):
        threading.Event().wait(0.03)
        assert store.unload_idle() == []
    assert store.unload_idle() == []
    threading.Event().wait(0.03)
    assert store.unload_idle() == ["one"]
    with store.using("one"):
        assert loads == ["one.nemo", "one.nemo"]


def test_a_failed_load_leaves_nothing_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("gone")

    monkeypatch.setattr(models, "load_model", fail)
    store = ModelStore(ServerOptions(models=SERVED))
    with pytest.raises(OSError, match="gone"):
        store.acquire("one")
    assert store._entries["one"].num_users == 0


def test_names() -> None:
    store = ModelStore(ServerOptions(models=SERVED))
    assert store.require_name(None) == "one"
    with pytest.raises(ApiError, match="'four' is not served here; expected one of one, two, three") as refused:
        store.require_name("four")
    assert (refused.value.status, refused.value.parameter) == (404, "model")
