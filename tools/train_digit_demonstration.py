"""Train the demonstration checkpoint: a small hybrid TDT-CTC FastConformer for strings of spoken English digits.

The model is NeMo's own `EncDecHybridRNNTCTCBPEModel` and NeMo writes the `.nemo`; only the TDT loss is ours, because
the one of NeMo 3.0 does not run on a CPU. Needs the extras `nemo`, `audio` and `train`, espeak-ng, and the recordings
that `digit_data.py` describes.

    python tools/train_digit_demonstration.py --output digits.nemo --minutes 40
    python tools/train_digit_demonstration.py --output digits.nemo --evaluate

What it does with a new voice is measured on a speaker that no run has heard:

    python tools/train_digit_demonstration.py --output four.nemo --without_speaker theo --minutes 40
    python tools/train_digit_demonstration.py --output four.nemo --without_speaker theo --evaluate
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from digit_data import (
    DIGIT_WORDS,
    HELD_OUT_VOICES,
    Augmentation,
    DigitStrings,
    Utterance,
    join_test_clips,
    read_digit_clips,
    read_synthesized_clips,
    synthesize,
)
from digit_training import (
    add_left_out_argument,
    add_training_arguments,
    build_model,
    make_configuration,
    measure_word_error_rate,
    read_training_options,
    restore,
    train,
    transcribe,
)
from transformers_fastconformer.losses.tdt import tdt_loss

DURATIONS = [0, 1, 2, 3, 4]
AUGMENTATION = Augmentation(
    gain_db=(-25.0, 20.0), speed=(0.78, 1.3), formants=1.16, tone_db=8.0, room_chance=0.3, single_chance=0.2
)


def make_tdt_configuration(tokenizer_folder: Path) -> dict[str, Any]:
    """Configuration of a small parakeet-tdt_ctc."""
    configuration = make_configuration(tokenizer_folder)
    configuration["model_defaults"] |= {"tdt_durations": DURATIONS, "num_tdt_durations": len(DURATIONS)}
    configuration["joint"]["num_extra_outputs"] = len(DURATIONS)
    configuration["decoding"] |= {"model_type": "tdt", "durations": DURATIONS}
    configuration["loss"] = {
        "loss_name": "tdt",
        "tdt_kwargs": {"fastemit_lambda": 0.0, "clamp": -1.0, "durations": DURATIONS, "sigma": 0.02, "omega": 0.1},
    }
    return configuration


class VectorisedTDTLoss(nn.Module):
    """Our TDT loss with the call signature of NeMo's `RNNTLoss`, to stand in its place."""

    def __init__(self, blank_id: int, sigma: float, omega: float) -> None:
        super().__init__()
        self.blank_id, self.sigma, self.omega = blank_id, sigma, omega

    def forward(self, log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        frames, labels = int(input_lengths.max()), int(target_lengths.max())
        return tdt_loss(
            log_probs[:, :frames, : labels + 1],
            targets[:, :labels],
            input_lengths,
            target_lengths,
            self.blank_id,
            DURATIONS,
            self.sigma,
            self.omega,
        )


def strings_of_each_length(clips: list[Utterance], mixed_speakers: bool = False) -> list[list[Utterance]]:
    """Every clip once in strings of each length from 1 to 8."""
    return [join_test_clips(clips, digits, 1, mixed_speakers) for digits in range(1, 9)]


def evaluate(model: Any, speech_dir: Path, left_out: str | None) -> None:
    """Print the word error rates of both heads, first those of a speaker that training has not heard."""

    def report(name: str, strings: list[Utterance]) -> tuple[int, int, int]:
        tdt_errors, ctc_errors, words = measure_word_error_rate(model, strings)
        print(
            f"{name:34} {len(strings):5} strings {words:5} words   "
            f"TDT {tdt_errors / words:7.2%}   CTC {ctc_errors / words:7.2%}",
            flush=True,
        )
        return tdt_errors, ctc_errors, words

    clips = read_digit_clips(speech_dir, "test")
    if left_out is not None:
        unheard = [clip for clip in read_digit_clips(speech_dir, "train") + clips if clip.speaker == left_out]
        clips = [clip for clip in clips if clip.speaker != left_out]
        report(f"{left_out}, left out, 1 digit", join_test_clips(unheard, 1, 1))
        for digits in (2, 4, 8):
            report(f"{left_out}, left out, {digits} digits", join_test_clips(unheard, digits, 1))
        strings = [string for of_length in strings_of_each_length(unheard)[1:] for string in of_length]
        report(f"{left_out}, left out, 2 to 8 digits", strings)
    for mixed in (False, True):
        title = "mixed speakers" if mixed else "one speaker"
        lengths = enumerate(strings_of_each_length(clips, mixed), start=1)
        rows = [report(f"test, {title}, {n} digits", of_length) for n, of_length in lengths]
        tdt_errors, ctc_errors, words = (sum(column) for column in zip(*rows, strict=True))
        print(f"  1 to 8 digits together: {words} words, TDT {tdt_errors / words:.2%}, CTC {ctc_errors / words:.2%}")
    report("test, one speaker, up to 40 digits", join_test_clips(clips, 40, 1))
    report("test, one speaker, 5 digits, no pauses", join_test_clips(clips, 5, 1, pause_seconds=(0.0, 0.0)))
    generator = random.Random(5)
    for voice in HELD_OUT_VOICES:
        strings = []
        for _ in range(60):
            digits = tuple(generator.randrange(10) for _ in range(generator.randint(1, 8)))
            text = " ".join(DIGIT_WORDS[digit] for digit in digits)
            strings.append(Utterance(synthesize(text, voice, generator.choice((130, 150, 175))), digits, voice))
        report(f"espeak-ng -v {voice} (not in training)", strings)
    noise = np.random.default_rng(3)
    texts = transcribe(model, [DigitStrings.make_empty_clip(noise) for _ in range(50)])
    print(
        f"noise and silence, 50 clips: words invented by TDT {sum(len(t.split()) for t in texts[0])}, "
        f"by CTC {sum(len(t.split()) for t in texts[1])}"
    )


def train_model(arguments: argparse.Namespace) -> None:
    """Train the checkpoint on the clips of the training part, of all speakers or without one."""
    torch.manual_seed(arguments.seed)
    recorded, tested = (
        [clip for clip in read_digit_clips(arguments.speech_dir, split) if clip.speaker != arguments.without_speaker]
        for split in ("train", "test")
    )
    synthesized = read_synthesized_clips(arguments.cache_dir)
    print(f"{len(recorded)} recorded clips, {len(synthesized)} synthesised strings", flush=True)
    strings = join_test_clips(tested, 4, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(make_tdt_configuration(Path(folder)))
        kwargs = model.cfg.loss.tdt_kwargs
        model.loss = VectorisedTDTLoss(len(model.tokenizer.vocab), kwargs.sigma, kwargs.omega)
        model.joint.log_softmax = False  # our loss normalises

        def describe() -> str:
            tdt_errors, ctc_errors, words = measure_word_error_rate(model, strings)
            return f"test, strings of 4: TDT {tdt_errors / words:.2%} CTC {ctc_errors / words:.2%}"

        train(model, read_training_options(arguments), recorded, synthesized, AUGMENTATION, describe)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser)
    add_left_out_argument(parser)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    arguments.speech_dir = arguments.speech_dir.resolve()
    torch.set_num_threads(arguments.threads)
    if arguments.evaluate:
        evaluate(restore(arguments.output), arguments.speech_dir, arguments.without_speaker)
    else:
        train_model(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
