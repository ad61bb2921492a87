"""Captured CUDA graphs, by what they are for: found again, bounded in number, and given up where capturing fails."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch

logger = logging.getLogger(__name__)

WARM_UPS = 2


class Capturable(ABC):
    """
    Work over fixed buffers, without a branch on values, that a graph may be captured of.

    Attributes:
        device: Where the buffers are.
        graph: The captured work; None: `replay` does it plainly.
    """

    device: torch.device
    graph: Any = None

    @abstractmethod
    def run(self) -> None:
        """Do the work, from buffers into buffers."""

    def replay(self) -> None:
        """Do the work, by its graph if it has one."""
        if self.graph is not None:
            self.graph.replay()
        else:
            self.run()


Loop = TypeVar("Loop", bound=Capturable)


class GraphCache(Generic[Loop]):
    """
    Captured work of one kind, by its sizes.

    Args:
        max_loops: Captures kept at a time; the one that was not used for the longest time is dropped first.
        max_captures: Captures in all. After so many (for sizes that never come back) work is done without graphs.
        name: What is done, for the warning where it cannot be captured.
        shares_memory: One pool of memory for all graphs, whose results must be copied before the next one is replayed.
    """

    def __init__(
        self, max_loops: int = 8, max_captures: int = 64, name: str = "Decoding", shares_memory: bool = False
    ) -> None:
        self.max_loops = max_loops
        self.max_captures = max_captures
        self.name = name
        self.shares_memory = shares_memory
        self.num_captures = 0
        self.loops: OrderedDict[Hashable, Loop] = OrderedDict()
        # A loop's buffers serve one call at a time.
        self.lock = threading.Lock()
        self._pool: Any = None

    def find(self, key: Hashable) -> Loop | None:
        if key in self.loops:
            self.loops.move_to_end(key)
        return self.loops.get(key)

    def may_capture(self) -> bool:
        return self.num_captures < self.max_captures

    def keep(self, key: Hashable, loop: Loop) -> None:
        self.num_captures += 1
        self.loops[key] = loop
        while len(self.loops) > self.max_loops:
            self.loops.popitem(last=False)

    def capture(self, key: Hashable, loop: Loop) -> bool:
        """
        Capture and keep a loop, whose buffers change while that is done.

        Returns:
            False where no more captures are allowed, the device has no graphs, or capturing fails, which is not tried
            again.
        """
        if not has_graphs(loop.device) or not self.may_capture():
            return False
        try:
            if self.shares_memory and self._pool is None:
                self._pool = make_pool()
            loop.graph = record_graph(loop.run, loop.device, self._pool)
        except RuntimeError as error:
            self.max_captures = 0
            loop.graph = None
            logger.warning("%s goes on without CUDA graphs: %s", self.name, error)
            return False
        self.keep(key, loop)
        return True


def has_graphs(device: torch.device) -> bool:
    """True for devices on which work can be captured."""
    return device.type == "cuda"


def make_pool() -> Any:
    """Memory that several graphs share."""
    return torch.cuda.graph_pool_handle()


def record_graph(run: Callable[[], None], device: torch.device, pool: Any = None) -> Any:
    """
    Record work in a graph, after doing it a few times, as libraries choose their kernels then.

    Args:
        run: The work.
        device: A CUDA device.
        pool: Memory of the graph; None: its own.

    Raises:
        RuntimeError: for work that cannot be captured.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on allocating while this one captures.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        run()
    return graph
