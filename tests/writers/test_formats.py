"""Every format of a transcript, read back by parsers that know nothing of this package."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pysubs2
import pytest

from transformers_fastconformer import __version__
from transformers_fastconformer.inference.transcript import Transcript
from transformers_fastconformer.writers.formats import (
    FORMATS,
    STREAM_FORMATS,
    TIMED_FORMATS,
    TranscriptRecord,
    format_transcript,
    speech_segments,
    timed_words,
)
from transformers_fastconformer.writers.subtitles import SubtitleRules

WORDS = (("Who", 0.08, 0.32), ("<is>", 0.4, 0.4), ("it?", 0.48, 1.2), ("Go", 4.0, 4.16), ("on;", 4.24, 4.64))
# The fields of a line, as NIST's descriptions have them.
CTM_LINE = re.compile(
    r"(?P<file>\S+) (?P<channel>\S+) (?P<start>\d+\.\d+) (?P<seconds>\d+\.\d+) (?P<word>\S+)( [\d.]+)?"
)
RTTM_LINE = re.compile(r"SPEAKER (\S+) (\d) (\d+\.\d+) (\d+\.\d+) <NA> <NA> (\S+) <NA> <NA>")


def item(level: str, text: str, start: float, end: float) -> dict[str, Any]:
    offsets = {"start_offset": round(start / 0.08), "end_offset": round(end / 0.08)}
    return {level: text, **offsets, "start": start, "end": end}


def make_record(
    words: tuple[tuple[str, float, float], ...] = WORDS, confident: bool = False, **options: Any
) -> TranscriptRecord:
    text = " ".join(word for word, _, _ in words)
    transcript = Transcript(
        text,
        {
            "char": [item("char", word, start, end) for word, start, end in words],
            "word": [item("word", word, start, end) for word, start, end in words],
            "segment": [item("segment", text, words[0][1], words[-1][2])] if words else [],
        },
        5.0,
        strategy=options.pop("strategy", "full"),
        channel=options.pop("channel", "mix"),
        confidence=0.25 if confident else None,
        word_confidences=[0.123456] * len(words) if confident else None,
    )
    return TranscriptRecord(transcript, options.pop("file", "calls/monday one.wav"), **options)


def test_text() -> None:
    assert format_transcript(make_record(), "txt") == "Who <is> it? Go on;\n"


@pytest.mark.parametrize("indent", [None, 1])
def test_json_holds_everything(indent: int | None) -> None:
    record = make_record(
        confident=True,
        start_seconds=10.0,
        channel=1,
        strategy="chunked",
        model={"name": "digits"},
        options={"language": None},
        manifest={"audio_filepath": "x", "speaker": "A"},
    )
    text = format_transcript(record, "json", indent=indent)
    assert text.endswith("}\n")
    assert (text.count("\n") == 1) == (indent is None)
    found = json.loads(text)
    assert found["text"] == "Who <is> it? Go on;"
    assert found["file"] == "calls/monday one.wav"
    assert (found["channel"], found["start_seconds"], found["duration_seconds"]) == (1, 10.0, 5.0)
    assert found["words"][3] == {"word": "Go", "start": 14.0, "end": 14.16, "confidence": 0.1235}
    assert found["segments"] == [{"text": "Who <is> it? Go on;", "start": 10.08, "end": 14.64}]
    assert found["timestamps"]["word"][3]["start_offset"] == 50  # of the clip, as decoding counts
    assert (found["confidence"], found["strategy"]) == (0.25, "chunked")
    assert (found["model"], found["options"]) == ({"name": "digits"}, {"language": None})
    assert found["package"] == {"name": "transformers-fastconformer", "version": __version__}
    assert found["manifest"] == {"audio_filepath": "x", "speaker": "A"}


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_subtitles_follow_the_rules_that_are_given(name: str) -> None:
    record = make_record(start_seconds=60.0)
    parsed = pysubs2.SSAFile.from_string(format_transcript(record, name))
    assert [event.start for event in parsed.events] == [60080, 64000]
    one_a_line = format_transcript(record, name, SubtitleRules(max_line_characters=4, max_lines=1))
    assert len(pysubs2.SSAFile.from_string(one_a_line).events) == 5


def test_tsv_is_a_table_in_milliseconds() -> None:
    words = (("a\tb", 0.08, 0.32), ('"c"', 3.0, 3.5))
    rows = list(
        csv.reader(io.StringIO(format_transcript(make_record(words), "tsv")), "excel-tab", quoting=csv.QUOTE_NONE)
    )
    assert rows == [["start", "end", "text"], ["80", "910", "a b"], ["3000", "3830", '"c"']]


@pytest.mark.parametrize("confident", [True, False])
def test_ctm_is_a_word_a_line(confident: bool) -> None:
    words = (*WORDS, (";;not a comment", 4.64, 4.8))
    text = format_transcript(make_record(words, confident, start_seconds=2.0, channel=1), "ctm")
    lines = text.splitlines()
    assert len(lines) == len(words)
    found = [CTM_LINE.fullmatch(line) for line in lines]
    for line, match, (_, start, end) in zip(lines, found, words, strict=True):
        assert match is not None, line
        assert (match["file"], match["channel"]) == ("monday_one", "2")
        assert float(match["start"]) == pytest.approx(start + 2.0)
        assert float(match["seconds"]) == pytest.approx(end - start)
        assert len(line.split()) == 5 + confident
    assert found[-1] is not None
    assert found[-1]["word"] == "__not_a_comment"
    assert [float(match["start"]) for match in found if match] == sorted(
        float(match["start"]) for match in found if match
    )


def test_rttm_is_where_something_is_said() -> None:
    lines = format_transcript(make_record(channel=1), "rttm").splitlines()
    found = [RTTM_LINE.fullmatch(line) for line in lines]
    assert [match.groups() for match in found if match] == [
        ("monday_one", "2", "0.080", "1.120", "speaker_1"),
        ("monday_one", "2", "4.000", "0.640", "speaker_1"),
    ]
    assert len(format_transcript(make_record(), "rttm", SubtitleRules(pause_seconds=3.0)).splitlines()) == 1
    assert " a/b 1 " in format_transcript(make_record(name="a/b"), "rttm")


@pytest.mark.nemo
def test_nemo_reads_the_lines_of_rttm(tmp_path: Any) -> None:
    speaker_utils = pytest.importorskip("nemo.collections.asr.parts.utils.speaker_utils")
    path = tmp_path / "x.rttm"
    path.write_text(format_transcript(make_record(), "rttm"))
    found = [line.split() for line in speaker_utils.rttm_to_labels(str(path))]
    assert [(round(float(start), 3), round(float(end), 3), who) for start, end, who in found] == [
        (0.08, 1.2, "speaker_0"),
        (4.0, 4.64, "speaker_0"),
    ]


def test_a_line_of_a_manifest_keeps_its_fields() -> None:
    entry = {"audio_filepath": "a.wav", "duration": 5, "text": "wer", "speaker": "é", "pred_text": "old"}
    line = format_transcript(make_record(manifest=entry), "jsonl")
    assert json.loads(line) == {**entry, "pred_text": "Who <is> it? Go on;"}
    assert "é" in line
    assert json.loads(format_transcript(make_record(channel=0), "jsonl")) == {
        "audio_filepath": "calls/monday one.wav",
        "duration": 5.0,
        "channel": 0,
        "pred_text": "Who <is> it? Go on;",
    }


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_said(name: str) -> None:
    text = format_transcript(make_record(()), name)
    assert text == "" if name in ("srt", "ctm", "rttm") else text.endswith("\n")


def test_formats_that_need_times_say_so() -> None:
    record = TranscriptRecord(Transcript("one", None, 1.0), "a.wav")
    for name in FORMATS:
        if name in TIMED_FORMATS:
            with pytest.raises(ValueError, match=f"transcript_format='{name}' needs the times of words"):
                format_transcript(record, name)
        else:
            assert "one" in format_transcript(record, name)
    with pytest.raises(ValueError, match="transcript_format='ass' is not supported; expected one of"):
        format_transcript(record, "ass")
    assert set(STREAM_FORMATS) < set(FORMATS)


def test_confidences_stand_with_words_only_where_both_count_the_same() -> None:
    record = make_record(confident=True)
    assert all(word["confidence"] == 0.1235 for word in timed_words(record))
    record.transcript.word_confidences = [0.5]
    assert not any("confidence" in word for word in timed_words(record))


def test_speech_segments() -> None:
    words = [{"word": "a", "start": 1.0, "end": 2.5}, {"word": "b", "start": 1.5, "end": 2.0}]
    assert list(speech_segments(words, 1.0)) == [(1.0, 2.5)]
    assert list(speech_segments([*words, {"word": "c", "start": 3.5, "end": 3.5}], 1.0)) == [(1.0, 2.5), (3.5, 3.5)]
    assert list(speech_segments([], 1.0)) == []
