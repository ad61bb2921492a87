"""One process of a training run on a CPU: `python training_process.py OUTPUT STEPS BATCH_SECONDS ACCUMULATION`.

The number of processes and which one this is stand in the environment, as `accelerate launch` sets them. The first
writes its losses, and the evaluation before and after, as JSON to OUTPUT.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import TrainingArguments

from transformers_fastconformer import (
    AutoModelForTDT,
    FastConformerProcessor,
    FastConformerTrainer,
    RowForm,
    TrainingClips,
    read_audio,
)
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS

TEXTS = ("three one", "four one five", "nine", "two", "six five three", "eight nine seven", "zero")


def main() -> None:
    output, steps, batch_seconds, accumulation = sys.argv[1:]
    torch.set_num_threads(1)
    speech = torch.cat([torch.from_numpy(read_audio(path)) for path in CLIP_PATHS]).numpy()
    waveforms = [speech[2000 * place : 2000 * place + 9600 + 3200 * place] for place in range(len(TEXTS))]
    rows = [{"audio": waveform, "text": text} for waveform, text in zip(waveforms, TEXTS, strict=True)]
    clips = TrainingClips(rows, range(len(rows)), [len(waveform) / 16000 for waveform in waveforms], RowForm())
    model = AutoModelForTDT.from_pretrained(CHECKPOINT_PATH)
    model.config.apply_spec_augment = False
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    arguments = TrainingArguments(
        str(Path(output).with_suffix("")),
        max_steps=int(steps),
        gradient_accumulation_steps=int(accumulation),
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    processor = FastConformerProcessor.from_pretrained(CHECKPOINT_PATH)
    trainer = FastConformerTrainer(model, arguments, processor, clips, clips, batch_seconds=float(batch_seconds))
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        names = ("eval_loss", "eval_wer", "eval_cer")
        evaluations = [{name: found[name] for name in names} for found in (before, after)]
        Path(output).write_text(json.dumps({"losses": losses, "evaluations": evaluations}))
    trainer.accelerator.end_training()  # threads that gloo still runs when Python ends abort the process now and then


if __name__ == "__main__":
    main()
