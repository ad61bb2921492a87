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


def test_a_generator_is_many(loaded: Any) -> None:
    found = transcribe((path for path in CLIP_PATHS[:2]), loaded)
    assert [item.text for item in found] == list(TEXTS)


def test_the_head_of_a_loaded_hybrid_is_chosen(loaded: Any) -> None:
    """The two heads give other times; what belongs to loading is refused."""
    whole, of_ctc = (transcribe(CLIP_PATHS[0], loaded, head=head) for head in ("transducer", "ctc"))
    assert whole.text == of_ctc.text == TEXTS[0]
    assert whole.timestamps != of_ctc.timestamps
    for options, message in (
        ({"head": "nonsense"}, "head='nonsense' is not supported; expected one of"),
        ({"device": "cpu"}, "device='cpu' is not supported with a model that is loaded"),
        ({"dtype": "float16"}, "dtype='float16' is not supported with a model that is loaded"),
    ):
        with pytest.raises(ValueError, match=message):
            transcribe(CLIP_PATHS[0], loaded, **options)


@pytest.mark.parametrize("make", [lambda pair: pair[::-1], list, lambda pair: pair[0], lambda pair: None])
def test_what_is_not_a_model_is_refused(loaded: Any, make: Any) -> None:
    with pytest.raises(ValueError, match="expected the name of a checkpoint, or the model and the processor"):
        transcribe(CLIP_PATHS[0], make(loaded))


def test_a_broken_one_of_many_is_named(loaded: Any) -> None:
    samples = read_audio(CLIP_PATHS[0])
    with pytest.raises(ValueError, match="Clip 1 has the value nan at sample 0"):
        transcribe([samples, samples * np.nan], loaded)
    with pytest.raises(ValueError, match="audio is None; expected a path"):
        transcribe(None, loaded)


def test_what_is_refused(loaded: Any) -> None:
    with pytest.raises(ValueError, match="beams: not an option of transcription"):
        transcribe(CLIP_PATHS[0], model="no model of that name is looked for", beams=3)
    with pytest.raises(ValueError, match="language='de' cannot be written with the vocabulary"):
        transcribe(CLIP_PATHS[0], loaded, language="de")
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        transcribe([CLIP_PATHS[0], "missing.wav"], loaded)
    with pytest.raises(FileNotFoundError, match=r"missing\.nemo"):
        transcribe(CLIP_PATHS[0], model="missing.nemo")
