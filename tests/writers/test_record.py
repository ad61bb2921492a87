"""Items of a transcript with times in the file."""

from __future__ import annotations

from records import make_record

from transformers_fastconformer.writers.record import timed_words


def test_times_count_from_the_start_of_the_file() -> None:
    record = make_record(start_seconds=10.1)
    assert record.timed_items("segment") == [{"segment": "Who <is> it? Go on;", "start": 10.18, "end": 14.74}]
    assert timed_words(record)[0] == {"word": "Who", "start": 10.18, "end": 10.42}
    assert record.timed_items("token") == []


def test_confidences_stand_with_words_only_where_both_count_the_same() -> None:
    record = make_record(confident=True)
    assert all(word["confidence"] == 0.1235 for word in timed_words(record))
    record.transcript.word_confidences = [0.5]
    assert not any("confidence" in word for word in timed_words(record))
