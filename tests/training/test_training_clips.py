"""Audio of rows in every form, and its length without decoding."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from transformers_fastconformer import RowForm, TrainingClips

FORMS = ("array", "stereo", "path", "bytes", "mapping of a path", "mapping of bytes", "decoder", "manifest")


def make_row(form: str, waveform: np.ndarray, path: str) -> dict[str, Any]:
    data = Path(path).read_bytes()
    samples = SimpleNamespace(data=torch.from_numpy(waveform)[None], sample_rate=16000)
    audio: dict[str, Any] = {
        "array": {"array": waveform, "sampling_rate": 16000},
        "stereo": {"array": np.stack([waveform, waveform]), "sampling_rate": 16000},
        "path": path,
        "bytes": data,
        "mapping of a path": {"path": path, "bytes": None},
        "mapping of bytes": {"path": "elsewhere.wav", "bytes": data},
        "decoder": SimpleNamespace(
            get_all_samples=lambda: samples, metadata=SimpleNamespace(duration_seconds=len(waveform) / 16000)
        ),
    }
    return {"audio_filepath": path, "text": "one"} if form == "manifest" else {"audio": audio[form], "text": "one"}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_clip_and_its_length(form: str, waveforms: list[np.ndarray], manifest: Path) -> None:
    row = make_row(form, waveforms[1], str(manifest.parent / "1.wav"))
    found = RowForm().waveform_of(row, 16000)
    np.testing.assert_allclose(found, waveforms[1], atol=1e-4)
    assert RowForm().seconds_of(row) == pytest.approx(len(waveforms[1]) / 16000, abs=1e-4)


def test_a_manifest_names_parts(waveforms: list[np.ndarray], manifest: Path) -> None:
    row = {"audio_filepath": str(manifest.parent / "5.wav"), "offset": 0.5, "duration": 0.25, "text": ""}
    np.testing.assert_allclose(RowForm().waveform_of(row, 16000), waveforms[5][8000:12000], atol=1e-4)
    assert RowForm().seconds_of(row) == 0.25
    del row["duration"]
    assert RowForm().seconds_of(row) == pytest.approx(len(waveforms[5]) / 16000 - 0.5)


def test_a_part_that_is_not_there_is_found_before_training(manifest: Path) -> None:
    path = str(manifest.parent / "0.wav")  # 0.6 s
    with pytest.raises(FileNotFoundError, match="does not exist"):
        RowForm().seconds_of({"audio_filepath": str(manifest.parent / "none.wav"), "duration": 0.5})
    for part in ({"duration": 2.0}, {"offset": 0.6, "duration": 0.1}, {"offset": 0.7}):
        with pytest.raises(ValueError, match=r"is not supported; the file has 0\.60 s"):
            RowForm().seconds_of({"audio_filepath": path, **part})
    assert RowForm().seconds_of({"audio_filepath": path, "duration": 0.65}) == pytest.approx(0.6)  # a rounded length


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "one"}, r"audio_column='audio' is not in a row with \['text'\]"),
        ({"audio": "missing.wav"}, "does not exist"),
        ({"audio_filepath": "a.wav", "duration": "long"}, "duration='long' is not supported; expected seconds"),
    ],
)
def test_refusals_of_audio(row: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        RowForm().seconds_of(row)


def test_columns_have_names() -> None:
    with pytest.raises(ValueError, match="text_column='sentence' has NoneType in a row with"):
        RowForm(text_column="sentence").text_of({"text": "one"})
    assert RowForm(text_column="sentence").text_of({"sentence": "one"}) == "one"
    with pytest.raises(ValueError, match="audio_column='' is not supported"):
        RowForm(audio_column="")


def test_clips_are_some_of_the_rows(manifest: Path) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    clips = TrainingClips(rows, [4, 1], [1.0, 2.0], RowForm())
    assert len(clips) == 2
    assert [clips[place]["text"] for place in range(2)] == [rows[4]["text"], rows[1]["text"]]
