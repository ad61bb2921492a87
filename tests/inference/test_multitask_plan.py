"""The plan of a multitask transcription: made of model, tokenizer and options, and refused where they disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from multitask_archives import write_timed_canary

from transformers_fastconformer import DecodingOptions, TranscriptionOptions, load_model
from transformers_fastconformer.inference.multitask_plan import choose_front_end, plan_multitask


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Model and processor of a checkpoint whose model of times has a front end of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        path: Path = write_timed_canary(tmp_path_factory.mktemp("canary") / "a.nemo", 0.02)
    return load_model(path, device="cpu")


@pytest.mark.parametrize(
    ("options", "levels", "is_aligned"),
    [
        ({"timestamps": True}, ("word", "segment"), True),
        ({"timestamps": "word"}, ("word",), True),
        ({"timestamps": False}, (), False),
        ({"timestamps": True, "decoding": {"source_lang": "de", "target_lang": "en"}}, ("segment",), False),
    ],
)
def test_who_times_the_words(timed: Any, options: dict[str, Any], levels: tuple[str, ...], is_aligned: bool) -> None:
    decoding = DecodingOptions(**options.pop("decoding", {}))
    whole = TranscriptionOptions(decoding=decoding, **options)
    plan = plan_multitask(*timed, whole)
    assert plan.levels == levels
    assert (plan.aligner is not None) is plan.has_word_times is is_aligned
    assert (choose_front_end(*timed, whole).to_align is not None) is is_aligned
    assert plan.target_lang == "en"


def test_levels_by_name_are_refused_where_words_have_no_times(timed: Any) -> None:
    options = TranscriptionOptions(decoding=DecodingOptions(source_lang="de", target_lang="en"), timestamps="word")
    with pytest.raises(ValueError, match="timestamps='word' is not supported for a translation"):
        plan_multitask(*timed, options)
