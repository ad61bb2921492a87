"""Languages that a model is told: of streaming models, which are mapped, and of offline ones, which are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...checkpoints.key_table import Refuse, Row
from ...validation import is_integer
from .common import NemoReader

PROMPTED_CLASSES = ("EncDecRNNTBPEModelWithPrompt", "EncDecHybridRNNTCTCBPEModelWithPrompt")
DEFAULT_NUM_PROMPTS = 128

# Offline language prompts of NeMo's main branch, which NeMo 3.0 does not know: a kernel in float32 (Linear, ReLU,
# Linear over the encoder's frames and a one-hot of the language).
LANGUAGE_ID_PROMPTS = "the kernel of offline language prompts, of NeMo's main branch"
LANGUAGE_ID_KERNEL = "lang_id_prompt_kernel"
LANGUAGE_ID_SWITCH = "initialize_lang_id_prompt"
LANGUAGE_ID_KEYS: dict[str, Row] = {
    key: Refuse(f"an option of {LANGUAGE_ID_PROMPTS}; such checkpoints are not supported yet")
    for key in (LANGUAGE_ID_SWITCH, LANGUAGE_ID_KERNEL, "num_lang_id_prompts", "lang_id_prompt_dictionary")
}


def check_language_id_prompts(defaults: Any, reader: NemoReader) -> None:
    """Refuse `model_defaults` that switch offline language prompts on."""
    if not isinstance(defaults, Mapping):
        return
    found = {key: value for key, value in defaults.items() if key in LANGUAGE_ID_KEYS}
    if not defaults.get(LANGUAGE_ID_SWITCH, True):
        found = dict.fromkeys(found)  # the switch counts, and the options next to it do not
    reader.apply(found, LANGUAGE_ID_KEYS, "model_defaults")


def map_prompts(defaults: Any, nemo_class: str | None, reader: NemoReader) -> dict[str, Any]:
    """
    Arguments of language prompts. NeMo's `transcribe` takes the language `auto` unless it is told another, and the
    `model_defaults` hold nothing else that the weights do not tell.
    """
    defaults = defaults if isinstance(defaults, Mapping) else {}
    if nemo_class not in PROMPTED_CLASSES or not defaults.get("initialize_prompt_feature", False):
        return {}
    languages = defaults.get("prompt_dictionary")
    name = "model_defaults.prompt_dictionary"
    if not isinstance(languages, Mapping) or not languages:
        raise reader.refuse(name, languages, "the code and the number of each language")
    num_prompts = defaults.get("num_prompts", DEFAULT_NUM_PROMPTS)
    if not is_integer(num_prompts):
        raise reader.refuse("model_defaults.num_prompts", num_prompts, "an integer")
    for code, number in languages.items():
        if not isinstance(code, str) or not is_integer(number):
            raise reader.refuse(f"{name}.{code}", number, "a code that is a text, and its number")
        if not 0 <= number < num_prompts:
            raise reader.refuse(f"{name}.{code}", number, f"0 to {num_prompts - 1}, as num_prompts={num_prompts}")
    return {
        "num_prompts": num_prompts,
        "prompt_languages": dict(languages),
        "default_language": "auto" if "auto" in languages else None,
    }
