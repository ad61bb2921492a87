"""Options of the model: the choices are those that the loader has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transformers_fastconformer import NgramLanguageModel, PhraseBoosting, load_model, transcribe
from transformers_fastconformer.cli.model_options import Head, Precision
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.inference.loading import DTYPES, HEADS


def test_the_choices_are_those_of_the_loader() -> None:
    assert tuple(head.value for head in Head) == HEADS
    assert tuple(precision.value for precision in Precision) == DTYPES


@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_phrases_and_language_models(head: str, run_command: Callable[..., Any], tmp_path: Path) -> None:
    """The options lead to the text of `transcribe` with the same objects."""
    model = load_model("demo", head)
    texts = [f"{one} {one}" for one in ("one", "two", "nine")]
    language_model = NgramLanguageModel.from_text(texts, model[1].tokenizer, order=3)
    language_model.save_arpa(tmp_path / "lm.arpa")
    (tmp_path / "names.txt").write_text("nine\nfour\n", encoding="utf-8")
    clip, base = str(CLIP_PATHS[0]), ("--model", "demo", "--head", head)
    keywords = ("--keywords", "names.txt", "--keyword_strength", "20", "--keyword_cases")
    boosting = PhraseBoosting(["nine", "four"], strength=20, case_variants=True)
    fused = {"language_model": language_model, "language_model_weight": 6.0}
    for options, expected in (
        (keywords, transcribe(clip, model=model, boosting=boosting)),
        (("--lm", "lm.arpa", "--lm_weight", "6"), transcribe(clip, model=model, **fused)),
    ):
        found = run_command("transcribe", clip, *base, *options, folder=tmp_path)
        assert found.returncode == 0, found.stderr
        assert found.stdout.strip() == expected.text
    found = run_command("stream", clip, *base, *keywords, "--lm", "lm.arpa", folder=tmp_path)
    assert found.returncode == 0, found.stderr
    assert set(found.stdout.split()) & {"nine", "four"}
    found = run_command("stream", clip, *base, "--num_beams", "3", folder=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == transcribe(clip, model=model, num_beams=3).text.split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--keyword_strength", "2"), "--keyword_strength belongs to --keywords"),
        (("--keyword_cases",), "--keyword_cases belongs to --keywords"),
        (("--lm_weight", "2"), "--lm_weight belongs to --lm"),
        (("--lm", "missing.arpa"), "--lm='missing.arpa'"),
        (("--lm", "names.txt", "--lm_weight", "-1"), "--lm_weight=-1"),
        (("--keywords", "missing.txt"), "missing.txt"),
        (("--keywords", "names.txt"), "cannot be written"),
    ],
)
def test_wrong_phrases_and_language_models(
    arguments: tuple[str, ...], message: str, run_command: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("Quebec\n", encoding="utf-8")
    found = run_command("transcribe", str(CLIP_PATHS[0]), "--model", "demo", *arguments, folder=tmp_path)
    assert found.returncode != 0
    assert message in " ".join(found.stderr.split())
