"""Options of a fine-tuning run, made at the door and handed on whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..decoding.prompts import PromptOptions
from ..validation import is_number, require, require_choice, require_count
from .clip_filter import ClipFilterOptions
from .lora import LoraOptions
from .training_clips import RowForm
from .word_errors import NORMALIZERS

PRECISIONS = ("float32", "bfloat16", "float16")
# Learning rates at their highest, for all weights and for adapters (see docs/training.md).
FULL_LEARNING_RATE, LORA_LEARNING_RATE = 1e-4, 1e-3


@dataclass(frozen=True)
class FinetuneOptions:
    """
    A fine-tuning run.

    Args:
        output_dir: Folder of the finished checkpoint; the run's own checkpoints are in its `checkpoints`.
        num_epochs: Passes over the training data, if `max_steps` is None.
        max_steps: Optimiser steps.
        learning_rate: At its highest, after the warm-up; it falls to 0 along a cosine. None: 1e-4 for all weights,
            1e-3 for adapters.
        warmup_steps: Steps in which the learning rate rises. None: a tenth of all steps, 500 at most.
        batch_seconds: Seconds of audio in a batch of a process at most, padding included.
        accumulation_steps: Batches whose gradients are added up to a step.
        weight_decay: Of AdamW.
        adam_beta2: How much AdamW keeps of the mean of squared gradients from step to step. 0.98, as in NeMo's
            recipes, to train from random weights, whose first gradients are far larger than all others.
        max_grad_norm: Gradients are scaled down to this norm.
        lora: Adapters; None: all weights that are not frozen are trained.
        freeze: Parts that are not trained, see [`freeze_parts`].
        hold_batch_norm: Batch norms use and keep the statistics of the checkpoint.
        ctc_weight: Share of the CTC loss in a hybrid's. None: that of the checkpoint, 0.3 for most.
        precision: Of the products in training; weights, losses and the optimiser are float32.
        gradient_checkpointing: Compute the blocks again in the backward pass: less memory, a third more time.
        eval_steps: Steps between two evaluations, each with a checkpoint. None: a tenth of all steps.
        normalizer: What texts go through before their errors are counted, `"none"`, `"basic"` or `"english"`, as in
            `evaluate`.
        early_stopping: Evaluations without a better word error rate after which the run ends; None: it goes on.
        keep_checkpoints: Checkpoints of the run that are kept: the newest, and the best.
        seed: Of the order of the data, dropout and adapters.
        num_workers: Processes that read audio and compute features while the model works.
        language: Language of the texts, for models that are told it.
        prompt: For models with prompts (Canary): what rows do not say themselves, see [`FastConformerDataCollator`].
        form: Columns of the data.
        clips: Clips that are left out by their length.
    """

    output_dir: str
    num_epochs: float = 10.0
    max_steps: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    batch_seconds: float = 120.0
    accumulation_steps: int = 1
    weight_decay: float = 1e-3
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    lora: LoraOptions | None = None
    freeze: tuple[str, ...] = ()
    hold_batch_norm: bool = True
    ctc_weight: float | None = None
    precision: str = "float32"
    gradient_checkpointing: bool = False
    eval_steps: int | None = None
    normalizer: str = "none"
    early_stopping: int | None = None
    keep_checkpoints: int = 2
    seed: int = 0
    num_workers: int = 0
    language: str | None = None
    prompt: PromptOptions = field(default_factory=PromptOptions)
    form: RowForm = field(default_factory=RowForm)
    clips: ClipFilterOptions = field(default_factory=ClipFilterOptions)

    def __post_init__(self) -> None:
        require(bool(self.output_dir), "output_dir", self.output_dir, "a folder")
        for name in ("max_steps", "eval_steps", "early_stopping"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))
        if self.warmup_steps is not None:
            require_count("warmup_steps", self.warmup_steps, minimum=0)
        for name in ("accumulation_steps", "keep_checkpoints"):
            require_count(name, getattr(self, name))
        for name in ("seed", "num_workers"):
            require_count(name, getattr(self, name), minimum=0)
        for name in ("num_epochs", "batch_seconds", "max_grad_norm"):
            value = getattr(self, name)
            require(is_number(value) and value > 0, name, value, "a number above 0")
        is_decay = is_number(self.weight_decay) and self.weight_decay >= 0
        require(is_decay, "weight_decay", self.weight_decay, "a number of 0 or more")
        beta2 = self.adam_beta2
        require(is_number(beta2) and 0 <= beta2 < 1, "adam_beta2", beta2, "a number from 0 to below 1")
        rate = self.learning_rate
        require(rate is None or (is_number(rate) and 0 < rate < 1), "learning_rate", rate, "a number from 0 to 1")
        weight = self.ctc_weight
        require(weight is None or (is_number(weight) and 0 <= weight <= 1), "ctc_weight", weight, "a share of 0 to 1")
        require_choice("precision", self.precision, PRECISIONS)
        require_choice("normalizer", self.normalizer, NORMALIZERS)
        if self.lora is not None:
            require(not self.freeze, "freeze", self.freeze, "nothing with lora, which trains the adapters only")
        longest = self.clips.max_seconds
        require(self.batch_seconds >= longest, "batch_seconds", self.batch_seconds, f"max_seconds={longest} or more")

    @property
    def chosen_learning_rate(self) -> float:
        """The learning rate, given or by what is trained."""
        if self.learning_rate is not None:
            return self.learning_rate
        return FULL_LEARNING_RATE if self.lora is None else LORA_LEARNING_RATE

    def to_dict(self) -> dict[str, Any]:
        """All options as JSON has them."""
        return asdict(self)
