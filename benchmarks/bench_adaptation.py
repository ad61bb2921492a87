"""
What does fine-tuning on a few minutes of a new voice give, with LoRA and with all weights?

A checkpoint learns a voice that it has not heard, and is tested on other strings of it, and on voices that it knows,
for what it forgets. Both heads of a hybrid are trained, the transducer is measured.

A synthetic voice: the demonstration checkpoint and a voice of espeak-ng unlike those it was trained with (a whisper).

    python benchmarks/bench_adaptation.py

A person: a checkpoint that was trained without one of the five speakers of the recordings. It learns single digits and
strings of their training part; the test clips of the speaker, in strings of one, two, four and eight digits, are heard
every few steps, which gives the curve in a file next to the other. The known voices are the other speakers.

    python tools/train_digit_demonstration.py --output four.nemo --without_speaker theo --minutes 40
    python benchmarks/bench_adaptation.py --model four.nemo --speaker theo

Needs espeak-ng or the recordings (see `tools/digit_data.py`), and the extra `train`.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from common.csv_files import write_rows
from common.folders import RESULTS, ROOT
from transformers_fastconformer import FinetuneOptions, LoraOptions, finetune, load_model, transcribe_waveforms

# Voices of espeak-ng are those of the scripts that made the checkpoint.
sys.path.insert(0, str(ROOT / "tools"))

KNOWN_VOICE = "en-us"
METHODS: dict[str, LoraOptions | None] = {"full": None, "lora": LoraOptions(rank=16)}
TESTED_DIGITS = (1, 2, 4, 8)

Rows = list[dict[str, Any]]


def speak(voice: str, count: int, seed: int) -> Rows:
    """Rows of strings of one to six digits."""
    from digit_data import DIGIT_WORDS, SAMPLING_RATE, synthesize

    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        text = " ".join(generator.choice(DIGIT_WORDS) for _ in range(generator.randint(1, 6)))
        waveform = synthesize(text, voice, generator.randint(120, 190), generator.randint(35, 65))
        rows.append({"audio": {"array": waveform, "sampling_rate": SAMPLING_RATE}, "text": text})
    return rows


def rows_of(strings: list[Any]) -> Rows:
    """Rows of strings of recorded digits."""
    from digit_data import DIGIT_WORDS, SAMPLING_RATE

    return [
        {
            "audio": {"array": string.waveform, "sampling_rate": SAMPLING_RATE},
            "text": " ".join(DIGIT_WORDS[digit] for digit in string.digits),
        }
        for string in strings
    ]


def read_speaker(speech_dir: Path, speaker: str, count: int, seed: int) -> Rows:
    """So many strings of one to six digits of a speaker's training part, drawn anew with each seed."""
    from digit_data import join_test_clips, read_digit_clips

    clips = [clip for clip in read_digit_clips(speech_dir, "train") if clip.speaker == speaker]
    generator = random.Random(seed)
    strings: list[Any] = []
    while len(strings) < count:
        strings += join_test_clips(generator.sample(clips, 60), generator.randint(1, 6), generator.randrange(10**6))
    return rows_of(generator.sample(strings, count))


def read_tests(speech_dir: Path, speaker: str) -> dict[str, Rows]:
    """Rows to test with: those of the speaker, and strings of four digits of the others."""
    from digit_data import join_test_clips, read_digit_clips

    clips = read_digit_clips(speech_dir, "test")
    unheard = [clip for clip in clips if clip.speaker == speaker]
    return {
        "new": rows_of([string for digits in TESTED_DIGITS for string in join_test_clips(unheard, digits, 1)]),
        "known": rows_of(join_test_clips([clip for clip in clips if clip.speaker != speaker], 4, 1)),
    }


def measure(model: Any, processor: Any, rows: Rows) -> float:
    """Word error rate in per cent."""
    import jiwer

    found = transcribe_waveforms(model.eval(), processor, [row["audio"]["array"] for row in rows])
    return 100 * jiwer.wer([row["text"] for row in rows], [transcript.text for transcript in found])


class Curve(TrainerCallback):
    """
    Measures the model every few steps of a run, and counts the time that this takes, which is not the run's.

    Args:
        processor: The model's.
        rows: What is heard.
        every: Steps between two measurements; 0: none.
    """

    def __init__(self, processor: Any, rows: Rows, every: int) -> None:
        self.processor, self.rows, self.every = processor, rows, every
        self.points: list[tuple[int, float]] = []
        self.seconds = self.processor_seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not self.every or state.global_step % self.every:
            return
        started, processor_started = time.monotonic(), time.process_time()
        recognizer = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.points.append((state.global_step, measure(recognizer, self.processor, self.rows)))
        model.train()
        self.seconds += time.monotonic() - started
        self.processor_seconds += time.process_time() - processor_started


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    speech_dir = os.environ.get("FASTCONFORMER_SPEECH_DIR", "../shared/speech")
    parser.add_argument("--model", default="demo", help="with --speaker one that has not heard that speaker")
    parser.add_argument("--voice", default="en-us+whisperf", help="of espeak-ng, without --speaker")
    parser.add_argument("--speaker", help="of the recordings, in place of a voice of espeak-ng")
    parser.add_argument("--speech_dir", type=Path, default=Path(speech_dir), help="folder that holds digits/")
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--test_clips", type=int, default=60, help="of each voice of espeak-ng")
    parser.add_argument("--max_steps", type=int, default=60)
    parser.add_argument("--curve_steps", type=int, default=10, help="steps between two points of a speaker's curve")
    parser.add_argument("--batch_seconds", type=float, default=30.0)
    parser.add_argument("--learning_rates", type=float, nargs="*", help="to compare; default: that of the method")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, help="default: a file of the results")
    arguments = parser.parse_args()
    if arguments.speaker is not None and arguments.model == "demo":
        parser.error(
            "--speaker: the demonstration has heard every speaker; expected --model, one without this speaker"
        )
    if arguments.output is None:
        name = "adaptation" if arguments.speaker is None else "adaptation_speaker"
        arguments.output = RESULTS / f"{name}_float32_cpu.csv"
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.speaker is None:
        voices = {"new": arguments.voice, "known": KNOWN_VOICE}
        tests = {name: speak(voice, arguments.test_clips, 1000) for name, voice in voices.items()}
    else:
        tests = read_tests(arguments.speech_dir, arguments.speaker)
    rows: Rows = []
    curve: Rows = []
    model, processor = load_model(arguments.model, device="cpu", dtype="float32")
    before = {name: measure(model, processor, clips) for name, clips in tests.items()}
    for seed in arguments.seeds:
        for method in arguments.methods:
            for learning_rate in arguments.learning_rates or [None]:
                row, points = run(method, learning_rate, seed, arguments, tests, before)
                rows.append(row)
                print(row, flush=True)
                write_rows(arguments.output, rows)
                if arguments.speaker is not None:
                    names = ("method", "seed", "learning_rate")
                    curve += [
                        {**{name: row[name] for name in names}, "step": s, "wer": round(w, 2)} for s, w in points
                    ]
                    write_rows(arguments.output.with_name(f"curve_{arguments.output.name}"), curve)
    print(f"written to {arguments.output}")


def run(
    method: str,
    learning_rate: float | None,
    seed: int,
    arguments: argparse.Namespace,
    tests: dict[str, Rows],
    before: dict[str, float],
) -> tuple[dict[str, Any], list[tuple[int, float]]]:
    """Row of one adaptation, its own clips, order and adapters, and its curve: steps and word error rates."""
    model, processor = load_model(arguments.model, device="cpu", dtype="float32")
    curve = Curve(processor, tests["new"], 0 if arguments.speaker is None else arguments.curve_steps)
    if arguments.speaker is None:
        train_rows = speak(arguments.voice, arguments.clips, seed)
    else:
        train_rows = read_speaker(arguments.speech_dir, arguments.speaker, arguments.clips, seed)
    with tempfile.TemporaryDirectory() as folder:
        options = FinetuneOptions(
            folder,
            max_steps=arguments.max_steps,
            learning_rate=learning_rate,
            batch_seconds=arguments.batch_seconds,
            lora=METHODS[method],
            seed=seed,
        )
        started, processor_started = time.monotonic(), time.process_time()
        result = finetune(model, processor, train_rows, None, options, callbacks=[curve])
        seconds = time.monotonic() - started - curve.seconds
        processor_seconds = time.process_time() - processor_started - curve.processor_seconds
        tuned, _ = load_model(folder, device="cpu")
    after = {name: measure(tuned, processor, clips) for name, clips in tests.items()}
    row = {
        "method": method,
        "seed": seed,
        "voice": arguments.speaker or arguments.voice,
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
    return row, [(0, before["new"]), *curve.points]


if __name__ == "__main__":
    main()
