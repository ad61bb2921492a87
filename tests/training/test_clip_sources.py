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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("{", "line 1.* cannot be read"),
        ('{"text": "one"}', r"line 1: found .*expected a JSON object with 'file_name' or 'audio_filepath'"),
        ("[1]", "line 1: found"),
    ],
)
def test_what_is_no_manifest(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_clips(tmp_path / "a.jsonl", RowForm())


def test_refusals(tmp_path: Path, manifest: Path) -> None:
    with pytest.raises(ValueError, match=r"has none of metadata\.jsonl"):
        open_clips(tmp_path, RowForm())
    with pytest.raises(FileNotFoundError, match="does not exist; expected a manifest"):
        open_clips(tmp_path / "none.jsonl", RowForm())
    with pytest.raises(ValueError, match="split='test' is not supported"):
        open_clips(manifest, RowForm(), split="test")
    with pytest.raises(ValueError, match=r"0\.wav' is no manifest"):
        open_clips(manifest.parent / "0.wav", RowForm())


def test_audio_columns_are_read_without_their_decoder(waveforms: list[np.ndarray], manifest: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    data = datasets.Dataset.from_dict(
        {"audio": [str(manifest.parent / "1.wav")], "text": ["one"], "speaker": ["anna"]}
    ).cast_column("audio", datasets.Audio())
    rows = undecoded(data, RowForm())
    assert set(rows[0]) == {"audio", "text"}
    np.testing.assert_allclose(RowForm().waveform_of(rows[0], 16000), waveforms[1], atol=1e-4)
    with pytest.raises(ValueError, match="no column 'sentence'; expected one of audio, text, speaker"):
        undecoded(data, RowForm(text_column="sentence"))
