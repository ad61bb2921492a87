"""Defaults of prompts in NeMo's words: every spelling, and refusals that name the key."""

from __future__ import annotations

from typing import Any

import pytest

from transformers_fastconformer.nemo.sections.prompt_defaults import read_prompt_defaults

PUBLISHED = {
    "decodercontext": "",
    "emotion": "<|emo:undefined|>",
    "source_lang": "<|en|>",
    "target_lang": "<|de|>",
    "pnc": "<|pnc|>",
    "itn": "<|noitn|>",
    "timestamp": "<|notimestamp|>",
    "diarize": "<|nodiarize|>",
}
READ = {"emotion": "undefined", "source_lang": "en", "target_lang": "de"}


def turns(**slots: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "slots": slots}, {"role": "user_partial", "slots": {"decodercontext": "x"}}]


def test_defaults_of_published_checkpoints() -> None:
    expected = {**READ, "pnc": True, "itn": False, "timestamps": False, "diarize": False}
    assert read_prompt_defaults("canary2", turns(**PUBLISHED)) == expected
    slots = {"source_lang": "en", "task": "asr", "target_lang": "en", "pnc": "yes"}
    expected = {"source_lang": "en", "task": "transcribe", "target_lang": "en", "pnc": True}
    assert read_prompt_defaults("canary", turns(**slots)) == expected


@pytest.mark.parametrize(("value", "expected"), [("Yes", True), (1, True), ("<|nopnc|>", False), ("0", False)])
def test_every_spelling_of_a_flag(value: Any, expected: bool) -> None:
    assert read_prompt_defaults("canary", turns(pnc=value)) == {"pnc": expected}


def test_nothing_is_no_default() -> None:
    for section in (None, [], turns(), turns(pnc=None), [{"role": "user"}]):
        assert read_prompt_defaults("canary2", section) == {}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("x", "prompt_defaults='x'"),
        ([5], r"prompt_defaults\.0=5"),
        (turns(itn="yes"), r"prompt_defaults\.0\.slots\.itn='yes'.*expected slots of 'canary'"),
        (turns(pnc="perhaps"), r"slots\.pnc='perhaps'.*yes, no, pnc or nopnc"),
        (turns(task="sing"), r"slots\.task='sing'"),
        (turns(source_lang=["en"]), r"slots\.source_lang"),
    ],
)
def test_refusals_name_the_key(section: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_prompt_defaults("canary", section)
    with pytest.raises(ValueError, match="decodercontext='x'"):
        read_prompt_defaults("canary2", turns(decodercontext="x"))
