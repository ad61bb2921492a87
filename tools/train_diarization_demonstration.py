"""
Train the diarisation demonstration: a small streaming Sortformer that tells the speakers of the digits apart.

Conversations are mixed from the training part of the Free Spoken Digit Dataset once, and their features kept; a batch
is cut from them anywhere, so that the order of speakers is another one each time. The losses are Sortformer's, half
by the order of arrival and half by the best order. A third one, of a layer that is thrown away, asks the encoder for
the names of the speakers, with which it learns in minutes what they sound like. Utterances of the test part are never
heard; their speakers are.

The carried `demo-speakers` is of such a run; its card tells how long it was, and what it is worth.

    pip install 'transformers-fastconformer[audio]'
    python tools/train_diarization_demonstration.py --output speakers --minutes 12 --speech_dir ../shared/speech
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from digit_data import SAMPLING_RATE, read_digit_clips
from speaker_mixtures import frame_labels, make_conversation
from transformers_fastconformer import (
    FastConformerDiarizationConfig,
    FastConformerFeatureExtractor,
    FastConformerForDiarization,
)

NUM_MELS = 80
NUM_SPEAKERS = 4  # of a conversation, at most
FACTOR = 8  # mel frames of an encoder frame
FRAME_SECONDS = 0.08
CONVERSATION_SECONDS = 24.0
SPEAKER_SHARES = (0.1, 0.4, 0.35, 0.15)  # of conversations of one, two... speakers
CONFIG = FastConformerDiarizationConfig(
    num_mel_bins=NUM_MELS,
    hidden_size=72,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=144,
    subsampling_conv_channels=32,
    conv_kernel_size=9,
    dropout=0.0,
    dropout_pre_encoder=0.0,
    activation_dropout=0.0,
    attention_dropout=0.0,
    num_speakers=NUM_SPEAKERS,
    transformer_hidden_size=64,
    num_transformer_encoder_layers=2,
    num_transformer_encoder_attention_heads=4,
    transformer_encoder_intermediate_size=128,
    transformer_encoder_attention_dropout=0.0,
    transformer_encoder_residual_dropout=0.0,
    transformer_encoder_feed_forward_dropout=0.0,
    speaker_dropout=0.0,
    is_streaming=True,
    chunk_frames=100,
    left_context_frames=1,
    right_context_frames=1,
    queue_frames=0,
    update_frames=100,
    cache_frames=60,
)


def make_examples(
    speech_dir: Path, extractor: FastConformerFeatureExtractor, number: int, seed: int, split: str
) -> tuple[Tensor, Tensor]:
    """Features (conversations, mel frames, mels) in 16 bits and labels (conversations, frames, all speakers)."""
    generator = np.random.default_rng(seed)
    clips = read_digit_clips(speech_dir, split)
    speakers = sorted({clip.speaker for clip in clips})
    by_speaker = {name: [clip for clip in clips if clip.speaker == name] for name in speakers}
    features, labels = [], []
    for _ in range(number):
        count = int(generator.choice(len(SPEAKER_SHARES), p=SPEAKER_SHARES)) + 1
        talk = make_conversation(by_speaker, generator, count, CONVERSATION_SECONDS)
        mels = extractor(talk.waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")["input_features"][0]
        num_frames = int(CONVERSATION_SECONDS / FRAME_SECONDS)
        features.append(mels[: num_frames * FACTOR].half())
        labels.append(torch.from_numpy(frame_labels(talk.turns, speakers, num_frames, FRAME_SECONDS)))
    return torch.stack(features), torch.stack(labels)


def cut_batch(
    features: Tensor, labels: Tensor, generator: np.random.Generator, size: int, frames: int, max_speakers: int
) -> tuple[Tensor, Tensor]:
    """Pieces of conversations with at most so many speakers, louder or quieter."""
    rows, wanted = [], []
    while len(rows) < size:
        row = int(generator.integers(len(features)))
        first = int(generator.integers(labels.shape[1] - frames + 1))
        piece = labels[row, first : first + frames]
        if int(piece.any(dim=0).sum()) > max_speakers:
            continue
        rows.append(
            features[row, first * FACTOR : (first + frames) * FACTOR].float() + float(generator.normal(0, 0.7))
        )
        wanted.append(piece)
    return torch.stack(rows), torch.stack(wanted).float()


def sort_by_arrival(labels: Tensor) -> Tensor:
    """The first speakers of each row in the order in which they are first heard, (rows, frames, NUM_SPEAKERS)."""
    frames = labels.shape[1]
    is_heard = labels.amax(dim=1) > 0
    first = torch.where(is_heard, labels.argmax(dim=1), frames)
    order = first.argsort(dim=1, stable=True)[:, :NUM_SPEAKERS]
    return labels.gather(2, order[:, None].expand(-1, frames, -1))


def sortformer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of the losses by the order of arrival and by the order that fits best."""
    arrival = functional.binary_cross_entropy_with_logits(logits, labels)
    # (rows, found, true): the loss of each speaker found for each that is true.
    pairs = functional.softplus(logits).mean(1)[:, :, None] - torch.einsum("nfs,nft->nst", logits, labels) / len(
        logits[0]
    )
    orders = torch.tensor(list(permutations(range(NUM_SPEAKERS))), dtype=torch.int64, device="cpu")
    places = torch.arange(NUM_SPEAKERS, dtype=torch.int64, device="cpu")
    best = pairs[:, places, orders].mean(dim=2).amin(dim=1).mean()
    return (arrival + best) / 2


def measure(model: FastConformerForDiarization, features: Tensor, labels: Tensor, frames: int) -> float:
    """Wrong speaker frames for each frame of a speaker, in the order of arrival."""
    wrong = spoken = 0.0
    model.eval()
    with torch.no_grad():
        for row, truth in zip(features.split(8), labels.split(8), strict=True):
            found = model(row[:, : frames * FACTOR].float()).logits > 0
            wanted = sort_by_arrival(truth[:, :frames].float()) > 0
            missed, extra = (wanted & ~found).sum(-1), (found & ~wanted).sum(-1)
            wrong += float(torch.maximum(missed, extra).sum())
            spoken += float(wanted.sum())
    model.train()
    return wrong / spoken


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    extractor = FastConformerFeatureExtractor(feature_size=NUM_MELS, normalize=None)
    data_path = arguments.output.with_name(arguments.output.name + ".data")
    if data_path.is_file():
        data = torch.load(data_path, weights_only=True)
    else:
        started = time.monotonic()
        data = {
            "train": make_examples(arguments.speech_dir, extractor, arguments.conversations, arguments.seed, "train"),
            "held_out": make_examples(arguments.speech_dir, extractor, 48, arguments.seed + 1, "test"),
        }
        torch.save(data, data_path)
        print(f"conversations made in {time.monotonic() - started:.0f} s", flush=True)
    (features, labels), held_out = data["train"], data["held_out"]
    model: Any = FastConformerForDiarization(CONFIG).train()
    if arguments.resume:
        model.load_state_dict(FastConformerForDiarization.from_pretrained(arguments.output).state_dict())
    names = nn.Linear(CONFIG.hidden_size, labels.shape[2])
    parameters = [*model.parameters(), *names.parameters()]
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters", flush=True)
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, betas=(0.9, 0.98), weight_decay=1e-3)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    averaged: Any = average.module
    generator = np.random.default_rng(arguments.seed + 2)
    # In seconds of the processor, so that a busy machine trains as long, and of the clock, so that it ends.
    started, last_saved, best, step = time.process_time(), time.monotonic(), math.inf, 0
    running: list[tuple[float, float]] = []
    began = time.monotonic()

    def count_progress() -> float:
        seconds = max(
            (time.process_time() - started) / arguments.minutes, (time.monotonic() - began) / arguments.clock_minutes
        )
        return seconds / 60

    def save() -> float:
        """Keep the averaged weights where they are the best so far."""
        error = measure(averaged, *held_out, 190)
        if error < best:
            averaged.save_pretrained(arguments.output)
            extractor.save_pretrained(arguments.output)
        print(f"  held out: {error:.3f} of speech is wrong, {best:.3f} before", flush=True)
        return min(error, best)

    while (progress := count_progress()) < 1.0:
        rate = arguments.learning_rate * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = rate + 1e-6
        # A curriculum: the order of two speakers is learned first, in short pieces.
        is_early = progress < 0.45
        frames = int(generator.integers(40, 80) if is_early else generator.integers(50, 150))
        max_speakers = 2 if is_early else NUM_SPEAKERS
        rows, wanted = cut_batch(features, labels, generator, max(4, 900 // frames), frames, max_speakers)
        encoded = model.encoder(rows).last_hidden_state
        logits = model.speaker_head(model.transformer_encoder(model.encoder_proj(encoded), None))
        loss = sortformer_loss(logits, sort_by_arrival(wanted))
        naming = functional.binary_cross_entropy_with_logits(names(encoded), wanted)
        optimizer.zero_grad()
        (loss + 0.3 * naming).backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if bool(torch.isfinite(norm)):
            optimizer.step()
            average.update_parameters(model)
        running.append((float(loss.detach()), float(naming.detach())))
        step += 1
        if step % 50 == 0:
            means = np.mean(running, axis=0)
            minutes = progress * arguments.minutes
            print(f"step {step} {minutes:.1f} min loss {means[0]:.3f} names {means[1]:.3f} lr {rate:.1e}", flush=True)
            running.clear()
        if time.monotonic() - last_saved > 60 * arguments.save_minutes:
            best, last_saved = save(), time.monotonic()
    save()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a folder for the model")
    parser.add_argument("--speech_dir", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="begin with the weights of --output")
    parser.add_argument("--minutes", type=float, default=12.0, help="of one core")
    parser.add_argument("--clock_minutes", type=float, default=60.0, help="at most, of the clock")
    parser.add_argument("--save_minutes", type=float, default=2.0, help="of the clock, between two measurements")
    parser.add_argument("--conversations", type=int, default=400)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    train(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
