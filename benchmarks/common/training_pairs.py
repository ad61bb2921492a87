"""
The same training in NeMo and here, step by step: two models of one `.nemo` archive, one batch for both.

NeMo's part is `training_step` of its class. The losses of transducers that it takes for a GPU do not run on a CPU, or
take minutes there: they are its plain PyTorch forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from transformers_fastconformer import (
    AutoModelForTDT,
    FastConformerCTCConfig,
    FastConformerForCTC,
    FastConformerForRNNT,
    FastConformerProcessor,
    FastConformerRNNTConfig,
    export_nemo,
)
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.nemo.reference import pad_waveforms, require_nemo

LEARNING_RATE = 3e-4
WEIGHT_DECAY = 1e-3
# NeMo's names in its log, and ours in the output; total first.
LOSSES = {"train_loss": "loss", "train_rnnt_loss": "transducer_loss", "train_ctc_loss": "ctc_loss"}
SMALL_ENCODER: dict[str, Any] = {
    "num_mel_bins": 80,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "subsampling_conv_channels": 32,
    "initializer_range": 0.1,  # so that the encoder counts from the first step
    "scale_input": False,
}
QUIET: dict[str, Any] = dict.fromkeys(
    ("dropout", "activation_dropout", "attention_dropout", "dropout_positions", "dropout_pre_encoder"), 0.0
)
QUIET_TRANSDUCER: dict[str, Any] = {"decoder_dropout": 0.0, "joint_dropout": 0.0}


class Batch(NamedTuple):
    """Clips and their tokens."""

    waveforms: list[np.ndarray]
    tokens: list[list[int]]


class StepLosses(NamedTuple):
    """A loss of one step, of both."""

    loss: str  # "loss", "transducer_loss" or "ctc_loss"
    nemo: float
    ours: float

    @property
    def relative_difference(self) -> float:
        return abs(self.ours - self.nemo) / abs(self.nemo)


class TrainingPair:
    """
    Two models in training, with the same weights, batches and optimiser, without anything random.

    Args:
        archive: The `.nemo` that both begin with.
        our_model: The model that this package makes of it.
        processor: Its processor.
    """

    def __init__(self, archive: Path, our_model: Any, processor: FastConformerProcessor) -> None:
        self.processor = processor
        self.ours = our_model.train()
        self.nemo = _restore(archive).train()
        arguments: dict[str, Any] = {"lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY}
        self.our_optimizer = torch.optim.AdamW(self.ours.parameters(), **arguments)
        self.nemo_optimizer = torch.optim.AdamW(self.nemo.parameters(), **arguments)
        self.nemo._optimizer = self.nemo_optimizer
        self.nemo._trainer = SimpleNamespace(global_step=0, log_every_n_steps=10**9)

    def step(self, batch: Batch) -> list[StepLosses]:
        """Train both with a batch; the losses before the step."""
        nemo, ours = self._step_nemo(batch), self._step_ours(batch)
        assert set(nemo) == set(ours)
        return [StepLosses(loss, nemo[loss], ours[loss]) for loss in nemo]

    def _step_ours(self, batch: Batch) -> dict[str, float]:
        features = self.processor(batch.waveforms, sampling_rate=16000, return_tensors="pt")
        tokens, lengths = _pad_tokens(batch.tokens)
        labels = tokens.masked_fill(torch.arange(tokens.shape[1]) >= lengths[:, None], -100)
        output = self.ours(**features, labels=labels)
        self.our_optimizer.zero_grad()
        output.loss.backward()
        self.our_optimizer.step()
        names = ["loss"] if getattr(output, "transducer_loss", None) is None or output.ctc_loss is None else None
        return {name: float(output[name]) for name in names or LOSSES.values()}

    def _step_nemo(self, batch: Batch) -> dict[str, float]:
        logged: dict[str, Any] = {}
        self.nemo.log_dict = logged.update
        with _cuda_is_the_cpu():
            result = self.nemo.training_step((*pad_waveforms(batch.waveforms), *_pad_tokens(batch.tokens)), 0)
            self.nemo_optimizer.zero_grad()
            result["loss"].backward()
        self.nemo_optimizer.step()
        logged["train_loss"] = result["loss"]
        return {ours: float(logged[theirs]) for theirs, ours in LOSSES.items() if theirs in logged}


def _restore(archive: Path) -> Any:
    """NeMo's model of an archive, without dropout, dither and masks, and with losses that run on a CPU."""
    require_nemo()
    from nemo.collections.asr.losses.rnnt_pytorch import RNNTLossPytorch, TDTLossPytorch
    from nemo.collections.asr.models import ASRModel
    from nemo.utils import logging

    logging.setLevel(logging.ERROR)
    model = ASRModel.restore_from(str(archive), map_location="cpu")
    model.preprocessor.featurizer.dither = 0.0
    model.spec_augmentation = None
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.LSTM):
            module.dropout = 0.0
    if hasattr(model, "joint"):
        loss = model.loss
        options = model.cfg.loss.get("tdt_kwargs") if model.cfg.loss.loss_name == "tdt" else None
        if options is None:
            loss._loss = RNNTLossPytorch(blank=loss._blank, reduction="none")
        else:
            durations = list(options.durations)
            loss._loss = TDTLossPytorch(loss._blank, durations, reduction="none", sigma=options.sigma)
        loss._force_float32 = True
    return model


@contextmanager
def _cuda_is_the_cpu() -> Iterator[None]:
    """NeMo's plain losses ask for a GPU by `.cuda()`; here they get the tensor as it is."""
    original = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor
    try:
        yield
    finally:
        torch.Tensor.cuda = original


def _pad_tokens(tokens: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (batch, tokens) filled up with 0, and how many each clip has."""
    lengths = torch.tensor([len(row) for row in tokens])
    padded = torch.zeros(len(tokens), int(lengths.max()), dtype=torch.int64)
    for place, row in enumerate(tokens):
        padded[place, : len(row)] = torch.tensor(row)
    return padded, lengths


def build_pair(case: str, folder: Path, seed: int = 0) -> TrainingPair:
    """
    Make a pair of models.

    Args:
        case: `"tdt-ctc"`, the demonstration checkpoint with both of its losses; `"ctc"` or `"rnnt"`, small models with
            random weights and its tokenizer.
        folder: Where archives are written.
        seed: Of the random weights.
    """
    processor = FastConformerProcessor.from_pretrained(CHECKPOINT_PATH)
    if case == "tdt-ctc":
        # The plain RNN-T loss, which omega draws now and then, NeMo's form for a CPU does not have.
        quiet = {**QUIET, **QUIET_TRANSDUCER, "omega": 0.0, "apply_spec_augment": False}
        return TrainingPair(CHECKPOINT_PATH, AutoModelForTDT.from_pretrained(CHECKPOINT_PATH, **quiet), processor)
    torch.manual_seed(seed)
    vocab_size = processor.tokenizer.blank_token_id + 1
    if case == "ctc":
        model: Any = FastConformerForCTC(FastConformerCTCConfig(**SMALL_ENCODER, **QUIET, vocab_size=vocab_size))
    else:
        widths = {"decoder_hidden_size": 48, "joint_hidden_size": 56}
        options = {**SMALL_ENCODER, **QUIET, **QUIET_TRANSDUCER, **widths, "vocab_size": vocab_size}
        model = FastConformerForRNNT(FastConformerRNNTConfig(**options))
    archive = folder / f"{case}.nemo"
    export_nemo(model, archive, processor=processor)
    return TrainingPair(archive, model, processor)
