"""
Windows of long clips for models that decode a window as a whole: cut in pauses, or overlapping where nobody pauses.

A pause is a stretch in which the mean of the log-mel features is near the quietest that was heard lately. Windows that
meet in a pause share nothing and their texts follow each other. Where nobody pauses, or a noise hides it, the next
window begins before the end of the one before, and `overlaps.py` joins their texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..validation import require
from .clip_features import Clip
from .options import ChunkOptions

# Windows in seconds: published models were trained with up to 40 s. Shorter ones give the decoder too little text.
MIN_WINDOW_SECONDS, MAX_WINDOW_SECONDS = 10.0, 40.0
DEFAULT_WINDOW_SECONDS = 30.0
DEFAULT_STRIDE_SECONDS = 2.0  # half of the overlap of two windows
# Mel frames of 10 ms: levels are smoothed over so many, a pause lasts at least so many, and a longer one than the
# third is no better.
SMOOTHED_FRAMES = 5
MIN_PAUSE_FRAMES = 16
LONG_PAUSE_FRAMES = 60
# Mel frames of which the range of levels is known, five minutes.
REMEMBERED_FRAMES = 30000
# The quietest and the loudest levels, as shares of the frames, and how far above the quietest a pause may be, as a
# share of the way to the loudest. With less between them nothing is a pause: noise, or silence only.
QUIET_SHARE, LOUD_SHARE = 0.05, 0.8
PAUSE_SHARE = 0.25
MIN_CONTRAST = 0.5


@dataclass(frozen=True)
class CutRules:
    """
    Rules by which clips are cut, in encoder frames.

    Args:
        max_frames: Longest window.
        overlap_frames: Frames that two windows share where there is no pause.
        mel_frames_per_encoder_frame: Mel frames of an encoder frame.
        whole_frames: Longest clip that is not cut.

    Raises:
        ValueError: for windows that would be only overlap.
    """

    max_frames: int
    overlap_frames: int
    mel_frames_per_encoder_frame: int
    whole_frames: int

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_frames <= self.max_frames // 2 or self.whole_frames < self.max_frames:
            raise ValueError(
                f"overlap_frames={self.overlap_frames} is not supported with max_frames={self.max_frames} and "
                f"whole_frames={self.whole_frames}; expected at most half a window, and clips of a window whole."
            )

    @property
    def min_frames(self) -> int:
        """Shortest window but the last: the first frame at which it may be cut."""
        return self.max_frames // 2


def plan_cuts(chunking: ChunkOptions, frame_seconds: float, mel_frames_per_encoder_frame: int) -> CutRules | None:
    """
    Rules by which clips of a multitask model are cut.

    Args:
        chunking: The strategy: `"full"`, `"auto"` (clips of up to `MAX_WINDOW_SECONDS` are whole) or `"chunked"`; the
            length of windows, and by half how much they overlap where nobody pauses.
        frame_seconds: Seconds from one encoder frame to the next.
        mel_frames_per_encoder_frame: Mel frames of an encoder frame.

    Returns:
        The rules; None: clips are not cut.

    Raises:
        ValueError: for `"local"`, and for lengths that such models do not take.
    """
    require(
        chunking.strategy != "local",
        "strategy",
        chunking.strategy,
        "'auto', 'full' or 'chunked' for a multitask model, whose decoder sees all frames",
    )
    if chunking.strategy == "full":
        return None
    seconds = chunking.chunk_length_s or DEFAULT_WINDOW_SECONDS
    is_known = MIN_WINDOW_SECONDS <= seconds <= MAX_WINDOW_SECONDS
    expected = f"{MIN_WINDOW_SECONDS:.0f} to {MAX_WINDOW_SECONDS:.0f} seconds for a multitask model"
    require(is_known, "chunk_length_s", seconds, expected)
    overlap_seconds = sum(DEFAULT_STRIDE_SECONDS if stride is None else stride for stride in chunking.strides)
    is_short = overlap_seconds <= seconds / 2
    require(is_short, "stride_length_s", chunking.stride_length_s, f"at most {seconds / 4:g}, a quarter of a window")
    max_frames = round(seconds / frame_seconds)
    is_auto = chunking.strategy == "auto" and not chunking.chunk_length_s
    whole_frames = round(MAX_WINDOW_SECONDS / frame_seconds) if is_auto else max_frames
    overlap_frames = min(round(overlap_seconds / frame_seconds), max_frames // 2)
    return CutRules(max_frames, overlap_frames, mel_frames_per_encoder_frame, whole_frames)


class PauseWindow(NamedTuple):
    """
    A window of a clip, in encoder frames of the clip.

    Args:
        start: First frame.
        stop: Frame after the last one.
        overlap_frames: First frames that the window before has too; 0 where both meet in a pause.
        is_last: It ends with the clip.
        is_overlapped: The window after has its last frames too.
    """

    start: int
    stop: int
    overlap_frames: int
    is_last: bool
    is_overlapped: bool = False

    @property
    def has_overlap(self) -> bool:
        """True where it shares frames with a neighbour."""
        return self.overlap_frames > 0 or self.is_overlapped


def cut_at_pauses(clip: Clip, num_frames: int, rules: CutRules) -> Iterator[tuple[PauseWindow, torch.Tensor]]:
    """
    Cut a clip into windows while they are asked for.

    Args:
        clip: Features of the clip.
        num_frames: Encoder frames of it.
        rules: Rules of the cuts.

    Returns:
        An iterator of windows and their features, (mel frames, mels); those of the last window end with a masked mel
        frame, as whole clips do.
    """
    mel_frames = rules.mel_frames_per_encoder_frame
    start = overlap = 0
    heard = np.zeros(0, dtype=np.float32)  # levels
    while num_frames - start > (rules.whole_frames if start == 0 else rules.max_frames):
        rows = clip.rows(start * mel_frames, (start + rules.max_frames) * mel_frames)
        levels = smooth_levels(rows)
        heard = np.concatenate([heard, levels[overlap * mel_frames :]])[-REMEMBERED_FRAMES:]
        # The last window is not to be very short.
        latest = min(rules.max_frames, max(num_frames - start - rules.min_frames // 3, rules.min_frames))
        cut = find_pause(levels, rules.min_frames * mel_frames, latest * mel_frames, heard)
        stop = start + (rules.max_frames if cut is None else round(cut / mel_frames))
        next_overlap = rules.overlap_frames if cut is None else 0
        window = PauseWindow(start, stop, overlap, False, is_overlapped=next_overlap > 0)
        yield window, rows[: (stop - start) * mel_frames]
        overlap = next_overlap
        start = stop - overlap
    yield PauseWindow(start, num_frames, overlap, True), clip.rows(start * mel_frames, clip.mel_length + 1)


def smooth_levels(rows: torch.Tensor) -> np.ndarray:
    """Level of each mel frame of features (mel frames, mels): their mean, over some frames."""
    levels = rows.float().mean(dim=1).numpy()
    kernel = np.ones(SMOOTHED_FRAMES, dtype=np.float32)
    # The ends have fewer neighbours.
    return np.convolve(levels, kernel, "same") / np.convolve(np.ones_like(levels), kernel, "same")


def find_pause(levels: np.ndarray, first: int, last: int, heard: np.ndarray) -> int | None:
    """
    Find the middle of the best pause: the longest, and of those that are long the last.

    Args:
        levels: Levels of the mel frames of a window.
        first: First mel frame that may be the middle.
        last: Last one.
        heard: Levels by which quiet and loud are told.

    Returns:
        The mel frame; None: there is no pause.
    """
    quiet, loud = np.quantile(heard, [QUIET_SHARE, LOUD_SHARE])
    if loud - quiet < MIN_CONTRAST:
        return None
    is_quiet = np.concatenate([[False], levels < quiet + PAUSE_SHARE * (loud - quiet), [False]])
    edges = np.flatnonzero(is_quiet[1:] != is_quiet[:-1])
    best: tuple[int, int] | None = None
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        middle = min(max((start + stop) // 2, first), last)
        margin = MIN_PAUSE_FRAMES // 2  # of quiet on each side
        if stop - start < MIN_PAUSE_FRAMES or not start + margin <= middle <= stop - margin:
            continue
        candidate = (min(stop - start, LONG_PAUSE_FRAMES), middle)
        best = candidate if best is None else max(best, candidate)
    return None if best is None else best[1]
