"""Windows of long clips: every frame once, in order, with the context that was asked for."""

from __future__ import annotations

import pytest

from transformers_fastconformer.inference.chunk_plan import Window, WindowPlan, plan_windows

PLANS = [
    WindowPlan(10, 2, 3),
    WindowPlan(10, 0, 0),
    WindowPlan(6, 5, 0),
    WindowPlan(6, 0, 5),
    WindowPlan(1, 0, 0),
    WindowPlan(25, 4, 4),
    WindowPlan(20, 4, 4, align_frames=4),
    WindowPlan(21, 4, 5, align_frames=4),
    WindowPlan(9, 3, 2, align_frames=3),
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_every_frame_is_kept_once_and_in_order(plan: WindowPlan) -> None:
    for num_frames in range(120):
        windows = list(plan.windows(num_frames))
        kept = [frame for window in windows for frame in range(window.keep_start, window.keep_stop)]
        assert kept == list(range(num_frames))


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_context_is_at_least_what_was_asked_for(plan: WindowPlan) -> None:
    for num_frames in range(1, 120):
        for window in plan.windows(num_frames):
            assert 0 <= window.start <= window.keep_start < window.keep_stop <= window.stop <= num_frames
            assert window.start % plan.align_frames == 0
            assert window.keep_start - window.start >= min(plan.left_frames, window.keep_start)
            assert window.stop - window.keep_stop >= min(plan.right_frames, num_frames - window.keep_stop)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_windows_are_of_one_size(plan: WindowPlan) -> None:
    for num_frames in range(plan.window_frames + 1, 120):
        sizes = [window.stop - window.start for window in plan.windows(num_frames)]
        assert set(sizes[:-1]) == {plan.window_frames}
        assert plan.window_frames <= sizes[-1] < plan.window_frames + plan.align_frames


@pytest.mark.parametrize("num_frames", [0, 1, 9, 10])
def test_a_clip_that_fits_is_one_window(num_frames: int) -> None:
    assert list(WindowPlan(10, 2, 3).windows(num_frames)) == [Window(0, num_frames, 0, num_frames)]


def test_first_middle_and_last_window() -> None:
    assert list(WindowPlan(10, 2, 3).windows(17)) == [
        Window(0, 10, 0, 7),
        Window(5, 15, 7, 12),
        Window(7, 17, 12, 17),
    ]
    assert Window(5, 15, 7, 12).kept_rows == slice(2, 7)
    assert Window(5, 15, 7, 12).kept_frames == 5


def test_mel_frames_of_a_window() -> None:
    first, last = WindowPlan(10, 2, 3).windows(11)
    assert first.mel_range(8, 83, is_last=False) == (0, 80)
    assert last.mel_range(8, 83, is_last=True) == (8, 83)
    # A last encoder frame that stands for 5 mel frames, and one with more behind it than the grid has.
    assert last.mel_range(8, 90, is_last=True) == (8, 90)
    assert first.mel_range(8, 79, is_last=False) == (0, 79)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 2, 2), "window_frames=4 is not supported with left_frames=2 and right_frames=2; expected at least 5"),
        ((10, 2, 5, 4), "expected at least 11"),
        ((10, -1, 2), "left_frames=-1"),
        ((10, 1, 2, 0), "align_frames=0"),
    ],
)
def test_plans_that_keep_nothing_are_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowPlan(*arguments)


def test_seconds_become_whole_frames() -> None:
    assert plan_windows(20.0, 3.0, 4.0, 0.08) == WindowPlan(250, 38, 50)
    assert plan_windows(0.24, 0.0, 0.0, 0.08) == WindowPlan(3, 0, 0)
    assert plan_windows(0.3, 0.0, 0.01, 0.08) == WindowPlan(3, 0, 1)
    assert plan_windows(2.0, 0.5, 0.0, 0.08, align_frames=2) == WindowPlan(25, 7, 0, 2)
    with pytest.raises(ValueError, match=r"chunk_length_s=2.0 is not supported with stride_length_s=\(1.0, 1.0\)"):
        plan_windows(2.0, 1.0, 1.0, 0.08)
    with pytest.raises(ValueError, match=r"stride_length_s=\(-1.0, 1.0\)"):
        plan_windows(2.0, -1.0, 1.0, 0.08)
