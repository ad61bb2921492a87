"""Errors of the network are told from all others, through the errors that they led to."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from transformers_fastconformer.checkpoints.network import causes_of, is_unreachable


def caused_by(cause: BaseException) -> OSError:
    error = OSError("cannot be loaded")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("cause", [TimeoutError(), socket.gaierror(-2, "unknown"), LocalEntryNotFoundError("absent")])
def test_what_comes_from_the_network(cause: Exception) -> None:
    assert is_unreachable(cause)
    assert is_unreachable(caused_by(caused_by(cause)))


@pytest.mark.parametrize(
    "cause", [FileNotFoundError("absent"), BrokenPipeError(), ValueError("x"), OSError(28, "full")]
)
def test_what_does_not(cause: Exception) -> None:
    assert not is_unreachable(caused_by(cause))


def test_causes_are_followed_to_the_first() -> None:
    first = ValueError("first")
    error = caused_by(first)
    assert list(causes_of(error)) == [error, first]
