"""Tasks and blocks of about the same length, made of whole batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from transformers_fastconformer.cluster.blocks import plan_blocks, plan_tasks
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.inference.many_files import pack_clips
from transformers_fastconformer.inference.options import TranscriptionOptions


def test_tasks_are_rows_of_whole_batches() -> None:
    lengths: list[float | None] = [float(value) for value in np.random.default_rng(0).uniform(0.1, 90.0, 300)]
    lengths[3] = None
    options = TranscriptionOptions(batch_size=4, batch_seconds=100.0)
    tasks = plan_tasks(lengths, options, 300.0)
    assert [number for task in tasks for number in task] == [
        number for pack in pack_clips(lengths, 4, 100.0) for number in pack
    ]
    seconds = [sum(60.0 if lengths[number] is None else lengths[number] for number in task) for task in tasks]  # type: ignore[misc]
    assert min(seconds[:-1]) >= 300.0
    assert max(seconds) < 400.0
    for task in tasks:  # a worker makes the same batches of a task as one that has all clips
        own = pack_clips([lengths[number] for number in task], 4, 100.0)
        packs = [[task[place] for place in pack] for pack in own]
        assert all(pack in pack_clips(lengths, 4, 100.0) for pack in packs)


def test_little_audio_is_shared_too() -> None:
    options = TranscriptionOptions(batch_size=1)
    assert len(plan_tasks([1.0] * 64, options, 600.0, num_workers=2)) == 8
    assert len(plan_tasks([1.0], options, 600.0, num_workers=8)) == 1
    assert plan_tasks([], options) == []
    assert plan_tasks([0.0, 0.0], options) == [[0], [1]]


def test_blocks_have_all_that_manifests_say(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra `ray` is not installed")
    lines = [{"audio_filepath": str(CLIP_PATHS[0]), "offset": 0.1 * number, "id": number} for number in range(8)]
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    blocks = plan_blocks([path, CLIP_PATHS[1]], task_seconds=5.0, options=TranscriptionOptions(batch_size=2))
    assert len(blocks) > 2
    assert len({tuple(block.schema.names) for block in blocks}) == 1
    rows = [row for block in blocks for row in block.to_pylist()]
    assert rows[0] == {"audio_filepath": str(CLIP_PATHS[1]), "offset": None, "id": None}, "the longest first"
    assert sorted((row["id"], row["offset"]) for row in rows[1:]) == [(line["id"], line["offset"]) for line in lines]


def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra `ray` is not installed")
    path = tmp_path / "list.jsonl"
    path.write_text('{"audio_filepath": "a.wav", "id": 1}\n{"audio_filepath": "b.wav", "id": "x"}\n')
    with pytest.raises(ValueError, match="The values of 'id' are of several types"):
        plan_blocks([path])
    with pytest.raises(ValueError, match="task_seconds=0 is not supported"):
        plan_blocks([path], task_seconds=0)
    with pytest.raises(ValueError, match=r"'none.jsonl' does not exist"):
        plan_blocks(["none.jsonl"])
