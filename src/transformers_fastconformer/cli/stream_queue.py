"""Queue of live audio between the thread that reads it and the one that computes, of bounded length."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import numpy as np


class Piece(NamedTuple):
    """
    The next samples of a stream.

    Args:
        samples: (samples,) float32.
        spoken_seconds: Time of the clock when the last of them was spoken; None for audio that is not live.
    """

    samples: np.ndarray
    spoken_seconds: float | None = None


class PieceQueue:
    """
    Pieces of audio in order.

    Args:
        max_samples: Samples that may wait.

    Attributes:
        num_lost: Samples that were lost, as the queue was full.
        num_gaps: Places where the device lost samples before they came here.
        error: Error that ended the audio; None: it came to its end.
    """

    def __init__(self, max_samples: int) -> None:
        self.max_samples = max_samples
        self.num_lost = 0
        self.num_gaps = 0
        self.error: Exception | None = None
        self._pieces: deque[Piece] = deque()
        self._num_samples = 0
        self._has_ended = False
        self._changed = threading.Condition()

    def put(self, piece: Piece) -> bool:
        """Add a piece as soon as there is room for it; false once the queue has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or self._num_samples < self.max_samples)
            return self._add(piece)

    def offer(self, piece: Piece) -> bool:
        """Add a piece at once; without room it is lost, and the result false."""
        with self._changed:
            if self._num_samples < self.max_samples:
                return self._add(piece)
            self.num_lost += piece.samples.shape[0]
            return False

    def _add(self, piece: Piece) -> bool:
        if self._has_ended:
            return False
        self._pieces.append(piece)
        self._num_samples += piece.samples.shape[0]
        self._changed.notify_all()
        return True

    def end(self, error: Exception | None = None) -> None:
        """Take no more pieces; those that wait can still be had. The error of the first call counts."""
        with self._changed:
            if not self._has_ended:
                self.error = error
            self._has_ended = True
            self._changed.notify_all()

    def get(self, timeout_seconds: float) -> Piece | None:
        """The next piece; None if nothing has come by then, and at the end."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._pieces) or self._has_ended, timeout_seconds)
            if not self._pieces:
                return None
            piece = self._pieces.popleft()
            self._num_samples -= piece.samples.shape[0]
            self._changed.notify_all()
            return piece

    @property
    def is_done(self) -> bool:
        """True when all pieces were had and no more will come."""
        with self._changed:
            return self._has_ended and not self._pieces
