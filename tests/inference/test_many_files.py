"""Many clips: how they are packed and read ahead, and that no clip's fate is another's."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import transformers_fastconformer.inference.many_files as files_module
import transformers_fastconformer.inference.reading as reading_module
import transformers_fastconformer.inference.recognition as recognition_module
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.decoding.confidence import ConfidenceOptions
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.inference.clip_features import FrontEnd
from transformers_fastconformer.inference.file import transcribe_waveforms
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.inference.many_files import Finished, pack_clips, transcribe_clips
from transformers_fastconformer.inference.options import TranscriptionOptions
from transformers_fastconformer.inference.reading import AudioClip
from transformers_fastconformer.inference.transcript import Transcript

soundfile = pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

TEXTS = ("three one four one five nine", "two seven one eight zero six")
SAMPLING_RATE = 16000


@pytest.fixture(scope="module")
def worker() -> Any:
    return load_model(CHECKPOINT_PATH)


@pytest.fixture
def long_path(tmp_path: Path) -> Path:
    """Both clips in turn, longer than what is packed."""
    clips = [read_audio(path) for path in CLIP_PATHS[:2]]
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate(clips * 10), SAMPLING_RATE)
    assert soundfile.info(path).duration > reading_module.PACKED_SECONDS
    return path


def run(worker: Any, clips: Sequence[AudioClip], copies: int = 1, **options: Any) -> dict[int, Finished]:
    arguments = {name: options.pop(name) for name in ("sort_ahead", "on_progress") if name in options}
    finished = list(transcribe_clips([worker] * copies, clips, TranscriptionOptions.of(None, options), **arguments))
    assert len({item.place for item in finished}) == len(finished) == len(clips)
    return {item.place: item for item in finished}


def text_of(finished: Finished) -> str:
    assert finished.transcript is not None, finished.error
    return finished.transcript.text


# Packing


def test_packs_are_of_about_the_same_length_and_no_clip_is_lost() -> None:
    generator = np.random.default_rng(0)
    lengths: list[float | None] = [float(seconds) for seconds in generator.uniform(0.1, 90, size=200)]
    lengths[7] = lengths[100] = None
    packs = pack_clips(lengths, 8, 100.0)
    assert sorted(index for pack in packs for index in pack) == list(range(200))
    order = [float("inf") if (seconds := lengths[index]) is None else seconds for pack in packs for index in pack]
    assert order == sorted(order, reverse=True)
    for pack in packs:
        longest = max(float("inf") if (seconds := lengths[index]) is None else seconds for index in pack)
        assert len(pack) == 1 or (len(pack) * longest <= 100.0 and longest <= reading_module.PACKED_SECONDS)
        assert len(pack) <= 8
    assert max(map(len, packs)) == 8
    assert any(len(pack) not in (1, 8) for pack in packs)
    assert pack_clips([], 8, 100.0) == []


def test_clips_are_sorted_a_few_at_a_time(worker: Any, tmp_path: Path) -> None:
    paths = []
    for number, samples in enumerate((8000, 24000, 16000, 30000)):
        paths.append(tmp_path / f"{number}.wav")
        soundfile.write(paths[-1], read_audio(CLIP_PATHS[0])[:samples], SAMPLING_RATE)
    clips = [AudioClip(str(path)) for path in paths]
    for sort_ahead, expected in ((None, [3, 1, 2, 0]), (2, [1, 0, 3, 2]), (1, [0, 1, 2, 3])):
        options = TranscriptionOptions(batch_size=1)
        found = transcribe_clips([worker], clips, options, sort_ahead=sort_ahead)
        assert [finished.place for finished in found] == expected


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_reading_is_ahead_but_not_far(worker: Any, monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    real_extract, num_read, ahead = FrontEnd.extract, [], []

    def extract(*arguments: Any) -> Any:
        num_read.append(threading.current_thread().name)
        return real_extract(*arguments)

    monkeypatch.setattr(FrontEnd, "extract", extract)
    clips = [AudioClip(str(CLIP_PATHS[number % 2])) for number in range(30)]
    options = TranscriptionOptions(batch_size=2, num_workers=num_workers)
    for number, _ in enumerate(transcribe_clips([worker], clips, options)):
        time.sleep(0.01)
        ahead.append(len(num_read) - number)
    assert len(num_read) == 30
    assert max(ahead) <= 2 + 2 * files_module.BATCHES_AHEAD
    if num_workers:
        assert max(ahead) > 2
        assert threading.current_thread().name not in num_read
    else:
        assert max(ahead) == 2


# Results


@pytest.mark.parametrize("options", [{}, {"batch_size": 3, "num_workers": 0}, {"batch_seconds": 4.0}])
def test_results_are_those_of_each_clip_alone(worker: Any, options: dict[str, Any]) -> None:
    clips = [AudioClip(str(CLIP_PATHS[number % 2])) for number in range(5)]
    results = run(worker, clips, **options)
    alone = [transcribe_waveforms(*worker, [read_audio(path)], timestamps=True)[0] for path in CLIP_PATHS[:2]]
    for number, finished in results.items():
        assert finished.transcript == alone[number % 2]


@pytest.mark.parametrize("strategy", ["auto", "full", "local", "chunked"])
def test_long_clips_go_by_their_strategy(
    worker: Any, long_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    asked = []

    def transcribe(model: Any, processor: Any, audio: Any, options: Any, channel: Any, on_progress: Any) -> Transcript:
        on_progress(30.0)
        asked.append((audio.name, options.chunking.strategy, channel))
        return Transcript("long", None, 60.0, strategy="full" if strategy == "auto" else strategy)

    monkeypatch.setattr(files_module, "transcribe_source", transcribe)
    progress = []
    results = run(
        worker,
        [AudioClip(str(long_path)), AudioClip(str(CLIP_PATHS[0]))],
        strategy=strategy,
        on_progress=lambda place, seconds: progress.append((place, seconds)),
    )
    assert asked == [(repr(str(long_path)), strategy, "mix")]
    assert text_of(results[0]) == "long"
    assert (0, 30.0) in progress
    assert text_of(results[1]) == TEXTS[0]
    assert results[1].transcript is not None
    assert results[1].transcript.strategy == ("full" if strategy == "auto" else strategy)


def test_long_files_and_long_parts_are_transcribed(worker: Any, long_path: Path, tmp_path: Path) -> None:
    seconds = soundfile.info(long_path).duration
    clips = [
        AudioClip(str(long_path)),
        AudioClip(str(long_path), start_seconds=seconds / 10, seconds=0.9 * seconds),
        AudioClip(str(tmp_path / "missing.wav")),
    ]
    results = run(worker, clips, strategy="chunked", chunk_length_s=10.0)
    assert text_of(results[0]) == " ".join(TEXTS * 10)
    assert text_of(results[1]) == " ".join(TEXTS * 9)
    assert results[1].transcript is not None
    assert results[1].transcript.strategy == "chunked"
    assert isinstance(results[2].error, FileNotFoundError)


def test_a_clip_that_does_not_fit_costs_no_other(
    worker: Any, long_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = recognition_module.transcribe_features, []

    def transcribe(model: Any, clips: Sequence[Any], *arguments: Any, **options: Any) -> Any:
        sizes.append(len(clips))
        if any(clip.mel_length > 450 for clip in clips):
            raise torch.OutOfMemoryError("not enough memory")
        return real(model, clips, *arguments, **options)

    monkeypatch.setattr(recognition_module, "transcribe_features", transcribe)
    clips = [AudioClip(str(CLIP_PATHS[0])), AudioClip(str(long_path), seconds=5.0), AudioClip(str(CLIP_PATHS[0]))]
    results = run(worker, clips)
    assert sizes == [3, 1, 1, 1]
    assert text_of(results[0]) == text_of(results[2]) == TEXTS[0]
    assert "not enough memory" in str(results[1].error)


def test_a_batch_is_as_large_as_the_free_memory(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = recognition_module.transcribe_features, []

    def transcribe(model: Any, clips: Sequence[Any], *arguments: Any, **options: Any) -> Any:
        sizes.append(len(clips))
        return real(model, clips, *arguments, **options)

    model, _ = worker
    clip_bytes = files_module.estimate_one_pass_bytes(model.config, 404)
    monkeypatch.setattr(recognition_module, "transcribe_features", transcribe)
    for free, expected in ((1e12, [5]), (2 * 3 * clip_bytes, [3, 2]), (0, [1] * 5)):
        monkeypatch.setattr(files_module, "available_bytes", lambda device, free=free: int(free))
        sizes.clear()
        results = run(worker, [AudioClip(str(CLIP_PATHS[1]))] * 5)
        assert sizes == expected
        assert {text_of(result) for result in results.values()} == {TEXTS[1]}


@pytest.mark.parametrize("timestamps", [True, False])
def test_confidences_come_with_clips_of_any_length(worker: Any, long_path: Path, timestamps: bool) -> None:
    clips = [AudioClip(str(CLIP_PATHS[0])), AudioClip(str(long_path))]
    results = run(worker, clips, confidence=ConfidenceOptions(), timestamps=timestamps)
    for result in results.values():
        transcript = result.transcript
        assert transcript is not None
        assert transcript.confidence is not None
        assert transcript.word_confidences is not None
        assert len(transcript.word_confidences) == len(transcript.text.split())
        assert transcript.confidence == min(transcript.word_confidences)
        assert (transcript.timestamps is not None) == timestamps
    assert run(worker, clips[:1])[0].transcript.confidence is None  # type: ignore[union-attr]


def test_messages_name_what_the_user_named(worker: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("no audio")
    results = run(worker, [AudioClip(str(tmp_path / "secret"), label="the standard input")])
    assert str(results[0].error).startswith("the standard input cannot be decoded")
    assert "secret'" not in str(results[0].error).partition("libsndfile")[0]


@pytest.mark.parametrize("copies", [2, 3])
def test_workers_share_the_clips(worker: Any, tmp_path: Path, copies: int) -> None:
    clips = [AudioClip(str(CLIP_PATHS[number % 2])) for number in range(12)]
    clips.append(AudioClip(str(tmp_path / "missing.wav")))
    results = run(worker, clips, copies=copies, batch_size=2, num_workers=2)
    for number in range(12):
        assert text_of(results[number]) == TEXTS[number % 2]
    assert isinstance(results[12].error, FileNotFoundError)


def test_an_error_of_ours_in_a_worker_is_raised(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def transcribe(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a mistake in the program")

    monkeypatch.setattr(recognition_module, "transcribe_features", transcribe)
    with pytest.raises(AssertionError, match="a mistake"):
        run(worker, [AudioClip(str(CLIP_PATHS[0]))] * 4, copies=2, batch_size=1)


def test_who_asks_for_no_more_stops_the_workers(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [AudioClip(str(CLIP_PATHS[0]))] * 40
    before = set(threading.enumerate())
    for copies in (1, 2):
        results = transcribe_clips([worker] * copies, clips, TranscriptionOptions(batch_size=1, num_workers=2))
        next(results)
        results.close()
        deadline = time.monotonic() + 10
        while set(threading.enumerate()) - before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not set(threading.enumerate()) - before


def test_no_clips(worker: Any) -> None:
    assert run(worker, []) == {}


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is not supported; expected an integer of 1 or more"),
        ({"num_workers": -1}, "num_workers=-1 is not supported; expected an integer from 0 to 256"),
        ({"batch_seconds": 0.0}, "batch_seconds=0.0 is not supported"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TranscriptionOptions(**options)


def test_options_that_the_model_does_not_have_are_refused_at_once(worker: Any) -> None:
    for options, message in (
        ({"language": "de-DE"}, "language='de-DE'"),
        ({"stride_length_s": 1.0}, "needs chunk_length_s"),
        ({"strategy": "fast"}, "strategy='fast' is not supported; expected one of"),
        ({"strategy": "full", "chunk_length_s": 5.0}, "not supported with strategy='full'"),
    ):
        with pytest.raises(ValueError, match=message):
            transcribe_clips([worker], [], TranscriptionOptions.of(None, options))
    with pytest.raises(ValueError, match=r"workers=\[\] is not supported"):
        transcribe_clips([], [], TranscriptionOptions())


def test_what_is_not_a_clip_or_a_count_is_refused(worker: Any) -> None:
    with pytest.raises(ValueError, match=r"clips\[0\]='x\.wav' is not supported; expected an AudioClip"):
        list(transcribe_clips([worker], ["x.wav"]))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="sort_ahead=0 is not supported; expected an integer of 1 or more"):
        transcribe_clips([worker], [AudioClip("x.wav")], sort_ahead=0)
    with pytest.raises(ValueError, match="lengths_seconds has 1 values; expected 2"):
        transcribe_clips([worker], [AudioClip("x.wav")] * 2, lengths_seconds=[1.0])


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("length", ["short", "long"])
def test_an_error_of_the_callers_function_is_his(worker: Any, long_path: Path, length: str, copies: int) -> None:
    """It ends the run, of whatever type it is, and is not taken for that of a clip."""
    source = str(long_path if length == "long" else CLIP_PATHS[0])

    def fail(place: int, seconds: float) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        list(transcribe_clips([worker] * copies, [AudioClip(source)], on_progress=fail))


def test_an_open_file_that_is_given_twice_is_refused_by_name(worker: Any) -> None:
    """Two threads would move it under one another."""
    with CLIP_PATHS[0].open("rb") as file, CLIP_PATHS[1].open("rb") as other:
        clips = [AudioClip(file), AudioClip(other), AudioClip(file)]
        with pytest.raises(ValueError, match="clip 2 is the same open file as clip 0; expected each once"):
            run(worker, clips)
        results = run(worker, clips[:2])
    assert [text_of(results[place]) for place in (0, 1)] == list(TEXTS)


@pytest.mark.parametrize("copies", [1, 2])
def test_errors_that_name_nothing_get_the_name_of_the_clip(
    worker: Any, monkeypatch: pytest.MonkeyPatch, copies: int
) -> None:
    def transcribe(*arguments: Any, **options: Any) -> Any:
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(recognition_module, "transcribe_features", transcribe)
    for finished in run(worker, [AudioClip(str(path)) for path in CLIP_PATHS], copies=copies).values():
        assert isinstance(finished.error, MemoryError)
        assert str(CLIP_PATHS[finished.place]) in str(finished.error)
        assert "the memory does not suffice" in str(finished.error)


def test_too_many_threads_are_refused_by_name(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="num_workers=100000 is not supported; expected an integer from 0 to 256"):
        TranscriptionOptions(num_workers=100000)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(reading_module.threading.Thread, "start", start)
        with pytest.raises(ValueError, match="num_workers=1 is not supported; the system starts no more than 0"):
            reading_module.Readers(1)


@pytest.mark.parametrize("copies", [1, 2])
def test_recordings_that_change_while_they_wait_cost_no_other(
    worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: int
) -> None:
    """After they were measured: cut off, removed, made a folder, and made longer than what is packed."""
    names = ("same", "cut", "gone", "folder", "longer")
    paths = {name: tmp_path / f"{name}.wav" for name in names}
    for path in paths.values():
        path.write_bytes(CLIP_PATHS[0].read_bytes())
    real = files_module.prepare_packs

    def change_first(*arguments: Any) -> Any:
        paths["cut"].write_bytes(CLIP_PATHS[0].read_bytes()[:20000])
        paths["gone"].unlink()
        paths["folder"].unlink()
        paths["folder"].mkdir()
        samples = read_audio(CLIP_PATHS[0])
        soundfile.write(paths["longer"], np.concatenate([samples] * 30), SAMPLING_RATE)
        return real(*arguments)

    clips = [AudioClip(str(path)) for path in paths.values()]
    lengths = [2.3384375] * len(clips)
    monkeypatch.setattr(files_module, "prepare_packs", change_first)
    finished = transcribe_clips([worker] * copies, clips, TranscriptionOptions(), lengths)
    results = {names[item.place]: item for item in finished}
    assert text_of(results["same"]) == TEXTS[0]
    assert text_of(results["longer"]) == " ".join([TEXTS[0]] * 30)
    for name, message in (("cut", "is cut off"), ("gone", "does not exist"), ("folder", "is a folder")):
        assert message in str(results[name].error)
        assert str(paths[name]) in str(results[name].error)
