"""Pieces of lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def split_batches(items: Sequence[Item], batch_size: int) -> Iterator[Sequence[Item]]:
    """Consecutive pieces of `batch_size` items, the last with what is left."""
    for start in range(0, len(items), batch_size):
        yield items[start : start + batch_size]
