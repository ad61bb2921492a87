"""Language prompts: mapped, or refused by name."""

from __future__ import annotations

import re

import pytest

from transformers_fastconformer.nemo.config_map import map_config

PROMPT_DEFAULTS = {"initialize_prompt_feature": True, "prompt_dictionary": {"en-US": 0, "auto": 101}}


def test_language_prompts(nemo_config):
    config = nemo_config("rnnt") | {"target": "a.EncDecRNNTBPEModelWithPrompt", "model_defaults": PROMPT_DEFAULTS}
    mapped = map_config(config).config
    assert (mapped.num_prompts, mapped.default_language) == (128, "auto")
    assert mapped.prompt_languages == {"en-US": 0, "auto": 101}
    config["model_defaults"] = {**PROMPT_DEFAULTS, "num_prompts": 3, "prompt_dictionary": {"de": 2}}
    mapped = map_config(config).config
    assert (mapped.num_prompts, mapped.default_language, mapped.prompt_languages) == (3, None, {"de": 2})
    config["model_defaults"] = {**PROMPT_DEFAULTS, "initialize_prompt_feature": False}
    assert map_config(config).config.num_prompts == 0
    # NeMo's other classes do not read them.
    assert map_config(nemo_config("rnnt") | {"model_defaults": PROMPT_DEFAULTS}).config.num_prompts == 0


@pytest.mark.parametrize(("languages", "name"), [({}, ""), (None, ""), ({False: 1}, ".False"), ({"de": "1"}, ".de")])
def test_prompts_without_languages_are_refused(nemo_config, languages, name):
    defaults = {**PROMPT_DEFAULTS, "prompt_dictionary": languages}
    config = nemo_config("rnnt") | {"target": "a.EncDecRNNTBPEModelWithPrompt", "model_defaults": defaults}
    with pytest.raises(ValueError, match=re.escape(f"model_defaults.prompt_dictionary{name}=")):
        map_config(config)


LANGUAGE_ID_VALUES = {
    "lang_id_prompt_kernel": {"hidden": 32},
    "num_lang_id_prompts": 128,
    "lang_id_prompt_dictionary": {"en": 0},
    "initialize_lang_id_prompt": True,
}


@pytest.mark.parametrize("key", LANGUAGE_ID_VALUES)
@pytest.mark.parametrize("section", ["encoder", "model_defaults", None])
@pytest.mark.parametrize("kind", ["ctc", "tdt"])
def test_offline_language_prompts_are_refused_by_name(nemo_config, key, section, kind):
    config = nemo_config(kind)
    place = config if section is None else config.setdefault(section, {})
    name = key if section is None else f"{section}.{key}"
    place[key] = LANGUAGE_ID_VALUES[key]
    with pytest.raises(ValueError, match="offline language prompts") as raised:
        map_config(config, "some.nemo")
    message = str(raised.value)
    assert message.startswith(f"{name}={LANGUAGE_ID_VALUES[key]!r} is not supported; expected null or false")
    assert "not supported yet" in message
    assert message.endswith("(in some.nemo).")
    for off in (None, False, 0, {}, ""):
        place[key] = off
        assert map_config(config).dropped.get(name) == "switched off"


def test_offline_language_prompts_that_are_switched_off_may_have_options(nemo_config):
    config = nemo_config("tdt")
    config["model_defaults"] = {**LANGUAGE_ID_VALUES, "initialize_lang_id_prompt": False}
    assert map_config(config).family == "tdt"


def test_language_prompts_after_the_encoder_are_left_out_with_the_heads(nemo_config):
    config = nemo_config("tdt") | {"model_defaults": LANGUAGE_ID_VALUES, "lang_id_prompt_kernel": {"hidden": 32}}
    assert map_config(config, encoder_only=True).dropped["lang_id_prompt_kernel"] == "not of the encoder"
    config["encoder"]["num_lang_id_prompts"] = 128
    with pytest.raises(ValueError, match=r"encoder\.num_lang_id_prompts=128 is not supported"):
        map_config(config, encoder_only=True)
