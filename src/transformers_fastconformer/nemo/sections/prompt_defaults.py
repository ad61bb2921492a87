"""Canary's `prompt_defaults`: values of the slots of a prompt, in NeMo's words and in ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...decoding.prompts import FLAGS, FORMATS
from ...validation import require, shown
from .common import NemoReader

SECTION = "prompt_defaults"
USER_ROLE = "user"  # the turn that a prompt of transcription or translation is
# NeMo's slots to our options; the others have the same name.
SLOT_NAMES = {"decodercontext": "context", "timestamp": "timestamps", "taskname": "task"}
TRUE_WORDS = frozenset({"yes", "Yes", "true", "True", "1"})
FALSE_WORDS = frozenset({"no", "No", "false", "False", "0"})
TASK_WORDS = {
    **dict.fromkeys(("asr", "transcribe"), "transcribe"),
    **dict.fromkeys(("ast", "translate", "s2t_translation"), "translate"),
}


def read_prompt_defaults(prompt_format: str, turns: Any, reader: NemoReader | None = None) -> dict[str, Any]:
    """
    Defaults of the slots, as `decoding.prompts.fill_prompt` reads them.

    Args:
        prompt_format: A key of `FORMATS`.
        turns: The section: None, or a list of turns, of which those of the role `user` count.
        reader: Of the archive, which notes the others as left out.

    Raises:
        ValueError: for a section of another form, for slots that the format does not have and for values that they
            do not take.
    """
    is_list = isinstance(turns, Sequence) and not isinstance(turns, str)
    require(turns is None or is_list, SECTION, turns, "a list of turns with role and slots, or null")
    defaults: dict[str, Any] = {}
    for place, turn in enumerate(turns or ()):
        is_turn = isinstance(turn, Mapping) and isinstance(turn.get("slots") or {}, Mapping)
        require(is_turn, f"{SECTION}.{place}", turn, "role and slots")
        if turn.get("role") != USER_ROLE:
            if reader is not None:
                reader.dropped[f"{SECTION}.{place}.{turn.get('role')}"] = "another turn than that of the user"
            continue
        for slot, value in (turn.get("slots") or {}).items():
            name = SLOT_NAMES.get(slot, slot)
            if value is not None:
                defaults[name] = _read_value(prompt_format, name, f"{SECTION}.{place}.slots.{slot}", value)
    if defaults.get("context") == "":
        del defaults["context"]
    return defaults


def _read_value(prompt_format: str, name: str, key: str, value: Any) -> Any:
    slots = [slot for slot in FORMATS[prompt_format] if not slot.startswith("<|")]
    if name not in slots:
        raise ValueError(f"{key}={shown(value)} is not supported; expected slots of {prompt_format!r}: {slots}.")
    require(isinstance(value, str | bool | int), key, value, "a text")
    text = str(value).removeprefix("<|").removesuffix("|>")
    if name == "context":
        # Text would need the tokenizer, and no published checkpoint has some.
        require(text == "", key, value, "an empty text")
    if name in FLAGS:
        on, off = (token.removeprefix("<|").removesuffix("|>") for token in FLAGS[name])
        is_known = text in TRUE_WORDS | FALSE_WORDS | {on, off}
        require(is_known, key, value, f"yes, no, {on} or {off}")
        return text in TRUE_WORDS | {on}
    if name == "task":
        require(text in TASK_WORDS, key, value, f"one of {sorted(TASK_WORDS)}")
        return TASK_WORDS[text]
    return text.removeprefix("emo:") if name == "emotion" else text
