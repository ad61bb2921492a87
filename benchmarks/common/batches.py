"""Pieces of lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def split_batches(items: Sequence[Item], batch_size: int) -> Iterator[Sequence[Item]]:
    """Split items in order into batches of `batch_size`; the last has the rest."""
    for start in range(0, len(items), batch_size):
        yield items[start : start + batch_size]
