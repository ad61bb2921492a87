"""Memory that is free, as the system and its limits say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import transformers_fastconformer.inference.free_memory as module
from transformers_fastconformer.inference.free_memory import available_bytes

CPU = torch.device("cpu")


def test_free_memory_is_what_the_system_and_its_groups_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, used, most = (tmp_path / name for name in ("meminfo", "used", "most"))
    monkeypatch.setattr(module, "MEMORY_INFO", info)
    monkeypatch.setattr(module, "CONTROL_GROUPS", ((used, most),))
    info.write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    8000 kB\n")
    assert available_bytes(CPU) == 8000 * 1024
    used.write_text("1000\n")
    most.write_text("max\n")
    assert available_bytes(CPU) == 8000 * 1024
    most.write_text("5000\n")
    assert available_bytes(CPU) == 4000
    used.write_text("6000\n")
    assert available_bytes(CPU) == 0


def test_a_system_that_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_INFO", tmp_path / "nothing")
    monkeypatch.setattr(module, "CONTROL_GROUPS", ())
    monkeypatch.setattr(module.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__, raising=False)
    assert available_bytes(CPU) == 2048000

    def fail(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(module.os, "sysconf", fail, raising=False)
    assert available_bytes(CPU) == module.UNKNOWN_MEMORY_BYTES


@pytest.mark.gpu
def test_free_memory_of_a_gpu() -> None:
    device = torch.device("cuda")
    before = available_bytes(device)
    held = torch.empty(2**28, dtype=torch.uint8, device=device)
    assert before - available_bytes(device) >= held.numel() // 2
    del held
    assert available_bytes(device) >= before - 2**26
