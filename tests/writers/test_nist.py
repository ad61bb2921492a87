"""CTM and RTTM, read back by the descriptions of NIST's formats and by NeMo."""

from __future__ import annotations

import re
from typing import Any

import pytest
from records import WORDS, make_record

from transformers_fastconformer.writers.nist import format_ctm, format_rttm, speech_segments

# The fields of a line, as NIST's descriptions have them.
CTM_LINE = re.compile(
    r"(?P<file>\S+) (?P<channel>\S+) (?P<start>\d+\.\d+) (?P<seconds>\d+\.\d+) (?P<word>\S+)( [\d.]+)?"
)
RTTM_LINE = re.compile(r"SPEAKER (\S+) (\d) (\d+\.\d+) (\d+\.\d+) <NA> <NA> (\S+) <NA> <NA>")


@pytest.mark.parametrize("confident", [True, False])
def test_ctm_is_a_word_a_line(confident: bool) -> None:
    words = (*WORDS, (";;not a comment", 4.64, 4.8))
    text = format_ctm(make_record(words, confident, start_seconds=2.0, channel=1))
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
    lines = format_rttm(make_record(channel=1), 1.0).splitlines()
    found = [RTTM_LINE.fullmatch(line) for line in lines]
    assert [match.groups() for match in found if match] == [
        ("monday_one", "2", "0.080", "1.120", "speaker_1"),
        ("monday_one", "2", "4.000", "0.640", "speaker_1"),
    ]
    assert len(format_rttm(make_record(), 3.0).splitlines()) == 1
    assert " a/b 1 " in format_rttm(make_record(name="a/b"), 1.0)


@pytest.mark.nemo
def test_nemo_reads_the_lines_of_rttm(tmp_path: Any) -> None:
    speaker_utils = pytest.importorskip("nemo.collections.asr.parts.utils.speaker_utils")
    path = tmp_path / "x.rttm"
    path.write_text(format_rttm(make_record(), 1.0))
    found = [line.split() for line in speaker_utils.rttm_to_labels(str(path))]
    assert [(round(float(start), 3), round(float(end), 3), who) for start, end, who in found] == [
        (0.08, 1.2, "speaker_0"),
        (4.0, 4.64, "speaker_0"),
    ]


def test_speech_segments() -> None:
    words = [{"word": "a", "start": 1.0, "end": 2.5}, {"word": "b", "start": 1.5, "end": 2.0}]
    assert list(speech_segments(words, 1.0)) == [(1.0, 2.5)]
    assert list(speech_segments([*words, {"word": "c", "start": 3.5, "end": 3.5}], 1.0)) == [(1.0, 2.5), (3.5, 3.5)]
    assert list(speech_segments([], 1.0)) == []
