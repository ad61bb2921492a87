"""
Prompts of multitask models: the tokens before the first word, which say what is to be written.

The two formats are tables; the functions turn options into tokens and ids. Checked against `CanaryPromptFormatter` and
`Canary2PromptFormatter` of NeMo 3.0.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from ..validation import is_integer, require, require_choice

START_TOKEN = "<|startoftranscript|>"
CONTEXT_TOKEN = "<|startofcontext|>"
# A single SentencePiece model begins every text with its word mark, prompts too; those of aggregates have none.
FIRST_PIECE = "▁"
TASKS = ("transcribe", "translate")

# The slots of a prompt in their order; a text in angle brackets stands for itself.
FORMATS: dict[str, tuple[str, ...]] = {
    "canary": (START_TOKEN, "source_lang", "task", "target_lang", "pnc"),
    "canary2": (
        CONTEXT_TOKEN, "context", START_TOKEN, "emotion", "source_lang", "target_lang", "pnc", "itn", "timestamps",
        "diarize",
    ),
}  # fmt: skip
# Tokens of the slots that are on or off.
FLAGS: dict[str, tuple[str, str]] = {
    "pnc": ("<|pnc|>", "<|nopnc|>"),
    "itn": ("<|itn|>", "<|noitn|>"),
    "timestamps": ("<|timestamp|>", "<|notimestamp|>"),
    "diarize": ("<|diarize|>", "<|nodiarize|>"),
}
# Values of the slots that neither the caller nor the checkpoint fills.
FALLBACKS: dict[str, Any] = {
    "source_lang": "en",
    "pnc": True,
    "itn": False,
    "timestamps": False,
    "diarize": False,
    "emotion": "undefined",
    "context": (),
}
LANGUAGE_PATTERN = re.compile(r"<\|([a-z]{2,3}(?:-[A-Z]{2})?)\|>")
EMOTION_PATTERN = re.compile(r"<\|emo:([^|]+)\|>")


class PromptFacts(Protocol):
    """The part of a configuration that prompts are made of; `FastConformerMultitaskConfig` has it."""

    @property
    def prompt_format(self) -> Any:
        """One of `FORMATS`."""

    @property
    def prompt_defaults(self) -> Any:
        """Values of slots that are not said, or None."""

    @property
    def prompt_token_ids(self) -> Any:
        """Ids of the tokens that prompts are made of, or None."""


@dataclass(frozen=True)
class PromptOptions:
    """
    Options of the prompt of a multitask model; None leaves a slot to the defaults of the checkpoint.

    Args:
        source_lang: Code of the language that is spoken, such as `"de"`.
        target_lang: Code of the language that is written; None: that of the speech, unless `task` is `"translate"`.
        task: `"transcribe"` or `"translate"`; None: what the two languages say.
        pnc: Write punctuation and capital letters.
        itn: Write numbers and abbreviations as people do, "12 km".
        timestamps: Write a time token before and after each word.
        diarize: Write tokens of speakers.
        emotion: Emotion of the speaker, such as `"neutral"`.
        context: Text before the clip that helps to recognize it, or the ids of its tokens, which the model itself
            takes (`FastConformerTokenizer.context_ids`).

    Raises:
        ValueError: for a value that no model accepts; the message names the option.
    """

    source_lang: str | None = None
    target_lang: str | None = None
    task: str | None = None
    pnc: bool | None = None
    itn: bool | None = None
    timestamps: bool | None = None
    diarize: bool | None = None
    emotion: str | None = None
    context: str | Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name in ("source_lang", "target_lang", "emotion"):
            value = getattr(self, name)
            require(isinstance(value, str | None), name, value, "a text or None")
        require_choice("task", self.task, (*TASKS, None))
        for name in FLAGS:
            require_choice(name, getattr(self, name), (True, False, None))
        context = self.context
        if context is not None and not isinstance(context, str):
            is_ids = isinstance(context, Sequence) and all(map(is_integer, context))
            require(is_ids, "context", context, "a text, the ids of its tokens, or None")
            object.__setattr__(self, "context", tuple(map(int, context)))


PROMPT_OPTIONS = tuple(field.name for field in fields(PromptOptions))


def languages_of(token_ids: Collection[str]) -> list[str]:
    """Codes of the languages that a vocabulary has tokens for, sorted."""
    of_flags = {token for pair in FLAGS.values() for token in pair}
    found = (LANGUAGE_PATTERN.fullmatch(token) for token in token_ids if token not in of_flags)
    return sorted(match[1] for match in found if match)


def fill_prompt(facts: PromptFacts, options: PromptOptions) -> dict[str, Any]:
    """
    Values of all slots of the format, `task` always among them, with defaults where the caller said nothing.

    Args:
        facts: The configuration.
        options: The options of the caller.

    Raises:
        ValueError: for a slot that the format does not have, a language, an emotion or a task that the checkpoint does
            not know, and for languages that contradict the task; the message lists what is accepted.
    """
    slots = FORMATS[facts.prompt_format]
    given = {name: getattr(options, name) for name in PROMPT_OPTIONS if getattr(options, name) is not None}
    for name, value in given.items():
        # The languages say the task where the format has no slot for it.
        if name not in slots and name != "task" and value is not False and value != "":
            names = ", ".join(slot for slot in slots if not slot.startswith("<|"))
            raise ValueError(
                f"{name}={value!r} is not supported by prompts of the format {facts.prompt_format!r}; expected some "
                f"of {names}."
            )
    defaults = {**FALLBACKS, **(facts.prompt_defaults or {})}
    values = {name: given.get(name, defaults.get(name)) for name in slots if not name.startswith("<|")}
    values |= _choose_languages(given, defaults, languages_of(facts.prompt_token_ids or ()))
    for name, value in values.items():
        _check_token(facts, name, value, is_default=name in defaults and name not in given)
    return values


def _choose_languages(
    given: Mapping[str, Any], defaults: Mapping[str, Any], languages: Sequence[str]
) -> dict[str, Any]:
    """The two languages and the task, each said by the caller or by the others."""
    for name in ("source_lang", "target_lang"):
        if name in given and given[name] not in languages:
            raise ValueError(f"{name}={given[name]!r} is not supported by this model; expected one of {languages}.")
    task, source, target = given.get("task"), given.get("source_lang"), given.get("target_lang")
    if source is None:
        source = target if task == "transcribe" and target is not None else defaults["source_lang"]
    if target is None:
        default = defaults.get("target_lang", source)
        # Speech is written in its own language unless somebody asks for another.
        target = default if task == "translate" or not given.keys() & {"source_lang", "task"} else source
    if task is None:
        task = "transcribe" if source == target else "translate"
    if (task == "transcribe") != (source == target):
        relation = "the same" if task == "transcribe" else "two different"
        raise ValueError(
            f"task={task!r} is not supported from source_lang={source!r} to target_lang={target!r}; expected "
            f"{relation} languages of {list(languages)}."
        )
    return {"source_lang": source, "target_lang": target, "task": task}


def _check_token(facts: PromptFacts, name: str, value: Any, is_default: bool) -> None:
    """Raise a `ValueError` for a value whose token the checkpoint does not have."""
    if name not in FORMATS[facts.prompt_format] or name == "context":
        return
    token = token_of(name, value)
    known: Mapping[str, int] = facts.prompt_token_ids or {}
    if token in known:
        return
    if name in FLAGS:
        accepted: list[Any] = [flag for flag, text in zip((True, False), FLAGS[name], strict=True) if text in known]
    elif name == "emotion":
        accepted = sorted(match[1] for match in map(EMOTION_PATTERN.fullmatch, known) if match)
    elif name == "task":
        accepted = [task for task in TASKS if token_of("task", task) in known]
    else:
        accepted = languages_of(known)
    origin = " (the default)" if is_default else ""
    raise ValueError(
        f"{name}={value!r}{origin} is not supported by this model, which has no token {token}; expected one of "
        f"{accepted}."
    )


def token_of(name: str, value: Any) -> str:
    """The token that fills a slot."""
    if name in FLAGS:
        return FLAGS[name][0 if value else 1]
    return f"<|emo:{value}|>" if name == "emotion" else f"<|{value}|>"


def prompt_tokens(facts: PromptFacts, options: PromptOptions) -> list[str]:
    """
    The prompt as tokens of the vocabulary, without the word mark that may come first and without the context.

    Raises:
        ValueError: for what `fill_prompt` refuses.
    """
    values = fill_prompt(facts, options)
    slots = [slot for slot in FORMATS[facts.prompt_format] if slot != "context"]
    return [slot if slot.startswith("<|") else token_of(slot, values[slot]) for slot in slots]


def prompt_ids(facts: PromptFacts, options: PromptOptions) -> list[int]:
    """
    The prompt as ids, context included.

    Raises:
        ValueError: for what `fill_prompt` refuses, and for a context that is still a text.
    """
    values = fill_prompt(facts, options)
    context = values.get("context", ())
    if isinstance(context, str):
        if context:
            raise ValueError(
                f"context={context!r} is a text; a model takes the ids of its tokens, "
                "processor.tokenizer.context_ids(context, target_lang)."
            )
        context = ()
    ids = [facts.prompt_token_ids[FIRST_PIECE]] if FIRST_PIECE in facts.prompt_token_ids else []
    for slot in FORMATS[facts.prompt_format]:
        if slot == "context":
            ids += context
        else:
            ids.append(facts.prompt_token_ids[slot if slot.startswith("<|") else token_of(slot, values[slot])])
    return ids


def count_prompt_tokens(facts: PromptFacts, ids: Sequence[int]) -> int:
    """
    Tokens of the prompt at the beginning of a decoder's tokens, context included.

    Args:
        facts: The configuration.
        ids: Prompt and text.

    Raises:
        ValueError: for tokens without a prompt.
    """
    slots = FORMATS[facts.prompt_format]
    start = facts.prompt_token_ids[START_TOKEN]
    require(start in ids, "decoder_input_ids", list(ids)[:8], f"a prompt with {START_TOKEN}")
    return list(ids).index(start) + len(slots) - slots.index(START_TOKEN)
