"""Options of the model, the same in all commands that run one."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..decoding.phrase_boosting import PhraseBoosting
from ..inference.loading import DEFAULT_MODEL, DEMONSTRATION_NAME, STREAMING_DEMONSTRATION_NAME
from ..validation import is_number, require


class Head(str, Enum):
    """Head of a checkpoint that decodes."""

    AUTO = "auto"
    CTC = "ctc"
    TRANSDUCER = "transducer"


class Precision(str, Enum):
    """Precision of the model."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


ModelOption = Annotated[
    str | None,
    typer.Option(
        help="Hub repository, folder or .nemo file (converted once); "
        f"{DEMONSTRATION_NAME}, {STREAMING_DEMONSTRATION_NAME}: the spoken-digit models that the package carries, "
        "which need no network. "
        f"Default: {DEFAULT_MODEL}."
    ),
]
HeadOption = Annotated[
    Head,
    typer.Option(
        metavar="NAME",
        help="Head of a hybrid checkpoint: ctc, transducer, or auto (the transducer where there is one).",
    ),
]
LanguageOption = Annotated[
    str | None,
    typer.Option(
        help="Code of the language: told to models that take one; others write only its letters, or those of "
        "several (pl,de)."
    ),
]
DetectLanguageOption = Annotated[
    bool,
    typer.Option(
        "--detect_language",
        help="Find the language that the text and each segment is written in, for json (needs the extra languages).",
    ),
]
PROMPT_PANEL = "Multitask models (Canary)"


class Task(str, Enum):
    """Task of a multitask model."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


SourceLangOption = Annotated[
    str | None,
    typer.Option(
        "--source_lang",
        help="Code of the language that is spoken, such as de. Default: the checkpoint's.",
        rich_help_panel=PROMPT_PANEL,
    ),
]
TargetLangOption = Annotated[
    str | None,
    typer.Option(
        "--target_lang",
        help="Code of the language to write; another than the spoken one is a translation. Default: the spoken one.",
        rich_help_panel=PROMPT_PANEL,
    ),
]
TaskOption = Annotated[
    Task | None,
    typer.Option(
        metavar="NAME",
        help="transcribe or translate. Default: what the two languages say.",
        rich_help_panel=PROMPT_PANEL,
    ),
]
PncOption = Annotated[
    bool | None,
    typer.Option(
        "--pnc/--no_pnc", help="Punctuation and capital letters. Default: yes.", rich_help_panel=PROMPT_PANEL
    ),
]
ItnOption = Annotated[
    bool | None,
    typer.Option(
        "--itn/--no_itn", help="Numbers as digits, and abbreviations. Default: no.", rich_help_panel=PROMPT_PANEL
    ),
]
ContextOption = Annotated[
    str | None,
    typer.Option(help="Text that went before, as a help; for prompts with a context.", rich_help_panel=PROMPT_PANEL),
]
NumBeamsOption = Annotated[
    int | None,
    typer.Option(
        "--num_beams",
        min=1,
        help="Texts that a beam search holds; 1: greedy. Default: greedy; of Canary, what the checkpoint says.",
    ),
]
WORDS_PANEL = "Names and jargon"
KeywordsOption = Annotated[
    str | None,
    typer.Option(
        help="Text file of phrases that the text prefers, one a line, written as the model writes.",
        rich_help_panel=WORDS_PANEL,
    ),
]
KeywordStrengthOption = Annotated[
    float | None,
    typer.Option("--keyword_strength", help="Weight of the phrases. Default: 1.", rich_help_panel=WORDS_PANEL),
]
KeywordCasesOption = Annotated[
    bool,
    typer.Option(
        "--keyword_cases", help="Prefer each phrase in small and capital letters too.", rich_help_panel=WORDS_PANEL
    ),
]
LmOption = Annotated[
    str | None,
    typer.Option(
        help="Language model of the model's tokens: an ARPA file, a .nemo archive, or .safetensors.",
        rich_help_panel=WORDS_PANEL,
    ),
]
LmWeightOption = Annotated[
    float | None,
    typer.Option("--lm_weight", help="Weight of the language model. Default: 0.2.", rich_help_panel=WORDS_PANEL),
]
DtypeOption = Annotated[
    Precision,
    typer.Option(
        metavar="NAME",
        help="Precision of the model: auto (as the checkpoint says; float32 for a .nemo), float32, float16, "
        "bfloat16, or int8 (products of the encoder, on a CPU).",
    ),
]


def read_language(language: str | None) -> dict[str, Any]:
    """The fields of `DecodingOptions` that `--language` names: one code, or several with commas between them."""
    if language is None or "," not in language:
        return {"language": language}
    return {"languages": tuple(code.strip() for code in language.split(","))}


def make_boosting(keywords: str | None, strength: float | None, has_cases: bool) -> PhraseBoosting | None:
    """
    The phrases that the options name; None without `--keywords`.

    Raises:
        ValueError: for a file that cannot be read, and for options that belong to `--keywords`.
    """
    given = {"--keyword_strength": strength is not None, "--keyword_cases": has_cases}
    if keywords is None:
        for name, is_given in given.items():
            if is_given:
                raise ValueError(f"{name} belongs to --keywords.")
        return None
    options = {} if strength is None else {"strength": strength}
    return PhraseBoosting.from_file(keywords, case_variants=has_cases, **options)


def check_lm(lm: str | None, weight: float | None) -> None:
    """Raise a `ValueError` for `--lm_weight` without `--lm` and for a model that is not there."""
    if lm is None and weight is not None:
        raise ValueError("--lm_weight belongs to --lm.")
    if weight is not None:
        require(is_number(weight) and weight > 0, "--lm_weight", weight, "a number above 0")
    if lm is not None:
        require(Path(lm).is_file(), "--lm", lm, "a file")
