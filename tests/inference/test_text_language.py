"""The language of a text, and who asks for it."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest
from transformers import pipeline

from transformers_fastconformer import load_model, transcribe
from transformers_fastconformer.cli.main import main
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.inference.text_language import check_text_language, find_language

pytest.importorskip("py3langid", reason="the extra `languages` is not installed")


def test_sentences_of_some_languages() -> None:
    assert find_language("Guten Morgen, wie geht es Ihnen heute?") == "de"
    assert find_language("Dzień dobry, jak się pan dzisiaj miewa?") == "pl"
    assert find_language("Доброе утро, как идут ваши дела?", ["ru", "en"]) == "ru"
    assert find_language("Good morning to all of you", ["en-US", "de-DE"]) == "en"


def test_what_says_nothing() -> None:
    assert find_language("12, 7!") is None
    assert find_language("") is None
    assert find_language("Guten Morgen", ["pl"]) == "pl"
    assert find_language("Guten Morgen", ["xx", "yy"]) is None


def test_text_and_segments_say_their_language() -> None:
    model = load_model("demo")
    found = transcribe(CLIP_PATHS[0], model=model, detect_language=True, languages=["en"])
    assert found.language == "en"
    assert [item["language"] for item in found.timestamps["segment"]] == ["en"]
    plain = transcribe(CLIP_PATHS[0], model=model)
    assert plain.language is None
    assert all("language" not in item for item in plain.timestamps["segment"])


def test_the_missing_package_is_told_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install \"transformers-fastconformer\[languages\]\""):
        check_text_language()


def test_command_and_pipeline(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["transcribe", str(CLIP_PATHS[0]), "--model", "demo", "--language", "en", "--detect_language"]
    monkeypatch.setattr("sys.argv", ["fastconformer", *arguments, "--format", "json"])
    with pytest.raises(SystemExit) as finished:
        main()
    assert not finished.value.code
    record = json.loads(capsys.readouterr().out)
    assert record["language"] == "en"
    assert [item["language"] for item in record["segments"]] == ["en"]
    model, processor = load_model("demo")
    asr = pipeline("automatic-speech-recognition", model=model, processor=processor)
    result = asr(
        str(CLIP_PATHS[0]), return_language=True, return_timestamps="segment", generate_kwargs={"language": "en"}
    )
    assert result["language"] == "en"
    assert [chunk["language"] for chunk in result["chunks"]] == ["en"]
