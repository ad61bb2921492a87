"""Stand-ins for CUDA graphs where there is no GPU: what was recorded is called again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from transformers_fastconformer.kernels import graph_cache
from transformers_fastconformer.modeling import steady_step


class CalledGraph:
    """A graph whose replay calls what was recorded."""

    num_replays = 0

    def __init__(self, run: Callable[[], None]) -> None:
        run()  # a warm-up, which changes the buffers
        self.run = run

    def replay(self) -> None:
        CalledGraph.num_replays += 1
        self.run()


def capture_as_calls(monkeypatch: pytest.MonkeyPatch) -> type[CalledGraph]:
    """Capture steps of streams on a CPU, as calls."""
    for module in (graph_cache, steady_step):
        monkeypatch.setattr(module, "has_graphs", lambda device: True)
    monkeypatch.setattr(graph_cache, "make_pool", object)
    monkeypatch.setattr(graph_cache, "record_graph", lambda run, device, pool: CalledGraph(run))
    monkeypatch.setattr(CalledGraph, "num_replays", 0)
    return CalledGraph
