"""
What does fine-tuning on a few minutes of a new voice give, with LoRA and with all weights?

The demonstration checkpoint learns a voice of espeak-ng that is unlike those it was trained with (a whisper), from
strings of spoken digits, and is tested on other strings of it, and on the voice `en-us`, which it knows, for what it
forgets.
Both heads of the hybrid are trained, the transducer is measured.

    python benchmarks/bench_adaptation.py

Needs espeak-ng and the extra `train`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from common.csv_files import write_rows
from common.folders import RESULTS, ROOT
from transformers_fastconformer import FinetuneOptions, LoraOptions, finetune, load_model, transcribe_waveforms

# Voices of espeak-ng are those of the scripts that made the checkpoint.
sys.path.insert(0, str(ROOT / "tools"))

KNOWN_VOICE = "en-us"
METHODS: dict[str, LoraOptions | None] = {"full": None, "lora": LoraOptions(rank=16)}


def speak(voice: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of strings of one to six digits."""
    from digit_data import DIGIT_WORDS, SAMPLING_RATE, synthesize

    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        text = " ".join(generator.choice(DIGIT_WORDS) for _ in range(generator.randint(1, 6)))
        waveform = synthesize(text, voice, generator.randint(120, 190), generator.randint(35, 65))
        rows.append({"audio": {"array": waveform, "sampling_rate": SAMPLING_RATE}, "text": text})
    return rows


def measure(model: Any, processor: Any, rows: list[dict[str, Any]]) -> float:
    """Word error rate in per cent."""
    import jiwer

    found = transcribe_waveforms(model.eval(), processor, [row["audio"]["array"] for row in rows])
    return 100 * jiwer.wer([row["text"] for row in rows], [transcript.text for transcript in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voice", default="en-us+whisperf")
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--test_clips", type=int, default=60)
    parser.add_argument("--max_steps", type=int, default=60)
    parser.add_argument("--batch_seconds", type=float, default=30.0)
    parser.add_argument("--learning_rates", type=float, nargs="*", help="to compare; default: that of the method")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=RESULTS / "adaptation_float32_cpu.csv")
    arguments = parser.parse_args()
    voices = {"new": arguments.voice, "known": KNOWN_VOICE}
    tests = {name: speak(voice, arguments.test_clips, 1000) for name, voice in voices.items()}
    rows: list[dict[str, Any]] = []
    model, processor = load_model("demo", device="cpu", dtype="float32")
    before = {name: measure(model, processor, clips) for name, clips in tests.items()}
    for seed in arguments.seeds:
        for method in arguments.methods:
            for learning_rate in arguments.learning_rates or [None]:
                rows.append(run(method, learning_rate, seed, arguments, tests, before))
                print(rows[-1], flush=True)
                write_rows(arguments.output, rows)
    print(f"written to {arguments.output}")


def run(
    method: str,
    learning_rate: float | None,
    seed: int,
    arguments: argparse.Namespace,
    tests: dict[str, Any],
    before: dict[str, float],
) -> dict[str, Any]:
    """Row of one adaptation: its own clips, order and adapters."""
    model, processor = load_model("demo", device="cpu", dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        options = FinetuneOptions(
            folder,
            max_steps=arguments.max_steps,
            learning_rate=learning_rate,
            batch_seconds=arguments.batch_seconds,
            lora=METHODS[method],
            seed=seed,
        )
        train_rows = speak(arguments.voice, arguments.clips, seed)
        started, processor_started = time.monotonic(), time.process_time()
        result = finetune(model, processor, train_rows, None, options)
        seconds, processor_seconds = time.monotonic() - started, time.process_time() - processor_started
        tuned, _ = load_model(folder, device="cpu")
    after = {name: measure(tuned, processor, clips) for name, clips in tests.items()}
    return {
        "method": method,
        "seed": seed,
        "voice": arguments.voice,
        "learning_rate": options.chosen_learning_rate,
        "steps": arguments.max_steps,
        "clips": result.train_report.num_clips,
        "minutes_of_audio": round(result.train_report.seconds / 60, 1),
        "trained_parameters": result.parameters.trainable,
        "wer_before": round(before["new"], 2),
        "wer_after": round(after["new"], 2),
        "wer_known_before": round(before["known"], 2),
        "wer_known_after": round(after["known"], 2),
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor_seconds, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
