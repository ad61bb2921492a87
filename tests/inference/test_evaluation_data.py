"""Recordings and their texts in manifests, folders, rows and data sets; audio is opened when its turn comes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.inference.evaluation_data import EvaluationDataOptions, SpokenText, read_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav"):
        shutil.copy(CLIP_PATHS[0], tmp_path / name)
    return tmp_path


def write(path: Path, *entries: Any) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def source_of(item: SpokenText) -> Any:
    assert item.open_clip is not None
    return item.open_clip().source


def test_manifests(folder: Path) -> None:
    path = write(
        folder / "m.jsonl",
        {"audio_filepath": "a.wav", "text": "one"},
        {"audio_filepath": "b.wav", "text": "", "offset": 0.5, "duration": 1},
        {"audio_filepath": "b.wav"},
        {"audio_filepath": "b.wav", "text": 3},
        {"text": "four"},
        {"audio_filepath": "b.wav", "text": "five", "duration": 0},
    )
    first, part, without, number, bad, short = read_data(path)
    assert (first.name, first.reference, source_of(first)) == ("a.wav", "one", str(folder / "a.wav"))
    assert (part.name, part.reference) == ("b.wav [0.5-1.5]", "")
    assert part.open_clip is not None
    assert (part.open_clip().start_seconds, part.open_clip().seconds) == (0.5, 1.0)
    assert "line 3 has no 'text'; expected the text that is said" in str(without.error)
    assert "line 4: text='3' is not supported; expected text" in str(number.error)
    assert "line 5: found" in str(bad.error)
    assert "line 6: duration=0.0 of" in str(short.error)
    assert len(read_data(path, EvaluationDataOptions(limit=2))) == 2


def test_another_column_of_text(folder: Path) -> None:
    path = write(folder / "m.jsonl", {"audio_filepath": "a.wav", "text": "One.", "plain": "one", "pred_text": "two"})
    (item,) = read_data(path, EvaluationDataOptions(text_column="plain"))
    assert (item.reference, item.hypothesis) == ("one", "two")


def test_folders_with_a_text_next_to_each_file(folder: Path) -> None:
    (folder / "a.txt").write_text("one two\n", encoding="utf-8")
    a, b = read_data(folder)
    assert (a.name, a.reference, a.error, source_of(a)) == ("a.wav", "one two", None, str(folder / "a.wav"))
    assert b.reference is None
    (folder / "b.txt").write_bytes(b"\xff\xfe\xfa")
    assert "b.txt cannot be read" in str(read_data(folder)[1].error)
    assert "b.wav' has neither a 'b.txt' next to it nor a line in a *.trans.txt" in str(b.error)


def test_folders_of_librispeech(folder: Path) -> None:
    (folder / "19" / "198").mkdir(parents=True)
    shutil.move(folder / "a.wav", folder / "19" / "198" / "19-198-0000.wav")
    shutil.move(folder / "b.wav", folder / "19" / "198" / "19-198-0001.wav")
    (folder / "19" / "198" / "19-198.trans.txt").write_text("19-198-0000 ONE TWO\n19-198-0001 THREE\n")
    assert [item.reference for item in read_data(str(folder))] == ["ONE TWO", "THREE"]


def test_rows(folder: Path) -> None:
    samples = {"array": [0.0] * 16000, "sampling_rate": 16000}
    rows = [{"audio": str(folder / "a.wav"), "text": "one", "id": "x"}, {"audio": samples, "text": "two"}]
    first, second = read_data(rows)
    assert (first.name, first.reference, source_of(first)) == ("x", "one", str(folder / "a.wav"))
    assert (second.name, source_of(second)) == ("1", samples)
    first, second = read_data(row for row in rows)  # rows that cannot be asked again
    assert source_of(second) == samples


def test_data_sets_whose_audio_is_not_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"audio": [str(folder / "a.wav"), str(folder / "b.wav")], "transcription": ["one", "two"]}
    made = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(sampling_rate=8000))
    asked = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        asked.append((arguments, options))
        return made

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    options = EvaluationDataOptions(text_column="transcription", split="validation")
    items = read_data("google/fleurs:en_us", options)
    assert asked == [(("google/fleurs", "en_us"), {"split": "validation"})]
    assert [item.reference for item in items] == ["one", "two"]
    assert source_of(items[1])["path"] == str(folder / "b.wav")
    with pytest.raises(ValueError, match=r"text_column='text' is not supported; expected one of \['audio', 'trans"):
        read_data("google/fleurs")


def test_a_data_set_without_its_library_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ImportError, match=r"google/fleurs needs datasets: pip install 'transformers-fastconformer\[tr"
    ):
        read_data("google/fleurs")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("no such thing.wav", "data='no such thing.wav' is not supported; expected a manifest"),
        ([], r"data='\[\]' holds no recordings"),
        (3, "data='int' is not supported; expected a manifest"),
        ([3], r"data\[0\]=3 is not supported; expected a mapping with 'text'"),
        ([{"audio": "a.wav", "text": 3}], r"data\[0\]: text=3 is not supported"),
        ("gone.jsonl", "'gone.jsonl' does not exist"),
    ],
)
def test_what_is_no_data_is_refused(data: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_data(data)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="limit=0 is not supported"):
        EvaluationDataOptions(limit=0)
    with pytest.raises(ValueError, match="split='' is not supported; expected a name"):
        EvaluationDataOptions(split="")
