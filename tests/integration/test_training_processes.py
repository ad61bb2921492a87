"""Two processes that train together have the losses of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate", reason="accelerate is not installed")
pytest.importorskip("jiwer", reason="jiwer is not installed")

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "training_process.py"
STEPS, BATCH_SECONDS = 4, 3.2


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def train(output: Path, num_processes: int, accumulation: int, *rest: str) -> dict[str, Any]:
    """Losses and evaluations of a run in so many processes."""
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    shared |= {"ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": "true"} if rest else {}
    arguments = [sys.executable, str(SCRIPT), str(output), str(STEPS), str(BATCH_SECONDS), str(accumulation), *rest]
    running = []
    for rank in range(num_processes):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes)}
        environment = {**shared, **(ranks if num_processes > 1 else {})}
        running.append(
            subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    try:
        printed = [process.communicate(timeout=600)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * num_processes, "\n".join(printed)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def test_two_processes_have_the_losses_of_one_that_accumulates(tmp_path: Path) -> None:
    one, two = train(tmp_path / "one.json", 1, 2), train(tmp_path / "two.json", 2, 1)
    assert len(one["losses"]) == STEPS
    assert len(set(one["losses"])) == STEPS
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    for ours, theirs in zip(two["evaluations"], one["evaluations"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert one["evaluations"][0] != one["evaluations"][1]


@pytest.mark.slow
def test_two_processes_that_share_the_weights_have_the_losses_of_one(tmp_path: Path) -> None:
    one, two = train(tmp_path / "one.json", 1, 2), train(tmp_path / "two.json", 2, 1, "fsdp")
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["evaluations"][1]["eval_loss"] == pytest.approx(one["evaluations"][1]["eval_loss"], rel=1e-4)
