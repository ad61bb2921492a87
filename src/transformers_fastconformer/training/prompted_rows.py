"""Rows for models with prompts (Canary): what each says of its prompt, and its text as tokens of the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ..decoding.options import DecodingOptions
from ..decoding.prompts import FLAGS, FORMATS, PromptOptions, fill_prompt
from ..processing_fastconformer import FastConformerProcessor
from ..processing_multitask import PromptWriter, TrainingTokens
from ..validation import require
from .training_clips import RowForm

# Keys of a row, by the slot of the prompt, as manifests for NeMo 3.0's `CanaryPromptFormatter` and
# `Canary2PromptFormatter` have them.
SLOT_KEYS: dict[str, tuple[str, ...]] = {
    "source_lang": ("source_lang",),
    "target_lang": ("target_lang",),
    "task": ("task", "taskname"),
    "pnc": ("pnc",),
    "itn": ("itn",),
    "timestamps": ("timestamp",),
    "diarize": ("diarize",),
    "emotion": ("emotion",),
    "context": ("decodercontext",),
}
# The text to write, which goes before the transcript in such manifests.
ANSWER_KEY, DEFAULT_TEXT_COLUMN = "answer", "text"
TASK_NAMES = {
    "asr": "transcribe",
    "transcribe": "transcribe",
    "ast": "translate",
    "s2t_translation": "translate",
    "translate": "translate",
}
YES, NO = ("yes", "true", "1"), ("no", "false", "0")


class PromptedRows:
    """
    Prompts and texts of rows.

    Args:
        processor: Of a model with prompts.
        form: Names of the columns.
        prompt: Options for rows that do not say them.

    Raises:
        ValueError: for options that the prompts of this model do not have.
    """

    def __init__(self, processor: FastConformerProcessor, form: RowForm, prompt: PromptOptions) -> None:
        self.writer = PromptWriter(processor, processor.tokenizer, processor.learns_prompt)
        self.form = form
        self.prompt = prompt
        assert processor.prompt_format is not None
        self.slots = FORMATS[processor.prompt_format]
        fill_prompt(self.writer.facts, replace(prompt, task=None))  # rows may have the languages of the task

    @classmethod
    def of(
        cls, processor: FastConformerProcessor, form: RowForm, prompt: PromptOptions | None, language: str | None
    ) -> PromptedRows | None:
        """
        Make it of options; None for a model without prompts.

        Args:
            processor: Of any model.
            form: Names of the columns.
            prompt: Options for rows that do not say them; None: those of the checkpoint.
            language: Both languages of the prompt.

        Raises:
            ValueError: for options of a prompt and a model without prompts.
        """
        given = said_by(prompt or PromptOptions())
        if getattr(processor, "prompt_format", None) is not None:
            return cls(processor, form, DecodingOptions(language=language, **given).prompt)
        for name, value in given.items():
            raise ValueError(f"{name}={value!r} is not supported by a model without prompts; expected None.")
        return None

    def text_of(self, row: Mapping[str, Any]) -> str:
        """The text to write: `answer`, where a row has it and no other column is named, else the text."""
        answer = row.get(ANSWER_KEY)
        is_asked_for = self.form.text_column == DEFAULT_TEXT_COLUMN
        return answer if is_asked_for and isinstance(answer, str) else self.form.text_of(row)

    def prompt_of(self, row: Mapping[str, Any]) -> PromptOptions:
        """
        Options of a row's prompt: what it says itself, and for the others those given for all.

        Raises:
            ValueError: for values that no prompt has.
        """
        said: dict[str, Any] = {}
        for slot, keys in SLOT_KEYS.items():
            if slot in self.slots:
                for key in keys:
                    if row.get(key) not in (None, ""):
                        said[slot] = _read_value(slot, key, row[key])
        return replace(self.prompt, **said)

    def language_of(self, row: Mapping[str, Any]) -> str:
        """Language of a row's text."""
        return str(fill_prompt(self.writer.facts, self.prompt_of(row))["target_lang"])

    def write(self, row: Mapping[str, Any]) -> TrainingTokens:
        """
        Tokens of a row's prompt and text.

        Raises:
            ValueError: for a prompt that the model does not have, and a row without a text.
        """
        return self.writer.write([self.text_of(row)], said_by(self.prompt_of(row)))[0]


def said_by(prompt: PromptOptions) -> dict[str, Any]:
    """The options that are not left to the defaults, by name."""
    values = {field.name: getattr(prompt, field.name) for field in fields(prompt)}
    return {name: value for name, value in values.items() if value is not None}


def _read_value(slot: str, key: str, value: Any) -> Any:
    """A value of a manifest, which may be the token itself, as the option has it."""
    text = str(value).strip()
    word = text.removeprefix("<|").removesuffix("|>")
    if slot in FLAGS:
        on, off = (token.removeprefix("<|").removesuffix("|>") for token in FLAGS[slot])
        accepted = (*YES, on, *NO, off)
        require(word.lower() in accepted, key, value, f"one of {', '.join(accepted)}")
        return word.lower() in (*YES, on)
    if slot == "task":
        require(word in TASK_NAMES, key, value, f"one of {', '.join(TASK_NAMES)}")
        return TASK_NAMES[word]
    require(isinstance(value, str), key, value, "a text")
    return text if slot == "context" else word.removeprefix("emo:")
