"""Live streams: their text is that of the whole audio, whatever the pieces, the neighbours and the interruptions."""

from __future__ import annotations

import gc
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from called_graphs import capture_as_calls
from live_models import CACHED, build_live, run, text_of, words_of

from transformers_fastconformer import (
    ConfidenceOptions,
    DecodingOptions,
    EndpointingOptions,
    EngineOptions,
    RunningNormalization,
    StreamFailedError,
    StreamingEngine,
    StreamOptions,
    StreamRefusedError,
    load_model,
    read_audio,
    transcribe_waveforms,
)
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.streaming import engine as engine_module
from transformers_fastconformer.streaming.updates import StreamUpdate

SAMPLING_RATE = 16000


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    return load_model(CHECKPOINT_PATH)


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    """Two strings of digits with pauses."""
    return np.concatenate([np.pad(read_audio(path), (2000, 8000)) for path in CLIP_PATHS]).astype(np.float32)


@pytest.fixture(scope="module")
def first_string(waveform: np.ndarray) -> np.ndarray:
    """The first of them, with its pauses."""
    return waveform[:48000]


CUTS = ([7, 3001, 160, 5], [50000], [10**6])
ENGINES: dict[str, EngineOptions] = {
    "buffered": EngineOptions(latency_ms=1000, max_load=1000.0),
    "windows": EngineOptions(left_seconds=2.0, chunk_seconds=0.8, right_seconds=0.4),
    "confidences": EngineOptions(latency_ms=1600, decoding=DecodingOptions(confidence=ConfidenceOptions())),
}


@pytest.mark.parametrize("name", ENGINES)
def test_text_and_times_do_not_depend_on_the_pieces(
    demo: tuple[Any, Any], first_string: np.ndarray, name: str
) -> None:
    engine = StreamingEngine(*demo, ENGINES[name])
    expected = run(engine, first_string, [1600])
    whole = transcribe_waveforms(*demo, [first_string])[0]
    assert text_of(expected) == whole.text
    assert [word.text for word in words_of(expected)] == whole.text.split()
    for sizes in CUTS:
        found = run(engine, first_string, sizes)
        assert text_of(found) == text_of(expected)
        assert words_of(found) == words_of(expected)
    assert engine.open_streams == []


def test_confidences_of_ctc_are_those_of_the_whole_audio(waveform: np.ndarray) -> None:
    model, processor = load_model(CHECKPOINT_PATH, "ctc")
    decoding = DecodingOptions(confidence=ConfidenceOptions())
    # One window sees all, so that only decoding goes on from step to step.
    options = EngineOptions(left_seconds=20.0, chunk_seconds=0.08, right_seconds=20.0, decoding=decoding)
    normalization = RunningNormalization(hold_seconds=60.0)
    engine = StreamingEngine(model, processor, replace(options, normalization=normalization))
    words = words_of(run(engine, waveform[:48000], [8000]))
    whole = transcribe_waveforms(model, processor, [waveform[:48000]], decoding=decoding)[0]
    assert [word.text for word in words] == whole.text.split()
    assert [word.confidence for word in words] == pytest.approx(whole.word_confidences, abs=1e-4)


def test_what_was_committed_is_never_changed_and_tentative_text_comes_earlier(
    demo: tuple[Any, Any], waveform: np.ndarray
) -> None:
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=2000))
    updates = run(engine, waveform, [1600])
    shown, previews = "", []
    for update in updates:
        shown += update.committed
        previews.append(shown + update.tentative)
        assert update.heard_seconds >= update.decoded_seconds
    assert updates[-1].tentative == ""
    assert [update.is_final for update in updates] == [False] * (len(updates) - 1) + [True]
    # Nearly all that was shown came true, much of it before it was committed.
    came_true = [shown.startswith(preview) for preview in previews]
    assert sum(came_true) > 0.9 * len(previews)
    assert sum(bool(update.tentative) for update in updates) > len(updates) / 4


def test_streams_of_a_batch_do_not_change_one_another(demo: tuple[Any, Any], first_string: np.ndarray) -> None:
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=1000, max_load=1000.0))
    clips = [first_string, first_string[20000:], first_string[::-1].copy(), first_string[:30000] * 0.3]
    expected = [run(engine, clip, [12000]) for clip in clips]
    streams = [engine.open() for _ in clips]
    updates: dict[int, list[StreamUpdate]] = {stream: [] for stream in streams}
    generator = np.random.default_rng(0)
    places = [0] * len(clips)
    while any(place < len(clip) for place, clip in zip(places, clips, strict=True)):
        samples = {}
        for number, (stream, clip) in enumerate(zip(streams, clips, strict=True)):
            size = int(generator.integers(1, 9000)) * int(generator.random() < 0.7)
            if places[number] < len(clip) and size:
                samples[stream] = clip[places[number] : places[number] + size]
                places[number] += size
        for stream, update in engine.step(samples).items():
            updates[stream].append(update)
    for stream, alone in zip(streams, expected, strict=True):
        updates[stream].append(engine.finish(stream))
        assert text_of(updates[stream]) == text_of(alone)
        assert [word[:3] for word in words_of(updates[stream])] == [word[:3] for word in words_of(alone)]


@pytest.mark.parametrize("place", [1, 16000, 31234])
def test_a_stream_that_is_saved_and_restored_goes_on(
    demo: tuple[Any, Any], first_string: np.ndarray, place: int
) -> None:
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=1000, max_load=1000.0))
    expected = run(engine, first_string, [12000])
    first = engine.open()
    updates = [engine.step({first: first_string[:place]})[first]]
    saved = engine.save(first)
    engine.step({first: first_string[::-1].copy()})  # what becomes of the first does not matter
    other = StreamingEngine(*demo, EngineOptions(latency_ms=1000, max_load=1000.0))
    second = other.restore(saved)
    updates.append(other.step({second: first_string[place:]})[second])
    updates.append(other.finish(second))
    assert text_of(updates) == text_of(expected)
    assert words_of(updates) == words_of(expected)


def test_commit_answers_at_once_and_the_stream_goes_on(demo: tuple[Any, Any], waveform: np.ndarray) -> None:
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=2000))
    clip = read_audio(CLIP_PATHS[0])
    clip = np.pad(clip, (0, 4000))
    expected = transcribe_waveforms(*demo, [clip])[0].text
    stream = engine.open()
    assert engine.commit(stream).committed == ""
    said = []
    for _ in range(3):
        update = engine.step({stream: clip})[stream]
        last = engine.commit(stream)
        assert not last.is_final
        assert last.tentative == ""
        said.append((update.committed + last.committed).strip())
    assert said == [expected] * 3
    words = engine.commit(stream).words
    assert words == []
    seconds = engine.finish(stream).heard_seconds
    assert seconds == pytest.approx(3 * len(clip) / SAMPLING_RATE)


def test_word_times_go_on_after_a_commit(demo: tuple[Any, Any]) -> None:
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=2000))
    clip = np.pad(read_audio(CLIP_PATHS[0]), (0, 4000))
    stream = engine.open()
    firsts = []
    for _ in range(2):
        words = [*engine.step({stream: clip})[stream].words, *engine.commit(stream).words]
        firsts.append(words[0].start)
    assert firsts[1] - firsts[0] == pytest.approx(len(clip) / SAMPLING_RATE, abs=0.05)


COMMITS = (11.25, 14.375, 18.125, 21.25, 30.0, 49.375, 74.375)  # encoder frames


@pytest.mark.parametrize("places", [COMMITS[::3], pytest.param(COMMITS, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize(("name", "head"), [("demo", "transducer"), ("demo", "ctc"), ("demo-streaming", "ctc")])
def test_word_times_never_step_back_over_a_commit(
    waveform: np.ndarray, name: str, head: str, places: tuple[float, ...]
) -> None:
    engine = StreamingEngine(*load_model(name, head), EngineOptions(latency_ms=1200, max_load=1000.0))
    for place in places:
        cut = round(1280 * place)
        stream = engine.open()
        words = [*engine.step({stream: waveform[:cut]})[stream].words, *engine.commit(stream).words]
        count = len(words)
        words += engine.finish(stream, waveform[cut:]).words
        offsets = [offset for word in words for offset in (word.start_offset, word.end_offset)]
        assert offsets == sorted(offsets), place
        assert [word.start for word in words] == [pytest.approx(0.08 * word.start_offset) for word in words]
        if place == int(place):
            # The frames are those of the whole: times of the second part are its own, that much later.
            alone = engine.open()
            expected = engine.finish(alone, waveform[cut:]).words
            found = [(word.text, word.start_offset, word.end_offset) for word in words[count:]]
            assert found == [
                (word.text, word.start_offset + int(place), word.end_offset + int(place)) for word in expected
            ]


def test_ends_of_utterances_are_found_and_the_text_is_committed_there(demo: tuple[Any, Any]) -> None:
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=1000, max_load=1000.0))
    clip = np.pad(read_audio(CLIP_PATHS[0]), (0, 2 * SAMPLING_RATE))
    samples = np.concatenate([clip, clip])
    expected = transcribe_waveforms(*demo, [clip])[0].text
    options = StreamOptions(endpointing=EndpointingOptions(kinds=("blanks",), blank_ms=600.0))
    updates = run(engine, samples, [4800], options)
    ends = [event for update in updates for event in update.endpoints]
    assert len(ends) == 2
    assert text_of(updates) == f"{expected} {expected}"
    first = next(update for update in updates if update.endpoints)
    assert text_of(updates[: updates.index(first) + 1]) == expected
    assert first.tentative_words == []
    one = run(engine, samples, [10**6], options)
    assert text_of(one) == text_of(updates)
    assert [event for update in one for event in update.endpoints] == ends


def test_other_rates_and_channels_are_accepted(demo: tuple[Any, Any], first_string: np.ndarray) -> None:
    soxr = pytest.importorskip("soxr")
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=1000, max_load=1000.0))
    expected = text_of(run(engine, first_string, [12000]))
    fast = soxr.resample(first_string, SAMPLING_RATE, 44100)
    assert text_of(run(engine, fast, [22050], StreamOptions(sampling_rate=44100))) == expected
    stereo = np.stack([np.zeros_like(first_string), first_string], axis=1)
    updates = run(engine, stereo, [8000], StreamOptions(channels=1))
    assert text_of(updates) == expected
    pcm = (first_string * 32767).astype(np.int16)
    assert text_of(run(engine, pcm, [8000])) == expected


# Checkpoints with a cache


@pytest.mark.parametrize(
    ("kind", "latency_ms"), [("rnnt", 80), ("rnnt", 160), ("rnnt", 320), ("ctc", 160), ("tdt", 160), ("tdt", 80)]
)
def test_a_cached_stream_is_the_whole_audio(kind: str, latency_ms: int) -> None:
    model, processor = build_live(kind)
    engine = StreamingEngine(model, processor, EngineOptions(latency_ms=latency_ms, is_exact=True))
    assert engine.encoder.name == "cached"
    assert engine.latency_ms == latency_ms
    generator = np.random.default_rng(latency_ms)
    samples = (0.1 * generator.standard_normal(SAMPLING_RATE + 4077)).astype(np.float32)
    context = next(one for one in CACHED["attention_contexts"] if (one[1] + 1) * 80 == latency_ms)
    offline = model.with_attention_context(context)
    features = processor.feature_extractor(samples, sampling_rate=SAMPLING_RATE, return_tensors="pt")
    output = offline.generate(
        features.input_features, input_lengths=features.input_lengths, return_dict_in_generate=True
    )
    (expected,) = processor.batch_decode(output, timestamps=["word"])
    for sizes in ([333, 8000, 1], [10**6]):
        found = run(engine, samples, sizes)
        assert text_of(found) == expected.text
        assert [word.text for word in words_of(found)] == [item["word"] for item in expected.timestamps["word"]]
        assert [word.start_offset for word in words_of(found)] == [
            item["start_offset"] for item in expected.timestamps["word"]
        ]


def test_the_memory_of_a_stream_does_not_grow() -> None:
    model, processor = build_live("rnnt")
    engine = StreamingEngine(model, processor, EngineOptions(latency_ms=80))
    stream = engine.open()
    generator = np.random.default_rng(0)
    sizes = []
    for number in range(100):
        engine.step({stream: (0.1 * generator.standard_normal(1280)).astype(np.float32)})
        if number in (40, 99):
            sizes.append(_measure(engine.save(stream)))
    assert sizes[0] == sizes[1]


def _measure(saved: Any) -> dict[str, int]:
    tensors = {"pending": saved.pending, **saved.features, **saved.encoder.state_dict()}
    return {name: tensor.numel() for name, tensor in tensors.items() if name not in ("pending", "samples")}


# Refusals


def test_streams_are_refused_when_the_engine_is_full(demo: tuple[Any, Any]) -> None:
    engine = StreamingEngine(*demo, EngineOptions(max_streams=2))
    first, _ = engine.open(), engine.open()
    with pytest.raises(StreamRefusedError, match="2 streams are open; expected fewer than max_streams=2"):
        engine.open()
    engine.close(first)
    engine.open()


def test_streams_are_refused_when_time_does_not_suffice(demo: tuple[Any, Any]) -> None:
    engine = StreamingEngine(*demo, EngineOptions(max_load=0.9))
    engine.load_meter.add(5.0, 10.0)
    engine.open()
    assert engine.load == pytest.approx(0.5)
    with pytest.raises(StreamRefusedError, match=r"would take 1.00 of real time; expected at most max_load=0.9"):
        engine.open()


def set_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that engines see, to be changed; other threads of the process live by the real clock."""
    now = [100.0]
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_streams_of_files_are_not_refused_for_time(demo: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Their audio comes faster than the clock goes."""
    now = set_clock(monkeypatch)
    engine = StreamingEngine(*demo, EngineOptions(max_load=0.9))
    stream = engine.open()
    for _ in range(2):
        engine.step({stream: np.zeros(5 * SAMPLING_RATE, dtype=np.float32)})
    engine.load_meter.add(50.0, 10.0)
    engine.close(engine.open())
    now[0] += 9.0
    with pytest.raises(StreamRefusedError, match="of real time"):
        engine.open()


def test_lag_is_what_came_and_is_not_computed(demo: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    now = set_clock(monkeypatch)
    engine = StreamingEngine(*demo)
    stream = engine.open()
    second = np.zeros(SAMPLING_RATE, dtype=np.float32)
    assert engine.step({stream: second})[stream].lag_seconds == 0.0
    now[0] += 30.0  # the source pauses
    assert engine.step({stream: second})[stream].lag_seconds == 0.0
    now[0] += 3.0  # a piece waits, as its thread is busy
    assert engine.step({stream: second}, {stream: now[0] - 2.0})[stream].lag_seconds == pytest.approx(2.0)
    encode = engine.encoder.encode
    monkeypatch.setattr(engine.encoder, "encode", lambda *args: (now.__setitem__(0, now[0] + 1.5), encode(*args))[1])
    lags = [engine.step({stream: second})[stream].lag_seconds for _ in range(3)]
    assert lags[0] < lags[1] < lags[2]  # computing is slow


def test_a_restored_stream_tells_its_lag(demo: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    now = set_clock(monkeypatch)
    engine = StreamingEngine(*demo)
    second = np.zeros(SAMPLING_RATE, dtype=np.float32)
    first = engine.open()
    engine.step({first: np.concatenate([second] * 5)})
    again = engine.restore(engine.save(first))
    now[0] += 60.0
    assert engine.step({again: second})[again].lag_seconds == 0.0
    now[0] += 3.0
    assert engine.step({again: second}, {again: now[0] - 2.0})[again].lag_seconds == pytest.approx(2.0)


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(latency_ms=800),
        EngineOptions(latency_ms=1000, decoding=DecodingOptions(confidence=ConfidenceOptions())),
        EngineOptions(latency_ms=1000, normalization=RunningNormalization(hold_seconds=0.5)),
    ],
)
def test_a_stream_of_another_engine_is_not_restored(demo: tuple[Any, Any], options: EngineOptions) -> None:
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=1000, max_load=1000.0))
    saved = engine.save(engine.open())
    other = StreamingEngine(*demo, options)
    with pytest.raises(ValueError, match="another model or other options"):
        other.restore(saved)
    assert other.open_streams == []


def test_after_a_step_that_failed_its_streams_are_closed_and_others_go_on(
    demo: tuple[Any, Any], waveform: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise MemoryError("of the test")

    engine = StreamingEngine(*demo, ENGINES["buffered"])
    expected = text_of(run(engine, waveform, [16000]))
    streams = [engine.open() for _ in range(3)]
    found = [engine.step({streams[0]: waveform[:30000]})[streams[0]]]
    with monkeypatch.context() as patch:
        patch.setattr(engine.encoder, "encode", fail)
        with pytest.raises(MemoryError, match="of the test"):
            engine.step(dict.fromkeys(streams[1:], waveform[:30000]))
    for act in (engine.commit, engine.finish, engine.save):
        with pytest.raises(StreamFailedError, match=r"has failed in a step .*MemoryError.*expected `close`"):
            act(streams[1])
    error = engine.step({streams[1]: waveform})[streams[1]].error
    assert isinstance(error, StreamFailedError)
    assert "MemoryError" in str(error)
    assert text_of([*found, engine.finish(streams[0], waveform[30000:])]) == expected
    engine.close(streams[1])
    assert engine.open_streams == [streams[2]]


def test_what_is_kept_does_not_grow_with_the_options_of_past_streams(demo: tuple[Any, Any]) -> None:
    engine = StreamingEngine(*demo)
    for blank_ms in (500.0, 600.0, 700.0):
        options = StreamOptions(endpointing=EndpointingOptions(blank_ms=blank_ms))
        streams = [engine.open(options), engine.open(options)]
        assert len(engine._text_rules) == 1  # shared
        for stream in streams:
            engine.close(stream)
    gc.collect()
    assert len(engine._text_rules) == 0


def test_features_that_wait_are_not_copied_in_each_step(demo: tuple[Any, Any]) -> None:
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=1000, max_load=1000.0))
    stream = engine._make_stream(StreamOptions(), 0)
    stream.pending = [torch.zeros(60, 80), torch.zeros(40, 80)]
    assert stream.take(10).shape == (10, 80)
    place = stream.pending[0].data_ptr()
    assert stream.take(10).data_ptr() == place
    assert stream.count_pending() == 80
    assert stream.take(75).shape == (75, 80)
    assert stream.pending[0].untyped_storage().nbytes() == 5 * 80 * 4  # and what is small does not keep all


def test_silence_after_a_commit_ends_no_utterance_again(demo: tuple[Any, Any], waveform: np.ndarray) -> None:
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=1000, max_load=1000.0))
    stream = engine.open(StreamOptions(endpointing=EndpointingOptions(kinds=("blanks",), blank_ms=480)))
    found = [engine.step({stream: waveform[:30400]})[stream], engine.commit(stream)]
    assert text_of(found) == "three one four one five nine"
    found = [engine.step({stream: np.zeros(4 * SAMPLING_RATE, dtype=np.float32)})[stream], engine.finish(stream)]
    assert [event for update in found for event in update.endpoints] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "cached"}, "attention_context_style='regular'|attention_context=|conv"),
        ({"latency_ms": 0}, "latency_ms=0 is not supported; expected more than 0"),
        ({"latency_ms": 40}, "latency_ms=40 is not supported; expected 80 or more"),
        ({"chunk_seconds": 1.0}, "left_seconds, right_seconds=None is not supported; expected seconds, together with"),
        ({"latency_ms": 500, "attention_context": [1, 1]}, "latency_ms and attention_context"),
        ({"mode": "fast"}, "mode='fast' is not supported; expected one of"),
        ({"max_streams": 0}, "max_streams=0"),
        ({"attention_context": [70, 1]}, "attention_context"),
        ({"is_exact": True}, "is_exact=True is not supported"),
        ({"decoding": DecodingOptions(language="de-DE")}, "language='de-DE' cannot be written"),
    ],
)
def test_options_that_are_refused(demo: tuple[Any, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamingEngine(*demo, EngineOptions(**options))


def test_what_a_checkpoint_with_a_cache_refuses() -> None:
    model, processor = build_live("ctc")
    with pytest.raises(ValueError, match=r"latency_ms=79 is not supported; expected one of \[80, 160, 320\]"):
        StreamingEngine(model, processor, EngineOptions(latency_ms=79))
    assert StreamingEngine(model, processor, EngineOptions(latency_ms=300)).latency_ms == 160
    with pytest.raises(ValueError, match=r"attention_context=\[4, 2\]"):
        StreamingEngine(model, processor, EngineOptions(attention_context=[4, 2]))
    with pytest.raises(ValueError, match="normalization"):
        StreamingEngine(model, processor, EngineOptions(normalization=RunningNormalization()))


def test_wrong_samples_of_one_stream_disturb_no_other(demo: tuple[Any, Any], first_string: np.ndarray) -> None:
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=1000, max_load=1000.0))
    streams = [engine.open(), engine.open(StreamOptions(name="second"))]
    expected = text_of(run(engine, first_string, [12000]))
    broken = first_string[:1600].copy()
    broken[3] = np.nan
    found: list[list[StreamUpdate]] = [[], []]
    for number, start in enumerate(range(0, len(first_string), 1600)):
        piece = first_string[start : start + 1600]
        updates = engine.step({streams[0]: piece, streams[1]: {3: broken, 5: "audio"}.get(number, piece)})
        for one, stream in zip(found, streams, strict=True):
            one.append(updates[stream])
        if number in (3, 5):
            assert isinstance(updates[streams[1]].error, ValueError)
            assert "second" in str(updates[streams[1]].error)
            heard = updates[streams[1]].heard_seconds
            assert engine.step({streams[1]: piece})[streams[1]].heard_seconds > heard  # it goes on
    with pytest.raises(ValueError, match="second"):
        engine.finish(streams[1], broken)
    for one, stream in zip(found, streams, strict=True):
        one.append(engine.finish(stream))
        assert text_of(one) == expected
    assert all(update.error is None for update in found[0])
    with pytest.raises(ValueError, match="is not open"):
        engine.step({streams[0]: first_string})


def test_an_id_that_is_not_open_moves_no_stream(demo: tuple[Any, Any], waveform: np.ndarray) -> None:
    engine = StreamingEngine(*demo, EngineOptions(latency_ms=1000, max_load=1000.0))
    stream = engine.open()
    with pytest.raises(ValueError, match="stream_id=99 is not open; expected one of"):
        engine.step({stream: waveform[:1600], 99: waveform})
    assert engine.finish(stream).heard_seconds == 0.0


def test_decoding_does_not_change_the_state_it_is_given(demo: tuple[Any, Any], waveform: np.ndarray) -> None:
    model, processor = demo
    features = processor.feature_extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")
    frames = model.encode(features.input_features, input_lengths=features.input_lengths).last_hidden_state
    half = torch.tensor([frames.shape[1] // 2])
    _, state = model.decode_frames(frames, half)
    rest = frames[:, int(half) :]
    length = torch.tensor([rest.shape[1]])
    first, _ = model.decode_frames(rest, length, state=state)
    second, _ = model.decode_frames(rest, length, state=state)
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.frame_indices, second.frame_indices)


def _hear_three_streams(device: str, waveform: np.ndarray) -> tuple[list[str], list[Any]]:
    """Text and words of streams that begin one after the other and come in pieces of other sizes."""
    engine = StreamingEngine(
        *load_model("demo-streaming", device=device), EngineOptions(latency_ms=160, max_load=1000.0)
    )
    pieces = [np.array_split(waveform[16000 * number :], 30 + 7 * number) for number in range(3)]
    streams: dict[int, int] = {}
    updates: dict[int, list[StreamUpdate]] = {number: [] for number in range(3)}
    for step in range(60):
        if step < 3:
            streams[step] = engine.open()
        for number, own in enumerate(pieces):
            if step == number + len(own):
                updates[number].append(engine.finish(streams.pop(number)))
        ready = {number: own[step - number] for number, own in enumerate(pieces) if 0 <= step - number < len(own)}
        for stream_id, update in engine.step({streams[number]: piece for number, piece in ready.items()}).items():
            updates[next(number for number, own in streams.items() if own == stream_id)].append(update)
    return [text_of(own) for own in updates.values()], [words_of(own) for own in updates.values()]


def test_an_engine_with_captured_steps_gives_the_same_text(
    waveform: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, expected_words = _hear_three_streams("cpu", waveform)
    assert all(len(text.split()) > 3 for text in expected)
    graphs = capture_as_calls(monkeypatch)
    found, words = _hear_three_streams("cpu", waveform)
    assert graphs.num_replays > 20
    assert (found, words) == (expected, expected_words)


@pytest.mark.gpu
def test_an_engine_on_a_gpu_gives_the_text_of_the_cpu(waveform: np.ndarray) -> None:
    """Its steps are captured, those of the CPU are not."""
    expected, _ = _hear_three_streams("cpu", waveform)
    found, _ = _hear_three_streams("cuda", waveform)
    assert found == expected
