"""
The same training in NeMo and here: the losses of the first steps next to one another.

Both train with the recorded digits of `speech/digits` (its training split) in the same order, by AdamW, without
dropout, SpecAugment and dither: the demonstration checkpoint (TDT and CTC), and small models with random weights (CTC;
RNN-T).

    pip install 'transformers-fastconformer[bench]' 'nemo_toolkit[asr]'
    python benchmarks/compare_training.py
    python benchmarks/plot_results.py
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from common.csv_files import write_rows
from common.folders import RESULTS
from common.machine import name_machine, use_given_threads
from common.speech import SPEECH_DIR, read_manifest
from common.training_pairs import Batch, build_pair
from transformers_fastconformer import read_audio

CASES = ("tdt-ctc", "ctc", "rnnt")
BATCH_CLIPS = 4
# Longest clips: the losses of NeMo that run on a CPU are loops over frames and tokens.
MAX_SECONDS = 0.8


def draw_batches(speech_dir: Path, tokenizer: Any, num_steps: int, seed: int) -> Iterator[Batch]:
    """Batches of training clips in an order of their own."""
    entries = [
        entry
        for entry in read_manifest(speech_dir)
        if entry["subset"] == "digits" and entry["split"] == "train" and entry["duration"] <= MAX_SECONDS
    ]
    generator = random.Random(seed)
    for _ in range(num_steps):
        chosen = generator.sample(entries, BATCH_CLIPS)
        yield Batch(
            [read_audio(speech_dir / entry["audio_filepath"]) for entry in chosen],
            [tokenizer.encode(entry["text"].lower()) for entry in chosen],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speech", type=Path, default=SPEECH_DIR)
    parser.add_argument("--output", type=Path, default=RESULTS / "training_float32_cpu.csv")
    arguments = parser.parse_args()
    use_given_threads()
    about = {"machine": name_machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in arguments.cases:
            pair = build_pair(case, Path(folder), arguments.seed)
            batches = draw_batches(arguments.speech, pair.processor.tokenizer, arguments.steps, arguments.seed)
            for step, batch in enumerate(batches):
                for losses in pair.step(batch):
                    rows.append(
                        {
                            "case": case,
                            "step": step,
                            "loss": losses.loss,
                            "nemo": f"{losses.nemo:.7g}",
                            "ours": f"{losses.ours:.7g}",
                            "difference_per_million": f"{1e6 * losses.relative_difference:.3f}",
                            **about,
                        }
                    )
                print(f"{case} {step:3d}: {rows[-1]['nemo']} {rows[-1]['ours']}")
                write_rows(arguments.output, rows)
    largest = max(float(row["difference_per_million"]) for row in rows)
    print(f"largest relative difference: {largest} millionths; written to {arguments.output}")


if __name__ == "__main__":
    main()
