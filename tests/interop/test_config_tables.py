"""Rows of the tables of configurations."""

from __future__ import annotations

from transformers_fastconformer.checkpoints.key_table import Map
from transformers_fastconformer.interop.config_tables import ENCODER, HEADS, MULTITASK_DECODER


def test_no_two_keys_are_one_option() -> None:
    for table in (ENCODER, MULTITASK_DECODER, *HEADS.values()):
        targets = [row.targets for row in table.values() if isinstance(row, Map)]
        assert len(set(targets)) == len(targets)
