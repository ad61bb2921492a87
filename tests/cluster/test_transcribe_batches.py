"""Batches of rows: a row out for each row in, times as columns, errors as rows, and what is finished is taken up."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transformers_fastconformer import TranscribeBatches, plan_blocks, read_audio, transcribe
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.writers.record import TranscriptRecord, timed_words

pyarrow = pytest.importorskip("pyarrow", reason="the extra `ray` is not installed")
pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

TEXTS = ["three one four one five nine", "two seven one eight zero six"]
PATHS = [str(path) for path in CLIP_PATHS[:2]]


def test_a_row_for_each_row_in_their_order(transcribe_batches: TranscribeBatches) -> None:
    batch = {"audio_filepath": [PATHS[0], "none.wav", PATHS[1], None], "id": [3, 4, 5, 6], "error": ["old"] * 4}
    rows = transcribe_batches(batch).to_pylist()
    assert [row["id"] for row in rows] == [3, 4, 5, 6]
    assert [row["audio_filepath"] for row in rows] == batch["audio_filepath"]
    assert [row["pred_text"] for row in rows] == [TEXTS[0], None, TEXTS[1], None]
    assert [row["error"] is None for row in rows] == [True, False, True, False]
    assert "'none.wav'" in rows[1]["error"]
    assert "audio_filepath=None" in rows[3]["error"]


@pytest.mark.parametrize("form", ["bytes", "samples", "mapping", "path"])
def test_all_forms_of_audio_give_the_same(transcribe_batches: TranscribeBatches, form: str) -> None:
    if form == "bytes":
        batch: Any = pyarrow.table({"bytes": [Path(path).read_bytes() for path in PATHS], "path": PATHS})
    elif form == "samples":
        amplitude = np.empty(2, dtype=object)
        amplitude[:] = [read_audio(path)[None] for path in PATHS]
        batch = {"amplitude": amplitude, "sample_rate": np.array([16000, 16000]), "path": np.array(PATHS)}
    elif form == "mapping":
        batch = {"audio": [{"bytes": None, "path": path} for path in PATHS], "path": PATHS}
    else:
        batch = {"path": PATHS}
    table = transcribe_batches(batch)
    assert table["pred_text"].to_pylist() == TEXTS
    assert table["path"].to_pylist() == PATHS
    assert not {"bytes", "amplitude", "audio"} & set(table.column_names)


def test_times_are_those_of_the_file(transcribe_batches: TranscribeBatches) -> None:
    batch = {"audio_filepath": [PATHS[0], PATHS[0]], "offset": [0.0, 0.5], "duration": [None, 1.0]}
    whole, part = transcribe_batches(batch).to_pylist()
    record = TranscriptRecord(transcribe(PATHS[0], model="demo"), PATHS[0])
    assert [
        {"word": word, "start": start, "end": end}
        for word, start, end in zip(whole["words"], whole["word_starts"], whole["word_ends"], strict=True)
    ] == timed_words(record)
    assert part["duration_seconds"] == 1.0
    assert all(0.5 <= start <= end <= 1.5 for start, end in zip(part["word_starts"], part["word_ends"], strict=True))


def test_options_by_name_and_those_that_the_model_does_not_have() -> None:
    chosen = TranscribeBatches("demo", timestamps=False, head="ctc", audio_column="recording")
    row = chosen({"recording": PATHS[:1], "path": ["kept"]}).to_pylist()[0]
    assert row["words"] is row["segments"] is None
    assert (row["pred_text"], row["recording"], row["path"]) == (TEXTS[0], PATHS[0], "kept")
    with pytest.raises(ValueError, match="chunk_seconds: not an option of transcription"):
        TranscribeBatches("demo", chunk_seconds=3)
    with pytest.raises(ValueError, match="target_lang"):
        TranscribeBatches("demo", target_lang="de")
    with pytest.raises(ValueError, match="The columns are recording; expected one of"):
        TranscribeBatches("demo")({"recording": PATHS})


def test_an_empty_batch_and_columns_that_cannot_be_kept(transcribe_batches: TranscribeBatches) -> None:
    empty = transcribe_batches(pyarrow.table({"path": pyarrow.array([], pyarrow.string())}))
    assert empty.num_rows == 0
    assert empty.schema == transcribe_batches({"path": PATHS[:1]}).schema
    with pytest.raises(ValueError, match="The column 'mixed' cannot be kept"):
        transcribe_batches({"path": PATHS, "mixed": [1, "x"]})


def test_finished_rows_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "none.wav"]
    for source, path in zip(PATHS, paths, strict=False):
        shutil.copy(source, path)
    batch = {"path": [str(path) for path in paths]}
    first = TranscribeBatches("demo", finished_dir=tmp_path / "finished")(batch)
    done: list[str] = []
    module = "transformers_fastconformer.cluster.transcribe_batches.transcribe_clips"
    original = __import__(module.rpartition(".")[0], fromlist=["x"]).transcribe_clips

    def counting(workers: Any, clips: Any, options: Any) -> Iterator[Any]:
        done.extend(Path(clip.source).name for clip in clips)
        return original(workers, clips, options)

    monkeypatch.setattr(module, counting)
    again = TranscribeBatches("demo", finished_dir=tmp_path / "finished")
    assert again(batch).equals(first)
    assert done == ["none.wav"], "only what has failed"
    shutil.copy(PATHS[1], paths[0])
    shutil.copy(PATHS[0], paths[2])
    assert again(batch)["pred_text"].to_pylist() == [TEXTS[1], TEXTS[1], TEXTS[0]]
    assert done[1:] == ["a.wav", "none.wav"], "and what has changed"
    TranscribeBatches("demo", finished_dir=tmp_path / "finished", strategy="full")(batch)
    assert done[3:] == ["a.wav", "b.wav", "none.wav"], "other options"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Parts of two clips, and one that is missing."""
    path = tmp_path / "list.jsonl"
    lines = [{"audio_filepath": PATHS[number % 2], "id": number, "offset": 0.01 * number} for number in range(60)]
    lines.append({"audio_filepath": str(tmp_path / "none.wav"), "id": 60, "offset": 0.0})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


class KilledOnce(TranscribeBatches):
    """Ends its process in the middle of a batch, the first time that any worker does one."""

    def __init__(self, mark: str, **arguments: Any) -> None:
        super().__init__("demo", **arguments)
        self._mark = mark

    def __call__(self, batch: Any) -> Any:
        table = super().__call__(batch)
        try:
            os.close(os.open(self._mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return table
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_data_set_on_two_workers_of_which_one_is_killed(ray_cluster: None, manifest: Path, tmp_path: Path) -> None:
    import ray

    blocks = plan_blocks([manifest], task_seconds=20.0)
    assert len(blocks) > 4
    arguments = {"finished_dir": str(tmp_path / "finished"), "mark": str(tmp_path / "killed")}
    found = ray.data.from_arrow(blocks).map_batches(
        KilledOnce,
        fn_constructor_kwargs=arguments,
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
    )
    rows = {row["id"]: row for row in found.take_all()}
    assert (tmp_path / "killed").exists()
    plain = TranscribeBatches("demo")
    expected = [row for block in blocks for row in plain(block).to_pylist()]
    assert len(expected) == len(rows) == 61
    assert rows == {row["id"]: row for row in expected}
    assert [number for number, row in rows.items() if row["error"] is not None] == [60]
