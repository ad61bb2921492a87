"""Captured graphs: found again, bounded, and given up where capturing fails. Without a GPU a graph calls its work."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from transformers_fastconformer.kernels import graph_cache
from transformers_fastconformer.kernels.graph_cache import Capturable, GraphCache


class Doubling(Capturable):
    """Doubles a buffer in place."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.buffer = torch.ones(3, device=device)
        self.num_runs = 0

    def run(self) -> None:
        self.num_runs += 1
        self.buffer.mul_(2.0)


class CalledGraph:
    """Stands for a graph: its replay calls what was recorded."""

    def __init__(self, run: Callable[[], None], pool: Any) -> None:
        self.replay, self.pool = run, pool


@pytest.fixture
def graphs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_cache, "has_graphs", lambda device: True)
    monkeypatch.setattr(graph_cache, "make_pool", object)
    monkeypatch.setattr(graph_cache, "record_graph", lambda run, device, pool: CalledGraph(run, pool))


def test_the_cache_is_bounded() -> None:
    graphs: GraphCache[Any] = GraphCache(max_loops=2, max_captures=3)
    loops: list[Any] = [object() for _ in range(3)]
    for number, loop in enumerate(loops):
        assert graphs.may_capture()
        graphs.keep(number, loop)
        assert graphs.find(0) is loops[0]  # used last, so kept
    assert graphs.find(1) is None
    assert not graphs.may_capture()
    assert graphs.num_captures == 3


def test_without_graphs_work_is_done_plainly() -> None:
    graphs: GraphCache[Doubling] = GraphCache()
    loop = Doubling()
    assert not graphs.capture("loop", loop)
    assert (graphs.find("loop"), graphs.num_captures) == (None, 0)
    loop.replay()
    assert loop.buffer.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.usefixtures("graphs_on_the_cpu")
def test_what_was_captured_is_found_and_replayed() -> None:
    graphs: GraphCache[Doubling] = GraphCache(max_captures=2, shares_memory=True)
    loops = [Doubling() for _ in range(3)]
    assert [graphs.capture(number, loop) for number, loop in enumerate(loops)] == [True, True, False]
    assert loops[0].graph.pool is loops[1].graph.pool is not None
    assert loops[2].graph is None
    found = graphs.find(1)
    assert found is loops[1]
    found.replay()
    assert (found.num_runs, found.buffer.tolist()) == (1, [2.0, 2.0, 2.0])


@pytest.mark.usefixtures("graphs_on_the_cpu")
def test_what_cannot_be_captured_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(run: Callable[[], None], device: torch.device, pool: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graph_cache, "record_graph", fail)
    graphs: GraphCache[Doubling] = GraphCache(name="Streaming")
    loop = Doubling()
    with caplog.at_level(logging.WARNING):
        assert not graphs.capture("a", loop)
        assert not graphs.capture("b", loop)
    assert [record.message for record in caplog.records] == [
        "Streaming goes on without CUDA graphs: operation not permitted when stream is capturing"
    ]
    loop.replay()
    assert loop.num_runs == 1


@pytest.mark.gpu
def test_a_graph_does_what_was_recorded() -> None:
    graphs: GraphCache[Doubling] = GraphCache(shares_memory=True)
    loops = [Doubling("cuda"), Doubling("cuda")]
    for number, loop in enumerate(loops):
        assert graphs.capture(number, loop)
        loop.buffer.fill_(1.0)
    num_runs = loops[0].num_runs
    for _ in range(3):
        for loop in loops:
            loop.replay()
    assert [loop.buffer.tolist() for loop in loops] == [[8.0, 8.0, 8.0]] * 2
    assert loops[0].num_runs == num_runs
