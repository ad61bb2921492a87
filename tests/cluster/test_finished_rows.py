"""Finished rows in a folder: what is taken up, what is done again, and files that are not whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from transformers_fastconformer.cluster.finished_rows import FinishedRows
from transformers_fastconformer.cluster.tables import describe_error, describe_transcript
from transformers_fastconformer.inference.transcript import Transcript

pyarrow = pytest.importorskip("pyarrow", reason="the extra `ray` is not installed")

ROW = describe_transcript(Transcript("one", {"word": [{"word": "one", "start": 0.0, "end": 0.2}]}, 0.5), 0.0)
OTHER = describe_transcript(Transcript("two", None, 0.5), 0.0)


def test_a_later_run_takes_what_is_done_but_for_errors(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "finished"
    finished = FinishedRows(folder)
    assert len(finished) == 0
    finished.add(["a", "b", "c"], ["a.wav", "b.wav", "c.wav"], [ROW, OTHER, describe_error(ValueError("no audio"))])
    assert [path.suffix for path in folder.iterdir()] == [".parquet"]
    for known in (finished, FinishedRows(folder)):
        assert len(known) == 2
        assert known.take(["b", "c", "a", "a", "d"]) == {"b": OTHER, "a": ROW}
    table = pyarrow.parquet.read_table(folder)
    assert table["audio"].to_pylist() == ["a.wav", "b.wav", "c.wav"]
    finished.add(["c"], ["c.wav"], [OTHER])
    assert FinishedRows(folder).take(["c"]) == {"c": OTHER}


def test_a_batch_that_a_lost_worker_had_written(tmp_path: Path) -> None:
    early = FinishedRows(tmp_path)
    FinishedRows(tmp_path).add(["a", "b"], ["a.wav", "b.wav"], [ROW, OTHER])
    assert early.take(["a"]) == {}, "another batch, of which this run does not know"
    assert early.take(["a", "b"]) == {"a": ROW, "b": OTHER}


def test_a_file_that_is_not_whole_is_named(tmp_path: Path) -> None:
    FinishedRows(tmp_path).add(["a"], ["a.wav"], [ROW])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"{path.name}' cannot be read.*Without the file they are done again"):
        FinishedRows(tmp_path)


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        FinishedRows(tmp_path).add(["a"], ["a.wav"], [{}])
    assert list(tmp_path.iterdir()) == []
