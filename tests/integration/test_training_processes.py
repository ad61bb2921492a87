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

SUPPORT = Path(__file__).resolve().parents[1] / "support"
STEPS, BATCH_SECONDS = 4, 3.2


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_together(script: Path, num_processes: int, *arguments: object) -> None:
    """Run a script in so many processes that know of one another."""
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *map(str, arguments)]
    running = []
    for rank in range(num_processes):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes)}
        environment = {**shared, **(ranks if num_processes > 1 else {})}
        running.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    try:
        printed = [process.communicate(timeout=600)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * num_processes, "\n".join(printed)


def train(output: Path, num_processes: int, accumulation: int) -> dict[str, Any]:
    """Losses and evaluations of a run in so many processes."""
    run_together(SUPPORT / "training_process.py", num_processes, output, STEPS, BATCH_SECONDS, accumulation)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


@pytest.mark.slow
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
    """Torch's `fully_shard`, which Accelerate offers on GPUs only: gathered weights reach loss and LSTM."""
    losses = {}
    for num_processes in (1, 2):
        output = tmp_path / f"{num_processes}.json"
        run_together(SUPPORT / "sharded_process.py", num_processes, "tdt_hybrid", output)
        losses[num_processes] = json.loads(output.read_text())
    assert len(set(losses[1])) == 3
    assert losses[2] == pytest.approx(losses[1], rel=1e-4)
