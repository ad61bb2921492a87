"""Turns of the device: one piece of work at a time, live streams before files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class DeviceTurn:
    """
    A lock on the device that live streams get first.

    Files hold it for a batch or a window of a long recording at a time, see `give_way`, so a live step waits for one
    of those at most.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_taken = False
        self._num_live_waiting = 0

    @contextmanager
    def live(self) -> Iterator[None]:
        """Turn of a step of live streams."""
        with self._changed:
            self._num_live_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._is_taken)
            finally:
                self._num_live_waiting -= 1
            self._is_taken = True
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def files(self) -> Iterator[None]:
        """Turn of a batch of files."""
        self._take_for_files()
        try:
            yield
        finally:
            self._release()

    def give_way(self) -> None:
        """In the middle of a turn of files: let the live steps that wait go first."""
        if self._num_live_waiting:
            self._release()
            self._take_for_files()

    def _take_for_files(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken and not self._num_live_waiting)
            self._is_taken = True

    def _release(self) -> None:
        with self._changed:
            self._is_taken = False
            self._changed.notify_all()
