"""The front door: every form of audio, one or many, by a checkpoint's name or with a loaded model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transformers_fastconformer import TranscriptionOptions, load_model, read_audio, transcribe
from transformers_fastconformer.demonstration import CLIP_PATHS

pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

TEXTS = ("three one four one five nine", "two seven one eight zero six")


@pytest.fixture(scope="module")
def loaded() -> Any:
    return load_model("demo")


def test_by_name() -> None:
    transcript = transcribe(CLIP_PATHS[0], model="demo", device="cpu")
    assert transcript.text == TEXTS[0]
    assert [item["word"] for item in transcript.timestamps["word"]] == TEXTS[0].split()
    assert transcript.duration_seconds == pytest.approx(2.34, abs=0.1)


def test_every_form_of_audio(loaded: Any) -> None:
    samples = read_audio(CLIP_PATHS[0])
    forms = [
        str(CLIP_PATHS[0]),
        CLIP_PATHS[0].read_bytes(),
        samples,
        {"array": samples, "sampling_rate": 16000},
        {"path": str(CLIP_PATHS[0])},
    ]
    assert [transcribe(form, loaded).text for form in forms] == [TEXTS[0]] * len(forms)
    with CLIP_PATHS[0].open("rb") as file:
        assert transcribe(file, loaded).text == TEXTS[0]


def test_many_come_back_in_order(loaded: Any) -> None:
    clips = [CLIP_PATHS[0], np.zeros(3 * 16000, dtype=np.float32), CLIP_PATHS[1]]
    done: dict[int, float] = {}
    found = transcribe(clips, loaded, timestamps=False, on_progress=done.__setitem__)
    assert [item.text for item in found] == [TEXTS[0], "", TEXTS[1]]
    assert all(item.timestamps is None for item in found)
    assert done == {number: item.duration_seconds for number, item in enumerate(found)}
    assert transcribe([], loaded) == []


def test_samples_longer_than_a_minute(loaded: Any) -> None:
    pause = np.zeros(16000, dtype=np.float32)
    samples = np.concatenate([read_audio(CLIP_PATHS[0]), pause] * 20)
    assert len(samples) > 60 * 16000
    found = transcribe(samples, loaded, options=TranscriptionOptions(batch_size=2), strategy="chunked")
    assert found.text.split() == TEXTS[0].split() * 20
    assert found.strategy == "chunked"


def test_what_is_refused(loaded: Any) -> None:
    with pytest.raises(ValueError, match="beams: not an option of transcription"):
        transcribe(CLIP_PATHS[0], model="no model of that name is looked for", beams=3)
    with pytest.raises(ValueError, match="language='de' is not supported: this model has no language prompts"):
        transcribe(CLIP_PATHS[0], loaded, language="de")
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        transcribe([CLIP_PATHS[0], "missing.wav"], loaded)
    with pytest.raises(FileNotFoundError, match=r"missing\.nemo"):
        transcribe(CLIP_PATHS[0], model="missing.nemo")
