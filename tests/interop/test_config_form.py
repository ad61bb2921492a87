"""The tables of configurations against the classes of the installed Transformers."""

from __future__ import annotations

from typing import Any

import pytest
from their_models import class_of_transformers

from transformers_fastconformer.checkpoints.key_table import Map, Read
from transformers_fastconformer.interop.config_form import config_from_transformers, config_to_transformers
from transformers_fastconformer.interop.config_tables import ENCODER, HEADS, MULTITASK_DECODER, encoder_table
from transformers_fastconformer.interop.families import FAMILIES


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_the_tables_know_every_key_of_their_configurations(family: Any) -> None:
    config_class = class_of_transformers(family.config_class_name)
    values = config_class().to_dict()
    section = values if family.is_encoder_alone else values["encoder_config"]
    tables = [(encoder_table(family.model_type), section)]
    if not family.is_encoder_alone:
        tables.append((HEADS[family.model_type], values))
    for table, stored in tables:
        for key, row in table.items():
            if key in stored and isinstance(row, Map | Read) and key not in ("encoder_config", "decoder_config"):
                found = stored[key]
                assert (list(found) if isinstance(row.default, list) else found) == row.default, key
    if family.is_multitask:
        tables.append((MULTITASK_DECODER, values["decoder_config"]))
    read_family, config = config_from_transformers(values)
    assert read_family is family
    again, written = config_to_transformers(config)
    assert again is family
    stored = written if family.is_encoder_alone else written["encoder_config"]
    assert all(stored[key] == section[key] for key, row in ENCODER.items() if isinstance(row, Map))
