from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from served import CLIP

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.inference.file import transcribe_waveforms
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.inference.options import TranscriptionOptions
from transformers_fastconformer.inference.reading import AudioClip
from transformers_fastconformer.server.device_turn import DeviceTurn
from transformers_fastconformer.server.errors import ApiError
from transformers_fastconformer.server.file_queue import FileJob, FileQueue

SPOKEN = "three one four one five nine"


@pytest.fixture(scope="module")
def pair() -> Any:
    return load_model("demo", device="cpu")


def make_job(pair: Any, samples: np.ndarray, **options: Any) -> FileJob:
    clip = AudioClip({"raw": samples, "sampling_rate": 16000}, label="file")
    return FileJob(*pair, clip, samples.shape[0] / 16000, TranscriptionOptions(**options))


def test_files_that_wait_go_together_and_each_has_its_own_text(pair: Any) -> None:
    turn, batches = DeviceTurn(), []
    files = FileQueue(turn, 0.0, 100, 1000.0, lambda audio, busy: batches.append(audio))
    audio = read_audio(CLIP)
    expected = [one.text for one in transcribe_waveforms(*pair, [audio, audio[:16000], audio[8000:]])]
    with turn.live():  # nothing is done meanwhile
        files.submit(make_job(pair, audio))  # which may be taken alone
        jobs = [files.submit(make_job(pair, part)) for part in (audio, audio[:16000], audio[8000:])]
    assert [job.future.result(30).text for job in jobs] == expected
    assert expected[0] == SPOKEN
    files.close()
    assert len(batches) <= 2
    assert files.seconds_per_audio_second > 0
    with pytest.raises(ApiError, match="ends"):
        files.submit(make_job(pair, audio))


def test_one_that_cannot_be_transcribed_stops_no_other(pair: Any) -> None:
    turn = DeviceTurn()
    files = FileQueue(turn, 0.0, 100, 1000.0)
    audio = read_audio(CLIP)
    bad = audio.copy()
    bad[100] = np.nan
    with turn.live():
        files.submit(make_job(pair, audio))
        jobs = [files.submit(make_job(pair, one)) for one in (bad, audio)]
    with pytest.raises(ValueError, match="file"):
        jobs[0].future.result(30)
    assert jobs[1].future.result(30).text == SPOKEN
    files.close()


def test_a_dropped_file_is_not_begun(pair: Any) -> None:
    turn = DeviceTurn()
    files = FileQueue(turn, 0.0, 100, 1000.0)
    audio = read_audio(CLIP)
    with turn.live():
        first = files.submit(make_job(pair, audio))
        while not files._running:
            threading.Event().wait(0.001)
        dropped = files.submit(make_job(pair, audio))
        dropped.drop()
    first.future.result(30)
    files.close()
    assert dropped.future.cancelled()


def test_what_would_wait_too_long_is_refused_with_a_time(pair: Any) -> None:
    turn = DeviceTurn()
    files = FileQueue(turn, 0.0, 2, 5.0)
    audio = read_audio(CLIP)
    with turn.live():
        for _ in range(2):
            files.submit(make_job(pair, audio))
        with pytest.raises(ApiError, match="2 files wait already") as refused:
            files.submit(make_job(pair, audio))
        assert refused.value.status == 429
        files._max_jobs = 100
        files._audio_seconds, files._busy_seconds = 1.0, 10.0  # as if this machine were ten times too slow
        with pytest.raises(ApiError, match="the files that wait take") as refused:
            files.submit(make_job(pair, audio))
        wait = files.estimate_wait()
        assert wait == pytest.approx(10 * 2 * audio.shape[0] / 16000)
        assert refused.value.retry_seconds == pytest.approx(wait - 5.0)
    files.close()


def test_a_file_waits_only_while_another_is_on_its_way(pair: Any) -> None:
    batches: list[float] = []
    files = FileQueue(DeviceTurn(), 5.0, 100, 1000.0, lambda audio, busy: batches.append(audio))
    audio = read_audio(CLIP)
    started = time.perf_counter()
    assert files.submit(make_job(pair, audio)).future.result(30).text == SPOKEN
    assert time.perf_counter() - started < 4.5
    with files.arriving():
        first = files.submit(make_job(pair, audio))
        time.sleep(0.05)
        second = files.submit(make_job(pair, audio))
    assert first.future.result(30).text == second.future.result(30).text == SPOKEN
    files.close()
    assert batches == pytest.approx([audio.shape[0] / 16000, 2 * audio.shape[0] / 16000])


def test_features_computed_before_give_the_same_text_and_times(pair: Any) -> None:
    files = FileQueue(DeviceTurn(), 0.0, 100, 1000.0)
    audio = read_audio(CLIP)
    plain, prepared = make_job(pair, audio, timestamps=True), make_job(pair, audio, timestamps=True)
    prepared.prepare()
    assert prepared.prepared is not None
    assert prepared.prepared.features is not None
    found = [files.submit(job).future.result(30) for job in (plain, prepared)]
    files.close()
    assert found[0].text == found[1].text == SPOKEN
    assert found[0].timestamps == found[1].timestamps
    long = make_job(pair, np.zeros(61 * 16000, dtype=np.float32))
    long.prepare()
    assert long.prepared is None
