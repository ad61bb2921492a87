"""Transcript of a live stream: that of the whole audio, made of updates."""

from __future__ import annotations

import pytest

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.cli.stream_transcript import StreamTranscript
from transformers_fastconformer.decoding.confidence import ConfidenceOptions
from transformers_fastconformer.decoding.options import DecodingOptions
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.inference.file import transcribe_waveforms
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.streaming.engine import StreamingEngine
from transformers_fastconformer.streaming.options import EngineOptions
from transformers_fastconformer.streaming.text import StreamEvent, StreamWord
from transformers_fastconformer.streaming.updates import StreamUpdate


def test_it_is_that_of_the_whole_audio() -> None:
    pytest.importorskip("soundfile", reason="the extra `audio` is not installed")
    model, processor = load_model(CHECKPOINT_PATH, device="cpu")
    samples = read_audio(CLIP_PATHS[0])
    decoding = DecodingOptions(confidence=ConfidenceOptions())
    # With everything in one window the stream decodes what the whole pass does.
    options = EngineOptions(left_seconds=5.0, chunk_seconds=5.0, right_seconds=0.0, decoding=decoding)
    engine = StreamingEngine(model, processor, options)
    heard = StreamTranscript(processor, "buffered", 1, ConfidenceOptions())
    stream = engine.open()
    heard.add(engine.step({stream: samples[:20000]})[stream])
    heard.add(engine.finish(stream, samples[20000:]))
    found = heard.finish()
    (expected,) = transcribe_waveforms(model, processor, [samples], decoding=decoding)
    assert found.text == expected.text == heard.text
    assert found.timestamps is not None
    assert expected.timestamps is not None
    for level in ("word", "segment"):
        names = [item[level] for item in expected.timestamps[level]]
        assert [item[level] for item in found.timestamps[level]] == names
        for item, other in zip(found.timestamps[level], expected.timestamps[level], strict=True):
            assert set(item) == set(other)
            assert abs(item["start"] - other["start"]) <= 0.081
    assert found.duration_seconds == pytest.approx(expected.duration_seconds)
    assert found.channel == 1
    assert found.strategy == "buffered"
    assert found.word_confidences is not None
    assert len(found.word_confidences) == 6
    assert found.confidence == min(found.word_confidences)


def test_times_do_not_lie_after_the_end_and_segments_end_at_marks() -> None:
    _, processor = load_model(CHECKPOINT_PATH, device="cpu")
    heard = StreamTranscript(processor, "cached")
    words = [StreamWord("one.", 0, 5, 0.0, 0.4), StreamWord("two", 10, 20, 0.8, 1.6)]
    heard.add(StreamUpdate(committed="one. t", words=words[:1], heard_seconds=0.5))
    event = StreamEvent("<EOU>", 20, 21, 1.6, 1.68)
    heard.add(StreamUpdate(committed="wo", words=words[1:], tokens=[event], heard_seconds=1.5))
    found = heard.finish()
    assert found.text == "one. two"
    assert found.timestamps is not None
    assert [item["end"] for item in found.timestamps["word"]] == [0.4, 1.5]
    assert [(item["segment"], item["start"], item["end"]) for item in found.timestamps["segment"]] == [
        ("one.", 0.0, 0.4),
        ("two", 0.8, 1.5),
    ]
    assert found.events == [{"event": "<EOU>", "start_offset": 20, "end_offset": 21, "start": 1.5, "end": 1.5}]
    assert found.confidence is None
    assert found.word_confidences is None
