"""Training data by name: manifests, folders, data sets; and what is not training data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from transformers_fastconformer import RowForm, open_clips
from transformers_fastconformer.training.clip_sources import undecoded


def test_a_manifest_has_paths_from_its_folder(manifest: Path) -> None:
    rows = open_clips(manifest, RowForm())
    assert len(rows) == 6
    assert rows[2]["audio_filepath"] == str(manifest.parent / "2.wav")
    assert rows[2]["text"] == "nine"
    assert RowForm().seconds_of(rows[2]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_folder_has_metadata(name: str, manifest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "voice"
    folder.mkdir()
    (folder / "a.wav").write_bytes((manifest.parent / "0.wav").read_bytes())
    lines = {
        "metadata.jsonl": json.dumps({"file_name": "a.wav", "text": "one"}),
        "metadata.csv": "file_name,text,duration\na.wav,one,0.6",
    }
    (folder / name).write_text(lines[name] + "\n")
    (row,) = open_clips(folder, RowForm())
    assert row["audio_filepath"] == str(folder / "a.wav")
    assert row["text"] == "one"
    assert RowForm().seconds_of(row) == pytest.approx(0.6)


def test_a_line_that_cannot_be_used_costs_no_other(manifest: Path) -> None:
    with manifest.open() as file:
        (manifest.parent / "bad.jsonl").write_text(file.readline() + '{"text": "one"}\n{\n')
    first, without, broken = open_clips(manifest.parent / "bad.jsonl", RowForm())
    assert RowForm().seconds_of(first) == pytest.approx(0.6)
    for row, message in (
        (without, "line 2: found .*expected a JSON object with 'audio_filepath'"),
        (broken, "not JS"),
    ):
        with pytest.raises(ValueError, match=message):
            RowForm().seconds_of(row)
        with pytest.raises(ValueError, match=message):
            RowForm().waveform_of(row, 16000)


def test_a_folder_has_texts(manifest: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").write_bytes((manifest.parent / "0.wav").read_bytes())
    (tmp_path / "a.txt").write_text("one")
    first, second = open_clips(tmp_path, RowForm(text_column="sentence"))
    assert (first["audio_filepath"], first["sentence"]) == (str(tmp_path / "a.wav"), "one")
    with pytest.raises(ValueError, match=r"b\.wav' has neither"):
        RowForm().seconds_of(second)


def test_refusals(tmp_path: Path, manifest: Path) -> None:
    with pytest.raises(ValueError, match="holds no recordings"):
        open_clips(tmp_path, RowForm())
    with pytest.raises(ValueError, match="does not exist; expected a manifest"):
        open_clips(tmp_path / "none.jsonl", RowForm())
    with pytest.raises(ValueError, match="split='test' is not supported"):
        open_clips(manifest, RowForm(), split="test")
    with pytest.raises(ValueError, match=r"0\.wav' is not supported; expected a manifest"):
        open_clips(manifest.parent / "0.wav", RowForm())


def test_audio_columns_are_read_without_their_decoder(waveforms: list[np.ndarray], manifest: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    data = datasets.Dataset.from_dict(
        {"audio": [str(manifest.parent / "1.wav")], "text": ["one"], "speaker": ["anna"]}
    ).cast_column("audio", datasets.Audio())
    rows = undecoded(data, "audio", "text")
    assert set(rows[0]["audio"]) == {"bytes", "path"}
    np.testing.assert_allclose(RowForm().waveform_of(rows[0], 16000), waveforms[1], atol=1e-4)
    with pytest.raises(ValueError, match=r"text_column='sentence' is not supported; expected one of \['audio', "):
        undecoded(data, "audio", "sentence")
