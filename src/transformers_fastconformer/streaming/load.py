"""Share of real time that an engine needs for its streams."""

from __future__ import annotations

# Audio of all streams over which times are added up, and before which nothing is said.
WINDOW_SECONDS = 20.0
MIN_SECONDS = 4.0


class Load:
    """Time of computing for a second of audio of a stream, by the last steps."""

    def __init__(self) -> None:
        self._busy_seconds = 0.0
        self._audio_seconds = 0.0

    def add(self, busy_seconds: float, audio_seconds: float) -> None:
        """Count a step that took so long for so much audio of all its streams."""
        if audio_seconds <= 0:
            return
        kept = max(1.0 - audio_seconds / WINDOW_SECONDS, 0.0)
        self._busy_seconds = kept * self._busy_seconds + busy_seconds
        self._audio_seconds = kept * self._audio_seconds + audio_seconds

    def share(self, num_streams: int) -> float:
        """Share of real time that so many live streams take; 0 before it is known."""
        if self._audio_seconds < MIN_SECONDS:
            return 0.0
        return num_streams * self._busy_seconds / self._audio_seconds
