"""The queue of live audio."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from transformers_fastconformer.cli.stream_queue import Piece, PieceQueue


def piece(value: float, num_samples: int = 10) -> Piece:
    return Piece(np.full(num_samples, value, dtype=np.float32), value)


def test_pieces_come_in_order_and_after_the_end() -> None:
    queue = PieceQueue(1000)
    for number in range(5):
        assert queue.put(piece(number))
    queue.end()
    assert not queue.put(piece(9))
    assert not queue.offer(piece(9))
    assert not queue.is_done
    found = [queue.get(1.0) for _ in range(5)]
    assert [item.spoken_seconds for item in found if item is not None] == [0, 1, 2, 3, 4]
    assert queue.get(1.0) is None
    assert queue.is_done


def test_a_full_queue_lets_a_reader_wait() -> None:
    queue = PieceQueue(15)
    done: list[int] = []

    def fill() -> None:
        for number in range(4):
            queue.put(piece(number))
            done.append(number)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    time.sleep(0.05)
    assert done == [0, 1]  # the second begins before the queue is full
    assert queue.get(1.0) is not None
    thread.join(0.05)
    for _ in range(3):
        assert queue.get(5.0) is not None
    thread.join(5.0)
    assert done == [0, 1, 2, 3]


def test_the_end_frees_a_reader_that_waits() -> None:
    queue = PieceQueue(5)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.extend(queue.put(piece(number)) for number in range(2)))
    thread.start()
    time.sleep(0.05)
    queue.end()
    thread.join(5.0)
    assert results == [True, False]


def test_a_microphone_does_not_wait_and_what_is_lost_is_counted() -> None:
    queue = PieceQueue(15)
    assert [queue.offer(piece(number)) for number in range(4)] == [True, True, False, False]
    assert queue.num_lost == 20
    assert queue.get(1.0) is not None
    assert queue.offer(piece(4))


def test_nothing_by_then() -> None:
    queue = PieceQueue(5)
    start = time.monotonic()
    assert queue.get(0.02) is None
    assert time.monotonic() - start >= 0.015
    assert not queue.is_done


def test_the_error_of_the_first_end_counts() -> None:
    queue = PieceQueue(5)
    queue.end(ValueError("first"))
    queue.end(ValueError("second"))
    with pytest.raises(ValueError, match="first"):
        raise queue.error or AssertionError
    other = PieceQueue(5)
    other.end()
    other.end(ValueError("late"))
    assert other.error is None
