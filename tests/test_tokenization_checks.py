"""Files of tokenizers that are damaged, and ids that are not tokens."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer.nemo.tokenizers import sentencepiece_tokenizer
from transformers_fastconformer.tokenization_checks import check_tokens
from transformers_fastconformer.tokenization_fastconformer import FastConformerTokenizer


def change_map(state: dict[str, Any], change: Callable[[bytearray], None]) -> None:
    step = next(step for step in state["normalizer"]["normalizers"] if step["type"] == "Precompiled")
    blob = bytearray(base64.b64decode(step["precompiled_charsmap"]))
    change(blob)
    step["precompiled_charsmap"] = base64.b64encode(bytes(blob)).decode()


def set_slice(blob: bytearray, start: int, content: bytes) -> None:
    blob[start : start + len(content)] = content


DAMAGED_FILES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "size of the map": (lambda s: change_map(s, lambda b: set_slice(b, 0, b"\xff" * 4)), "a trie of 4294967295"),
    "map that leads out": (lambda s: change_map(s, lambda b: set_slice(b, 4, b"\xff\xff\xff\x7f")), "leads out of it"),
    "replacement without end": (lambda s: change_map(s, lambda b: set_slice(b, len(b) - 1, b"x")), "has no end"),
    "replacement not text": (lambda s: change_map(s, lambda b: set_slice(b, len(b) - 2, b"\xff")), "utf-8"),
    "no model": (lambda s: s.pop("model"), "cannot be read: KeyError"),
    "model of another kind": (lambda s: s["model"].update(type="x"), "cannot be read"),
    "vocabulary": (lambda s: s["model"].update(vocab=5), "cannot be read"),
    "long token": (lambda s: s["model"]["vocab"].update({"x" * 1000: 151}), "has 1000 characters; expected 1 to 256"),
    "endless padding": (
        lambda s: s.update(padding={"strategy": {"Fixed": 10**12}, "direction": "Right"}),
        r"padding\.strategy\.Fixed=1000000000000 is not supported; expected 0 to 1048576",
    ),
}


@pytest.mark.parametrize("case", DAMAGED_FILES)
def test_damaged_tokenizer_files_are_named_and_end_nothing(case: str, tmp_path: Path) -> None:
    change, message = DAMAGED_FILES[case]
    sentencepiece_tokenizer(train_sentencepiece_model()).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    change(state)
    path.write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as raised:
        FastConformerTokenizer.from_pretrained(tmp_path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("token", "message"), [(5, "the token 5 is not supported"), ("", "has 0 characters"), ("\ud800", "is not Unicode")]
)
def test_tokens_that_are_not_texts_are_named(token: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"labels: .*{message}"):
        check_tokens(["a", token], "labels")
