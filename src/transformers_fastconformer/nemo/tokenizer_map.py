"""The tokenizer of a `.nemo` archive, from its configuration and artifacts to a `FastConformerTokenizer`.

Every key of the `tokenizer` section is mapped, pinned or dropped with a reason (the tables below).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ..tokenization_fastconformer import FastConformerTokenizer

ReadArtifact = Callable[[str], bytes]

BLANK_TOKEN = "<blank>"
EVENT_TOKENS = ("<EOU>", "<EOB>")
LANGUAGE_TAG_PATTERN = r"\s*<[a-z]{2}-[A-Z]{2}>"  # what NeMo 3.0.0 strips unless the configuration says otherwise
WORDPIECE_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SUPPORTED_TYPES = ("bpe", "wpe", "agg")
TOKENIZER_CLASSES = ("EncDecCTCModelBPE", "EncDecRNNTBPEModel", "EncDecHybridRNNTCTCBPEModel")
CHARACTER_CLASSES = ("EncDecCTCModel", "EncDecRNNTModel", "EncDecHybridRNNTCTCModel")

MAPPED_KEYS = {
    "type": "which of the readers below",
    "model_path": "the SentencePiece model",
    "vocab_path": "the vocabulary of a WordPiece tokenizer; SentencePiece has its own",
    "langs": "the parts of an aggregate tokenizer, in the order of their ids",
    "hf_kwargs": "special tokens and letter case of a WordPiece tokenizer",
}
PINNED_KEYS: dict[str, Any] = {"special_tokens": None}
DROPPED_KEYS = {
    "dir": "a folder of the machine that trained the model; the artifacts are in the archive",
    "spe_tokenizer_vocab": "the pieces of the SentencePiece model again, as text",
    "custom_tokenizer": "one of CUSTOM_TOKENIZERS: the SentencePiece models and their ids are the same",
}
# Classes of NeMo for prompted decoders, and the plain ones by name.
CUSTOM_TOKENIZERS = ("CanaryTokenizer", "CanaryBPETokenizer", "AggregateTokenizer", "SentencePieceTokenizer")
HF_KWARGS_MAPPED = {
    "pretrained_model_name": "'uncased' in it lowers the letters, in an aggregate; NeMo 3.0 takes no other alone",
    "unk_token": "what unknown words become",
}
HF_KWARGS_DROPPED = {"use_fast": "which implementation runs, not what it gives"}
# A special token that is not in the vocabulary would be added to it and move the blank; one that is a word would cut
# other words where it stands in them.
HF_KWARGS_IN_VOCABULARY = ("unk_token", "mask_token", "bos_token", "eos_token", "pad_token", "sep_token", "cls_token")


def build_tokenizer(config: Mapping[str, Any], read_artifact: ReadArtifact) -> FastConformerTokenizer:
    """
    The tokenizer that a parsed `model_config.yaml` describes.

    Args:
        config: The whole configuration.
        read_artifact: Gives the bytes of an archive member by the name that stands behind `nemo:`.
    """
    options: dict[str, Any] = {}
    decoding = config.get("decoding") or {}
    if decoding.get("strip_lang_tags"):
        options["language_tag_pattern"] = decoding.get("lang_tag_pattern") or LANGUAGE_TAG_PATTERN
        _check_pattern(options["language_tag_pattern"])
    nemo_class = str(config.get("target") or "").rsplit(".", 1)[-1]
    section = config.get("tokenizer")
    if nemo_class in CHARACTER_CLASSES:
        section = None  # NeMo does not read it
    if section is None:
        if nemo_class in TOKENIZER_CLASSES:
            raise ValueError(f"tokenizer=None is not supported in a model of {nemo_class}; expected a section.")
        return character_tokenizer(character_labels(config), **options)
    kind = _tokenizer_type(section, "tokenizer")
    if kind != "agg":
        return _single_tokenizer(section, "tokenizer", read_artifact, **options)
    _check_keys(section, "tokenizer")
    parts = section.get("langs")
    if not isinstance(parts, Mapping) or not parts:
        raise ValueError(f"tokenizer.langs={parts!r} is not supported; expected one section for each language.")
    return aggregate_tokenizer(
        {
            str(language): _single_tokenizer(part, f"tokenizer.langs.{language}", read_artifact)
            for language, part in parts.items()
        },
        **options,
    )


def _check_pattern(pattern: Any) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"decoding.lang_tag_pattern={pattern!r} is not supported; expected a regular expression ({error})."
        ) from None


def timestamp_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `FastConformerProcessor` that say how times of words and segments are formed."""
    decoding = config.get("decoding") or {}
    names = {
        "word_seperator": "word_separator",
        "segment_seperators": "segment_separators",
        "segment_gap_threshold": "segment_gap_frames",
    }
    return {ours: decoding[theirs] for theirs, ours in names.items() if decoding.get(theirs) is not None}


def character_labels(config: Mapping[str, Any]) -> list[str]:
    """
    Vocabulary of a character model, which has no `tokenizer` section.

    NeMo 3.0 writes the `labels` of a transducer into its joint network; a CTC model goes by the vocabulary of its head
    alone, and so does the CTC head of a hybrid, which is not supported with other labels than the transducer's.
    """
    has_joint = config.get("joint") is not None
    of_labels = ("labels", config.get("labels"))
    of_joint = ("joint.vocabulary", (config.get("joint") or {}).get("vocabulary"))
    of_decoder = ("decoder.vocabulary", (config.get("decoder") or {}).get("vocabulary"))
    sections = (of_labels, of_joint, of_decoder) if has_joint else (of_decoder, of_labels)
    for name, labels in sections:
        if not labels:
            continue
        wrong = [label for label in labels if not isinstance(label, str)]
        if wrong:
            raise ValueError(f"{name}: {wrong[0]!r} is not supported; expected strings (quoted in YAML).")
        if len(set(labels)) != len(labels):
            repeated = sorted({label for label in labels if labels.count(label) > 1})
            raise ValueError(f"{name}: {repeated} stand there twice; expected different characters.")
        _check_ctc_labels(config, name, labels)
        return list(labels)
    raise ValueError("tokenizer, labels: not found; expected a tokenizer section, labels or decoder.vocabulary.")


def _check_ctc_labels(config: Mapping[str, Any], name: str, labels: Sequence[str]) -> None:
    """Refuse a hybrid whose CTC head has other labels than its transducer."""
    if str(config.get("target") or "").rsplit(".", 1)[-1] != "EncDecHybridRNNTCTCModel":
        return
    found = ((config.get("aux_ctc") or {}).get("decoder") or {}).get("vocabulary")
    if found and list(found) != list(labels):
        raise ValueError(
            f"aux_ctc.decoder.vocabulary={list(found)!r} is not supported; expected the {len(labels)} labels of "
            f"{name}."
        )


def _tokenizer_type(section: Mapping[str, Any], name: str) -> str:
    kind = section.get("type")
    if not isinstance(kind, str) or kind.lower() not in SUPPORTED_TYPES:
        raise ValueError(f"{name}.type={kind!r} is not supported; expected one of {SUPPORTED_TYPES}.")
    return kind.lower()


def _check_keys(section: Mapping[str, Any], name: str) -> None:
    for key, value in section.items():
        if key == "custom_tokenizer" and value is not None:
            target = value.get("_target_") if isinstance(value, Mapping) else value
            if str(target).rsplit(".", 1)[-1] not in CUSTOM_TOKENIZERS:
                raise ValueError(f"{name}.{key}={value!r} is not supported; expected one of {CUSTOM_TOKENIZERS}.")
        if key in PINNED_KEYS and value != PINNED_KEYS[key]:
            raise ValueError(f"{name}.{key}={value!r} is not supported; expected {PINNED_KEYS[key]!r}.")
        if key not in MAPPED_KEYS and key not in PINNED_KEYS and key not in DROPPED_KEYS:
            known = sorted({*MAPPED_KEYS, *PINNED_KEYS, *DROPPED_KEYS})
            raise ValueError(f"{name}.{key}={value!r} is not supported; expected one of {known}.")


def _artifact(section: Mapping[str, Any], key: str, name: str, read_artifact: ReadArtifact) -> bytes:
    value = section.get(key)
    if not isinstance(value, str) or not value.startswith("nemo:"):
        raise ValueError(f"{name}.{key}={value!r} is not supported; expected 'nemo:' and the name of a member.")
    try:
        return read_artifact(value.removeprefix("nemo:"))
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{name}.{key}={value!r} is not supported; expected a member of the archive: {error}"
        ) from None


def _single_tokenizer(
    section: Mapping[str, Any], name: str, read_artifact: ReadArtifact, **options: Any
) -> FastConformerTokenizer:
    kind = _tokenizer_type(section, name)
    _check_keys(section, name)
    if kind == "agg":
        raise ValueError(f"{name}.type='agg' is not supported; expected 'bpe' or 'wpe' inside an aggregate.")
    if kind == "bpe":
        return sentencepiece_tokenizer(_artifact(section, "model_path", name, read_artifact), **options)
    hf_kwargs = section.get("hf_kwargs") or {}
    for key, value in hf_kwargs.items():
        if key not in HF_KWARGS_MAPPED and key not in HF_KWARGS_DROPPED and key not in HF_KWARGS_IN_VOCABULARY:
            known = sorted({*HF_KWARGS_MAPPED, *HF_KWARGS_DROPPED, *HF_KWARGS_IN_VOCABULARY})
            raise ValueError(f"{name}.hf_kwargs.{key}={value!r} is not supported; expected one of {known}.")
    lines = _artifact(section, "vocab_path", name, read_artifact).decode("utf-8").splitlines()
    named = [hf_kwargs[key] for key in HF_KWARGS_IN_VOCABULARY if hf_kwargs.get(key) is not None]
    missing = [token for token in (*WORDPIECE_SPECIAL_TOKENS, *named) if token not in lines]
    if missing:
        raise ValueError(f"{name}.vocab_path: special tokens {missing} are missing; expected them in the vocabulary.")
    for key in HF_KWARGS_IN_VOCABULARY:
        token = hf_kwargs.get(key)
        if token is not None and not (token[:1] in "[<" and token[-1:] in "]>"):
            raise ValueError(f"{name}.hf_kwargs.{key}={token!r} is not supported; expected a token like '[UNK]'.")
    # NeMo 3.0 reads the name in the parts of an aggregate alone.
    base_model = "bert-base-cased" if name == "tokenizer" else hf_kwargs.get("pretrained_model_name") or ""
    unknown = hf_kwargs.get("unk_token") or "[UNK]"
    return wordpiece_tokenizer(lines, unk_token=unknown, lowercases="uncased" in base_model, **options)


def sentencepiece_tokenizer(model_bytes: bytes, **options: Any) -> FastConformerTokenizer:
    """Tokenizer of a SentencePiece model of type BPE, unigram or character."""
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    model = messages.ModelProto()
    try:
        model.ParseFromString(model_bytes)
    except Exception as error:
        raise ValueError(f"tokenizer.model_path: {len(model_bytes)} bytes are no SentencePiece model.") from error
    trainer, normalization = model.trainer_spec, model.normalizer_spec
    pinned = {
        "trainer_spec.treat_whitespace_as_suffix": (trainer.treat_whitespace_as_suffix, False),
        "normalizer_spec.escape_whitespaces": (normalization.escape_whitespaces, True),
        "denormalizer_spec.precompiled_charsmap": (model.denormalizer_spec.precompiled_charsmap, b""),
    }
    for name, (value, expected) in pinned.items():
        if value != expected:
            raise ValueError(f"SentencePiece {name}={value!r} is not supported; expected {expected!r}.")

    kinds = type(model.pieces.add() if not model.pieces else model.pieces[0])
    of_type: dict[int, list[str]] = {}
    for piece in model.pieces:
        of_type.setdefault(piece.type, []).append(piece.piece)
    if of_type.get(kinds.UNUSED):
        raise ValueError(f"SentencePiece unused pieces {of_type[kinds.UNUSED][:3]} are not supported.")
    unknown = of_type.get(kinds.UNKNOWN, [])
    if len(unknown) != 1:
        raise ValueError(f"SentencePiece unknown pieces: {unknown}; expected one.")
    tokens = [piece.piece for piece in model.pieces]
    symbols = sorted(of_type.get(kinds.USER_DEFINED, []), key=len, reverse=True)
    reserved = [*unknown, *of_type.get(kinds.CONTROL, []), *of_type.get(kinds.BYTE, [])]

    if trainer.model_type == trainer.UNIGRAM:
        # Ahead of every sum of log-probabilities, as SentencePiece wants its user-defined symbols.
        scores = [(piece.piece, 0.0 if piece.type == kinds.USER_DEFINED else piece.score) for piece in model.pieces]
        backend = Tokenizer(
            models.Unigram(scores, unk_id=tokens.index(unknown[0]), byte_fallback=trainer.byte_fallback)
        )
    elif trainer.model_type in (trainer.BPE, trainer.CHAR):
        merges = _merges(model, kinds) if trainer.model_type == trainer.BPE else []
        backend = _bpe_backend(tokens, merges, unknown[0], trainer.byte_fallback, has_symbols=bool(symbols))
    else:
        name = trainer.ModelType.Name(trainer.model_type)
        raise ValueError(f"SentencePiece model_type={name} is not supported; expected BPE, UNIGRAM or CHAR.")

    splits: list[pre_tokenizers.PreTokenizer] = []
    if symbols:
        splits.append(pre_tokenizers.Split(Regex("|".join(map(_escape, symbols))), behavior="isolated"))
    if symbols or trainer.model_type == trainer.UNIGRAM:
        # Both look whole pieces up; the characters of a reserved one, "<unk>" in a transcript, are text all the same.
        splits.append(_split_behind_first(reserved))
    if splits:
        backend.pre_tokenizer = pre_tokenizers.Sequence(splits)
    backend.normalizer = _sentencepiece_normalizer(normalization, symbols)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _finish(
        backend,
        tokens,
        text_rule="sentencepiece",
        unk_token=unknown[0],
        unknown_text=trainer.unk_surface,
        control_tokens=of_type.get(kinds.CONTROL, []),
        byte_tokens=bool(of_type.get(kinds.BYTE)),
        add_dummy_prefix=normalization.add_dummy_prefix,
        remove_extra_whitespaces=normalization.remove_extra_whitespaces,
        kept_symbols=symbols,
        **options,
    )


def _merges(model: Any, kinds: Any) -> list[tuple[str, str]]:
    """Every pair of pieces that makes up a normal piece, best piece first."""
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == kinds.NORMAL}
    ranked: list[tuple[float, int, tuple[str, str]]] = []
    for position, (piece, score) in enumerate(scores.items()):
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                ranked.append((-score, position, (left, right)))
    return [pair for _, _, pair in sorted(ranked, key=lambda entry: entry[:2])]


def _bpe_backend(
    tokens: Sequence[str], merges: list[tuple[str, str]], unknown: str, byte_fallback: bool, has_symbols: bool
) -> Tokenizer:
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}

    def build(ignore_merges: bool) -> Tokenizer:
        return Tokenizer(
            models.BPE(
                vocabulary,
                merges,
                unk_token=unknown,
                fuse_unk=True,
                byte_fallback=byte_fallback,
                ignore_merges=ignore_merges,
            )
        )

    merging = build(ignore_merges=False)
    if not has_symbols:
        return merging
    # A user-defined symbol has no merges that lead to it: it is looked up whole, and so is every other stretch of
    # text that happens to be one piece. That is right where merging finds that same piece.
    reachable = {token for pair in merges for token in ("".join(pair), *pair)}
    for token in reachable:
        if [found.value for found in merging.model.tokenize(token)] != [token]:
            raise ValueError(
                f"SentencePiece piece {token!r} is not supported beside user-defined symbols; expected pieces that "
                "encode to themselves."
            )
    return build(ignore_merges=True)


def _sentencepiece_normalizer(specification: Any, symbols: Sequence[str]) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if specification.precompiled_charsmap:
        steps.append(normalizers.Precompiled(specification.precompiled_charsmap))
        # User-defined symbols are hidden from the map behind characters of the private use area.
        changed = [symbol for symbol in symbols if steps[0].normalize_str(symbol) != symbol]
        hidden = [(symbol, chr(0xF0000 + index)) for index, symbol in enumerate(changed)]
        steps = [
            *(normalizers.Replace(symbol, character) for symbol, character in hidden),
            *steps,
            *(normalizers.Replace(character, symbol) for symbol, character in hidden),
        ]
    if specification.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if specification.add_dummy_prefix:
        steps.append(normalizers.Prepend(" "))
    steps.append(normalizers.Replace(" ", "▁"))
    if specification.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(r"▁+\z"), ""))
    return normalizers.Sequence(steps)


def _escape(text: str) -> str:
    """`text` as a pattern of the tokenizers library, whose syntax has more special characters than Python's."""
    return "".join(f"\\x{{{ord(character):x}}}" for character in text)


def _split_behind_first(pieces: Iterable[str]) -> pre_tokenizers.PreTokenizer:
    pattern = "|".join(f"{_escape(piece[0])}(?={_escape(piece[1:])})" for piece in pieces if len(piece) > 1)
    return pre_tokenizers.Split(Regex(pattern), behavior="merged_with_previous")


def character_tokenizer(labels: Sequence[str], **options: Any) -> FastConformerTokenizer:
    """Tokenizer of a list of characters. What is not among them is left out when encoding, as NeMo's parser does."""
    vocabulary = {label: label_id for label_id, label in enumerate(labels)}
    backend = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="isolated")  # a label of several characters is a word
    backend.decoder = decoders.Fuse()
    return _finish(backend, labels, text_rule="character", **options)


def wordpiece_tokenizer(
    vocabulary_lines: Sequence[str], unk_token: str = "[UNK]", lowercases: bool = False, **options: Any
) -> FastConformerTokenizer:
    """Tokenizer of a WordPiece vocabulary, one token a line."""
    tokens = list(dict.fromkeys(vocabulary_lines))
    if len(tokens) != len(vocabulary_lines):
        raise ValueError("tokenizer.vocab_path: repeated tokens are not supported; expected a token once.")
    if unk_token not in tokens:
        raise ValueError(f"tokenizer.vocab_path: the unknown token {unk_token!r} is missing.")
    backend = Tokenizer(models.WordPiece({token: index for index, token in enumerate(tokens)}, unk_token=unk_token))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercases)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return _finish(backend, tokens, text_rule="wordpiece", unk_token=unk_token, **options)


def aggregate_tokenizer(parts: Mapping[str, FastConformerTokenizer], **options: Any) -> FastConformerTokenizer:
    """One tokenizer for several languages, each with its own ids in the order of `parts`."""
    tokens = [
        f"{language}:{token}"
        for language, part in parts.items()
        for token in part.vocabulary_tokens(range(part.blank_token_id))
    ]
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=BLANK_TOKEN))
    languages = [
        [language, part.blank_token_id, {**part.text_options, "tokenizer": part.complete_backend().to_str()}]
        for language, part in parts.items()
    ]
    events = [f"{language}:{event}" for language in parts for event in EVENT_TOKENS]
    return _finish(backend, tokens, events, text_rule="aggregate", languages=languages, **options)


def _finish(
    backend: Tokenizer, tokens: Sequence[str], events: Sequence[str] = EVENT_TOKENS, **options: Any
) -> FastConformerTokenizer:
    """Adds the blank behind the vocabulary and names the events that are in it."""
    blank = BLANK_TOKEN
    while blank in tokens:
        blank = f"<{blank[1:-1]}_>"
    backend.add_special_tokens([AddedToken(blank, special=True, normalized=False)])
    present = [event for event in events if event in tokens]
    return FastConformerTokenizer(tokenizer_object=backend, pad_token=blank, event_tokens=present, **options)
