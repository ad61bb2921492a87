"""Tensors of a Canary that have no place of their own: they must be what this package computes in their stead."""

from __future__ import annotations

import torch

from ..configuration_multitask import FastConformerMultitaskConfig
from ..modeling.multitask_decoder import scaled_sinusoids
from .weight_map import POSITION_TABLE, TIED_HEAD, TOKEN_EMBEDDING
from .weights import NemoWeights

# Rounding of sines and cosines on another machine.
POSITION_TOLERANCE = 1e-6


def check_multitask_weights(weights: NemoWeights, config: FastConformerMultitaskConfig, source: str) -> None:
    """
    Compare the head with the embedding that NeMo ties it to, and the table of positions with the sinusoids.

    NeMo 3.0 computes with the table of the archive, so that one that was rounded to 16 bits is noted in the
    configuration.

    Args:
        weights: The weights of the archive.
        config: Our configuration, changed in place.
        source: The archive, for messages.

    Raises:
        ValueError: for a tensor that is something else.
    """
    headers = weights.headers
    is_tied = TIED_HEAD not in headers or torch.equal(
        weights.read_tensor(TOKEN_EMBEDDING), weights.read_tensor(TIED_HEAD)
    )
    if not is_tied:
        raise ValueError(f"{source}: {TIED_HEAD} differs from {TOKEN_EMBEDDING}; expected them to be tied.")
    if POSITION_TABLE not in headers:
        return
    stored = weights.read_tensor(POSITION_TABLE)
    table = scaled_sinusoids(config.decoder_max_positions, config.decoder_hidden_size)
    if stored.shape != table.shape:
        raise ValueError(f"{source}: {POSITION_TABLE} is {tuple(stored.shape)}; expected {tuple(table.shape)}.")
    if float((stored.float() - table).abs().max()) <= POSITION_TOLERANCE:
        return
    if stored.dtype == torch.float32 or not torch.equal(stored, table.to(stored.dtype)):
        raise ValueError(f"{source}: {POSITION_TABLE} does not hold sinusoids; expected those of NeMo 3.0.")
    config.decoder_positions_dtype = str(stored.dtype).removeprefix("torch.")
