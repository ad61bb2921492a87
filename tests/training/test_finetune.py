"""Runs from data to a checkpoint: what they write, how they go on, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from transformers_fastconformer import (
    FastConformerForTDT,
    FastConformerProcessor,
    FinetuneOptions,
    LoraOptions,
    finetune,
    load_model,
)
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.training.finetune import find_checkpoint

pytest.importorskip("accelerate", reason="accelerate is not installed")
pytest.importorskip("peft", reason="peft is not installed")


def run(rows: Any, output_dir: Path, eval_rows: Any = None, callbacks: Any = (), **options: Any) -> Any:
    model, processor = load_model("demo", device="cpu")
    given = {"output_dir": str(output_dir), "max_steps": 4, "eval_steps": 2, **options}
    return finetune(model, processor, rows, eval_rows, FinetuneOptions(**given), "demo", callbacks=callbacks)


@pytest.mark.parametrize("lora", [None, LoraOptions(rank=2)], ids=["full", "lora"])
def test_a_run_writes_a_checkpoint_that_loads(rows: Any, tmp_path: Path, lora: LoraOptions | None) -> None:
    short = {"audio": rows[0]["audio"]["array"][:800], "text": "one"}
    result = run([*rows, short], tmp_path / "out", rows, lora=lora, learning_rate=1e-3)
    assert [point.step for point in result.curve] == [0, 2, 4]
    assert result.best in result.curve
    assert [clip.reason for clip in result.train_report.left_out] == ["too short"]
    (line,) = (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "row 6"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- word error rate: " in card
    assert ("LoRA of rank 2, merged" in card) == (lora is not None)
    tuned = FastConformerForTDT.from_pretrained(tmp_path / "out")
    FastConformerProcessor.from_pretrained(tmp_path / "out")
    before = load_model("demo", device="cpu")[0].state_dict()
    changed = {name for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
    assert "joint.head.weight" in changed
    assert ("decoder.lstm.weight_ih_l0" in changed) == (lora is None)
    assert (result.parameters.trainable == result.parameters.total) == (lora is None)


class Killed(TrainerCallback):
    """Ends the process, as a test can, after some step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "trained",
    [
        pytest.param({"freeze": ("encoder.layers.0-2",)}, id="freeze"),
        pytest.param({"lora": LoraOptions(rank=2)}, id="lora", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_killed_goes_on_by_itself(rows: Any, tmp_path: Path, trained: dict[str, Any]) -> None:
    options = {**trained, "batch_seconds": 30.0}
    unbroken = run(rows, tmp_path / "unbroken", rows, **options)
    with pytest.raises(KeyboardInterrupt):
        run(rows, tmp_path / "out", rows, callbacks=[Killed(3)], **options)
    assert not (tmp_path / "out" / "README.md").exists()
    (tmp_path / "out" / "checkpoints" / "checkpoint-3").mkdir()  # it was being written
    resumed = run(rows, tmp_path / "out", rows, **options)
    assert resumed.curve == unbroken.curve
    weights = [FastConformerForTDT.from_pretrained(tmp_path / name).state_dict() for name in ("out", "unbroken")]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    with pytest.raises(ValueError, match="holds a run that is finished; expected a new folder"):
        run(rows, tmp_path / "out", rows, **options)


def test_weights_that_are_worse_than_before_are_said_to_be(rows: Any, tmp_path: Path) -> None:
    spoken = [{"audio": str(CLIP_PATHS[0]), "text": "three one four one five nine"}]
    result = run(rows, tmp_path / "out", spoken, max_steps=2, eval_steps=1, learning_rate=0.05, warmup_steps=0)
    assert result.is_worse
    assert result.best.wer > result.curve[0].wer == 0.0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "(worse than demo: no evaluation was as good as that before training)" in card


def test_a_run_that_gets_no_better_ends(rows: Any, tmp_path: Path) -> None:
    result = run(rows, tmp_path / "out", rows, max_steps=8, early_stopping=1, learning_rate=1e-9)
    assert [point.step for point in result.curve] == [0, 2, 4]


def test_a_folder_of_another_run_is_refused(rows: Any, tmp_path: Path) -> None:
    for step in (1, 3):  # before the first checkpoint the options may change
        with pytest.raises(KeyboardInterrupt):
            run(rows, tmp_path / "out", callbacks=[Killed(step)], learning_rate=step * 1e-3)
    with pytest.raises(
        ValueError, match=r"holds a run with learning_rate=0\.003; expected the same options, found lea"
    ):
        run(rows, tmp_path / "out", learning_rate=1e-5)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file' is not supported; expected a folder"):
        run(rows, tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ValueError, match="is not empty; expected a new folder, or that of this run"):
        run(rows, tmp_path / "other")


def test_a_run_does_not_go_on_with_other_data(rows: Any, tmp_path: Path) -> None:
    short = {"audio": rows[0]["audio"]["array"][:800], "text": "one"}
    with pytest.raises(KeyboardInterrupt):
        run([*rows, short], tmp_path / "out", rows[:2], callbacks=[Killed(1)])
    assert (tmp_path / "out" / "left_out.jsonl").exists()
    with pytest.raises(KeyboardInterrupt):  # before the first checkpoint the data may change
        run(rows, tmp_path / "out", rows[:2], callbacks=[Killed(3)])
    assert not (tmp_path / "out" / "left_out.jsonl").exists()
    other = [*rows[:-1], {**rows[-1], "text": "nine nine"}]
    with pytest.raises(ValueError, match="holds a run with other train data; expected the same clips and texts"):
        run(other, tmp_path / "out", rows[:2])
    with pytest.raises(ValueError, match="holds a run with other eval data; expected the same clips and texts"):
        run(rows, tmp_path / "out", rows[1:3])
    with pytest.raises(ValueError, match="holds a run with other eval data"):
        run(rows, tmp_path / "out", None)


def test_a_run_does_not_go_on_with_other_files_of_the_same_length(manifest: Path, tmp_path: Path) -> None:
    def with_paths(*names: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in manifest.read_text().splitlines()]
        for line, name in zip(lines, names, strict=False):
            (manifest.parent / name).write_bytes((manifest.parent / line["audio_filepath"]).read_bytes())
            line["audio_filepath"] = name
        return [{**line, "audio_filepath": str(manifest.parent / line["audio_filepath"])} for line in lines]

    with pytest.raises(KeyboardInterrupt):
        run(with_paths(), tmp_path / "out", callbacks=[Killed(3)])
    with pytest.raises(ValueError, match="holds a run with other train data; expected the same clips and texts"):
        run(with_paths("copy.wav"), tmp_path / "out")


def test_checkpoints_that_are_not_whole_are_removed(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path) is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11"):
        (tmp_path / name).mkdir()
    for name in ("checkpoint-9", "checkpoint-10"):
        (tmp_path / name / "trainer_state.json").touch()
    assert find_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert not (tmp_path / "checkpoint-11").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"early_stopping": 2}, "early_stopping=2 is not supported; expected None without evaluation data"),
        ({"language": "de"}, "language='de' is not supported by this model"),
        ({"freeze": ("head",)}, "freeze='head' is not supported"),
    ],
)
def test_refusals(rows: Any, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(rows, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_ctc_weight_of_a_hybrid_is_an_option(rows: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(rows, tmp_path / "out", ctc_weight=0.7, callbacks=[Killed(1)])
    model, processor = load_model("demo", device="cpu")
    model.config.has_ctc_head = False
    with pytest.raises(ValueError, match=r"ctc_weight=0\.7 is not supported; expected None for a model that is not a"):
        finetune(model, processor, rows, None, FinetuneOptions(str(tmp_path / "b"), ctc_weight=0.7))
