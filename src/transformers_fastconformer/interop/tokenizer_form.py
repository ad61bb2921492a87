"""
Tokenizers of Transformers' Parakeet checkpoints and ours.

Both are a `tokenizer.json`. Theirs decodes by the rules written in that file, so what our class does in Python is
written there as rules; ours reads the model, normalizer and pre-tokenizer of theirs and decodes itself.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer

from ..tokenization_checks import check_tokenizer_json
from ..tokenization_fastconformer import FastConformerTokenizer
from ..tokenization_piece_text import CONTINUATION_MARK, WORD_MARK
from ..validation import reading
from .families import Family

BLANK_TOKEN = "<blank>"
CTC_BLANK_TOKEN = "<pad>"  # their CTC classes take the padding for the blank
EVENT_TOKENS = ("<EOU>", "<EOB>")
# Under this key of `tokenizer_config.json` the options of our class survive a stay with theirs.
OPTIONS_KEY = "fastconformer_options"
# Stands for the unknown text while leading spaces are taken away.
PRIVATE_CHARACTER = "\U000f0000"
MANY_SPACES = 2**16
WRITTEN_RULES = ("sentencepiece", "character", "wordpiece")
SPECIAL_TOKEN = re.compile(r"<\|.+\|>", re.DOTALL)
# Tokens of prompted decoders that `generate` needs.
PROMPT_ROLES = ("bos_token", "eos_token", "pad_token")


def free_name(name: str, taken: Mapping[str, int]) -> str:
    """`name`, or with underscores after it while a vocabulary has a token of that name."""
    while name in taken:
        name = f"{name[:-1]}_>"
    return name


# Theirs to ours


def tokenizer_from_transformers(
    tokenizer_json: str,
    tokenizer_config: Mapping[str, Any],
    num_tokens: int | None,
    source: str,
    is_multitask: bool = False,
) -> FastConformerTokenizer:
    """
    Our tokenizer for one of theirs.

    Args:
        tokenizer_json: Their `tokenizer.json`.
        tokenizer_config: Their `tokenizer_config.json`.
        num_tokens: Tokens of the model without the blank; None: those of the tokenizer's own vocabulary.
        source: Where it comes from, for messages.
        is_multitask: It is that of a Canary, which has prompts and no blank.

    Raises:
        ValueError: where the vocabulary is not the model's.
    """
    with reading(source, "a tokenizer that Transformers' Parakeet classes read"):
        return _read_tokenizer(tokenizer_json, tokenizer_config, num_tokens, source, is_multitask)


def _read_tokenizer(
    tokenizer_json: str,
    tokenizer_config: Mapping[str, Any],
    num_tokens: int | None,
    source: str,
    is_multitask: bool,
) -> FastConformerTokenizer:
    state = check_tokenizer_json(tokenizer_json, source)
    vocabulary = Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=False)
    if num_tokens is None:
        num_tokens = len(vocabulary)
    if sorted(vocabulary.values()) != list(range(num_tokens)):
        raise ValueError(
            f"{source}: the vocabulary has {len(vocabulary)} tokens; expected {num_tokens} with the ids 0 to "
            f"{num_tokens - 1}, as the model has one class more, the blank."
        )
    added = [entry for entry in state.get("added_tokens", []) if entry["id"] < num_tokens]
    unknown = state["model"].get("unk_token")
    if unknown is None and state["model"].get("unk_id") is not None:
        unknown = state["model"]["vocab"][state["model"]["unk_id"]][0]
    options = tokenizer_config.get(OPTIONS_KEY)
    if options is None:
        options = _guess_options(state, vocabulary, added, unknown, tokenizer_config)
        if is_multitask:
            options = _with_prompts(options, tokenizer_config)
    else:
        options = dict(options)
    # In a transcript the characters "<pad>" are text, as for SentencePiece; user-defined symbols are themselves.
    events = [token for token in EVENT_TOKENS if token in vocabulary]
    symbols = frozenset(options.get("kept_symbols", ()))
    is_symbol = [not entry["special"] or entry["content"] in symbols for entry in added]
    kept = [] if OPTIONS_KEY in tokenizer_config else list(itertools.compress(added, is_symbol))
    if is_multitask:
        state["added_tokens"] = [{**entry, "special": False} for entry in kept]
        roles = {role: token_text(tokenizer_config.get(role)) for role in PROMPT_ROLES}
        return _finish(state, {"event_tokens": events, "unk_token": unknown, **options, **roles})
    blank = free_name(BLANK_TOKEN, vocabulary)
    blank_entry = {
        "id": num_tokens,
        "content": blank,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    state["added_tokens"] = [*kept, blank_entry]
    return _finish(state, {"event_tokens": events, "unk_token": unknown, **options, "pad_token": blank})


def _finish(state: dict[str, Any], arguments: dict[str, Any]) -> FastConformerTokenizer:
    """Our tokenizer of a `tokenizer.json` whose vocabulary is done."""
    state["truncation"] = state["padding"] = None
    state["decoder"] = _our_decoder(arguments["text_rule"], state.get("decoder"))
    return FastConformerTokenizer(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **arguments)


def token_text(entry: Any) -> str | None:
    """The text of a token of `tokenizer_config.json`, which may be written as a text or with options."""
    return entry.get("content") if isinstance(entry, Mapping) else entry


def _with_prompts(options: dict[str, Any], tokenizer_config: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the special tokens of prompts, which SentencePiece has as user-defined symbols."""
    padding = token_text(tokenizer_config.get("pad_token"))
    named = [*options.get("control_tokens", ()), *options.get("kept_symbols", ())]
    prompts = [token for token in named if SPECIAL_TOKEN.fullmatch(token) or token == padding]
    control = [token for token in options.get("control_tokens", ()) if token not in prompts]
    kept = [token for token in options.get("kept_symbols", ()) if token not in prompts]
    return {**options, "control_tokens": control, "kept_symbols": [*kept, *prompts], "prompt_tokens": prompts}


def _guess_options(
    state: Mapping[str, Any],
    vocabulary: Mapping[str, int],
    added: list[dict[str, Any]],
    unknown: str | None,
    tokenizer_config: Mapping[str, Any],
) -> dict[str, Any]:
    """Options of our class for a tokenizer that Transformers' scripts made from a SentencePiece model."""
    kind = state["model"].get("type")
    if kind == "WordPiece" or any(token.startswith(CONTINUATION_MARK) for token in vocabulary):
        return {"text_rule": "wordpiece"}
    if not any(WORD_MARK in token for token in vocabulary):
        return {"text_rule": "character"}
    marks = [step for step in _steps(state.get("pre_tokenizer"), "pretokenizers") if step["type"] == "Metaspace"]
    has_prefix = all(step.get("prepend_scheme", "always") != "never" for step in marks)
    return {
        "text_rule": "sentencepiece",
        "control_tokens": [entry["content"] for entry in added if entry["special"] and entry["content"] != unknown],
        "kept_symbols": [entry["content"] for entry in added if not entry["special"]],
        "byte_tokens": all(f"<0x{byte:02X}>" in vocabulary for byte in range(256)),
        "add_dummy_prefix": has_prefix,
    }


def _our_decoder(text_rule: str, decoder: Any) -> dict[str, Any] | None:
    """The decoder that our class keeps: the step of WordPiece is used, the others are for whoever reads the file."""
    fuse = {"type": "Fuse"}
    if text_rule == "wordpiece":
        return next((step for step in _steps(decoder, "decoders") if step["type"] == "WordPiece"), None)
    if text_rule == "character":
        return fuse
    mark: dict[str, Any] = {"type": "Replace", "pattern": {"String": WORD_MARK}, "content": " "}
    return {"type": "Sequence", "decoders": [mark, {"type": "ByteFallback"}, fuse]}


def _steps(component: Mapping[str, Any] | None, name: str) -> list[Any]:
    """The parts of a `Sequence` of a `tokenizer.json`, or the one component there is."""
    if component is None:
        return []
    return list(component[name]) if component["type"] == "Sequence" else [component]


# Ours to theirs


def tokenizer_to_transformers(tokenizer: FastConformerTokenizer, family: Family) -> tuple[Tokenizer, dict[str, Any]]:
    """
    A backend for their tokenizer class, and its arguments.

    Raises:
        ValueError: for what a `tokenizer.json` cannot say.
    """
    name = f"{family.tokenizer_class_name}, for {family.class_name}"
    if tokenizer.text_rule not in WRITTEN_RULES:
        raise ValueError(
            f"text_rule={tokenizer.text_rule!r} is not supported by {name}; expected one of {WRITTEN_RULES}."
        )
    backend = tokenizer.complete_backend()
    state = json.loads(backend.to_str())
    vocabulary = backend.get_vocab(with_added_tokens=False)
    options = tokenizer.text_options
    special = list(dict.fromkeys([*options["control_tokens"], *tokenizer.event_tokens, *tokenizer.prompt_tokens]))
    is_ctc = family.model_type == "parakeet_ctc"
    blank = free_name(CTC_BLANK_TOKEN if is_ctc else BLANK_TOKEN, vocabulary)
    state["added_tokens"] = []
    state["decoder"] = {"type": "Sequence", "decoders": _decoders(tokenizer, state.get("decoder"))}
    backend = Tokenizer.from_str(json.dumps(state))
    roles = {role: getattr(tokenizer, role) for role in PROMPT_ROLES}
    if not family.is_multitask:
        special, roles = [*special, blank], {"pad_token": blank}
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    assert family.is_multitask or backend.token_to_id(blank) == tokenizer.blank_token_id
    kept_options = {option: value for option, value in options.items() if option not in PROMPT_ROLES}
    arguments = {
        **roles,
        "clean_up_tokenization_spaces": False,
        OPTIONS_KEY: {
            **kept_options,
            "event_tokens": tokenizer.event_tokens,
            "language_tag_pattern": tokenizer.language_tag_pattern,
        },
    }
    return backend, arguments


def _decoders(tokenizer: FastConformerTokenizer, decoder: Any) -> list[dict[str, Any]]:
    """Steps of a decoder that give the text that our class gives."""

    def replace(pattern: str, content: str) -> dict[str, Any]:
        return {"type": "Replace", "pattern": {"String": pattern}, "content": content}

    steps: list[dict[str, Any]] = []
    if tokenizer.text_rule == "sentencepiece":
        unknown: Any = tokenizer.unk_token
        if unknown is not None:
            steps.append(replace(unknown, PRIVATE_CHARACTER))
        steps.append(replace(WORD_MARK, " "))
        if tokenizer.byte_tokens:
            steps.append({"type": "ByteFallback"})
        steps.append({"type": "Fuse"})
        if tokenizer.remove_extra_whitespaces or tokenizer.add_dummy_prefix:
            count = MANY_SPACES if tokenizer.remove_extra_whitespaces else 1
            steps.append({"type": "Strip", "content": " ", "start": count, "stop": 0})
        if unknown is not None:
            steps.append(replace(PRIVATE_CHARACTER, tokenizer.unknown_text))
    else:
        steps += [decoder] if tokenizer.text_rule == "wordpiece" and decoder is not None else []
        steps.append({"type": "Fuse"})
    if not tokenizer.prompt_tokens:
        steps += (replace(f" {mark}", mark) for mark in sorted(tokenizer.punctuation))
    if tokenizer.language_tag_pattern is not None:
        tags = {"type": "Replace", "pattern": {"Regex": tokenizer.language_tag_pattern}, "content": ""}
        steps += [tags, {"type": "Strip", "content": " ", "start": MANY_SPACES, "stop": MANY_SPACES}]
    return steps
