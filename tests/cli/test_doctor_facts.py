"""The facts that `fastconformer doctor` collects."""

from __future__ import annotations

import importlib.metadata
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import transformers_fastconformer.cli.doctor_facts as facts_module
from transformers_fastconformer.checkpoints.store import CACHE_VARIABLE
from transformers_fastconformer.cli.doctor_facts import (
    ask_hub,
    collect_facts,
    find_packages,
    look_at_cache,
    measure_speed,
)

REQUIREMENTS = [
    "present>=1.0",
    "old>=2.0,<3",
    "absent",
    'elsewhere>=1; sys_platform == "nowhere"',
    'listener>=1; extra == "audio"',
    'checker; extra == "test"',
]
VERSIONS = {"present": "1.2+cpu", "old": "1.9", "listener": "1.0"}


@pytest.fixture
def distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation of this package with other requirements."""

    def version(name: str) -> str:
        if name not in VERSIONS:
            raise importlib.metadata.PackageNotFoundError(name)
        return VERSIONS[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIREMENTS)
    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.mark.usefixtures("distribution")
def test_packages_and_their_versions() -> None:
    found = [(item.name, item.version, item.is_right, item.extra) for item in find_packages()]
    assert found == [
        ("present", "1.2+cpu", True, None),
        ("old", "1.9", False, None),
        ("absent", None, False, None),
        ("listener", "1.0", True, "audio"),
    ]
    commands = {item.name: item.install_command for item in find_packages()}
    assert commands["old"] == "pip install 'old<3,>=2.0'"
    assert commands["listener"] == "pip install 'transformers-fastconformer[audio]'"


def test_a_folder_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert find_packages() == []


def test_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    assert look_at_cache().num_bytes == 0  # it is not there yet
    (tmp_path / "cache" / "v1").mkdir(parents=True)
    (tmp_path / "cache" / "v1" / "weights").write_bytes(b"x" * 1000)
    found = look_at_cache()
    assert (found.folder, found.num_bytes) == (str(tmp_path / "cache"), 1000)
    assert found.free_bytes > 0


class Session:
    """A connection to the Hub that does what a test says."""

    def __init__(self, head: Any) -> None:
        self.head = head


def answer(address: str, timeout: float) -> None:
    """The Hub is there."""


def refuse(address: str, timeout: float) -> None:
    raise OSError("no route to host")


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_module, "is_offline_mode", lambda: False)
    for head, is_reachable, reason in ((answer, True, ""), (refuse, False, "no route to host")):
        monkeypatch.setattr(facts_module, "get_session", lambda head=head: Session(head))
        found = ask_hub()
        assert (found.is_offline, found.is_reachable, found.reason) == (False, is_reachable, reason)


def test_a_hub_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()
    monkeypatch.setattr(facts_module, "is_offline_mode", lambda: False)
    monkeypatch.setattr(facts_module, "get_session", lambda: Session(lambda *given, **named: is_over.wait(60)))
    start = time.monotonic()
    found = ask_hub(max_seconds=0.1)
    assert time.monotonic() - start < 30
    assert (found.is_reachable, found.reason) == (False, "no answer within 0.1 s")
    is_over.set()


def test_offline_the_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_module, "is_offline_mode", lambda: True)
    monkeypatch.setattr(facts_module, "get_session", None)
    found = ask_hub()
    assert (found.is_offline, found.is_reachable) == (True, False)
    assert "HF_HUB_OFFLINE" in found.reason


def test_a_checkpoint_that_does_not_run_is_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(facts_module, "load_model", fail)
    monkeypatch.setattr(facts_module, "MEASURED_SECONDS", 0.0)
    found = measure_speed()
    assert (found.real_time_factor, found.error) == (None, "out of memory")


def test_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(facts_module, "is_offline_mode", lambda: True)
    monkeypatch.setattr(facts_module, "MEASURED_SECONDS", 0.01)
    found = collect_facts()
    assert found.problems == []
    assert found.devices[-1].name == "cpu"
    assert found.speed.real_time_factor is not None
    assert found.speed.real_time_factor > 0
    assert {"float32", "bfloat16", "int8"} <= set(found.speed.matrix_gflops)
    assert all(rate > 0 for rate in found.speed.matrix_gflops.values())
    assert found.cache.folder == str(tmp_path)
