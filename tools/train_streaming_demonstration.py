"""Train the streaming demonstration checkpoint: a small cache-aware hybrid RNNT-CTC FastConformer for spoken digits.

Causal subsampling and convolutions, layer norm in the convolutions, no normalisation of the features, and chunked
attention of which each batch draws one of four look-aheads. The model is NeMo's own `EncDecHybridRNNTCTCBPEModel` and
NeMo writes the `.nemo`; only the RNN-T loss is ours, the vectorised form of the same mathematics. Needs the extras
`nemo` and `audio`, espeak-ng, and the recordings that `digit_data.py` describes.

The carried checkpoint begins with the weights of the first demonstration, and ends with a run of the transducer only:

    python tools/train_streaming_demonstration.py --output all.nemo --from_demonstration --minutes 24
    python tools/train_streaming_demonstration.py --output digits.nemo --initial_checkpoint all.nemo \
        --only_transducer --learning_rate 2e-3 --minutes 6
    python tools/train_streaming_demonstration.py --output digits.nemo --evaluate

What the design does with a new voice is measured on a speaker that no run has heard, so from random weights:

    python tools/train_streaming_demonstration.py --output four.nemo --without_speaker theo --minutes 40
    python tools/train_streaming_demonstration.py --output four.nemo --without_speaker theo --evaluate
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
    HIDDEN_SIZE,
    LAST_STAGE,
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
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.losses.rnnt import rnnt_loss

#: Frames of 80 ms that attention sees before and after a chunk's first frame: chunks of 1120, 560, 160 and 80 ms.
ATTENTION_CONTEXTS = [[56, 13], [56, 6], [56, 1], [56, 0]]
# The short look-aheads are the hard ones.
ATTENTION_CONTEXT_CHANCES = [0.25, 0.125, 0.25, 0.375]
FRAME_MS = 80
# Features are not normalised, so that the model has to know quiet recordings itself. A transducer that sees one frame
# at a time tends to take a digit that is said twice for one.
AUGMENTATION = Augmentation(gain_db=(-32.0, 20.0), repeat_chance=0.3)
# About the mean and the spread of the log-mel features of speech. Of SpecAugment, the value of what is masked.
FEATURE_MEAN, FEATURE_SPREAD = -8.0, 4.0


def make_streaming_configuration(tokenizer_folder: Path) -> dict[str, Any]:
    """Configuration of a small `stt_en_fastconformer_hybrid_large_streaming_multi`."""
    configuration = make_configuration(tokenizer_folder)
    configuration["preprocessor"]["normalize"] = "NA"
    configuration["spec_augment"]["mask_value"] = FEATURE_MEAN
    configuration["encoder"] |= {
        "causal_downsampling": True,
        "att_context_size": ATTENTION_CONTEXTS,
        "att_context_style": "chunked_limited",
        "att_context_probs": ATTENTION_CONTEXT_CHANCES,
        "conv_context_size": "causal",
        "conv_norm_type": "layer_norm",
    }
    return configuration


class VectorisedRNNTLoss(nn.Module):
    """Our RNN-T loss with the call signature of NeMo's `RNNTLoss`, to stand in its place."""

    def __init__(self, blank_id: int) -> None:
        super().__init__()
        self.blank_id = blank_id

    def forward(self, log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        frames, labels = int(input_lengths.max()), int(target_lengths.max())
        return rnnt_loss(
            log_probs[:, :frames, : labels + 1], targets[:, :labels], input_lengths, target_lengths, self.blank_id
        )


@torch.no_grad()
def expect_unnormalised_features(model: Any) -> None:
    """Let the first convolution begin as if the features were normalised, which trains faster."""
    convolution = model.encoder.pre_encode.conv[0]
    convolution.bias -= convolution.weight.sum((1, 2, 3)) * FEATURE_MEAN / FEATURE_SPREAD
    convolution.weight /= FEATURE_SPREAD


@torch.no_grad()
def take_weights_of_the_demonstration(model: Any) -> None:
    """
    Begin with the weights of the first demonstration checkpoint, which was trained on whole files, where they fit.

    Kernels of the convolutions keep the half that looks back. Batch norm is part of the kernel before it, and layer
    norm begins with its mean and spread. Of the joint network's outputs, those of durations have no place.
    """
    source = restore(CHECKPOINT_PATH).state_dict()
    weights = model.state_dict()
    for name, value in weights.items():
        if name in source and source[name].shape == value.shape and ".batch_norm." not in name:
            value.copy_(source[name])
    for layer in range(len(model.encoder.layers)):
        prefix = f"encoder.layers.{layer}.conv"
        mean, variance, scale, shift = (
            source[f"{prefix}.batch_norm.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        factor = scale / (variance + 1e-5).sqrt()
        kernel = source[f"{prefix}.depthwise_conv.weight"]
        seen = kernel.shape[-1] // 2 + 1
        weights[f"{prefix}.depthwise_conv.weight"].zero_()[..., -seen:] = kernel[..., :seen] * factor[:, None, None]
        bias = weights[f"{prefix}.depthwise_conv.bias"]
        bias.copy_((source[f"{prefix}.depthwise_conv.bias"] - mean) * factor + shift)
        weights[f"{prefix}.batch_norm.weight"].fill_((scale.square() + (shift - shift.mean()).square()).mean().sqrt())
        weights[f"{prefix}.batch_norm.bias"].fill_(shift.mean())
    # Causal subsampling pads the mel axis too: a column more, before the others.
    columns = weights["encoder.pre_encode.out.weight"].reshape(HIDDEN_SIZE, -1, 11)
    columns.zero_()[..., 1:] = source["encoder.pre_encode.out.weight"].reshape(HIDDEN_SIZE, -1, 10)
    for name in ("joint.joint_net.2.weight", "joint.joint_net.2.bias"):
        weights[name].copy_(source[name][: len(weights[name])])


# ---------------------------------------------------------------------------------------------------------- evaluation


def latency_ms(context: list[int]) -> int:
    """The chunk's length of an attention context, which is the algorithmic latency of the encoder."""
    return (context[1] + 1) * FRAME_MS


def count_errors(model: Any, strings: list[Utterance]) -> np.ndarray:
    """
    Count the words that both heads get wrong in each attention context, of which the first stays in use.

    Returns:
        (contexts, 2): RNN-T, CTC.
    """
    rows = []
    for context in ATTENTION_CONTEXTS:
        model.encoder.set_default_att_context_size(context)
        rows.append(measure_word_error_rate(model, strings)[:2])
    model.encoder.set_default_att_context_size(ATTENTION_CONTEXTS[0])
    return np.array(rows)


def describe_errors(errors: np.ndarray, strings: list[Utterance]) -> str:
    """The word error rates of both heads in each attention context."""
    words = sum(len(string.digits) for string in strings)
    rates = zip(ATTENTION_CONTEXTS, errors / words, strict=True)
    return "  ".join(f"{latency_ms(context)} ms: {transducer:.2%} / {ctc:.2%}" for context, (transducer, ctc) in rates)


def scale(strings: list[Utterance], gain_db: float) -> list[Utterance]:
    """The same strings, louder or quieter."""
    gain = np.float32(10 ** (gain_db / 20))
    return [Utterance(string.waveform * gain, string.digits, string.speaker) for string in strings]


def strings_of_each_length(clips: list[Utterance], mixed_speakers: bool = False) -> list[Utterance]:
    """Every clip once in strings of each length from 1 to 8."""
    return [string for digits in range(1, 9) for string in join_test_clips(clips, digits, 1, mixed_speakers)]


def evaluate(model: Any, speech_dir: Path, left_out: str | None) -> None:
    """Print the word error rates of both heads (RNN-T / CTC) in each attention context."""

    def show(name: str, strings: list[Utterance], errors: np.ndarray) -> None:
        words = sum(len(string.digits) for string in strings)
        print(f"{name:42} {len(strings):4} strings {words:5} words  {describe_errors(errors, strings)}", flush=True)

    def report(name: str, strings: list[Utterance]) -> np.ndarray:
        errors = count_errors(model, strings)
        show(name, strings, errors)
        return errors

    clips = read_digit_clips(speech_dir, "test")
    if left_out is not None:
        unheard = [clip for clip in read_digit_clips(speech_dir, "train") + clips if clip.speaker == left_out]
        clips = [clip for clip in clips if clip.speaker != left_out]
        report(f"{left_out}, left out, 1 digit", join_test_clips(unheard, 1, 1))
        report(f"{left_out}, left out, 5 digits", join_test_clips(unheard, 5, 1))
        report(f"{left_out}, left out, 1 to 8 digits", strings_of_each_length(unheard))
    strings = strings_of_each_length(clips)
    errors = sum(
        report(f"test, {speaker}, 1 to 8 digits", [string for string in strings if string.speaker == speaker])
        for speaker in sorted({clip.speaker for clip in clips})
    )
    show("test, one speaker, 1 to 8 digits", strings, np.asarray(errors))
    if left_out is not None:
        return
    report("test, mixed speakers, 1 to 8 digits", strings_of_each_length(clips, mixed_speakers=True))
    report("test, one speaker, up to 40 digits", join_test_clips(clips, 40, 1))
    report("test, one speaker, 5 digits, no pauses", join_test_clips(clips, 5, 1, pause_seconds=(0.0, 0.0)))
    for gain_db in (-20, 10):
        report(f"test, one speaker, 5 digits, {gain_db:+d} dB", scale(join_test_clips(clips, 5, 1), gain_db))
    generator = random.Random(5)
    for voice in HELD_OUT_VOICES:
        strings = []
        for _ in range(60):
            digits = tuple(generator.randrange(10) for _ in range(generator.randint(1, 8)))
            text = " ".join(DIGIT_WORDS[digit] for digit in digits)
            strings.append(Utterance(synthesize(text, voice, generator.choice((130, 150, 175))), digits, voice))
        report(f"espeak-ng -v {voice} (not in training)", strings)
    noise = np.random.default_rng(3)
    clips_of_noise = [DigitStrings.make_empty_clip(noise) for _ in range(50)]
    for context in ATTENTION_CONTEXTS:
        model.encoder.set_default_att_context_size(context)
        invented = [sum(len(text.split()) for text in texts) for texts in transcribe(model, clips_of_noise)]
        print(
            f"noise and silence, 50 clips, {latency_ms(context)} ms: words invented by RNN-T {invented[0]}, "
            f"by CTC {invented[1]}"
        )


# ------------------------------------------------------------------------------------------------------------ training


def train_model(arguments: argparse.Namespace) -> None:
    """Train the checkpoint on the clips of the training part, of all speakers or without one."""
    torch.manual_seed(arguments.seed)
    random.seed(arguments.seed)  # NeMo draws the attention contexts with it
    recorded, tested = (
        [clip for clip in read_digit_clips(arguments.speech_dir, split) if clip.speaker != arguments.without_speaker]
        for split in ("train", "test")
    )
    synthesized = read_synthesized_clips(arguments.cache_dir)
    print(f"{len(recorded)} recorded clips, {len(synthesized)} synthesised strings", flush=True)
    strings = join_test_clips(tested, 4, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(make_streaming_configuration(Path(folder)))
        if arguments.from_demonstration:
            take_weights_of_the_demonstration(model)
        expect_unnormalised_features(model)
        if arguments.only_transducer:
            model.encoder.requires_grad_(False)
            model.ctc_decoder.requires_grad_(False)
        model.loss = VectorisedRNNTLoss(len(model.tokenizer.vocab))
        model.joint.log_softmax = False  # our loss normalises
        options = read_training_options(arguments)
        train(
            model,
            options,
            recorded,
            synthesized,
            AUGMENTATION,
            lambda: "test, strings of 4, RNN-T / CTC: " + describe_errors(count_errors(model, strings), strings),
            first_stage=LAST_STAGE - 1 if arguments.from_demonstration else 0,
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser)
    parser.add_argument(
        "--from_demonstration", action="store_true", help="begin with the weights of the first demonstration"
    )
    parser.add_argument(
        "--only_transducer", action="store_true", help="train the prediction and joint networks, which is much faster"
    )
    add_left_out_argument(parser)
    arguments = parser.parse_args()
    if arguments.without_speaker is not None and arguments.from_demonstration:
        parser.error("--from_demonstration: those weights have heard every speaker; expected no --without_speaker")
    return arguments


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
