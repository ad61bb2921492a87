"""The list of model types."""

from __future__ import annotations

from transformers_fastconformer.interop.families import FAMILIES, FAMILY_OF_TYPE


def test_every_family_has_its_model_type_once() -> None:
    assert len(FAMILY_OF_TYPE) == len(FAMILIES)
