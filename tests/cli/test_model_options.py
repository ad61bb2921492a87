"""Options of the model: the choices are those that the loader has."""

from __future__ import annotations

from transformers_fastconformer.cli.model_options import Head, Precision
from transformers_fastconformer.inference.loading import DTYPES, HEADS


def test_the_choices_are_those_of_the_loader() -> None:
    assert tuple(head.value for head in Head) == HEADS
    assert tuple(precision.value for precision in Precision) == DTYPES
