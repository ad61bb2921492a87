"""Damaged and hostile inputs end in a result or in a clear error; and the rule by which that is judged."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import fuzz_kinds
import fuzz_process
import pytest
from fuzz_cases import MAX_MESSAGE, Case, OutsideError, Room, SilentChangeError, judge_error, rng_of
from fuzz_process import ForkServer
from fuzz_table import Table, describe_faults

if sys.platform != "linux":
    pytest.skip("limits of processes are those of Linux", allow_module_level=True)
pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

WHOLE = "whole"
# Cases of the default run: each mutation comes once.
FEW = {"archive": 36, "folder": 20, "audio": 20, "manifest": 10, "options": 21}
MANY = {"archive": 10000, "folder": 1000, "audio": 5000, "manifest": 500, "options": 2000}


def run(counts: dict[str, int], first_seed: int = 0) -> Table:
    """Counts of the cases of each kind."""
    table = Table()
    cases = [(kind, first_seed + number) for kind, count in counts.items() for number in range(count)]
    with ForkServer(list(counts)) as server:
        for outcome in server.run(cases):
            table.add(outcome)
    return table


def check(table: Table, counts: dict[str, int]) -> None:
    assert not table.faults, "\n" + describe_faults(table.faults)
    found = {kind: sum(row["cases"] for (of, _), row in table.rows.items() if of == kind) for kind in counts}
    assert found == counts
    for (kind, mutation), row in table.rows.items():
        if mutation == WHOLE:
            # Of a whole audio file a case may ask for seconds or a channel that it does not have.
            expected = row["result"] if kind == "audio" else row["cases"]
            assert row["result"] == expected > 0, f"{kind}: whole inputs are refused"


@pytest.mark.slow
def test_each_mutation_once() -> None:
    check(run(FEW), FEW)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("kind", MANY)
def test_thousands_of_cases(kind: str) -> None:
    counts = {kind: MANY[kind]}
    check(run(counts), counts)


@pytest.mark.slow
def test_all_runs_have_the_same_cases() -> None:
    digests = []
    for _ in range(2):
        cases = [(kind, seed) for kind, count in FEW.items() for seed in range(count)]
        with ForkServer(list(FEW)) as server:
            digests.append(
                {(kind, seed): outcome.digest for (kind, seed), outcome in zip(cases, server.run(cases), strict=True)}
            )
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ValueError("model.nemo: x=5"), "error"),
        (FileNotFoundError(errno.ENOENT, "not there", "/x/model.nemo"), "error"),
        (ImportError("model.nemo needs soxr"), "error"),
        (ValueError("x=5 is not supported"), "unnamed"),
        (ValueError("model.nemo" + "x" * MAX_MESSAGE), "unnamed"),
        (FileNotFoundError(errno.ENOENT, "not there", "/x/other"), "unnamed"),
        (OSError(errno.EFBIG, "too large", "model.nemo"), "disk"),
        (MemoryError("model.nemo"), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: model.nemo"), "memory"),
        (json.JSONDecodeError("model.nemo", "", 0), "raw"),
        (KeyError("model.nemo"), "raw"),
        (RecursionError("model.nemo"), "raw"),
        (SilentChangeError("model.nemo"), "silent"),
        (OutsideError("model.nemo"), "outside"),
    ],
)
def test_errors_are_judged(error: Exception, verdict: str) -> None:
    assert judge_error(error, ["model.nemo"])[0] == verdict


def test_keys_are_names_where_that_is_said() -> None:
    assert judge_error(ValueError("encoder.n_layers=5 is not supported"), ["x.nemo"], is_keyed=True)[0] == "error"
    assert judge_error(ValueError("5 is not supported"), ["x.nemo"], is_keyed=True)[0] == "unnamed"


def kill_this() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_memory() -> None:
    raise AssertionError(len(bytearray(8 * 2**30)))


def fill_disk() -> None:
    with open("../temporary/x", "wb") as file:
        file.seek(2 * 2**30)
        file.write(b"x")


def wait() -> None:
    time.sleep(60)


def leave() -> None:
    Path(os.environ["TMPDIR"], "x").touch()


def go_outside() -> None:
    Path("x").touch()


def write_input() -> None:
    Path("../input/x").touch()


def talk() -> None:
    os.write(2, b"chatter")


def raise_key_error() -> None:
    raise KeyError("x")


def return_well() -> None:
    return None


STEPS = {
    return_well: "result",
    raise_key_error: "raw",
    talk: "chatter",
    kill_this: "signal",
    wait: "hang",
    fill_memory: "memory",
    fill_disk: "disk",
    leave: "leftover",
    write_input: "leftover",
    go_outside: "outside",
}


def test_what_cases_do_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fault that a case can have is seen, and the cases after it are run."""
    steps = list(STEPS)

    def make_case(kind: str, seed: int, room: Room) -> Case:
        return Case(kind, seed, steps[seed].__name__, "", (steps[seed],), ["x"])

    monkeypatch.setattr(fuzz_kinds, "make_case", make_case)
    monkeypatch.setattr(fuzz_process, "LIMIT_SECONDS", -0.5)  # and 2 s of grace
    outcomes = list(fuzz_process.run_batch([("step", seed) for seed in range(len(steps))], tmp_path))
    assert [(outcome.mutation, outcome.verdict) for outcome in outcomes] == [
        (step.__name__, verdict) for step, verdict in STEPS.items()
    ]


# What archives begin with takes seconds to make: `slow`; their cases are drawn as those of the others.
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind == "archive" else []) for kind in fuzz_kinds.KINDS]
)
def test_seeds_give_the_same_case(kind: str, tmp_path: Path) -> None:
    fuzz_kinds.prepare([kind])

    def make(name: str, seed: int) -> tuple[Case, Any]:
        room = Room(tmp_path / name)
        for folder in room.folders:
            folder.mkdir(parents=True, exist_ok=True)
        case = fuzz_kinds.make_case(kind, seed, room)
        made = {
            path.relative_to(room.root): path.read_bytes() for path in sorted(room.input.rglob("*")) if path.is_file()
        }
        return case, made

    seeds = range(3, 30, 9)
    for seed in seeds:
        (one, made), (other, again) = make(f"one{seed}", seed), make(f"two{seed}", seed)
        assert (one.mutation, one.base, one.names) == (other.mutation, other.base, other.names)
        assert made == again
    assert rng_of(kind, 1).random() != rng_of(kind, 2).random()
