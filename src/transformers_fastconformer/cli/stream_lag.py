"""Lag of live audio: how late the text is, and when that is worth a word."""

from __future__ import annotations

# Less is not worth a word; then the lag must have grown by so much to be told again.
MIN_TOLD_SECONDS = 1.0
GROWTH = 2.0


class LagWatch:
    """
    The lag of a stream.

    Attributes:
        last_seconds: The lag at the last step.
        max_seconds: The largest.
    """

    def __init__(self) -> None:
        self.last_seconds = 0.0
        self.max_seconds = 0.0
        self._told_seconds = MIN_TOLD_SECONDS

    def note(self, lag_seconds: float) -> str | None:
        """A warning about a lag over a second that grows, when it is reached and whenever it has doubled."""
        self.last_seconds = lag_seconds
        self.max_seconds = max(self.max_seconds, lag_seconds)
        if lag_seconds <= self._told_seconds:
            return None
        self._told_seconds = GROWTH * lag_seconds
        return (
            f"The text is {lag_seconds:.1f} s late and falls behind: this machine is too slow for this model at this "
            "latency. A larger --latency_ms, --dtype int8 or a smaller model takes less time."
        )

    def describe(self) -> str:
        """The lag in a line."""
        return f"Lag: {self.last_seconds:.2f} s at the end, {self.max_seconds:.2f} s at most."
