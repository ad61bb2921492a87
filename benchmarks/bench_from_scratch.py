"""
How fast does a small model of each head learn to read strings of digits, from random weights?

Encoders of the demonstration checkpoint's shape with a head for CTC, RNN-T, TDT, and TDT together with CTC, a
tokenizer that is trained for them, and `finetune` as users call it. Training clips are strings of one to eight
recorded digits of one speaker of `speech/digits` (its training split), with pauses between them, single digits first,
which teach the alignment; the test is every clip of its test split once, in strings of six. The run ends at the
evaluation at which `--goal` is reached, or after `--minutes` of the processor; every evaluation is written.

    python benchmarks/bench_from_scratch.py --threads 2
    python benchmarks/plot_results.py

Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, set_seed

from common.csv_files import read_rows, write_rows
from common.folders import RESULTS
from common.machine import name_machine
from common.speech import SAMPLING_RATE, SPEECH_DIR, read_manifest
from transformers_fastconformer import (
    FastConformerCTCConfig,
    FastConformerFeatureExtractor,
    FastConformerForCTC,
    FastConformerForRNNT,
    FastConformerForTDT,
    FastConformerProcessor,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
    FinetuneOptions,
    finetune,
    read_audio,
    train_tokenizer,
)

VOCABULARY_SIZE = 48
# Of the demonstration checkpoint. Narrow layers need larger weights to begin with than wide ones.
ENCODER = {
    "hidden_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "subsampling_conv_channels": 32,
    "num_mel_bins": 80,
    "initializer_range": 0.06,
    "mask_time_count": 2,
    "mask_time_width": 0.03,
    "mask_feature_count": 2,
    "mask_feature_width": 14,
}
TRANSDUCER = {"decoder_hidden_size": 64, "joint_hidden_size": 96, "decoder_dropout": 0.1, "joint_dropout": 0.1}
TDT = {**TRANSDUCER, "durations": [0, 1, 2, 3, 4], "sigma": 0.02, "omega": 0.1}
HEADS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "ctc": (FastConformerCTCConfig, FastConformerForCTC, {}),
    "rnnt": (FastConformerRNNTConfig, FastConformerForRNNT, TRANSDUCER),
    "tdt": (FastConformerTDTConfig, FastConformerForTDT, TDT),
    "tdt-ctc": (FastConformerTDTConfig, FastConformerForTDT, {**TDT, "has_ctc_head": True, "ctc_loss_weight": 0.3}),
}
EDGE = np.zeros(round(0.2 * SAMPLING_RATE), np.float32)
PAUSE_SECONDS = (0.05, 0.5)
TEST_DIGITS = 6
# Digits of a string, and their chances in the first steps and in all others.
NUM_DIGITS = (1, 2, 4, 6, 8)
FIRST_CHANCES, CHANCES = (1.0, 0.0, 0.0, 0.0, 0.0), (0.2, 0.2, 0.25, 0.2, 0.15)

Clips = dict[str, list[tuple[str, np.ndarray]]]
Rows = list[dict[str, Any]]


class DigitStrings(Sequence[Mapping[str, Any]]):
    """Rows of strings, each made when it is read, of one speaker."""

    def __init__(self, clips: Clips, chances: Sequence[float], count: int, seed: int) -> None:
        self.clips, self.chances, self.count, self.seed = clips, chances, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Mapping[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        generator = random.Random(self.seed * self.count + index)
        spoken = self.clips[generator.choice(sorted(self.clips))]
        num_digits = generator.choices(NUM_DIGITS, self.chances)[0]
        return join([generator.choice(spoken) for _ in range(num_digits)], generator)


def read_clips(speech_dir: Path, split: str) -> Clips:
    """Word and samples of the digits of `train` or `test`, by speaker."""
    clips: Clips = defaultdict(list)
    for entry in read_manifest(speech_dir):
        if entry["subset"] == "digits" and entry["split"] == split:
            samples = read_audio(speech_dir / entry["audio_filepath"])
            clips[entry["speaker"]].append((entry["text"].lower(), samples))
    return dict(clips)


def join(spoken: Sequence[tuple[str, np.ndarray]], generator: random.Random) -> dict[str, Any]:
    """A row of digits after one another, with pauses."""
    pieces = [EDGE]
    for _, samples in spoken:
        pause = np.zeros(round(generator.uniform(*PAUSE_SECONDS) * SAMPLING_RATE), np.float32)
        pieces += [samples, pause]
    waveform = np.concatenate([*pieces[:-1], EDGE])
    return {
        "audio": {"array": waveform, "sampling_rate": SAMPLING_RATE},
        "text": " ".join(word for word, _ in spoken),
        "duration": len(waveform) / SAMPLING_RATE,
    }


def join_all(clips: Clips, seed: int) -> list[dict[str, Any]]:
    """Every clip once, in strings of one speaker."""
    generator = random.Random(seed)
    rows = []
    for speaker in sorted(clips):
        spoken = generator.sample(clips[speaker], len(clips[speaker]))
        for start in range(0, len(spoken), TEST_DIGITS):
            rows.append(join(spoken[start : start + TEST_DIGITS], generator))
    return rows


class Clock(TrainerCallback):
    """Keeps time and error rate of every evaluation, and ends the run at its goal or when its time is over."""

    def __init__(self, goal: float, minutes: float, keep: Callable[[Rows], None]) -> None:
        self.goal, self.minutes, self.keep = goal, minutes, keep
        self.started, self.processor_started = time.monotonic(), time.process_time()
        self.rows: Rows = []
        self.first_step = 0
        self.is_done = False

    def on_evaluate(self, arguments: Any, state: Any, control: Any, metrics: Any = None, **others: Any) -> None:
        used = time.process_time() - self.processor_started
        self.rows.append(
            {
                "step": self.first_step + state.global_step,
                "wer": round(100 * metrics["eval_wer"], 2),
                "eval_loss": round(metrics["eval_loss"], 4),
                "seconds": round(time.monotonic() - self.started, 1),
                "processor_seconds": round(used, 1),
            }
        )
        print(self.rows[-1], flush=True)
        self.keep(self.rows)
        if 100 * metrics["eval_wer"] <= self.goal or used > 60 * self.minutes:
            control.should_training_stop = self.is_done = True


def build(head: str, texts: Sequence[str], seed: int) -> tuple[Any, FastConformerProcessor]:
    """A model with random weights and its processor."""
    tokenizer = train_tokenizer(texts, VOCABULARY_SIZE)
    extractor = FastConformerFeatureExtractor(feature_size=ENCODER["num_mel_bins"])
    config_class, model_class, options = HEADS[head]
    blank = len(tokenizer)
    config = config_class(**ENCODER, **options, vocab_size=blank + 1, blank_token_id=blank, pad_token_id=blank)
    set_seed(seed)
    return model_class(config), FastConformerProcessor(extractor, tokenizer, config.subsampling_factor)


def run(head: str, stages: Sequence[Any], test_rows: Any, arguments: argparse.Namespace) -> None:
    """Train a model, single digits as they are, then strings with SpecAugment, which are evaluated; write its rows."""
    model, processor = build(head, [row["text"] for row in stages[-1]], arguments.seed)
    about = {"parameters": sum(weight.numel() for weight in model.parameters()), "seed": arguments.seed}
    about |= {"threads": torch.get_num_threads(), "machine": name_machine(), "torch": torch.__version__}
    others = [row for row in read_rows(arguments.output) if row["head"] != head]

    def keep(rows: Rows) -> None:
        write_rows(arguments.output, [*others, *({"head": head, **row, **about} for row in rows)])

    clock = Clock(arguments.goal, arguments.minutes, keep)
    spec_augment = {name: ENCODER[name] for name in ("mask_time_count", "mask_feature_count")}
    for stage, (train_rows, num_steps) in enumerate(
        zip(stages, (arguments.first_steps, arguments.max_steps), strict=True)
    ):
        for name, count in spec_augment.items():
            setattr(model.config, name, 0 if stage == 0 else count)
        with tempfile.TemporaryDirectory() as folder:
            options = FinetuneOptions(
                folder,
                max_steps=num_steps,
                learning_rate=arguments.learning_rate,
                warmup_steps=50,
                batch_seconds=arguments.batch_seconds,
                eval_steps=arguments.eval_steps,
                hold_batch_norm=False,
                adam_beta2=0.98,
                seed=arguments.seed,
            )
            # Strings tell nothing of what a model of single digits has learnt: its last weights go on, not the "best".
            rows = None if stage == 0 else test_rows
            finetune(model, processor, train_rows, rows, options, callbacks=[clock])
        clock.first_step += num_steps
        if clock.is_done:
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--goal", type=float, default=5.0, help="word error rate in per cent at which a run ends")
    parser.add_argument("--minutes", type=float, default=40.0, help="of the processor: 20 minutes on two cores")
    parser.add_argument("--first_steps", type=int, default=400, help="with single digits")
    parser.add_argument("--max_steps", type=int, default=3000, help="after them")
    parser.add_argument("--eval_steps", type=int, default=100)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--batch_seconds", type=float, default=30.0)
    parser.add_argument("--strings", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--speech_dir", type=Path, default=SPEECH_DIR)
    parser.add_argument("--output", type=Path, default=RESULTS / "from_scratch_float32_cpu.csv")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    clips = read_clips(arguments.speech_dir, "train")
    stages = [DigitStrings(clips, chances, arguments.strings, arguments.seed) for chances in (FIRST_CHANCES, CHANCES)]
    test_rows = join_all(read_clips(arguments.speech_dir, "test"), arguments.seed)
    for head in arguments.heads:
        run(head, stages, test_rows, arguments)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
