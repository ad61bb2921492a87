"""Who said what: words with times are given to the speakers whose turns they fall into."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..inference.transcript import Transcript
from .turns import SpeakerTurn

# Name of a speaker in transcripts and files, by number.
SPEAKER_NAME = "speaker_{}"
# A stretch of words of one speaker goes on over others' words as long as no turn comes between.
KEY = "speaker"


def name_speaker(speaker: int) -> str:
    """The name of a speaker in transcripts and files."""
    return SPEAKER_NAME.format(speaker)


def assign_speakers(
    words: Sequence[Mapping[str, Any]], turns: Sequence[SpeakerTurn], before: int | None = None
) -> list[int | None]:
    """
    Give words to speakers.

    A word belongs to the speaker whose turns share the most time with it; where nobody speaks, to that of the nearest
    turn, by the distance of the two intervals. With as much time or distance, the speaker of the word before it goes
    on, else the turn that began later counts: who interrupts is heard.

    Args:
        words: Items with `start` and `end` in seconds, in order of time.
        turns: Turns by their start.
        before: Speaker of the word before the first one, where words come a few at a time.

    Returns:
        The number of each word's speaker; None where there are no turns.
    """
    ordered = sorted(turns, key=lambda turn: turn.start)
    starts = [turn.start for turn in ordered]
    # The latest end of all turns up to each, by which a search backwards ends.
    latest_ends: list[float] = []
    for turn in ordered:
        latest_ends.append(max(turn.end, latest_ends[-1] if latest_ends else turn.end))
    found: list[int | None] = []
    for word in words:
        found.append(_find_speaker(word, ordered, starts, latest_ends, found[-1] if found else before))
    return found


def _find_speaker(
    word: Mapping[str, Any],
    turns: Sequence[SpeakerTurn],
    starts: Sequence[float],
    latest_ends: Sequence[float],
    before: int | None,
) -> int | None:
    start, end = float(word["start"]), float(word["end"])
    shared: dict[int, float] = {}
    begun: dict[int, float] = {}
    place = bisect_left(starts, end)  # turns from here on begin after the word
    nearest: tuple[float, float, int] | None = None
    for index in range(place - 1, -1, -1):
        turn = turns[index]
        overlap = min(end, turn.end) - max(start, turn.start)
        # A word without length lies in a turn or not.
        if overlap > 0 or (start == end and turn.start <= start < turn.end):
            shared[turn.speaker] = shared.get(turn.speaker, 0.0) + max(overlap, 0.0)
            begun[turn.speaker] = max(begun.get(turn.speaker, turn.start), turn.start)
        elif not shared:
            nearest = _nearer(nearest, (max(0.0, start - turn.end), turn.speaker != before, turn.speaker))
        is_far = nearest is not None and start - latest_ends[index] > nearest[0]
        if latest_ends[index] <= start and (shared or is_far):
            break
    if shared:
        return max(shared, key=lambda one: (shared[one], one == before, begun[one]))
    if place < len(turns):
        turn = turns[place]
        nearest = _nearer(nearest, (max(0.0, turn.start - end), turn.speaker != before, turn.speaker))
    return None if nearest is None else nearest[2]


def _nearer(one: tuple[float, float, int] | None, other: tuple[float, float, int]) -> tuple[float, float, int]:
    return other if one is None or other < one else one


def add_speakers(transcript: Transcript, turns: Sequence[SpeakerTurn]) -> Transcript:
    """
    A transcript whose words say who said them.

    Args:
        transcript: A transcript with times of words, or at least of segments, counted from the start of the recording.
        turns: Turns of the same recording.

    Returns:
        A copy: items of `"word"` have a `"speaker"`, such as `"speaker_0"`, and the level `"segment"` is made of the
        stretches that one speaker says. Without times of words its segments have the speakers.

    Raises:
        ValueError: for a transcript without times.
    """
    timestamps = transcript.timestamps or {}
    level = "word" if "word" in timestamps else "segment"
    if level not in timestamps:
        raise ValueError("transcript has no times of words or segments; expected one made with timestamps=True.")
    speakers = assign_speakers(timestamps[level], turns)
    items = [
        {**item, **({} if speaker is None else {KEY: name_speaker(speaker)})}
        for item, speaker in zip(timestamps[level], speakers, strict=True)
    ]
    added = {**timestamps, level: items}
    if level == "word" and "segment" in timestamps:
        added["segment"] = join_words(items, timestamps["segment"])
    return replace(transcript, timestamps=added)


def join_words(
    words: Sequence[dict[str, Any]], segments: Sequence[dict[str, Any]], pause_seconds: float = math.inf
) -> list[dict[str, Any]]:
    """
    Segments that end where they did, and where another speaker begins.

    Args:
        words: Items with `word`, `start`, `end` and, where it is known, `speaker`.
        segments: The segments of the same words.
        pause_seconds: A pause of this length between two words ends a segment too.
    """
    ends = [segment["end"] for segment in segments]
    joined: list[dict[str, Any]] = []
    place = 0
    for word in words:
        is_new = not joined or joined[-1].get(KEY) != word.get(KEY)
        is_new = is_new or word["start"] - joined[-1]["end"] >= pause_seconds
        while place < len(ends) and word["start"] >= ends[place]:
            place, is_new = place + 1, True
        if is_new:
            joined.append({**word, "segment": word["word"]})
            joined[-1].pop("word")
        else:
            between = "" if word.get("is_continuation") else " "
            joined[-1]["segment"] += between + word["word"]
            for name in ("end", "end_offset"):
                if name in word:
                    joined[-1][name] = word[name]
    return joined
