"""Training of the demonstration checkpoints in NeMo's own hybrid model: what their scripts share.

The model is NeMo's `EncDecHybridRNNTCTCBPEModel` and NeMo writes the `.nemo`. Only the transducer loss is ours, as
those of NeMo 3.0 do not run on a CPU (TDT) or are slow there (RNN-T). Needs the extras `nemo`, `audio` and `train`.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch import Tensor, nn

from digit_data import DIGIT_WORDS, SAMPLING_RATE, SPEAKERS, Augmentation, DigitStrings, Utterance
from transformers_fastconformer.training.word_errors import score_texts

# Of the curriculum (single digits, one or two, up to four), for the head that is ahead.
STAGE_ENDS_AT_LOSS = (0.8, 1.5, 2.5)
LAST_STAGE = len(STAGE_ENDS_AT_LOSS)
AVERAGE_DECAY = 0.997
VOCABULARY_SIZE = 48
HIDDEN_SIZE = 96
PREDICTION_HIDDEN_SIZE = 64


@dataclass(frozen=True)
class TrainingOptions:
    """Choices of a training run."""

    output: Path  # the .nemo to write; its training state lies next to it, as `<output>.state`
    minutes: float  # processor time to train for; the learning rate follows it
    save_minutes: float
    learning_rate: float  # at its highest
    warm_up_steps: int
    seconds_per_batch: float
    seed: int
    resume: bool  # go on where the training state of `output` stands
    initial_checkpoint: Path | None  # a .nemo of the same shape whose weights to begin with, after the curriculum


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `TrainingOptions`, of the data, and of evaluation."""
    speech_dir = os.environ.get("FASTCONFORMER_SPEECH_DIR", "../shared/speech")
    parser.add_argument("--output", type=Path, required=True, help="the .nemo to write, or to evaluate")
    parser.add_argument("--speech_dir", type=Path, default=Path(speech_dir), help="folder that holds digits/")
    parser.add_argument("--cache_dir", type=Path, default=Path(tempfile.gettempdir()) / "fastconformer-digits")
    parser.add_argument("--initial_checkpoint", type=Path, help="a .nemo of this script to go on from")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--evaluate", action="store_true", help="evaluate the .nemo instead of training it")
    parser.add_argument("--minutes", type=float, default=40.0, help="processor time to train for")
    parser.add_argument("--save_minutes", type=float, default=5.0)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--warm_up_steps", type=int, default=100)
    parser.add_argument("--seconds_per_batch", type=float, default=48.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)


def add_left_out_argument(parser: argparse.ArgumentParser) -> None:
    """Add the speaker of the recordings that training does without."""
    parser.add_argument(
        "--without_speaker", choices=SPEAKERS, help="a speaker who is not heard in training, and is measured"
    )


def read_training_options(arguments: argparse.Namespace) -> TrainingOptions:
    """The options of a run from the arguments of its command."""
    return TrainingOptions(
        output=arguments.output,
        minutes=arguments.minutes,
        save_minutes=arguments.save_minutes,
        learning_rate=arguments.learning_rate,
        warm_up_steps=arguments.warm_up_steps,
        seconds_per_batch=arguments.seconds_per_batch,
        seed=arguments.seed,
        resume=arguments.resume,
        initial_checkpoint=arguments.initial_checkpoint,
    )


# --------------------------------------------------------------------------------------------------------------- model


def train_tokenizer(folder: Path) -> None:
    """A SentencePiece BPE model of digit strings, in the files that NeMo's tokenizer configuration expects."""
    generator = random.Random(0)
    lines = [" ".join(generator.choice(DIGIT_WORDS) for _ in range(generator.randint(1, 8))) for _ in range(3000)]
    write_tokenizer(folder, lines, VOCABULARY_SIZE)


def write_tokenizer(folder: Path, lines: Sequence[str], vocabulary_size: int, **options: Any) -> None:
    """Train a SentencePiece BPE model of lines; the options are those of its trainer."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=vocabulary_size,
        model_type="bpe",
        character_coverage=1.0,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        minloglevel=2,
        **options,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    (folder / "vocab.txt").write_text("\n".join(pieces[1:]) + "\n", encoding="utf-8")


def make_configuration(tokenizer_folder: Path) -> dict[str, Any]:
    """Configuration of a small hybrid RNNT-CTC FastConformer that sees whole files."""
    return {
        "sample_rate": SAMPLING_RATE,
        "compute_eval_loss": False,
        "log_prediction": False,
        "model_defaults": {
            "enc_hidden": HIDDEN_SIZE,
            "pred_hidden": PREDICTION_HIDDEN_SIZE,
            "joint_hidden": HIDDEN_SIZE,
        },
        "tokenizer": {"dir": str(tokenizer_folder), "type": "bpe"},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": SAMPLING_RATE,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
            "log": True,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
            "pad_value": 0.0,
        },
        "spec_augment": {
            "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
            "freq_masks": 2,
            "time_masks": 2,
            "freq_width": 14,
            "time_width": 0.03,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 80,
            "feat_out": -1,
            "n_layers": 5,
            "d_model": HIDDEN_SIZE,
            "use_bias": True,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 32,
            "causal_downsampling": False,
            "reduction": None,
            "reduction_position": None,
            "reduction_factor": 1,
            "ff_expansion_factor": 2,
            "self_attention_model": "rel_pos",
            "n_heads": 4,
            "att_context_size": [-1, -1],
            "att_context_style": "regular",
            "xscaling": False,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
            "conv_context_size": None,
            "dropout": 0.0,
            "dropout_pre_encoder": 0.0,
            "dropout_emb": 0.0,
            "dropout_att": 0.0,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {"pred_hidden": PREDICTION_HIDDEN_SIZE, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.1},
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "fused_batch_size": -1,
            "jointnet": {"joint_hidden": HIDDEN_SIZE, "activation": "relu", "dropout": 0.1},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
        "aux_ctc": {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": {
                "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
                "feat_in": None,
                "num_classes": -1,
                "vocabulary": [],
            },
            "decoding": {"strategy": "greedy"},
        },
        "loss": {"loss_name": "default"},
        # NeMo's `transcribe` asks here whether the tokenizer marks sentence ends.
        "validation_ds": {
            "manifest_filepath": None,
            "sample_rate": SAMPLING_RATE,
            "batch_size": 16,
            "shuffle": False,
            "use_start_end_token": False,
        },
        "optim": {"name": "adamw", "lr": 0.002, "betas": [0.9, 0.98], "weight_decay": 0.001},
    }


def build_model(configuration: dict[str, Any]) -> Any:
    """NeMo's model of a configuration, with random weights and a tokenizer that is trained for it."""
    from nemo.collections.asr.models import EncDecHybridRNNTCTCBPEModel
    from omegaconf import OmegaConf

    train_tokenizer(Path(configuration["tokenizer"]["dir"]))
    model = EncDecHybridRNNTCTCBPEModel(cfg=OmegaConf.create(configuration))
    model.cfg.tokenizer.dir = "tokenizer"  # the archive holds the files, wherever they lay in training
    return model


def restore(path: Path) -> Any:
    """Load the model of a `.nemo`."""
    from nemo.collections.asr.models import ASRModel

    return ASRModel.restore_from(str(path), map_location="cpu")


def compute_losses(model: Any, waveforms: Tensor, lengths: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Transducer loss and CTC loss of a batch, as NeMo's training step computes them."""
    ids = [torch.tensor(model.tokenizer.text_to_ids(text), dtype=torch.long) for text in texts]
    target_lengths = torch.tensor([len(row) for row in ids])
    targets = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    encoded, encoded_lengths = model(input_signal=waveforms, input_signal_length=lengths)
    predicted, _, _ = model.decoder(targets=targets, target_length=target_lengths)
    joint = model.joint(encoder_outputs=encoded, decoder_outputs=predicted)
    transducer = model.loss(
        log_probs=joint, targets=targets, input_lengths=encoded_lengths, target_lengths=target_lengths
    )
    ctc = model.ctc_loss(
        log_probs=model.ctc_decoder(encoder_output=encoded),
        targets=targets,
        input_lengths=encoded_lengths,
        target_lengths=target_lengths,
    )
    return transducer, ctc


# ---------------------------------------------------------------------------------------------------------- evaluation


def count_word_errors(reference: list[str], hypothesis: list[str]) -> int:
    """Words that were found as others, not found, or put in; by jiwer."""
    (errors,) = score_texts([" ".join(reference)], [" ".join(hypothesis)], "none")
    return errors.words.num_errors


@torch.no_grad()
def transcribe(model: Any, waveforms: list[np.ndarray], batch_size: int = 16) -> tuple[list[str], list[str]]:
    """Texts of the transducer head and of the CTC head, both greedy, decoded by NeMo."""
    model.eval()
    transducer_texts, ctc_texts = [], []
    for start in range(0, len(waveforms), batch_size):
        batch = [torch.from_numpy(waveform) for waveform in waveforms[start : start + batch_size]]
        lengths = torch.tensor([len(waveform) for waveform in batch])
        padded = nn.utils.rnn.pad_sequence(batch, batch_first=True)
        encoded, encoded_lengths = model(input_signal=padded, input_signal_length=lengths)
        hypotheses = model.decoding.rnnt_decoder_predictions_tensor(encoded, encoded_lengths, return_hypotheses=True)
        transducer_texts += [hypothesis.text for hypothesis in hypotheses]
        hypotheses = model.ctc_decoding.ctc_decoder_predictions_tensor(
            model.ctc_decoder(encoder_output=encoded), encoded_lengths, return_hypotheses=True
        )
        ctc_texts += [hypothesis.text for hypothesis in hypotheses]
    return transducer_texts, ctc_texts


def measure_word_error_rate(model: Any, strings: list[Utterance]) -> tuple[int, int, int]:
    """Word errors of the transducer head, of the CTC head, and the number of words."""
    transducer_texts, ctc_texts = transcribe(model, [string.waveform for string in strings])
    references = [[DIGIT_WORDS[digit] for digit in string.digits] for string in strings]
    errors = [
        sum(count_word_errors(r, text.split()) for r, text in zip(references, texts, strict=True))
        for texts in (transducer_texts, ctc_texts)
    ]
    return errors[0], errors[1], sum(map(len, references))


# ------------------------------------------------------------------------------------------------------------ training


class WeightAverage:
    """Moving average of a model's weights: what is stored and measured, as it is better than the weights of a step."""

    def __init__(self, model: Any, modules: list[nn.Module]) -> None:
        self.model = model
        self.modules = nn.ModuleList(modules)
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE_DECAY)
        self.averaged = torch.optim.swa_utils.AveragedModel(self.modules, multi_avg_fn=average, use_buffers=True)

    def update(self) -> None:
        self.averaged.update_parameters(self.modules)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averaged weights into the model, in evaluation mode, while the `with` block runs."""
        current = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.modules.load_state_dict(self.averaged.module.state_dict())
        self.model.eval()
        try:
            yield
        finally:
            self.model.load_state_dict(current)
            self.model.train()


def state_path(output: Path) -> Path:
    """The file with the training state of a run."""
    return output.with_name(output.name + ".state")


def train(
    model: Any,
    options: TrainingOptions,
    recorded: list[Utterance],
    synthesized: list[Utterance],
    augmentation: Augmentation,
    describe: Callable[[], str],
    first_stage: int = 0,
) -> None:
    """
    Train a model and write its averaged weights as a `.nemo`, now and then and at the end.

    Args:
        model: NeMo's model, with a loss of `compute_losses`' call.
        options: The choices of this run.
        recorded: Single digits.
        synthesized: Digit strings of a synthesiser.
        augmentation: What is done to the clips.
        describe: Measures the model whenever it is saved, and returns a line to print.
        first_stage: Stage of the curriculum to begin with, of a model that knows something.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    print(f"{sum(parameter.numel() for parameter in parameters)} parameters", flush=True)
    spec_augmentation = model.spec_augmentation
    stage = torch.tensor(first_stage).share_memory_()
    if options.initial_checkpoint is not None:
        model.load_state_dict(restore(options.initial_checkpoint).state_dict())
        stage += LAST_STAGE - int(stage)
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, betas=(0.9, 0.98), weight_decay=1e-3)
    average = WeightAverage(model, [model.encoder, model.decoder, model.joint, model.ctc_decoder])
    first_step, seconds_before = 0, 0.0
    if options.resume:
        state = torch.load(state_path(options.output), weights_only=True)
        model.load_state_dict(state["model"])
        average.averaged.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        stage += state["stage"] - int(stage)
        first_step, seconds_before = state["step"], state["seconds"]
    torch.manual_seed(options.seed + first_step)  # other batches than before a stop

    started, last_saved = time.process_time(), time.monotonic()

    def save(num_steps: int) -> None:
        """Write the averaged weights, what they are worth, and the training state."""
        model.spec_augmentation = spec_augmentation
        with average.in_place():
            print(f"  {describe()}", flush=True)
            part = options.output.with_name(options.output.name + ".part.nemo")
            model.save_to(str(part))
            part.replace(options.output)
        state = {
            "model": model.state_dict(),
            "average": average.averaged.state_dict(),
            "optimizer": optimizer.state_dict(),
            "stage": int(stage),
            "step": num_steps,
            "seconds": seconds_before + time.process_time() - started,
        }
        part = state_path(options.output).with_suffix(".part")
        torch.save(state, part)
        part.replace(state_path(options.output))

    data = DigitStrings(recorded, synthesized, options.seconds_per_batch, stage, augmentation)
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4)
    running: list[tuple[float, float]] = []
    model.train()
    for step, (waveforms, lengths, texts) in enumerate(loader, start=first_step):
        seconds = seconds_before + time.process_time() - started
        progress = min(seconds / (options.minutes * 60), 1.0)
        decay = 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * min(1.0, (step + 1) / options.warm_up_steps) * decay + 1e-6
        model.spec_augmentation = spec_augmentation if stage >= LAST_STAGE else None
        transducer, ctc = compute_losses(model, waveforms, lengths, texts)
        loss = 0.7 * transducer + 0.3 * ctc
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 5.0)
        if bool(torch.isfinite(norm)):
            optimizer.step()
            average.update()
        running.append((float(transducer.detach()), float(ctc.detach())))
        if step % 25 == 24:
            transducer_mean, ctc_mean = np.mean(running, axis=0)
            rate = optimizer.param_groups[0]["lr"]
            print(
                f"stage {int(stage)} step {step + 1} {seconds / 60:.1f} min "
                f"transducer {transducer_mean:.2f} ctc {ctc_mean:.2f} lr {rate:.1e}",
                flush=True,
            )
            if stage < LAST_STAGE and min(transducer_mean, ctc_mean) < STAGE_ENDS_AT_LOSS[stage]:
                stage += 1
            running.clear()
        if time.monotonic() - last_saved > options.save_minutes * 60:
            save(step + 1)
            last_saved = time.monotonic()
        if progress >= 1.0:
            break
    save(step + 1)
