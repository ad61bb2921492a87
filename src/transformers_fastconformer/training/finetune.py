"""A fine-tuning run from data to a checkpoint, which goes on where it was killed; needs the extra `train`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from ..checkpoints.files import CARD_FILE
from ..checkpoints.model_card import write_model_card
from ..validation import require
from .clip_filter import FilterReport, NoClipsError, filter_clips
from .clip_sources import undecoded
from .collator import FastConformerDataCollator
from .curve import CURVE_FILE, Point, describe_run, find_best, plot_curve, read_curve
from .freezing import ParameterCount, count_parameters, freeze_parts
from .lora import add_lora, merge_lora
from .metrics import WordErrors
from .options import FinetuneOptions
from .packages import require_package
from .trainer import FastConformerTrainer
from .training_clips import RowForm, TrainingClips

CHECKPOINTS_FOLDER = "checkpoints"
# The options of the run in a folder, and clips that it left out.
RUN_FILE = "finetune.json"
LEFT_OUT_FILE = "left_out.jsonl"
# The evaluation before training.
BEFORE_FILE = "before.json"
# Written last into a checkpoint of `Trainer`: without it the checkpoint is not whole.
STATE_FILE = "trainer_state.json"
# Options that may change in a run that goes on.
MAY_CHANGE = ("output_dir", "num_workers", "keep_checkpoints")
PACKAGES = ("accelerate", "jiwer")


@dataclass(frozen=True)
class FinetuneResult:
    """
    A finished run.

    Args:
        output_dir: Folder of the checkpoint.
        curve: Evaluations, that before training first; empty without evaluation data.
        best: The one whose weights were kept; never that before training, see `is_worse`.
        parameters: How many were trained.
        train_report, eval_report: Clips that were used and left out.
        seconds: Time of the run, without what was before it was resumed.
    """

    output_dir: Path
    curve: list[Point]
    best: Point | None
    parameters: ParameterCount
    train_report: FilterReport
    eval_report: FilterReport | None
    seconds: float

    @property
    def is_worse(self) -> bool:
        """Tell whether the weights that were kept have a higher word error rate than those before training."""
        return self.best is not None and self.curve[0].step == 0 and self.best.wer > self.curve[0].wer


def finetune(
    model: Any,
    processor: Any,
    train_rows: Sequence[Mapping[str, Any]],
    eval_rows: Sequence[Mapping[str, Any]] | None,
    options: FinetuneOptions,
    source: str = "a checkpoint",
    source_card: str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> FinetuneResult:
    """
    Fine-tune a model and save it as a checkpoint.

    A run that was killed goes on from its last checkpoint when it is started again with the same options and folder.

    Args:
        model: A model of this package with floating weights in float32; it is changed.
        processor: Its processor.
        train_rows: Rows with audio and text, see [`FastConformerDataCollator`].
        eval_rows: Rows to evaluate with, on which the best weights are chosen; None: the last weights are kept.
        options: All choices.
        source: What the model is called in the card.
        source_card: Its card, for the licence and the languages.
        callbacks: Further callbacks of `Trainer`.

    Raises:
        ValueError: for options that do not fit the model, for data of which nothing is left, and for a folder that
            holds another run or a finished one.
        ImportError: a package is not installed; the message holds the command.
    """
    for package in PACKAGES:
        require_package(package)
    from accelerate import PartialState

    output_dir = Path(options.output_dir)
    process = PartialState()
    run = {"source": source, "num_processes": process.num_processes, **options.to_dict()}
    run = json.loads(json.dumps(run))
    with process.main_process_first():
        resumed = _find_run(output_dir, run)
    process.wait_for_everyone()
    is_evaluated = eval_rows is not None
    metric = WordErrors(processor, options.normalizer)
    if options.early_stopping is not None:
        require(is_evaluated, "early_stopping", options.early_stopping, "None without evaluation data")
    started = time.monotonic()
    set_seed(options.seed)
    language = _set_up_language(model, processor, options.language)
    _set_ctc_weight(model, options.ctc_weight)
    arguments: Any = (options.form, processor, model.config, options.clips, language, options.prompt)
    train_clips, train_report = _filter("train_rows", train_rows, *arguments)
    eval_clips, eval_report = None, None
    if eval_rows is not None:
        eval_clips, eval_report = _filter("eval_rows", eval_rows, *arguments)
    run["data"] = {"train": train_report.digest, "eval": None if eval_report is None else eval_report.digest}
    if resumed is not None:
        _check_data(output_dir, run["data"])
    if options.lora is not None:
        trained, parameters = add_lora(model, options.lora)
        for adapter in trained.peft_config.values():
            adapter.base_model_name_or_path = ""  # or each checkpoint asks the Hub for the model's vocabulary
    else:
        freeze_parts(model, options.freeze)
        trained, parameters = model, count_parameters(model)
    if process.is_main_process:
        _begin_run(output_dir, run, {"train": train_report, "eval": eval_report})
    trainer = FastConformerTrainer(
        trained,
        _make_arguments(output_dir, options, is_evaluated),
        processor,
        train_dataset=train_clips,
        eval_dataset=eval_clips,
        batch_seconds=options.batch_seconds,
        hold_batch_norm=options.hold_batch_norm,
        data_collator=FastConformerDataCollator(
            processor, options.form.audio_column, options.form.text_column, language, options.prompt
        ),
        compute_metrics=metric,
        callbacks=[*callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    if options.early_stopping is not None:
        trainer.add_callback(EarlyStoppingCallback(options.early_stopping))
    _set_steps(trainer, options)
    before = None
    if is_evaluated and resumed is None:
        before = trainer.evaluate()
        trainer.state.log_history.clear()
        if trainer.is_world_process_zero():
            (output_dir / BEFORE_FILE).write_text(json.dumps(before), encoding="utf-8")
    elif is_evaluated and (output_dir / BEFORE_FILE).is_file():
        before = json.loads((output_dir / BEFORE_FILE).read_text(encoding="utf-8"))
    trainer.train(resume_from_checkpoint=resumed)
    curve = read_curve([*([] if before is None else [{**before, "step": 0}]), *trainer.state.log_history])
    tuned = merge_lora(trainer.model) if options.lora is not None else trainer.accelerator.unwrap_model(trainer.model)
    seconds = time.monotonic() - started
    result = FinetuneResult(output_dir, curve, find_best(curve), parameters, train_report, eval_report, seconds)
    if trainer.is_world_process_zero():
        _save(tuned, processor, result, options, source, source_card)
    trainer.accelerator.wait_for_everyone()
    return result


def _filter(name: str, rows: Any, form: RowForm, *arguments: Any) -> tuple[TrainingClips, FilterReport]:
    """The clips of rows that can be trained on; an error says whose clips are missing."""
    try:
        return filter_clips(undecoded(rows, form.audio_column, form.text_column), form, *arguments)
    except NoClipsError as error:
        raise NoClipsError(f"{name}: {error}") from error


def _find_run(output_dir: Path, run: Mapping[str, Any]) -> str | None:
    """
    The checkpoint to go on from in the folder of a run; None before the first one.

    Args:
        output_dir: The folder.
        run: Options as they are stored.
    """
    path = output_dir / RUN_FILE
    if not path.is_file():
        require(output_dir.is_dir() or not output_dir.exists(), "output_dir", str(output_dir), "a folder")
        if output_dir.is_dir() and any(output_dir.iterdir()):
            raise ValueError(
                f"output_dir={str(output_dir)!r} is not empty; expected a new folder, or that of this run."
            )
        return None
    if (output_dir / CARD_FILE).is_file():
        raise ValueError(f"output_dir={str(output_dir)!r} holds a run that is finished; expected a new folder.")
    checkpoint = find_checkpoint(output_dir / CHECKPOINTS_FOLDER)
    stored = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in run if name not in MAY_CHANGE and stored.get(name) != run[name]]
    if checkpoint is not None and changed:
        name = changed[0]
        raise ValueError(
            f"output_dir={str(output_dir)!r} holds a run with {name}={stored.get(name)!r}; expected the same options, "
            f"found {name}={run[name]!r}, or a new folder."
        )
    return checkpoint


def _check_data(output_dir: Path, data: Mapping[str, str | None]) -> None:
    """Refuse to go on with other clips or texts than those that a run began with."""
    stored = json.loads((output_dir / RUN_FILE).read_text(encoding="utf-8")).get("data")
    changed = [name for name in data if stored is None or stored.get(name) != data[name]]
    if changed:
        raise ValueError(
            f"output_dir={str(output_dir)!r} holds a run with other {changed[0]} data; expected the same clips and "
            "texts in the same order, or a new folder."
        )


def _begin_run(output_dir: Path, run: Mapping[str, Any], reports: Mapping[str, FilterReport | None]) -> None:
    """Write what the run is, and what it leaves out, into its folder."""
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / RUN_FILE).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    lines = [
        json.dumps({"data": data, **clip._asdict()}, ensure_ascii=False) + "\n"
        for data, report in reports.items()
        if report is not None
        for clip in report.left_out
    ]
    left_out = output_dir / LEFT_OUT_FILE
    if lines:
        left_out.write_text("".join(lines), encoding="utf-8")
    else:
        left_out.unlink(missing_ok=True)  # of a start with other data


def find_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint of a run; those that were being written when it was killed are removed."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        if not (path / STATE_FILE).is_file():
            shutil.rmtree(path)
        else:
            found.append((int(path.name.rpartition("-")[2]), path))
    return str(max(found)[1]) if found else None


def _set_up_language(model: Any, processor: Any, language: str | None) -> str | None:
    """Make a language the model's own; returns it if the tokenizer or the prompt asks for it."""
    if language is None or processor.prompt_format is not None:
        return language
    if getattr(model.config, "num_prompts", 0):
        known = sorted(model.config.prompt_languages)
        require(language in known, "language", language, f"one of {', '.join(known)}")
        model.config.default_language = language
    elif processor.tokenizer.text_rule != "aggregate":
        raise ValueError(
            f"language={language!r} is not supported by this model, which is not told one; expected None."
        )
    return language if processor.tokenizer.text_rule == "aggregate" else None


def _set_ctc_weight(model: Any, weight: float | None) -> None:
    if weight is None:
        return
    is_hybrid = bool(getattr(model.config, "has_ctc_head", False))
    require(is_hybrid, "ctc_weight", weight, "None for a model that is not a hybrid")
    model.config.ctc_loss_weight = weight


def _make_arguments(output_dir: Path, options: FinetuneOptions, is_evaluated: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output_dir / CHECKPOINTS_FOLDER),
        num_train_epochs=options.num_epochs,
        max_steps=-1 if options.max_steps is None else options.max_steps,
        learning_rate=options.chosen_learning_rate,
        lr_scheduler_type="cosine",
        weight_decay=options.weight_decay,
        adam_beta2=options.adam_beta2,
        max_grad_norm=options.max_grad_norm,
        gradient_accumulation_steps=options.accumulation_steps,
        **_checkpointing(options.gradient_checkpointing),
        bf16=options.precision == "bfloat16",
        fp16=options.precision == "float16",
        eval_strategy="steps" if is_evaluated else "no",
        save_strategy="steps",
        save_total_limit=options.keep_checkpoints,
        load_best_model_at_end=is_evaluated,
        metric_for_best_model="wer" if is_evaluated else None,
        greater_is_better=False if is_evaluated else None,
        seed=options.seed,
        dataloader_num_workers=options.num_workers,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()),
    )


def _checkpointing(is_wanted: bool) -> dict[str, Any]:
    """The argument of `TrainingArguments`, whose name Transformers 5.24 changed."""
    names = {field.name for field in fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {name: True} if is_wanted else {}


def _set_steps(trainer: FastConformerTrainer, options: FinetuneOptions) -> None:
    """Set what depends on the number of steps, which only the batches tell."""
    args = trainer.args
    num_batches = len(trainer.get_train_dataloader())
    steps = options.max_steps or max(int(options.num_epochs * (num_batches // options.accumulation_steps)), 1)
    args.warmup_steps = min(steps // 10, 500) if options.warmup_steps is None else options.warmup_steps
    args.eval_steps = args.save_steps = options.eval_steps or max(steps // 10, 1)
    args.logging_steps = max(min(args.eval_steps // 5, 50), 1)


def _save(
    model: Any, processor: Any, result: FinetuneResult, options: FinetuneOptions, source: str, card: str | None
) -> None:
    """Write the checkpoint; its card last, which says that the run is finished."""
    folder = result.output_dir
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    has_plot = len(result.curve) > 1 and plot_curve(result.curve, folder / CURVE_FILE)
    facts: dict[str, Any] = {
        "data": result.train_report.to_text().partition("\n")[0],
        "trained": str(result.parameters),
        "how": "all weights" if options.lora is None else f"LoRA of rank {options.lora.rank}, merged",
        "learning rate": options.chosen_learning_rate,
        "frozen": ", ".join(options.freeze) or "nothing",
        "time": f"{result.seconds / 60:.1f} minutes",
    }
    if options.lora is not None:
        del facts["frozen"]
    if result.best is not None and result.curve[0].step == 0:
        before, after = result.curve[0], result.best
        facts["word error rate"] = f"{100 * before.wer:.2f} % before, {100 * after.wer:.2f} % after"
        if result.is_worse:
            facts["word error rate"] += f" (worse than {source}: no evaluation was as good as that before training)"
    write_model_card(folder, describe_run(source, card, result.curve, has_plot, facts))
