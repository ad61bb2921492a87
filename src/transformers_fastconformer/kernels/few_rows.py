"""
Products of few rows with a weight in float32, as the steps of live streams have them: bound by reading the weight.

MKL reads the weight nearly as fast as memory gives it when it is the left factor and the rows are a power of two of
columns; with the weight as the right factor, and in oneDNN, from two rows on it is read at half that rate (measured on
a Zen machine with AVX2: 8 to 12 GB/s against 20, of 27).

The last bits of these products depend on where the weight lies in memory and on how many rows there are. So they are
for steps of live streams only (`preferring_few_rows`): all else computes the same bits after saving and loading.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

# Numbers of columns of which MKL has fast forms.
COLUMNS = (2, 4, 8, 16)


_is_preferred: ContextVar[bool] = ContextVar("is_preferred", default=False)


@contextmanager
def preferring_few_rows() -> Iterator[None]:
    """Let layers of this thread take the forms for few rows while a block runs."""
    token = _is_preferred.set(True)
    try:
        yield
    finally:
        _is_preferred.reset(token)


@functools.cache
def _has_mkl() -> bool:
    return torch.backends.mkl.is_available()


def has_few_rows(weight: torch.Tensor, states: torch.Tensor) -> bool:
    """True if `multiply_few_rows` is preferred, and the fast form for a weight (out, in) and states (..., in)."""
    return prefers_few_rows(states.dtype, states.numel() // weight.shape[1])


def prefers_few_rows(dtype: torch.dtype, num_rows: int) -> bool:
    """The same for a number of rows."""
    # For one row oneDNN is as fast.
    return 1 < num_rows <= COLUMNS[-1] and dtype == torch.float32 and _is_preferred.get() and _has_mkl()


def multiply_few_rows(weight: torch.Tensor, states: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """
    A linear layer of few rows.

    Args:
        weight: (out, in).
        states: (..., in), 1 to 16 rows.
        bias: (out,), or None.

    Returns:
        (..., out), contiguous
    """
    rows = states.reshape(-1, states.shape[-1])
    num_rows = rows.shape[0]
    num_columns = next(columns for columns in COLUMNS if columns >= num_rows)
    if num_columns > num_rows:
        rows = torch.cat([rows, rows[: num_columns - num_rows]])  # a fifth of the time of padding with zeros
    output = torch.mm(weight, rows.t())[:, :num_rows].t().contiguous()  # (rows, out)
    if bias is not None:
        output.add_(bias)
    return output.reshape(*states.shape[:-1], weight.shape[0])


def has_few_frames(states: torch.Tensor, num_frames: int) -> bool:
    """True if `convolve_few_frames` is preferred, and the fast form for this number of frames of each clip."""
    return _is_preferred.get() and states.dtype == torch.float32 and 0 < states.shape[0] * num_frames <= COLUMNS[-1]


def convolve_few_frames(weight: torch.Tensor, bias: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
    """
    A depthwise convolution of few frames: convolutions of oneDNN put their weights into another order each time.

    Args:
        weight: (channels, kernel).
        bias: (channels,), or None.
        states: (batch, frames + kernel - 1, channels).

    Returns:
        (batch, frames, channels)
    """
    states = states.contiguous()
    batch_size, num_states, num_channels = states.shape
    kernel = weight.shape[1]
    shape = (batch_size, num_states - kernel + 1, kernel, num_channels)
    windows = states.as_strided(shape, (states.stride(0), num_channels, num_channels, 1))
    output = (windows * weight.t().contiguous()).sum(dim=2)
    return output if bias is None else output.add_(bias)
