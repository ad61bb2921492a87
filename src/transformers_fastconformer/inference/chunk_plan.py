"""
Cuts of long clips: overlapping windows, each encoder frame of a clip kept from exactly one of them.

Windows count encoder frames, so that their borders lie on the grid that the encoder would lay over the whole clip;
`mel_range` says which mel frames these are. Nothing here knows models: integers in, integers out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """
    A stretch of a clip for the encoder, in encoder frames of the clip.

    Args:
        start: First frame that the encoder sees.
        stop: Frame after the last one that it sees.
        keep_start: First frame of its output that is kept; those before it are context.
        keep_stop: Frame after the last one that is kept; those from it on are context.
    """

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    @property
    def kept_rows(self) -> slice:
        """The kept frames among the rows of the encoder's output for this window."""
        return slice(self.keep_start - self.start, self.keep_stop - self.start)

    @property
    def kept_frames(self) -> int:
        return self.keep_stop - self.keep_start

    def mel_range(self, mel_frames_per_encoder_frame: int, mel_frames: int, is_last: bool) -> tuple[int, int]:
        """
        First mel frame of the window and the one after its last, of `mel_frames` in the clip.

        The last window takes all that is left: an encoder frame at the end may stand for fewer mel frames than others.
        """
        stop = self.stop * mel_frames_per_encoder_frame
        return self.start * mel_frames_per_encoder_frame, mel_frames if is_last else min(stop, mel_frames)


@dataclass(frozen=True)
class WindowPlan:
    """
    Plan by which clips are cut into windows.

    Args:
        window_frames: Encoder frames that the encoder sees at once, context included.
        left_frames: Context at the start of a window: frames that another window gives instead.
        right_frames: The same at its end.
        align_frames: Windows start at multiples of it; the chunk of a model with chunked attention.

    Raises:
        ValueError: when a window would be only context.
    """

    window_frames: int
    left_frames: int
    right_frames: int
    align_frames: int = 1

    def __post_init__(self) -> None:
        if min(self.left_frames, self.right_frames) < 0 or self.align_frames < 1:
            raise ValueError(
                f"left_frames={self.left_frames}, right_frames={self.right_frames}, align_frames={self.align_frames} "
                "are not supported; expected contexts of 0 or more and an alignment of 1 or more."
            )
        if self.step_frames < 1:
            raise ValueError(
                f"window_frames={self.window_frames} is not supported with left_frames={self.left_frames} and "
                f"right_frames={self.right_frames}; expected at least "
                f"{self.left_frames + self.right_frames + self.align_frames}, so that a frame is left between them."
            )

    @property
    def step_frames(self) -> int:
        """Frames from the start of a window to that of the next, a multiple of `align_frames`."""
        step = self.window_frames - self.left_frames - self.right_frames
        return step // self.align_frames * self.align_frames

    def windows(self, num_frames: int) -> Iterator[Window]:
        """
        The windows of a clip of `num_frames` encoder frames: their kept frames are the clip, each frame once.

        A clip that fits is one window. In a longer one all windows have `window_frames`: the first has more context
        after it and the last more before it, as their other side has no context (with `align_frames` above 1 the last
        may be a little longer).
        """
        kept = 0
        start = 0
        while start + self.window_frames < num_frames:
            keep_stop = start + self.left_frames + self.step_frames
            yield Window(start, start + self.window_frames, kept, keep_stop)
            kept = keep_stop
            start += self.step_frames
        last_start = max(num_frames - self.window_frames, 0) // self.align_frames * self.align_frames
        yield Window(last_start, num_frames, kept, num_frames)


def plan_windows(
    window_seconds: float,
    left_seconds: float,
    right_seconds: float,
    frame_seconds: float,
    align_frames: int = 1,
) -> WindowPlan:
    """
    Plan windows by lengths in seconds: the window is rounded down to whole encoder frames, contexts are rounded up.

    Args:
        window_seconds: Seconds that the encoder sees at once, context included.
        left_seconds: Context at the start of a window.
        right_seconds: Context at its end.
        frame_seconds: Seconds from one encoder frame to the next.
        align_frames: See [`WindowPlan`].

    Raises:
        ValueError: when a window would be only context.
    """
    tolerance = 1e-6  # of a frame: 0.24 s are three frames of 0.08 s, even if the division is a little off
    window_frames = math.floor(window_seconds / frame_seconds + tolerance)
    left_frames = math.ceil(left_seconds / frame_seconds - tolerance)
    right_frames = math.ceil(right_seconds / frame_seconds - tolerance)
    if left_frames < 0 or right_frames < 0 or window_frames - left_frames - right_frames < align_frames:
        raise ValueError(
            f"chunk_length_s={window_seconds} is not supported with stride_length_s=({left_seconds}, {right_seconds});"
            f" expected strides of 0 or more and a chunk longer than both together by {align_frames} encoder frame(s) "
            f"of {frame_seconds} s."
        )
    return WindowPlan(window_frames, left_frames, right_frames, align_frames)
