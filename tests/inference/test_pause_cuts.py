"""Cuts in pauses: where they are, overlaps where there are none, every frame in a window, streams like tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from transformers_fastconformer.inference.clip_features import ClipFeatures
from transformers_fastconformer.inference.pause_cuts import CutRules, PauseWindow, cut_at_pauses, find_pause

RULES = CutRules(max_frames=100, overlap_frames=20, mel_frames_per_encoder_frame=8, whole_frames=130)


def clip_of(num_frames: int, pauses: list[tuple[int, int]], noise: float = 0.3) -> ClipFeatures:
    """Speech of so many encoder frames with pauses, each given by its first and last encoder frame."""
    rng = torch.Generator().manual_seed(0)
    rows = noise * torch.randn(num_frames * 8 + 1, 16, generator=rng) + 1
    for start, stop in pauses:
        rows[start * 8 : stop * 8] -= 2
    return ClipFeatures(rows, num_frames * 8)


def windows_of(clip: ClipFeatures, rules: CutRules = RULES) -> list[PauseWindow]:
    return [window for window, _ in cut_at_pauses(clip, clip.mel_length // 8, rules)]


def test_windows_meet_in_pauses() -> None:
    windows = windows_of(clip_of(250, [(30, 40), (70, 80), (150, 160)]))
    assert windows == [
        PauseWindow(0, 75, 0, False),
        PauseWindow(75, 155, 0, False),
        PauseWindow(155, 250, 0, True),
    ]


def test_windows_overlap_where_nobody_pauses() -> None:
    assert windows_of(clip_of(250, [])) == [
        PauseWindow(0, 100, 0, False, is_overlapped=True),
        PauseWindow(80, 180, 20, False, is_overlapped=True),
        PauseWindow(160, 250, 20, True),
    ]
    assert [window.has_overlap for window in windows_of(clip_of(250, [(70, 80)]))] == [False, True, True]


def test_short_clips_are_whole() -> None:
    for num_frames in (0, 1, 100, 130):
        assert windows_of(clip_of(num_frames, [])) == [PauseWindow(0, num_frames, 0, True)]
    assert len(windows_of(clip_of(131, []))) == 2


@pytest.mark.parametrize("seed", range(20))
def test_every_frame_is_in_a_window_and_features_are_the_clips(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_frames = int(rng.integers(131, 700))
    starts = rng.integers(0, num_frames, 12)
    clip = clip_of(num_frames, [(int(start), int(start + rng.integers(1, 12))) for start in starts])
    end = 0
    for window, rows in cut_at_pauses(clip, num_frames, RULES):
        assert window.start == end - window.overlap_frames
        assert window.overlap_frames in (0, RULES.overlap_frames)
        assert 0 < window.stop - window.start <= RULES.max_frames
        stop = clip.mel_length + 1 if window.is_last else window.stop * 8
        assert torch.equal(rows, clip.input_features[window.start * 8 : stop])
        end = window.stop
        if not window.is_last:
            assert window.stop - window.start >= RULES.min_frames
    assert end == num_frames


def test_noise_and_silence_have_no_pauses() -> None:
    levels = np.random.default_rng(0).normal(0, 0.1, 800).astype(np.float32)
    assert find_pause(levels, 400, 800, levels) is None
    assert find_pause(np.zeros(800, dtype=np.float32), 400, 800, np.zeros(800, dtype=np.float32)) is None


def test_the_longest_pause_is_taken_and_the_last_of_the_long_ones() -> None:
    levels = np.ones(1000, dtype=np.float32)
    levels[500:530] = levels[600:650] = -1
    assert find_pause(levels, 400, 1000, levels) == 625
    levels[700:800] = levels[850:950] = -1
    assert find_pause(levels, 400, 1000, levels) == 900
    # A pause that goes on beyond the range is cut at its border.
    assert find_pause(levels, 400, 720, levels) == 720


def test_windows_that_are_only_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap_frames=60 is not supported with max_frames=100"):
        CutRules(100, 60, 8, 100)
