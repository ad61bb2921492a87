"""Prompts of multitask models: every slot, the defaults, and refusals that say what is accepted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from transformers_fastconformer.decoding.options import DecodingOptions
from transformers_fastconformer.decoding.prompts import (
    FIRST_PIECE,
    PromptFacts,
    PromptOptions,
    count_prompt_tokens,
    fill_prompt,
    languages_of,
    prompt_ids,
    prompt_tokens,
)

CANARY = ["<|startoftranscript|>", "<|en|>", "<|de|>", "<|fr|>", "<|transcribe|>", "<|translate|>", "<|pnc|>"]
CANARY += ["<|nopnc|>", "<|endoftext|>", "<|nospeech|>"]
CANARY2 = [*CANARY, "<|startofcontext|>", "<|itn|>", "<|noitn|>", "<|timestamp|>", "<|notimestamp|>", "<|diarize|>"]
CANARY2 += ["<|nodiarize|>", "<|emo:undefined|>", "<|emo:happy|>", "<|spk0|>"]


def facts(prompt_format: str, without: tuple[str, ...] = (), **defaults: Any) -> PromptFacts:
    tokens = [token for token in (CANARY if prompt_format == "canary" else CANARY2) if token not in without]
    ids = {token: 10 * index for index, token in enumerate(tokens)}
    return SimpleNamespace(prompt_format=prompt_format, prompt_defaults=defaults, prompt_token_ids=ids)


def written(prompt_format: str, **options: Any) -> str:
    return "".join(prompt_tokens(facts(prompt_format), PromptOptions(**options)))


def test_the_defaults_are_english_with_punctuation() -> None:
    assert written("canary") == "<|startoftranscript|><|en|><|transcribe|><|en|><|pnc|>"
    assert written("canary2") == (
        "<|startofcontext|><|startoftranscript|><|emo:undefined|><|en|><|en|><|pnc|><|noitn|><|notimestamp|>"
        "<|nodiarize|>"
    )


def test_every_slot_is_filled() -> None:
    assert written("canary", source_lang="de", target_lang="fr", task="translate", pnc=False) == (
        "<|startoftranscript|><|de|><|translate|><|fr|><|nopnc|>"
    )
    options = {"source_lang": "de", "target_lang": "fr", "pnc": False, "itn": True, "timestamps": True}
    assert written("canary2", **options, diarize=True, emotion="happy", context=[3]) == (
        "<|startofcontext|><|startoftranscript|><|emo:happy|><|de|><|fr|><|nopnc|><|itn|><|timestamp|><|diarize|>"
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"source_lang": "de"}, ("de", "de", "transcribe")),
        ({"target_lang": "de"}, ("en", "de", "translate")),
        ({"target_lang": "de", "task": "transcribe"}, ("de", "de", "transcribe")),
        ({"source_lang": "de", "task": "translate"}, ("de", "en", "translate")),
        ({"source_lang": "de", "target_lang": "de"}, ("de", "de", "transcribe")),
        ({"task": "transcribe"}, ("en", "en", "transcribe")),
        ({}, ("en", "en", "transcribe")),
    ],
)
def test_languages_and_task_follow_from_each_other(given: dict[str, Any], expected: tuple[str, str, str]) -> None:
    for prompt_format in ("canary", "canary2"):
        values = fill_prompt(facts(prompt_format, target_lang="en"), PromptOptions(**given))
        assert (values["source_lang"], values["target_lang"], values["task"]) == expected


def test_defaults_of_the_checkpoint_come_before_ours() -> None:
    checkpoint = facts("canary2", source_lang="fr", target_lang="de", pnc=False, itn=True)
    tokens = prompt_tokens(checkpoint, PromptOptions(pnc=True))
    assert tokens[3:7] == ["<|fr|>", "<|de|>", "<|pnc|>", "<|itn|>"]
    assert prompt_tokens(checkpoint, PromptOptions(source_lang="en"))[3:5] == ["<|en|>", "<|en|>"]


def test_ids_hold_the_context_and_the_first_word_mark() -> None:
    checkpoint = facts("canary2")
    ids = prompt_ids(checkpoint, PromptOptions(context=[7, 8]))
    tokens = prompt_tokens(checkpoint, PromptOptions())
    expected = [checkpoint.prompt_token_ids[token] for token in tokens]
    assert ids == [expected[0], 7, 8, *expected[1:]]
    checkpoint.prompt_token_ids = {**checkpoint.prompt_token_ids, FIRST_PIECE: 5}
    assert prompt_ids(checkpoint, PromptOptions(context="")) == [5, *expected]
    with pytest.raises(ValueError, match="context='yes' is a text; a model takes the ids"):
        prompt_ids(checkpoint, PromptOptions(context="yes"))


@pytest.mark.parametrize("first", [{}, {FIRST_PIECE: 5}])
@pytest.mark.parametrize(
    ("prompt_format", "options"), [("canary", {}), ("canary2", {}), ("canary2", {"context": [7]})]
)
def test_prompts_are_found_before_a_text(prompt_format: str, options: dict[str, Any], first: dict[str, int]) -> None:
    checkpoint = facts(prompt_format)
    checkpoint.prompt_token_ids = {**checkpoint.prompt_token_ids, **first}
    ids = prompt_ids(checkpoint, PromptOptions(**options))
    assert count_prompt_tokens(checkpoint, [*ids, 3, 1, 3]) == len(ids)
    with pytest.raises(ValueError, match=r"expected a prompt with <\|startoftranscript"):
        count_prompt_tokens(checkpoint, [3, 1])


def test_languages_are_the_tokens_of_two_or_three_letters() -> None:
    assert languages_of([*CANARY2, "<|en-US|>", "<|haw|>", "<|12|>"]) == ["de", "en", "en-US", "fr", "haw"]


@pytest.mark.parametrize(
    ("prompt_format", "options", "message"),
    [
        ("canary", {"source_lang": "xx"}, r"source_lang='xx' is not supported.*\['de', 'en', 'fr'\]"),
        ("canary2", {"target_lang": "itn"}, r"target_lang='itn' is not supported.*\['de', 'en', 'fr'\]"),
        ("canary", {"timestamps": True}, "timestamps=True is not supported by prompts of the format 'canary'.*pnc"),
        ("canary", {"context": "abc"}, "context='abc' is not supported by prompts"),
        ("canary2", {"emotion": "sad"}, r"emotion='sad' is not supported.*\['happy', 'undefined'\]"),
        ("canary2", {"task": "transcribe", "source_lang": "de", "target_lang": "en"}, "task='transcribe'.*the same"),
        ("canary", {"task": "translate", "source_lang": "de", "target_lang": "de"}, "'translate'.*two different"),
    ],
)
def test_refusals_list_what_is_accepted(prompt_format: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompt_tokens(facts(prompt_format), PromptOptions(**options))


def test_a_slot_may_be_said_to_be_off_where_it_does_not_exist() -> None:
    assert written("canary", timestamps=False, itn=False, context="") == written("canary")


def test_tokens_that_the_checkpoint_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"task='translate' is not supported.*expected one of \['transcribe'\]"):
        prompt_tokens(facts("canary", without=("<|translate|>",)), PromptOptions(target_lang="de"))
    with pytest.raises(ValueError, match=r"itn=True is not supported.*no token <\|itn\|>; expected one of \[False\]"):
        prompt_tokens(facts("canary2", without=("<|itn|>",)), PromptOptions(itn=True))
    with pytest.raises(ValueError, match=r"source_lang='en' \(the default\)"):
        prompt_tokens(facts("canary2", without=("<|en|>",)), PromptOptions())


@pytest.mark.parametrize(
    "options", [{"pnc": "yes"}, {"source_lang": 3}, {"task": "asr"}, {"context": 5}, {"context": ["a"]}]
)
def test_values_that_no_model_accepts_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    for make in (PromptOptions, DecodingOptions):
        with pytest.raises(ValueError, match=f"{name}="):
            make(**options)


def test_options_of_decoding_hold_the_prompt() -> None:
    assert DecodingOptions(source_lang="de", pnc=False).prompt == PromptOptions(source_lang="de", pnc=False)
    assert DecodingOptions(language="de").prompt == PromptOptions(source_lang="de", target_lang="de")
    assert DecodingOptions(context=[1, 2]).context == (1, 2)
    with pytest.raises(ValueError, match="target_lang='en' contradicts language='de'"):
        DecodingOptions(language="de", target_lang="en")
