"""Losses of a run: accumulated, resumed and evaluated as they would be in one piece."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import build_model
from transformers import TrainingArguments

from transformers_fastconformer import (
    AutoModelForTDT,
    FastConformerDataCollator,
    FastConformerProcessor,
    FastConformerTrainer,
    LoraOptions,
    TrainingClips,
    add_lora,
    share_as_ctc,
)
from transformers_fastconformer.demonstration import CHECKPOINT_PATH

pytest.importorskip("accelerate", reason="accelerate is not installed")
pytest.importorskip("jiwer", reason="jiwer is not installed")

OPTIONS: dict[str, Any] = {
    "report_to": [],
    "use_cpu": True,
    "disable_tqdm": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "max_steps": 2,
}
Train = Callable[..., FastConformerTrainer]


@pytest.fixture
def make_trainer(processor: FastConformerProcessor, clips: TrainingClips, tmp_path: Path) -> Train:
    """A trainer with the clips, which are evaluated with too; three batches of two clips an epoch."""

    def make(model: Any, batch_seconds: float = 3.2, hold_batch_norm: bool = True, **options: Any) -> Any:
        args = TrainingArguments(**{"output_dir": str(tmp_path / "run"), **OPTIONS, **options})
        return FastConformerTrainer(
            model, args, processor, clips, clips, batch_seconds=batch_seconds, hold_batch_norm=hold_batch_norm
        )

    return make


def load_model_with_dropout() -> Any:
    """The demonstration as it is trained, whose losses depend on the random numbers of every step."""
    return AutoModelForTDT.from_pretrained(CHECKPOINT_PATH)


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(("num_batches", "batch_seconds"), [(3, 4.7), (4, 3.3)])
def test_accumulated_batches_are_one_large_batch(
    make_trainer: Train, model: Any, tmp_path: Path, num_batches: int, batch_seconds: float
) -> None:
    large, small = model, copy.deepcopy(model)
    # Adam makes much of gradients that are 0 but for rounding, as those of biases of keys.
    whole = make_trainer(large, batch_seconds=60.0, optim="sgd")
    assert [len(batch) for batch in whole.get_train_dataloader().batch_sampler] == [6]  # type: ignore[union-attr]
    whole.train()
    pieces = make_trainer(small, batch_seconds=batch_seconds, gradient_accumulation_steps=num_batches, optim="sgd")
    sizes = [len(batch) for batch in pieces.get_train_dataloader().batch_sampler]  # type: ignore[union-attr]
    assert sum(sizes) == 6
    assert len(sizes) == num_batches
    assert len(set(sizes)) > 1, "means of means would do"
    pieces.train()
    np.testing.assert_allclose(losses_of(pieces), losses_of(whole), rtol=1e-5)
    for name, value in large.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("is_killed_in_an_epoch", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_has_the_losses_of_one_that_was_not(
    make_trainer: Train, is_killed_in_an_epoch: bool, tmp_path: Path
) -> None:
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4 if is_killed_in_an_epoch else 3}
    unbroken = make_trainer(load_model_with_dropout(), **options)
    assert len(unbroken.get_train_dataloader()) == 3
    unbroken.train()
    kept = tmp_path / "run" / f"checkpoint-{options['save_steps']}"
    shutil.move(kept, tmp_path / kept.name)
    torch.manual_seed(99)  # another process begins with other numbers
    resumed = make_trainer(load_model_with_dropout(), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / kept.name))
    assert len(losses_of(unbroken)) == 8
    assert losses_of(resumed) == losses_of(unbroken)


def test_evaluation_decodes_as_generate_does_and_keeps_ids_only(
    make_trainer: Train, model: Any, rows: list[dict[str, Any]], processor: FastConformerProcessor
) -> None:
    batch = FastConformerDataCollator(processor)(rows)
    for recognizer in (model, share_as_ctc(model)):
        trainer = make_trainer(recognizer)
        prediction = trainer.predict(trainer.eval_dataset)
        assert prediction.predictions.dtype == np.int64
        assert prediction.predictions.ndim == 2
        labels = batch.pop("labels")
        recognizer.eval()
        spoken = processor.batch_decode(recognizer.generate(**batch))
        batch["labels"] = labels
        found = processor.batch_decode(prediction.predictions, group_tokens=False)
        assert any(spoken)
        assert sorted(found) == sorted(spoken)
        with torch.no_grad():
            expected = float(recognizer(**batch).loss)
        assert prediction.metrics["test_loss"] == pytest.approx(expected, rel=1e-5)
        assert prediction.metrics["test_wer"] > 0


def test_evaluation_without_predictions_has_the_loss(make_trainer: Train, model: Any) -> None:
    trainer = make_trainer(model)
    trainer.args.prediction_loss_only = True
    assert set(trainer.evaluate()) >= {"eval_loss"}


def test_counts_of_tokens_do_not_wait_for_the_device(make_trainer: Train, model: Any) -> None:
    model.config.ctc_loss_reduction = model.config.transducer_loss_reduction = "mean_volume"
    labels = torch.tensor([[1, 2, -100], [3, -100, -100]])
    count = make_trainer(model)._count_items
    assert count(labels) == 3
    assert count(labels.to("meta")).is_meta  # a tensor whose values nobody may read


@pytest.mark.parametrize("hold_batch_norm", [True, False])
def test_batch_norms_are_held_if_wanted(make_trainer: Train, model: Any, hold_batch_norm: bool) -> None:
    norm = model.encoder.layers[0].conv.norm
    before = norm.running_mean.clone()
    make_trainer(model, hold_batch_norm=hold_batch_norm).train()
    assert torch.equal(norm.running_mean, before) == hold_batch_norm


def test_adapters_learn_with_the_lean_loss(make_trainer: Train, model: Any) -> None:
    adapted, _ = add_lora(model, LoraOptions(rank=4))
    before = {name: parameter.clone() for name, parameter in adapted.named_parameters() if not parameter.requires_grad}
    trainer = make_trainer(adapted, max_steps=6, learning_rate=1e-2)
    first = trainer.evaluate()
    trainer.train()
    last = trainer.evaluate()
    assert last["eval_loss"] < 0.7 * first["eval_loss"]
    for name, parameter in adapted.named_parameters():
        if name in before:
            assert torch.equal(parameter, before[name]), name


def test_refusals(
    make_trainer: Train, model: Any, rows: list[dict[str, Any]], clips: TrainingClips, tmp_path: Path
) -> None:
    trainer = make_trainer(model)
    trainer.train_dataset = trainer.eval_dataset = rows  # type: ignore[assignment]
    with pytest.raises(ValueError, match="train_dataset is list; expected TrainingClips"):
        trainer.get_train_dataloader()
    with pytest.raises(ValueError, match="eval_dataset is list; expected TrainingClips"):
        trainer.evaluate()
    with pytest.raises(ValueError, match="batch_seconds=0 is not supported"):
        make_trainer(model, batch_seconds=0)
    sharded = TrainingArguments(str(tmp_path), **OPTIONS)
    sharded.fsdp = True  # type: ignore[assignment]
    with pytest.raises(ValueError, match="prediction_loss_only=False is not supported with fsdp"):
        FastConformerTrainer(model, sharded, trainer.processing_class, eval_dataset=clips)
    with pytest.raises(ValueError, match="ctc_loss_reduction='sum' is not supported"):
        make_trainer(build_model("ctc", ctc_loss_reduction="sum"))
