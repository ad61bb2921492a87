"""
SentencePiece models written from tokenizers of ours: the inverse of `tokenizers.sentencepiece_tokenizer`.

A `tokenizer.json` keeps everything that the text and its pieces depend on. Only facts about the training of the model
are lost, and for BPE the scores: their order is that of the merges.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from ..tokenization_fastconformer import FastConformerTokenizer

# SentencePiece's names of the ends of a text and of padding, each with the key of its id.
SPECIAL_PIECES = {"<s>": "bos_id", "</s>": "eos_id", "<pad>": "pad_id"}


def write_sentencepiece(tokenizer: FastConformerTokenizer, state: Mapping[str, Any]) -> bytes:
    """
    The SentencePiece model of a tokenizer.

    Args:
        tokenizer: A tokenizer whose `text_rule` is `"sentencepiece"`.
        state: Its complete backend, the content of a `tokenizer.json`.

    Raises:
        ValueError: for a backend that no SentencePiece model has.
    """
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    options = tokenizer.text_options
    tokens = tokenizer.vocabulary_tokens(range(tokenizer.blank_token_id))
    if options["unk_token"] not in tokens:
        raise ValueError(f"unk_token={options['unk_token']!r} is not supported; expected a token of the vocabulary.")
    model = messages.ModelProto()
    kind, scores = _kind_and_scores(state["model"])
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = getattr(trainer, kind)
    trainer.vocab_size = len(tokens)
    trainer.byte_fallback = bool(state["model"].get("byte_fallback"))
    trainer.unk_surface = options["unknown_text"]
    trainer.unk_piece = options["unk_token"]
    trainer.unk_id = tokens.index(options["unk_token"])
    for piece, key in SPECIAL_PIECES.items():
        setattr(trainer, key, tokens.index(piece) if piece in options["control_tokens"] else -1)
    for token in tokens:
        piece = model.pieces.add()
        piece.piece = token
        piece.type = getattr(piece, _type_of(token, options))
        piece.score = scores.get(token, 0.0) if piece.type == piece.NORMAL else 0.0
    character_map = _character_map(state)
    normalizer.name = "user_defined" if character_map else "identity"
    normalizer.precompiled_charsmap = character_map
    normalizer.add_dummy_prefix = options["add_dummy_prefix"]
    normalizer.remove_extra_whitespaces = options["remove_extra_whitespaces"]
    normalizer.escape_whitespaces = True
    return model.SerializeToString(deterministic=True)


def list_pieces(model_bytes: bytes) -> bytes:
    """The pieces of a model and their scores as text, a line each."""
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2
    pieces = messages.ModelProto.FromString(model_bytes).pieces
    return "".join(f"{piece.piece}\t{piece.score:g}\n" for piece in pieces).encode("utf-8")


def _type_of(token: str, options: Mapping[str, Any]) -> str:
    """SentencePiece's name of a kind of piece."""
    if token == options["unk_token"]:
        return "UNKNOWN"
    if token in options["control_tokens"]:
        return "CONTROL"
    if token in options["kept_symbols"]:
        return "USER_DEFINED"
    if options["byte_tokens"] and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return "BYTE"
    return "NORMAL"


def _kind_and_scores(model: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """SentencePiece's name of a kind of model, and the scores of its pieces."""
    kind = model.get("type")
    if kind == "Unigram":
        return "UNIGRAM", dict(model["vocab"])
    if kind != "BPE":
        raise ValueError(f"a tokenizer.json of model type {kind!r} is not supported; expected 'BPE' or 'Unigram'.")
    pairs = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
    # A piece that several pairs make has the rank of the first; pieces that none makes, such as letters, come last.
    made = list(dict.fromkeys("".join(pair) for pair in pairs))
    met = set(made)
    others = [piece for piece in sorted(model["vocab"], key=model["vocab"].__getitem__) if piece not in met]
    scores = {piece: -float(rank) for rank, piece in enumerate([*made, *others])}
    return ("BPE" if pairs else "CHAR"), scores


def _character_map(state: Mapping[str, Any]) -> bytes:
    """The map of characters among the steps of the normalizer; empty without such a step."""
    normalizer = state.get("normalizer") or {}
    for step in normalizer.get("normalizers", [normalizer]):
        if step.get("type") == "Precompiled":
            return base64.b64decode(step["precompiled_charsmap"])
    return b""
