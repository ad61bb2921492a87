"""Arguments by name and in mappings, and labels of a bounded length."""

from __future__ import annotations

from typing import Any

import pytest

from transformers_fastconformer.nemo.tokenizers import character_tokenizer
from transformers_fastconformer.processing_labels import encode_labels, join_arguments

TOKENIZER = character_tokenizer([" ", "a", "b"])


def test_arguments_may_be_said_twice_alike() -> None:
    assert join_arguments({"padding": True}, "text_kwargs", {"padding": True, "max_length": 3}) == {
        "padding": True,
        "max_length": 3,
    }
    assert join_arguments({"padding": None}, "text_kwargs", None) == {"padding": None}
    with pytest.raises(ValueError, match="text_kwargs has padding=False, which contradicts padding=True"):
        join_arguments({"padding": True}, "text_kwargs", {"padding": False})
    with pytest.raises(ValueError, match="text_kwargs=5 is not supported; expected a mapping of arguments"):
        join_arguments({}, "text_kwargs", 5)  # type: ignore[arg-type]


def test_rows_and_the_length_to_pad_to() -> None:
    rows, longest = encode_labels(TOKENIZER, ["ab", "a"], {})
    assert ([len(row) for row in rows], longest) == ([2, 1], 2)
    assert encode_labels(TOKENIZER, ["ab"], {"padding": "max_length", "max_length": 5})[1] == 5
    (row,), longest = encode_labels(TOKENIZER, ["abab"], {"truncation": True, "max_length": 3})
    assert len(row) == longest == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 1}, "text_kwargs has stride; expected some of language"),
        ({"padding_side": "left"}, "padding_side='left'"),
        ({"truncation": True}, "truncation=True is not supported; expected False without a max_length"),
        ({"max_length": 3}, "max_length=3 is not supported; expected None without truncation=True"),
        ({"padding": "max_length", "max_length": 1}, "max_length=1 is not supported; expected 2 or more tokens"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_labels(TOKENIZER, ["ab"], options)
