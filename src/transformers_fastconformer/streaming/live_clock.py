"""The clock of a live stream: how late computing is, apart from the pauses of the one who brings the audio."""

from __future__ import annotations

from dataclasses import dataclass

# Audio by which a live source may be ahead of the clock, as it comes in pieces.
MAX_LEAD_SECONDS = 1.0


@dataclass
class LiveClock:
    """
    Times of a stream, in seconds of one clock.

    The lag is the audio that was spoken and is not computed. While nothing of a stream is to be computed and no piece
    comes, its source may have paused or may be late itself: such time is taken out of the lag once the next piece
    tells how much of it was not audio.

    Args:
        opened_seconds: Time at which the first sample was spoken, moved on by the pauses; None before it came.
        done_seconds: Time at which the last step of the stream was done; None before the first.
        idle_seconds: Time since the last piece in which nothing of the stream was to be computed.
    """

    opened_seconds: float | None = None
    done_seconds: float | None = None
    idle_seconds: float = 0.0

    def hear(self, came_seconds: float, heard_seconds: float, has_samples: bool) -> None:
        """
        Count a piece.

        Args:
            came_seconds: Time at which it came.
            heard_seconds: Audio of the stream, this piece included.
            has_samples: False for a piece of nothing, such as that of a `commit`.
        """
        if self.done_seconds is not None:
            self.idle_seconds += max(came_seconds - self.done_seconds, 0.0)
        if not has_samples:
            return
        if self.opened_seconds is None:
            self.opened_seconds = came_seconds - heard_seconds  # a restored stream has heard more before
        late_seconds = came_seconds - self.opened_seconds - heard_seconds
        self.opened_seconds += min(max(late_seconds, 0.0), self.idle_seconds)
        self.idle_seconds = 0.0

    def finish_step(self, now_seconds: float) -> None:
        """Count the end of a step."""
        self.done_seconds = now_seconds

    def lag_seconds(self, now_seconds: float, heard_seconds: float) -> float:
        """Seconds by which computing is late; 0 where the source is ahead of the clock, such as a file."""
        if self.opened_seconds is None:
            return 0.0
        return max(now_seconds - self.opened_seconds - heard_seconds - self.idle_seconds, 0.0)

    def is_live(self, now_seconds: float, heard_seconds: float) -> bool:
        """Tell whether the audio comes no faster than the clock goes."""
        if self.opened_seconds is None:
            return True
        return heard_seconds <= now_seconds - self.opened_seconds + MAX_LEAD_SECONDS
