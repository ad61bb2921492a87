"""`fastconformer doctor`: what is shown of which facts, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import transformers_fastconformer.cli.doctor as doctor_module
from transformers_fastconformer.cli.doctor_facts import Cache, Cpu, Device, Facts, Hub, Package, Speed

TORCH = Package("torch", ">=2.6", "2.6.0", True, None, "pip install 'torch>=2.6'")
SOUNDFILE = Package("soundfile", ">=0.12", "0.12.1", True, "audio", "pip install 'transformers-fastconformer[audio]'")
FACTS = Facts(
    version="0.1.0",
    python="3.11.7",
    system="Linux x86_64",
    packages=[TORCH, SOUNDFILE],
    devices=[Device("cuda:0", "NVIDIA H200, 140 GiB"), Device("cpu", "x86_64")],
    cpu=Cpu(8, 4, "AVX512", True, True),
    cache=Cache("/cache", 3_800_000, 50_000_000_000),
    hub=Hub("https://huggingface.co", False, True, ""),
    speed=Speed("cuda", {"float32": 40_000.0, "bfloat16": 600_000.0, "int8": 200.0}, 1234.5, ""),
)


@pytest.fixture
def run_doctor(run_command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the command where these are the facts."""

    def run(facts: Facts, *arguments: str) -> Any:
        monkeypatch.setattr(doctor_module, "collect_facts", lambda: facts)
        return run_command("doctor", *arguments)

    return run


def test_all_is_well(run_doctor: Callable[..., Any]) -> None:
    result = run_doctor(FACTS)
    assert (result.returncode, result.stderr) == (0, "")
    for words in (
        "transformers-fastconformer 0.1.0, Python 3.11.7, Linux x86_64",
        "NVIDIA H200, 140 GiB",
        "8, of which torch uses 4; AVX512",
        "multiplied by the CPU itself",
        "/cache: 3.8 MB; 50.0 GB are free",
        "https://huggingface.co: reachable",
        "float32 40,000, bfloat16 600,000, int8 200 GFLOP/s (cuda, int8 on the CPU)",
        "1,234x real time (cuda)",
        "Nothing that is always needed is missing.",
    ):
        assert words in result.stdout
    assert "Missing" not in result.stdout


def test_what_is_always_needed_and_missing(run_doctor: Callable[..., Any]) -> None:
    facts = replace(FACTS, packages=[replace(TORCH, version="2.5.1", is_right=False), SOUNDFILE])
    result = run_doctor(facts)
    assert result.returncode == 3
    assert "Missing: torch 2.5.1; expected >=2.6: pip install 'torch>=2.6'" in result.stdout
    assert "Nothing that is always needed" not in result.stdout
    facts = replace(FACTS, packages=[replace(TORCH, version=None, is_right=False)])
    assert "Missing: torch is not installed; expected >=2.6" in run_doctor(facts).stdout
    facts = replace(FACTS, speed=replace(FACTS.speed, real_time_factor=None, error="no room"))
    result = run_doctor(facts)
    assert result.returncode == 3
    assert "Missing: the demonstration checkpoint does not run: no room" in result.stdout


def test_an_extra_may_be_missing(run_doctor: Callable[..., Any]) -> None:
    result = run_doctor(replace(FACTS, packages=[TORCH, replace(SOUNDFILE, version=None, is_right=False)]))
    assert result.returncode == 0
    assert "For the extra audio: pip install 'transformers-fastconformer[audio]'" in result.stdout


@pytest.mark.parametrize(
    ("hub", "words"),
    [
        (Hub("https://hub", True, False, "HF_HUB_OFFLINE is set"), "https://hub: not asked, HF_HUB_OFFLINE is set"),
        (Hub("https://hub", False, False, "no route"), "https://hub: not reachable (no route)"),
    ],
)
def test_a_hub_that_does_not_answer_is_not_a_fault(run_doctor: Callable[..., Any], hub: Hub, words: str) -> None:
    result = run_doctor(replace(FACTS, hub=hub))
    assert result.returncode == 0
    assert words in result.stdout


def test_a_package_that_is_not_installed(run_doctor: Callable[..., Any]) -> None:
    assert "what it needs is not known" in run_doctor(replace(FACTS, packages=[])).stdout


def test_json(run_doctor: Callable[..., Any]) -> None:
    facts = replace(FACTS, packages=[replace(TORCH, version=None, is_right=False), SOUNDFILE])
    result = run_doctor(facts, "--json")
    found = json.loads(result.stdout)
    assert result.returncode == 3
    assert found["packages"][0]["install_command"] == "pip install 'torch>=2.6'"
    assert found["speed"]["matrix_gflops"]["int8"] == 200.0
    assert found["problems"] == facts.problems
    assert found["missing_extras"] == {}
