"""Tokenizers of ours as NeMo's archives have them: a section of the configuration and the files that it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from ..tokenization_fastconformer import FastConformerTokenizer
from .archive import ARTIFACT_PREFIX
from .sentencepiece_writer import list_pieces, write_sentencepiece

MODEL_KEY, VOCABULARY_KEY, PIECES_KEY = "model_path", "vocab_path", "spe_tokenizer_vocab"
FILE_NAMES = {MODEL_KEY: "tokenizer.model", VOCABULARY_KEY: "vocab.txt", PIECES_KEY: "tokenizer.vocab"}
TYPES = {"sentencepiece": "bpe", "wordpiece": "wpe", "aggregate": "agg"}  # NeMo's, by our rules of text
UNKNOWN_WORDPIECE = "[UNK]"
LOWERCASING_MODEL = "bert-base-uncased"


def write_tokenizer(
    tokenizer: FastConformerTokenizer, original: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any] | None, dict[str, bytes]]:
    """
    The `tokenizer` section for a tokenizer, and its files by their names in the archive.

    Args:
        tokenizer: The tokenizer.
        original: The section that the tokenizer was read from; its names of files and its other keys are kept.

    Returns:
        The section, None for a tokenizer of characters, which are the `labels` of the model; and the files.

    Raises:
        ValueError: for a tokenizer that NeMo has no kind for.
    """
    artifacts: dict[str, bytes] = {}
    rule = tokenizer.text_rule
    original = _of_same_kind(original, rule)
    if rule == "character":
        return None, artifacts
    if rule != "aggregate":
        return _write_single(tokenizer, original, artifacts), artifacts
    sections = original.get("langs")
    languages = {}
    for language, _, options in tokenizer.init_kwargs["languages"]:
        arguments = dict(options)
        backend = Tokenizer.from_str(arguments.pop("tokenizer"))
        part = FastConformerTokenizer(tokenizer_object=backend, **arguments)
        part_original = sections.get(language) if isinstance(sections, Mapping) else None
        languages[language] = _write_single(part, part_original or {}, artifacts, is_part=True)
    return {"dir": None, **original, "type": "agg", "langs": languages}, artifacts


def _of_same_kind(original: Any, rule: str) -> Mapping[str, Any]:
    """The section that a tokenizer was read from; empty where it is of another kind, whose keys name other files."""
    is_same = isinstance(original, Mapping) and str(original.get("type")).lower() == TYPES.get(rule)
    return original if is_same else {}


def _write_single(
    tokenizer: FastConformerTokenizer,
    original: Mapping[str, Any],
    artifacts: dict[str, bytes],
    is_part: bool = False,
) -> dict[str, Any]:
    """The section of a tokenizer of one vocabulary; its files are added to `artifacts`."""
    original = _of_same_kind(original, tokenizer.text_rule)
    tokens = tokenizer.vocabulary_tokens(range(tokenizer.blank_token_id))
    state = json.loads(tokenizer.complete_backend().to_str())
    vocabulary = "".join(f"{token}\n" for token in tokens).encode("utf-8")
    if tokenizer.text_rule == "wordpiece":
        kwargs = _wordpiece_options(tokenizer, state, is_part)
        section: dict[str, Any] = {"dir": None, **original, "type": "wpe"}
        if kwargs or original.get("hf_kwargs"):
            section["hf_kwargs"] = {**(original.get("hf_kwargs") or {}), **kwargs}
        files = {VOCABULARY_KEY: vocabulary}
    else:
        section = {"dir": None, **original, "type": "bpe"}
        files = {MODEL_KEY: write_sentencepiece(tokenizer, state), VOCABULARY_KEY: vocabulary}
        if not original or PIECES_KEY in original:
            files[PIECES_KEY] = list_pieces(files[MODEL_KEY])
    for key, content in files.items():
        section[key] = _add_artifact(original.get(key), FILE_NAMES[key], content, artifacts)
    return section


def _wordpiece_options(tokenizer: FastConformerTokenizer, state: Mapping[str, Any], is_part: bool) -> dict[str, Any]:
    kwargs = {}
    if tokenizer.unk_token != UNKNOWN_WORDPIECE:
        kwargs["unk_token"] = tokenizer.unk_token
    if is_part and (state.get("normalizer") or {}).get("lowercase"):
        kwargs["pretrained_model_name"] = LOWERCASING_MODEL
    return kwargs


def _add_artifact(reference: Any, file_name: str, content: bytes, artifacts: dict[str, bytes]) -> str:
    """Add a file under the name that it had, or under one with the hash that NeMo puts before it."""
    name = reference.removeprefix(ARTIFACT_PREFIX) if isinstance(reference, str) else ""
    is_kept = isinstance(reference, str) and reference.startswith(ARTIFACT_PREFIX) and name
    if not is_kept or artifacts.get(name, content) != content:
        name = f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}_{file_name}"
    artifacts[name] = content
    return f"{ARTIFACT_PREFIX}{name}"


def describe_tokenizer(tokenizer: FastConformerTokenizer) -> dict[str, Any]:
    """All that text and tokens depend on, to be compared."""
    return {
        "tokens": tokenizer.vocabulary_tokens(range(tokenizer.blank_token_id)),
        "backend": json.loads(tokenizer.complete_backend().to_str()),
        "event_tokens": list(tokenizer.event_tokens),
        "language_tag_pattern": tokenizer.language_tag_pattern,
        "languages": [
            [language, size, {**options, "tokenizer": json.loads(options["tokenizer"])}]
            for language, size, options in tokenizer.init_kwargs["languages"]
        ],
        **tokenizer.text_options,
    }
