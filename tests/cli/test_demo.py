"""The `demo` command: conversion, verification and transcription, offline and within a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

TEXT = "three one four one five nine"


def test_demo_runs_offline_in_under_a_minute(run_command: Callable[..., Any]) -> None:
    start = time.perf_counter()
    result = run_command("demo", "--no_nemo")
    assert result.returncode == 0, result.stdout + result.stderr
    assert time.perf_counter() - start < 60
    assert "stages agree" in result.stdout
    assert result.stdout.count(TEXT) == 2  # both heads
    assert "start (s)" in result.stdout
