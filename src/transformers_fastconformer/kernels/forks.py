"""Processes that are forked after torch has computed."""

from __future__ import annotations

import functools
import logging
import os

import torch

logger = logging.getLogger(__name__)


@functools.cache
def survive_forks() -> None:
    """
    Let processes that are forked from this one compute with one thread, from the first call on.

    The threads of OpenMP do not come along into a forked process (`Dataset.map(num_proc=2)`, `multiprocessing`), and
    GNU's OpenMP waits for them for ever once the parent has used them. With one thread it asks for none; workers of a
    `DataLoader` do the same.
    """
    if hasattr(os, "register_at_fork"):  # Windows has no forks
        os.register_at_fork(after_in_child=_use_one_thread)


def _use_one_thread() -> None:
    logger.debug("Process %d was forked: torch uses one thread.", os.getpid())
    torch.set_num_threads(1)
