from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from served import CLIP


def test_options_that_are_wrong_end_the_command(run_command: Callable[..., Any]) -> None:
    for arguments, name in (
        (["--model", "demo", "--model", "demo"], "models="),
        (["--model", "=demo"], "--model="),
        (["--max_wait_seconds", "0"], "max_wait_seconds=0"),
    ):
        finished = run_command("serve", *arguments)
        assert finished.returncode == 2
        assert name in finished.stderr


def test_a_missing_package_is_an_error_with_the_command(
    run_command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "transformers_fastconformer.server.run", raising=False)
    monkeypatch.delattr("transformers_fastconformer.server.run", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    finished = run_command("serve")
    assert finished.returncode == 3
    assert "transformers-fastconformer[server]" in finished.stderr


def test_a_model_that_does_not_exist_ends_the_command(run_command: Callable[..., Any]) -> None:
    finished = run_command("serve", "--port", "0", "--model", "/nothing.nemo")
    assert finished.returncode == 2
    assert "/nothing.nemo" in finished.stderr


@pytest.mark.slow  # a new process
def test_it_starts_serves_and_stops_in_order() -> None:
    command = [sys.executable, "-m", "transformers_fastconformer.cli.main", "serve", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "FASTCONFORMER_API_KEY": "secret"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        address = process.stderr.readline().split(" at ")[1].split()[0]
        with open(CLIP, "rb") as file:
            url, headers = f"{address}/v1/audio/transcriptions", {"Authorization": "Bearer secret"}
            assert httpx.post(url, headers=headers, files={"file": file}).json()["text"].startswith("three one")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
        assert process.stderr.read().strip() == "Ended by SIGTERM."
