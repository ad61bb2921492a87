"""Words and checks of all sections."""

from __future__ import annotations

import pytest

from transformers_fastconformer.nemo.config_map import map_config
from transformers_fastconformer.nemo.sections.common import NemoReader, class_of
from transformers_fastconformer.validation import MAX_CHARACTERS_SHOWN


def test_sections_in_the_form_of_nemo_before_1_0(nemo_config):
    config = nemo_config("ctc")
    new = map_config(config)
    for name in ("preprocessor", "encoder", "decoder"):
        parameters = config[name]
        config[name] = {"cls": parameters.pop("_target_"), "params": parameters}
    assert map_config(config).config == new.config


@pytest.mark.parametrize(("target", "expected"), [("a.b.Model", "Model"), ("Model", "Model"), (None, "None")])
def test_classes_are_named_without_their_modules(target, expected):
    assert class_of(target) == expected


def test_long_values_are_cut_in_messages():
    value = "x" * 1000
    message = str(NemoReader("some.nemo").refuse("encoder.key", value, "less"))
    assert message.startswith("encoder.key='xxx")
    assert message.endswith("... is not supported; expected less (in some.nemo).")
    assert len(message) < MAX_CHARACTERS_SHOWN + 100
