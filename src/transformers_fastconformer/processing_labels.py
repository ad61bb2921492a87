"""Arguments of the processor for transcripts next to audio, and the labels that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .tokenization_fastconformer import FastConformerTokenizer
from .validation import require, require_choice, require_count

# Arguments of the tokenizer that labels next to audio may have.
LABEL_OPTIONS = (
    "language",
    "padding",
    "truncation",
    "max_length",
    "padding_side",
    "add_special_tokens",
    "return_tensors",
)
# With a prompt before them; a text that is cut off would have no end.
PROMPTED_LABEL_OPTIONS = ("padding", "max_length", "return_tensors")


def join_arguments(given: Mapping[str, Any], name: str, mapping: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments given by name, and in a mapping of that name; both may say the same."""
    require(isinstance(mapping, Mapping | None), name, mapping, "a mapping of arguments")
    for key, value in (mapping or {}).items():
        if given.get(key) not in (None, value):
            raise ValueError(f"{name} has {key}={value!r}, which contradicts {key}={given[key]!r}.")
    return {**given, **(mapping or {})}


def encode_labels(
    tokenizer: FastConformerTokenizer, texts: list[str], options: Mapping[str, Any]
) -> tuple[list[list[int]], int]:
    """Ids of transcripts, and the length to which they are to be padded."""
    _check_names(options, LABEL_OPTIONS)
    padding, max_length = options.get("padding"), options.get("max_length")
    require_choice("padding", padding, (None, True, "longest", "max_length", False))
    require_choice("padding_side", options.get("padding_side"), (None, "right"))
    if max_length is None:
        require(not options.get("truncation"), "truncation", True, "False without a max_length, in tokens")
        require(padding != "max_length", "padding", padding, "True without a max_length, in tokens")
    else:
        require_count("max_length", max_length)
        is_used = bool(options.get("truncation")) or padding == "max_length"
        require(is_used, "max_length", max_length, "None without truncation=True or padding='max_length'")
    passed = {name: options[name] for name in ("language", "truncation", "add_special_tokens") if name in options}
    if options.get("truncation"):
        passed["max_length"] = max_length
    rows = tokenizer(texts, **passed)["input_ids"]
    longest = max(map(len, rows))
    if padding != "max_length":
        return rows, longest
    assert max_length is not None
    require(longest <= max_length, "max_length", max_length, f"{longest} or more tokens, or truncation=True")
    return rows, max_length


def prompted_length(rows: Sequence[Sequence[int]], options: Mapping[str, Any]) -> int:
    """Length to which labels with a prompt before them are to be padded."""
    _check_names({name: value for name, value in options.items() if value is not None}, PROMPTED_LABEL_OPTIONS)
    padding, max_length = options.get("padding"), options.get("max_length")
    require_choice("padding", padding, (None, True, "longest", "max_length", False))
    longest = max(map(len, rows))
    if padding != "max_length":
        require(max_length is None, "max_length", max_length, "None without padding='max_length'")
        return longest
    require_count("max_length", max_length)
    assert max_length is not None
    require(longest <= max_length, "max_length", max_length, f"{longest} or more tokens")
    return max_length


def _check_names(options: Mapping[str, Any], accepted: Sequence[str]) -> None:
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise ValueError(f"text_kwargs has {', '.join(unknown)}; expected some of {', '.join(accepted)}.")
