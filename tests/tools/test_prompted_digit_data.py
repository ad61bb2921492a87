"""Windows of digits with prompts: texts, times, and what counts as heard where a window is cut."""

from __future__ import annotations

import numpy as np
import pytest

from prompted_digit_data import (
    FRAME_SAMPLES,
    LAST_TIME_FRAME,
    Prompt,
    Window,
    Word,
    cut,
    join_test_windows,
    write_answer,
    write_words,
)

# Half a second each; a pause of 0.25 s, and one of 1 s, which ends a sentence.
WORDS = [Word(1, 0, 8000), Word(2, 12000, 20000), Word(0, 36000, 44000)]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (Prompt(), "One, two. Zero."),
        (Prompt(punctuated=False), "one two zero"),
        (Prompt("de"), "Eins, zwei. Null."),
        (Prompt("de", punctuated=False), "eins zwei null"),
        (Prompt(timed=True), "<|0|> One, <|6|> <|9|> two. <|16|> <|28|> Zero. <|34|>"),
        (Prompt(punctuated=False, timed=True), "<|0|> one <|6|> <|9|> two <|16|> <|28|> zero <|34|>"),
    ],
)
def test_an_answer_is_what_its_prompt_asks_for(prompt: Prompt, text: str) -> None:
    assert write_answer(WORDS, prompt) == text
    assert write_answer([], prompt) == ""


def test_times_end_with_the_last_token() -> None:
    late = Word(3, (LAST_TIME_FRAME - 1) * FRAME_SAMPLES, (LAST_TIME_FRAME + 9) * FRAME_SAMPLES)
    assert write_answer([late], Prompt(punctuated=False, timed=True)) == "<|499|> three <|500|>"


@pytest.mark.parametrize(
    ("start", "samples", "heard"),
    [
        (0, 44000, [(1, 0, 8000), (2, 12000, 20000), (0, 36000, 44000)]),
        (4000, 40000, [(1, 0, 4000), (2, 8000, 16000), (0, 32000, 40000)]),  # half of the first word is there
        (4001, 40000, [(2, 7999, 15999), (0, 31999, 39999)]),  # less than half of it
        (0, 40000, [(1, 0, 8000), (2, 12000, 20000), (0, 36000, 40000)]),
        (0, 39999, [(1, 0, 8000), (2, 12000, 20000)]),
        (20000, 16000, []),  # a pause
    ],
)
def test_a_word_is_heard_if_half_of_it_is_in_the_window(
    start: int, samples: int, heard: list[tuple[int, int, int]]
) -> None:
    window = Window(np.arange(44000, dtype=np.float32), WORDS)
    part = cut(window, start, samples)
    assert [(word.digit, word.start, word.end) for word in part.words] == heard
    np.testing.assert_array_equal(part.waveform, window.waveform[start : start + samples])


def test_test_windows_have_every_clip_once_in_its_place() -> None:
    from digit_data import Utterance

    clips = [
        Utterance(np.full(1000 + 100 * index, index + 1, np.float32), (index % 10,), f"speaker {index % 2}")
        for index in range(14)
    ]
    windows = join_test_windows(clips, 3, seed=1, long_pauses=True)
    found = []
    for window in windows:
        for word in window.words:
            (value,) = set(window.waveform[word.start : word.end].tolist())
            assert word.digit == (int(value) - 1) % 10
            assert word.end - word.start == 1000 + 100 * (int(value) - 1)
            found.append(int(value))
    assert sorted(found) == list(range(1, 15))
    assert [word for window in windows for word in write_words(window.words, Prompt())]
