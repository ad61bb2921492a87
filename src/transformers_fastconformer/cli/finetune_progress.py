"""Progress of `fastconformer finetune` on the standard error: a bar of steps, and a line for each evaluation."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class FinetuneProgress(TrainerCallback):
    """Shows how far a run is; only the first process of several does."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=Console(stderr=True, highlight=False),
        )
        self.task: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the bar; of a run that resumes, from where it goes on."""
        if state.is_world_process_zero:
            if state.global_step:
                self.progress.console.print(f"Going on after step {state.global_step}.")
            self.task = self.progress.add_task("steps", total=state.max_steps, completed=state.global_step, loss="")
            self.progress.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar on."""
        if self.task is not None:
            self.progress.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the loss, and print a line for an evaluation."""
        if not state.is_world_process_zero or logs is None:
            return
        if "loss" in logs and self.task is not None:
            self.progress.update(self.task, loss=f"loss {float(logs['loss']):.3f}")
        if "eval_wer" in logs:
            self.progress.console.print(
                f"step {state.global_step}: evaluation loss {logs['eval_loss']:.3f}, "
                f"word error rate {logs['eval_wer']:.2%}, character error rate {logs['eval_cer']:.2%}",
                soft_wrap=True,
            )

    def close(self) -> None:
        """Take the bar away."""
        self.progress.stop()
