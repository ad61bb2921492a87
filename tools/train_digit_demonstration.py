"""Train the demonstration checkpoint: a small hybrid TDT-CTC FastConformer for strings of spoken English digits.

The model is NeMo's own `EncDecHybridRNNTCTCBPEModel` and NeMo writes the `.nemo`; only the TDT loss is ours, because
the one of NeMo 3.0 does not run on a CPU. Needs the extras `nemo` and `audio`, espeak-ng, and the Free Spoken Digit
Dataset as a folder `digits/` with `train.txt` and `test.txt` (paths relative to its parent, one a line) and files
named `<digit>_<speaker>_<index>.flac`.

    python tools/train_digit_demonstration.py --output digits.nemo --minutes 40
    python tools/train_digit_demonstration.py --output digits.nemo --evaluate
"""

from __future__ import annotations

import argparse
import io
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import soundfile
import soxr
import torch
from torch import Tensor, nn

from transformers_fastconformer.losses.tdt import tdt_loss

SAMPLING_RATE = 16000
STAGE_ENDS_AT_CTC_LOSS = (0.8, 1.5, 2.5)  # of the curriculum: single digits, one or two, up to four
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DURATIONS = [0, 1, 2, 3, 4]
VOCABULARY_SIZE = 48
HIDDEN_SIZE = 96
PREDICTION_HIDDEN_SIZE = 64

# The plain voices `en` and `en-us` are never heard in training; they are the test of the synthesised part.
HELD_OUT_VOICES = ("en", "en-us")
ACCENTS = ("en-gb-scotland", "en-029", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
VARIANTS = [f"m{n}" for n in range(1, 9)] + [f"f{n}" for n in range(1, 6)]
VARIANTS += [
    "adam",
    "anika",
    "announcer",
    "belinda",
    "benjamin",
    "caleb",
    "david",
    "ed",
    "edward",
    "john",
    "kaukovalta",
]
VARIANTS += ["klatt", "klatt2", "klatt3", "linda", "michael", "norbert", "quincy", "rob", "robert", "sandro", "shelby"]
VARIANTS += ["steph", "steph2", "travis", "victor", "zac"]


# ---------------------------------------------------------------------------------------------------------------- data


@dataclass
class Utterance:
    """A mono waveform at 16 kHz, the digits in it, and who speaks."""

    waveform: np.ndarray  # (samples,) float32
    digits: tuple[int, ...]
    speaker: str


def read_digit_clips(speech_dir: Path, split: str) -> list[Utterance]:
    """The recorded single digits of `train` or `test`."""
    clips = []
    for line in (speech_dir / "digits" / f"{split}.txt").read_text().split():
        path = speech_dir / line
        waveform, rate = soundfile.read(path, dtype="float32")
        if rate != SAMPLING_RATE:
            raise ValueError(f"{path} has sampling rate {rate}; expected {SAMPLING_RATE}.")
        digit, speaker, _ = path.stem.split("_")
        clips.append(Utterance(waveform, (int(digit),), speaker))
    return clips


def synthesize(text: str, voice: str, words_per_minute: int = 150, pitch: int = 50) -> np.ndarray:
    """Speech by espeak-ng at 16 kHz, (samples,) float32."""
    command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "--stdout", text]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    # The header of a streamed WAV does not know its length: read the samples after the "data" chunk ourselves.
    start = data.index(b"data") + 8
    rate = int.from_bytes(data[24:28], "little")
    samples = np.frombuffer(data[start : start + (len(data) - start) // 2 * 2], dtype="<i2").astype(np.float32) / 32768
    return soxr.resample(samples, rate, SAMPLING_RATE).astype(np.float32)


def read_synthesized_clips(cache_dir: Path, strings_per_voice: int = 60) -> list[Utterance]:
    """Digit strings spoken by many espeak-ng voices; made once and kept in `cache_dir`."""
    path = cache_dir / f"espeak-{strings_per_voice}.npz"
    if not path.is_file():
        generator = random.Random(7)
        voices = [*ACCENTS, *(f"{accent}+{v}" for accent in ("en", "en-us") for v in VARIANTS[::2])]
        voices += [f"{generator.choice(ACCENTS)}+{v}" for v in VARIANTS[1::2]]
        waveforms, digits, speakers = [], [], []
        for voice in voices:
            for index in range(strings_per_voice):
                string = [generator.randrange(10) for _ in range(1 if index % 4 == 0 else generator.randint(2, 8))]
                separator = generator.choice((" ", " ", ", ", ". "))
                text = separator.join(DIGIT_WORDS[digit] for digit in string)
                speech = synthesize(text, voice, generator.randint(110, 210), generator.randint(20, 80))
                waveforms.append((speech * 32767).astype(np.int16))
                digits.append("".join(map(str, string)))
                speakers.append(voice)
        cache_dir.mkdir(parents=True, exist_ok=True)
        lengths = [len(waveform) for waveform in waveforms]
        np.savez(path, samples=np.concatenate(waveforms), lengths=lengths, digits=digits, speakers=speakers)
    stored = np.load(path)
    parts = np.split(stored["samples"], np.cumsum(stored["lengths"])[:-1])
    return [
        Utterance(part.astype(np.float32) / 32768, tuple(map(int, str(digits))), str(speaker))
        for part, digits, speaker in zip(parts, stored["digits"], stored["speakers"], strict=True)
    ]


def make_noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Noise of unit power with a random slope of its spectrum, sometimes with a hum."""
    spectrum = np.fft.rfft(generator.standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLING_RATE), 20.0)
    noise = np.fft.irfft(spectrum * frequency ** generator.uniform(-1.2, 0.2), samples)
    if generator.random() < 0.15:
        clock = np.arange(samples) / SAMPLING_RATE
        noise += noise.std() * generator.uniform(0.3, 2) * np.sin(2 * np.pi * generator.uniform(45, 2000) * clock)
    return (noise / (noise.std() + 1e-9)).astype(np.float32)


class DigitStrings(torch.utils.data.IterableDataset):
    """Endless augmented batches: (waveforms, lengths, texts), each batch of about the same number of seconds."""

    def __init__(
        self, recorded: list[Utterance], synthesized: list[Utterance], seconds_per_batch: float, stage: Tensor
    ) -> None:
        self.recorded = recorded
        self.synthesized = synthesized
        self.speakers = sorted({clip.speaker for clip in recorded})
        self.by_speaker = {name: [clip for clip in recorded if clip.speaker == name] for name in self.speakers}
        self.single = [clip for clip in synthesized if len(clip.digits) == 1]
        self.seconds_per_batch = seconds_per_batch
        self.stage = stage  # shared with the training process, which moves it on

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        torch.set_num_threads(1)
        generator = np.random.default_rng(torch.initial_seed() % 2**32)
        while True:
            # A curriculum: with single clean recorded digits the model learns the alignment in a minute; with the full
            # mixture it takes much longer.
            stage = int(self.stage)
            seconds_per_batch = self.seconds_per_batch
            if stage < 3:
                most_digits, expected_seconds = ((1, 0.9), (2, 1.6), (4, 2.8))[stage]
                seconds_per_batch = self.seconds_per_batch * (0.3, 0.5, 0.8)[stage]
            else:
                draw = generator.random()
                if draw < 0.35:
                    most_digits, expected_seconds = (1, 1.3) if draw < 0.12 else (2, 1.9)
                elif draw < 0.82:
                    most_digits, expected_seconds = (4, 2.8) if draw < 0.55 else (8, 4.6)
                else:
                    most_digits, expected_seconds = (16, 8.0) if draw < 0.95 else (45, 22.0)
            clips = []
            for _ in range(max(2, round(seconds_per_batch / expected_seconds))):
                clips.append(self.make_clip(generator, most_digits, stage))
            lengths = torch.tensor([len(waveform) for waveform, _ in clips])
            waveforms = torch.zeros(len(clips), int(lengths.max()))
            for row, (waveform, _) in zip(waveforms, clips, strict=True):
                row[: len(waveform)] = torch.from_numpy(waveform)
            yield waveforms, lengths, [text for _, text in clips]

    def make_clip(self, generator: np.random.Generator, most_digits: int, stage: int) -> tuple[np.ndarray, str]:
        degraded = stage >= 2
        if degraded and generator.random() < 0.03:
            return self.make_empty_clip(generator), ""
        if most_digits > 16:
            count = int(generator.integers(20, most_digits + 1))
        else:
            count = int(generator.integers(max(1, most_digits // 2 - 1), most_digits + 1))
        parts = self.choose_parts(generator, count, recorded_only=stage == 0)
        pieces, digits = [], []
        level = generator.random() if stage else 1.0
        tempo = generator.uniform(0.85, 1.2) if stage else 1.0
        pause_style = generator.random()
        widest_pause = (
            0.0
            if pause_style < 0.2 or stage == 0
            else 0.15
            if pause_style < 0.35
            else 0.8
            if most_digits <= 16
            else 0.4
        )
        for part in parts:
            waveform = self.change_speed(part.waveform, tempo * generator.uniform(0.95, 1.05))
            if level < 0.5:
                waveform = waveform * (
                    0.1 / (np.sqrt(np.mean(waveform**2)) + 1e-6) * 10 ** generator.uniform(-0.3, 0.3)
                )
            pieces += [waveform, np.zeros(int(generator.uniform(0, widest_pause) * SAMPLING_RATE), np.float32)]
            digits += part.digits
        edges = [0.2, 0.2] if stage == 0 else generator.uniform(0, 0.8 if stage >= 2 and most_digits <= 8 else 0.4, 2)
        lead, trail = (int(edge * SAMPLING_RATE) for edge in edges)
        speech = np.concatenate([np.zeros(lead, np.float32), *pieces, np.zeros(trail, np.float32)])
        if degraded:
            speech = self.degrade(generator, speech)
        return speech, " ".join(DIGIT_WORDS[digit] for digit in digits)

    def choose_parts(self, generator: np.random.Generator, count: int, recorded_only: bool) -> list[Utterance]:
        kind = 0.9 if recorded_only else generator.random()
        if kind < 0.34:  # strings as the synthesiser spoke them
            parts: list[Utterance] = []
            while True:
                part = self.synthesized[generator.integers(len(self.synthesized))]
                if sum(len(p.digits) for p in parts) + len(part.digits) > max(count, 1):
                    if parts:
                        return parts
                    continue
                parts.append(part)
        pool: list[Utterance]
        if kind < 0.75:  # one recorded speaker
            pool = self.by_speaker[self.speakers[generator.integers(len(self.speakers))]]
        elif kind < 0.93:  # recorded speakers mixed
            pool = self.recorded
        else:
            pool = self.single
            if generator.random() < 0.5:
                voices = [self.single[i] for i in generator.integers(len(self.single), size=count)]
                others = [self.recorded[i] for i in generator.integers(len(self.recorded), size=count)]
                return [a if generator.random() < 0.5 else b for a, b in zip(voices, others, strict=True)]
        return [pool[index] for index in generator.integers(len(pool), size=count)]

    @staticmethod
    def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
        """Tempo and pitch together, by linear interpolation."""
        positions = np.arange(0, len(waveform) - 1, factor, dtype=np.float32)
        return np.interp(positions, np.arange(len(waveform)), waveform).astype(np.float32)

    @staticmethod
    def degrade(generator: np.random.Generator, speech: np.ndarray) -> np.ndarray:
        """Echo, band limit, background noise, gain."""
        level = np.sqrt(np.mean(speech**2)) + 1e-6
        if generator.random() < 0.15:
            tail = int(generator.uniform(0.03, 0.25) * SAMPLING_RATE)
            echo = (
                generator.standard_normal(tail) * np.exp(-6.9 * np.arange(tail) / tail) * generator.uniform(0.02, 0.12)
            )
            echo[0] = 1.0
            size = len(speech) + tail
            speech = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(echo, size), size)[: len(speech)]
        if generator.random() < 0.35:
            spectrum = np.fft.rfft(speech)
            cutoff = generator.uniform(3200, 5000)
            spectrum[int(cutoff / (SAMPLING_RATE / 2) * len(spectrum)) :] = 0
            speech = np.fft.irfft(spectrum, len(speech))
        if generator.random() < 0.7:
            signal_to_noise_db = generator.uniform(8, 60)
            speech = speech + make_noise(generator, len(speech)) * level * 10 ** (-signal_to_noise_db / 20)
        gain = 10 ** (generator.uniform(-25, 20) / 20)
        peak = np.abs(speech).max() + 1e-9
        return (speech * min(gain, 0.99 / peak)).astype(np.float32)

    @staticmethod
    def make_empty_clip(generator: np.random.Generator) -> np.ndarray:
        samples = int(generator.uniform(0.4, 4.0) * SAMPLING_RATE)
        kind = generator.random()
        if kind < 0.2:
            return np.zeros(samples, np.float32)
        noise = make_noise(generator, samples) * 10 ** (generator.uniform(-80, -15) / 20)
        if kind > 0.7:  # clicks and bursts
            envelope = np.repeat(generator.random(samples // 1600 + 1) ** 4, 1600)[:samples]
            noise = noise * envelope.astype(np.float32)
        return noise.astype(np.float32)


# --------------------------------------------------------------------------------------------------------------- model


def train_tokenizer(folder: Path) -> None:
    """A SentencePiece BPE model of digit strings, in the files that NeMo's tokenizer configuration expects."""
    generator = random.Random(0)
    lines = [" ".join(generator.choice(DIGIT_WORDS) for _ in range(generator.randint(1, 8))) for _ in range(3000)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=VOCABULARY_SIZE,
        model_type="bpe",
        character_coverage=1.0,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    (folder / "vocab.txt").write_text("\n".join(pieces[1:]) + "\n", encoding="utf-8")


def make_configuration(tokenizer_folder: Path) -> dict[str, Any]:
    """Configuration of a small parakeet-tdt_ctc."""
    return {
        "sample_rate": SAMPLING_RATE,
        "compute_eval_loss": False,
        "log_prediction": False,
        "model_defaults": {
            "enc_hidden": HIDDEN_SIZE,
            "pred_hidden": PREDICTION_HIDDEN_SIZE,
            "joint_hidden": HIDDEN_SIZE,
            "tdt_durations": DURATIONS,
            "num_tdt_durations": len(DURATIONS),
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
            "num_extra_outputs": len(DURATIONS),
        },
        "decoding": {
            "strategy": "greedy_batch",
            "model_type": "tdt",
            "durations": DURATIONS,
            "greedy": {"max_symbols": 10},
        },
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
        "loss": {
            "loss_name": "tdt",
            "tdt_kwargs": {"fastemit_lambda": 0.0, "clamp": -1.0, "durations": DURATIONS, "sigma": 0.02, "omega": 0.1},
        },
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


def build_model(tokenizer_folder: Path) -> Any:
    from nemo.collections.asr.models import EncDecHybridRNNTCTCBPEModel
    from omegaconf import OmegaConf

    train_tokenizer(tokenizer_folder)
    model = EncDecHybridRNNTCTCBPEModel(cfg=OmegaConf.create(make_configuration(tokenizer_folder)))
    model.cfg.tokenizer.dir = "tokenizer"  # the archive holds the files, wherever they lay in training
    return model


def restore(path: Path) -> Any:
    """Load the model of a `.nemo`."""
    from nemo.collections.asr.models import ASRModel

    return ASRModel.restore_from(str(path), map_location="cpu")


def compute_losses(model: Any, waveforms: Tensor, lengths: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
    """TDT loss and CTC loss of a batch, as NeMo's training step computes them."""
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
    """Levenshtein distance in words."""
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, start=1):
        previous, row[0] = row[0], i
        for j, other in enumerate(hypothesis, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1]


@torch.no_grad()
def transcribe(model: Any, waveforms: list[np.ndarray], batch_size: int = 16) -> tuple[list[str], list[str]]:
    """Texts of the TDT head and of the CTC head, both greedy, decoded by NeMo."""
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


def join_test_clips(
    clips: list[Utterance],
    digits_per_string: int,
    seed: int,
    mixed_speakers: bool = False,
    pause_seconds: tuple[float, float] = (0.05, 0.5),
) -> list[Utterance]:
    """Every clip once, in strings with pauses of digital silence of random length (0.2 s more at both ends)."""
    generator = np.random.default_rng(seed + digits_per_string)
    groups = (
        [clips]
        if mixed_speakers
        else [[c for c in clips if c.speaker == s] for s in sorted({c.speaker for c in clips})]
    )
    strings = []
    edge = np.zeros(SAMPLING_RATE // 5, np.float32)
    for group in groups:
        order = generator.permutation(len(group))
        for start in range(0, len(order), digits_per_string):
            chosen = [group[index] for index in order[start : start + digits_per_string]]
            pieces = [edge]
            for clip in chosen:
                pieces += [clip.waveform, np.zeros(int(generator.uniform(*pause_seconds) * SAMPLING_RATE), np.float32)]
            digits = tuple(clip.digits[0] for clip in chosen)
            strings.append(Utterance(np.concatenate([*pieces, edge]), digits, chosen[0].speaker))
    return strings


def measure_word_error_rate(model: Any, strings: list[Utterance]) -> tuple[int, int, int]:
    """Word errors of the TDT head, of the CTC head, and the number of words."""
    transducer_texts, ctc_texts = transcribe(model, [string.waveform for string in strings])
    references = [[DIGIT_WORDS[digit] for digit in string.digits] for string in strings]
    errors = [
        sum(count_word_errors(r, text.split()) for r, text in zip(references, texts, strict=True))
        for texts in (transducer_texts, ctc_texts)
    ]
    return errors[0], errors[1], sum(map(len, references))


def evaluate(model: Any, speech_dir: Path) -> None:
    """Print the word error rates of both heads."""

    def report(name: str, strings: list[Utterance]) -> tuple[int, int, int]:
        tdt_errors, ctc_errors, words = measure_word_error_rate(model, strings)
        print(
            f"{name:34} {len(strings):5} strings {words:5} words   "
            f"TDT {tdt_errors / words:7.2%}   CTC {ctc_errors / words:7.2%}",
            flush=True,
        )
        return tdt_errors, ctc_errors, words

    clips = read_digit_clips(speech_dir, "test")
    for mixed in (False, True):
        title = "mixed speakers" if mixed else "one speaker"
        rows = [report(f"test, {title}, {n} digits", join_test_clips(clips, n, 1, mixed)) for n in range(1, 9)]
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


# ------------------------------------------------------------------------------------------------------------ training


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    recorded = read_digit_clips(arguments.speech_dir, "train")
    test_clips = read_digit_clips(arguments.speech_dir, "test")
    synthesized = read_synthesized_clips(arguments.cache_dir)
    print(f"{len(recorded)} recorded clips, {len(synthesized)} synthesised strings", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(Path(folder))
        parameters = [p for p in model.parameters() if p.requires_grad]
        print(f"{sum(p.numel() for p in parameters)} parameters", flush=True)
        kwargs = model.cfg.loss.tdt_kwargs
        model.loss = VectorisedTDTLoss(len(model.tokenizer.vocab), kwargs.sigma, kwargs.omega)
        spec_augmentation = model.spec_augmentation
        model.joint.log_softmax = False  # our loss normalises
        stage = torch.zeros((), dtype=torch.long).share_memory_()
        if arguments.initial_checkpoint is not None:
            model.load_state_dict(restore(arguments.initial_checkpoint).state_dict())
            stage += 3
        data = DigitStrings(recorded, synthesized, arguments.seconds_per_batch, stage)
        loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4)
        optimizer = torch.optim.AdamW(parameters, lr=1e-6, betas=(0.9, 0.98), weight_decay=1e-3)
        average = torch.optim.swa_utils.AveragedModel(
            model.encoder, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.997), use_buffers=True
        )
        heads = nn.ModuleList([model.decoder, model.joint, model.ctc_decoder])
        head_average = torch.optim.swa_utils.AveragedModel(
            heads, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.997), use_buffers=True
        )

        def save(output: Path) -> None:
            """Store the averaged weights, check them on short test strings, and put the training weights back."""
            current = {name: value.clone() for name, value in model.state_dict().items()}
            model.encoder.load_state_dict(average.module.state_dict())
            heads.load_state_dict(head_average.module.state_dict())
            model.eval()
            model.spec_augmentation = spec_augmentation
            strings = join_test_clips(test_clips, 4, seed=1)
            tdt_errors, ctc_errors, words = measure_word_error_rate(model, strings)
            print(f"  test, strings of 4: TDT {tdt_errors / words:.2%} CTC {ctc_errors / words:.2%}", flush=True)
            part = output.with_name(output.name + ".part.nemo")
            model.save_to(str(part))
            part.replace(output)
            model.load_state_dict(current)
            model.train()

        started = last_saved = time.monotonic()
        total_seconds = arguments.minutes * 60
        running: list[tuple[float, float]] = []
        model.train()
        for step, (waveforms, lengths, texts) in enumerate(loader):
            elapsed = time.monotonic() - started
            progress = min(elapsed / total_seconds, 1.0)
            decay = 0.5 * (1 + math.cos(math.pi * progress))
            for group in optimizer.param_groups:
                group["lr"] = arguments.learning_rate * min(1.0, (step + 1) / arguments.warm_up_steps) * decay + 1e-6
            model.spec_augmentation = spec_augmentation if stage >= 3 else None
            transducer, ctc = compute_losses(model, waveforms, lengths, texts)
            loss = 0.7 * transducer + 0.3 * ctc
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, 5.0)
            if bool(torch.isfinite(norm)):
                optimizer.step()
                average.update_parameters(model.encoder)
                head_average.update_parameters(heads)
            running.append((float(transducer.detach()), float(ctc.detach())))
            if step % 25 == 24:
                tdt_mean, ctc_mean = np.mean(running, axis=0)
                rate = optimizer.param_groups[0]["lr"]
                print(
                    f"stage {int(stage)} step {step + 1} {elapsed / 60:.1f} min "
                    f"tdt {tdt_mean:.2f} ctc {ctc_mean:.2f} lr {rate:.1e}",
                    flush=True,
                )
                if stage < 3 and ctc_mean < STAGE_ENDS_AT_CTC_LOSS[stage]:
                    stage += 1
                running.clear()
            if time.monotonic() - last_saved > arguments.save_minutes * 60:
                save(arguments.output)
                last_saved = time.monotonic()
            if progress >= 1.0:
                break
        save(arguments.output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    speech_dir = os.environ.get("FASTCONFORMER_SPEECH_DIR", "../shared/speech")
    parser.add_argument("--output", type=Path, required=True, help="the .nemo to write, or to evaluate")
    parser.add_argument("--speech_dir", type=Path, default=Path(speech_dir), help="folder that holds digits/")
    parser.add_argument("--cache_dir", type=Path, default=Path(tempfile.gettempdir()) / "fastconformer-digits")
    parser.add_argument("--initial_checkpoint", type=Path, help="a .nemo of this script to go on from")
    parser.add_argument("--evaluate", action="store_true", help="evaluate the .nemo instead of training it")
    parser.add_argument("--minutes", type=float, default=40.0, help="wall-clock time to train for")
    parser.add_argument("--save_minutes", type=float, default=5.0)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--warm_up_steps", type=int, default=100)
    parser.add_argument("--seconds_per_batch", type=float, default=48.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    arguments.speech_dir = arguments.speech_dir.resolve()
    torch.set_num_threads(arguments.threads)
    if arguments.evaluate:
        evaluate(restore(arguments.output), arguments.speech_dir)
    else:
        train(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
