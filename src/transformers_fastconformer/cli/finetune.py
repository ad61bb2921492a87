"""`fastconformer finetune`: recordings and their texts to a checkpoint that knows them."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..audio.recordings import names_recordings
from ..checkpoints.model_card import read_card
from ..decoding.prompts import PromptOptions
from ..inference.loading import checkpoint_of_name, load_model
from ..training.clip_filter import UNREADABLE, ClipFilterOptions, FilterReport, NoClipsError
from ..training.clip_sources import open_clips
from ..training.lora import PRESETS, LoraOptions
from ..training.options import FULL_LEARNING_RATE, LORA_LEARNING_RATE, FinetuneOptions
from ..training.training_clips import RowForm
from .errors import say
from .evaluate import DATA_FORMS, DATA_PANEL, NormalizerName, NormalizerOption, check_data
from .exit_codes import ExitCode, InputError, failing_as_input
from .model_options import (
    Head,
    HeadOption,
    LanguageOption,
    PncOption,
    SourceLangOption,
    TargetLangOption,
    TaskOption,
)

if TYPE_CHECKING:
    from ..training.finetune import FinetuneResult

ADAPTER_PANEL = "What is trained"
COURSE_PANEL = "Course"


class TrainingPrecision(str, Enum):
    """Precision of the products in training."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


TrainDataOption = Annotated[
    str,
    typer.Option(
        "--train_data",
        help=f"{DATA_FORMS}.",
        rich_help_panel=DATA_PANEL,
    ),
]
EvalDataOption = Annotated[
    str | None,
    typer.Option(
        "--eval_data",
        help="The same for evaluation; the weights with the lowest word error rate are kept.",
        rich_help_panel=DATA_PANEL,
    ),
]
TrainSplitOption = Annotated[
    str | None,
    typer.Option("--train_split", help="Split of a data set of the Hub. Default: train.", rich_help_panel=DATA_PANEL),
]
EvalSplitOption = Annotated[
    str | None,
    typer.Option("--eval_split", help="Split to evaluate with. Default: train.", rich_help_panel=DATA_PANEL),
]
AudioColumnOption = Annotated[
    str, typer.Option("--audio_column", help="Column with audio.", rich_help_panel=DATA_PANEL)
]
TextColumnOption = Annotated[str, typer.Option("--text_column", help="Column with text.", rich_help_panel=DATA_PANEL)]
MinSecondsOption = Annotated[
    float, typer.Option("--min_seconds", help="Shorter clips are left out.", rich_help_panel=DATA_PANEL)
]
MaxSecondsOption = Annotated[
    float, typer.Option("--max_seconds", help="Longer clips are left out.", rich_help_panel=DATA_PANEL)
]
LoraOption = Annotated[
    bool,
    typer.Option("--lora", help="Train low-rank adapters and merge them at the end.", rich_help_panel=ADAPTER_PANEL),
]
LoraTargetsOption = Annotated[
    str | None,
    typer.Option(
        "--lora_targets",
        help=f"Parts with adapters, with commas: {', '.join(PRESETS)}, or regular expressions for names of layers. "
        "Default: encoder and heads.",
        rich_help_panel=ADAPTER_PANEL,
    ),
]
LoraRankOption = Annotated[
    int | None,
    typer.Option("--lora_rank", help="Rank of the adapters. Default: 16.", rich_help_panel=ADAPTER_PANEL),
]
FreezeOption = Annotated[
    str | None,
    typer.Option(
        help="Parts that are not trained, with commas: encoder, encoder.subsampling, encoder.layers.0-8, "
        "prediction_network, joint, ctc_head.",
        rich_help_panel=ADAPTER_PANEL,
    ),
]
TrainBatchNormOption = Annotated[
    bool,
    typer.Option(
        "--train_batch_norm",
        help="Batch norms take the statistics of each batch; for much data and large batches.",
        rich_help_panel=ADAPTER_PANEL,
    ),
]
CtcWeightOption = Annotated[
    float | None,
    typer.Option(
        "--ctc_weight",
        help="Share of the CTC loss in a hybrid's. Default: the checkpoint's.",
        rich_help_panel=ADAPTER_PANEL,
    ),
]
NumEpochsOption = Annotated[
    float, typer.Option("--num_epochs", help="Passes over the training data.", rich_help_panel=COURSE_PANEL)
]
MaxStepsOption = Annotated[
    int | None,
    typer.Option("--max_steps", help="Optimiser steps, in place of epochs.", rich_help_panel=COURSE_PANEL),
]
LearningRateOption = Annotated[
    float | None,
    typer.Option(
        "--learning_rate",
        help=f"At its highest. Default: {FULL_LEARNING_RATE:g}, with --lora {LORA_LEARNING_RATE:g}.",
        rich_help_panel=COURSE_PANEL,
    ),
]
WarmupStepsOption = Annotated[
    int | None,
    typer.Option(
        "--warmup_steps",
        help="Steps in which it rises. Default: a tenth of all, 500 at most.",
        rich_help_panel=COURSE_PANEL,
    ),
]
BatchSecondsOption = Annotated[
    float,
    typer.Option(
        "--batch_seconds", help="Seconds of audio in a batch of each process at most.", rich_help_panel=COURSE_PANEL
    ),
]
AccumulationStepsOption = Annotated[
    int,
    typer.Option("--accumulation_steps", min=1, help="Batches that make a step.", rich_help_panel=COURSE_PANEL),
]
PrecisionOption = Annotated[
    TrainingPrecision,
    typer.Option(
        metavar="NAME",
        help="Of the products: float32, bfloat16 or float16. Weights, losses and the optimiser are float32.",
        rich_help_panel=COURSE_PANEL,
    ),
]
GradientCheckpointingOption = Annotated[
    bool,
    typer.Option("--gradient_checkpointing", help="Less memory for a third more time.", rich_help_panel=COURSE_PANEL),
]
EvalStepsOption = Annotated[
    int | None,
    typer.Option(
        "--eval_steps",
        help="Steps between two evaluations and checkpoints. Default: a tenth of all.",
        rich_help_panel=COURSE_PANEL,
    ),
]
EarlyStoppingOption = Annotated[
    int | None,
    typer.Option(
        "--early_stopping",
        help="End after so many evaluations without a lower word error rate.",
        rich_help_panel=COURSE_PANEL,
    ),
]
SeedOption = Annotated[int, typer.Option(help="Of everything random.", rich_help_panel=COURSE_PANEL)]
NumWorkersOption = Annotated[
    int,
    typer.Option(
        "--num_workers",
        min=0,
        help="Processes that read audio while the model works.",
        rich_help_panel=COURSE_PANEL,
    ),
]


def finetune(
    model: Annotated[str, typer.Option(help="Hub repository, folder or .nemo file to begin with, or demo.")],
    train_data: TrainDataOption,
    output_dir: Annotated[
        Path, typer.Option("--output_dir", help="New folder for the checkpoint, or that of a run to go on with.")
    ],
    eval_data: EvalDataOption = None,
    train_split: TrainSplitOption = None,
    eval_split: EvalSplitOption = None,
    audio_column: AudioColumnOption = "audio",
    text_column: TextColumnOption = "text",
    min_seconds: MinSecondsOption = 0.1,
    max_seconds: MaxSecondsOption = 30.0,
    language: LanguageOption = None,
    source_lang: SourceLangOption = None,
    target_lang: TargetLangOption = None,
    task: TaskOption = None,
    pnc: PncOption = None,
    head: HeadOption = Head.AUTO,
    lora: LoraOption = False,
    lora_targets: LoraTargetsOption = None,
    lora_rank: LoraRankOption = None,
    freeze: FreezeOption = None,
    train_batch_norm: TrainBatchNormOption = False,
    ctc_weight: CtcWeightOption = None,
    num_epochs: NumEpochsOption = 10.0,
    max_steps: MaxStepsOption = None,
    learning_rate: LearningRateOption = None,
    warmup_steps: WarmupStepsOption = None,
    batch_seconds: BatchSecondsOption = 120.0,
    accumulation_steps: AccumulationStepsOption = 1,
    precision: PrecisionOption = TrainingPrecision.FLOAT32,
    gradient_checkpointing: GradientCheckpointingOption = False,
    eval_steps: EvalStepsOption = None,
    normalizer: NormalizerOption = NormalizerName.NONE,
    early_stopping: EarlyStoppingOption = None,
    seed: SeedOption = 0,
    num_workers: NumWorkersOption = 0,
) -> None:
    """Fine-tune a checkpoint on recordings with their texts. Needs the extra train.

    A run that was interrupted or killed goes on from its last checkpoint when the same command is given again.

    Clips that cannot be trained on are named in left_out.jsonl and counted; the exit code is 1 if audio could not be
    read or nothing is left to train on, and 2 if the data do not exist.
    """
    # They bring the Trainer of Transformers, which other commands need not wait for.
    import torch.distributed

    from ..training.finetune import finetune as run_finetune
    from .finetune_progress import FinetuneProgress

    for name, value in (("lora_targets", lora_targets), ("lora_rank", lora_rank)):
        if value is not None and not lora:
            raise ValueError(f"--{name} belongs to --lora.")
    options = FinetuneOptions(
        output_dir=str(output_dir),
        num_epochs=num_epochs,
        max_steps=max_steps,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        batch_seconds=batch_seconds,
        accumulation_steps=accumulation_steps,
        lora=_make_lora(lora_targets, lora_rank) if lora else None,
        freeze=_split_names(freeze),
        hold_batch_norm=not train_batch_norm,
        ctc_weight=ctc_weight,
        precision=precision.value,
        gradient_checkpointing=gradient_checkpointing,
        eval_steps=eval_steps,
        normalizer=normalizer.value,
        early_stopping=early_stopping,
        seed=seed,
        num_workers=num_workers,
        language=language,
        prompt=PromptOptions(source_lang, target_lang, None if task is None else task.value, pnc),
        form=RowForm(audio_column, text_column),
        clips=ClipFilterOptions(min_seconds, max_seconds),
    )
    if eval_data is None and eval_split is not None:
        raise ValueError("--eval_split belongs to --eval_data.")
    check_data("--train_data", train_data)
    if eval_data is not None:
        check_data("--eval_data", eval_data)
    for name, data, split in (("train", train_data, train_split), ("eval", eval_data, eval_split)):
        if data is not None and split is not None and names_recordings(data):
            raise ValueError(f"--{name}_split belongs to a data set of the Hub; {data!r} has no splits.")
    with failing_as_input():
        train_rows = open_clips(train_data, options.form, train_split)
        eval_rows = None if eval_data is None else open_clips(eval_data, options.form, eval_split)
    recognizer, processor = load_model(model, head.value, "cpu", "float32")
    progress = FinetuneProgress()
    try:
        result = run_finetune(
            recognizer,
            processor,
            train_rows,
            eval_rows,
            options,
            source=model,
            source_card=read_card(checkpoint_of_name(model)),
            callbacks=[progress],
        )
    except NoClipsError as error:
        raise InputError(str(error)) from error
    finally:
        progress.close()
    if torch.distributed.is_initialized():
        # Its threads must not outlive Python, which aborts the process now and then.
        torch.distributed.destroy_process_group()
    if int(os.environ.get("RANK", "0")) == 0:  # of several processes the first tells
        _report(result)
    reports = [report for report in (result.train_report, result.eval_report) if report is not None]
    if any(UNREADABLE in report.counts() for report in reports):
        raise typer.Exit(ExitCode.INPUTS_FAILED)


def _make_lora(targets: str | None, rank: int | None) -> LoraOptions:
    given: dict[str, Any] = {} if rank is None else {"rank": rank}
    return LoraOptions(targets=_split_names(targets) or None, **given)


def _split_names(names: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def _report(result: FinetuneResult) -> None:
    """Say what was used and trained, and what came of it."""
    reports: list[tuple[str, FilterReport | None]] = [
        ("training", result.train_report),
        ("evaluation", result.eval_report),
    ]
    for name, report in reports:
        if report is not None:
            for line in report.to_text().split("\n"):
                say(f"{name}: {line}")
    say(str(result.parameters) + ".")
    console = Console(highlight=False)
    if result.best is not None:
        before, after = result.curve[0], result.best
        console.print(
            f"Word error rate {before.wer:.2%} before, {after.wer:.2%} after {after.step} steps.", markup=False
        )
        if result.is_worse:
            say(
                "The new weights are worse than those that the run began with: no evaluation was as good as that "
                "before training. Try a lower --learning_rate, more or other data, or --lora."
            )
    console.print(f"Wrote {result.output_dir}.", markup=False, soft_wrap=True)
