"""Tokenizers of the kinds that NeMo has: SentencePiece, WordPiece, characters, and several languages in one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ..decoding.prompts import START_TOKEN
from ..tokenization_character_map import PrecompiledCharacterMap
from ..tokenization_checks import MAX_TOKENS, check_tokens
from ..tokenization_fastconformer import PROMPT_PART, FastConformerTokenizer
from ..validation import is_number, reading

BLANK_TOKEN = "<blank>"
EVENT_TOKENS = ("<EOU>", "<EOB>")
# Tokens of prompts that have a part in Transformers' generation.
PROMPT_ROLES = {"bos_token": START_TOKEN, "eos_token": "<|endoftext|>", "pad_token": "<pad>"}
MODEL_KEY = "tokenizer.model_path"
MAX_RESERVED = 2**14  # control pieces, and the user's own: ten times what Canary has


@dataclass(frozen=True)
class SentencePieces:
    """
    Pieces of a SentencePiece model by their kind.

    Args:
        tokens: All of them, in the order of their ids.
        unknown: The one for what has no piece.
        control: Those that no text gives.
        byte_pieces: Those of single bytes.
        symbols: The user's own, the longest first.
    """

    tokens: list[str]
    unknown: str
    control: list[str]
    byte_pieces: list[str]
    symbols: list[str]

    @property
    def reserved(self) -> list[str]:
        """Pieces that the same characters in a text do not give."""
        return [self.unknown, *self.control, *self.byte_pieces]


def sentencepiece_tokenizer(model_bytes: bytes, **options: Any) -> FastConformerTokenizer:
    """Tokenizer of a SentencePiece model of type BPE, unigram or character."""
    with reading(MODEL_KEY, f"a SentencePiece model, in {len(model_bytes)} bytes"):
        return _sentencepiece_tokenizer(model_bytes, **options)


def _sentencepiece_tokenizer(model_bytes: bytes, **options: Any) -> FastConformerTokenizer:
    model = _parse_sentencepiece(model_bytes)
    trainer, normalization = model.trainer_spec, model.normalizer_spec
    pieces = _sort_pieces(model)
    backend = _sentencepiece_backend(model, pieces)
    splits: list[pre_tokenizers.PreTokenizer] = []
    if pieces.symbols:
        splits.append(pre_tokenizers.Split(Regex("|".join(map(_escape, pieces.symbols))), behavior="isolated"))
    if pieces.symbols or trainer.model_type == trainer.UNIGRAM:
        # Both look whole pieces up; the characters of a reserved one, "<unk>" in a transcript, are text all the same.
        splits.append(_split_after_first(pieces.reserved))
    if splits:
        backend.pre_tokenizer = pre_tokenizers.Sequence(splits)
    backend.normalizer = _sentencepiece_normalizer(normalization, pieces.symbols)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _finish(
        backend,
        pieces.tokens,
        text_rule="sentencepiece",
        unk_token=pieces.unknown,
        unknown_text=trainer.unk_surface,
        control_tokens=pieces.control,
        byte_tokens=bool(pieces.byte_pieces),
        add_dummy_prefix=normalization.add_dummy_prefix,
        remove_extra_whitespaces=normalization.remove_extra_whitespaces,
        kept_symbols=pieces.symbols,
        **_prompt_options({token: token for token in (*pieces.symbols, *pieces.control)}),
        **options,
    )


def _parse_sentencepiece(model_bytes: bytes) -> Any:
    """The protocol buffer of a model, whose options are those that we follow."""
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    model = messages.ModelProto()
    try:
        model.ParseFromString(model_bytes)
    except Exception as error:
        raise ValueError(f"{MODEL_KEY}: {len(model_bytes)} bytes are not a SentencePiece model.") from error
    pinned = {
        "trainer_spec.treat_whitespace_as_suffix": (model.trainer_spec.treat_whitespace_as_suffix, False),
        "normalizer_spec.escape_whitespaces": (model.normalizer_spec.escape_whitespaces, True),
        "denormalizer_spec.precompiled_charsmap": (model.denormalizer_spec.precompiled_charsmap, b""),
    }
    for name, (value, expected) in pinned.items():
        if value != expected:
            raise ValueError(f"SentencePiece {name}={value!r} is not supported; expected {expected!r}.")
    return model


def _kinds_of(model: Any) -> Any:
    """The enumeration of the kinds of pieces, which the class of the pieces holds."""
    return type(model.pieces[0] if model.pieces else model.pieces.add())


def _sort_pieces(model: Any) -> SentencePieces:
    kinds = _kinds_of(model)
    of_kind: dict[int, list[str]] = {}
    if len(model.pieces) > MAX_TOKENS:  # before any of them is made a text
        raise ValueError(f"SentencePiece: {len(model.pieces)} pieces; expected at most {MAX_TOKENS}.")
    check_tokens([piece.piece for piece in model.pieces], "SentencePiece")
    for piece in model.pieces:
        if not is_number(piece.score):
            raise ValueError(
                f"SentencePiece: the score {piece.score!r} of {piece.piece!r} is not supported; expected a number."
            )
        of_kind.setdefault(piece.type, []).append(piece.piece)
    if of_kind.get(kinds.UNUSED):
        raise ValueError(f"SentencePiece unused pieces {of_kind[kinds.UNUSED][:3]} are not supported.")
    unknown = of_kind.get(kinds.UNKNOWN, [])
    if len(unknown) != 1:
        raise ValueError(f"SentencePiece unknown pieces: {unknown}; expected one.")
    byte_pieces = of_kind.get(kinds.BYTE, [])
    if byte_pieces and sorted(byte_pieces) != [f"<0x{byte:02X}>" for byte in range(256)]:
        raise ValueError(f"SentencePiece: {len(byte_pieces)} byte pieces; expected none, or '<0x00>' to '<0xFF>'.")
    num_reserved = len(of_kind.get(kinds.CONTROL, [])) + len(of_kind.get(kinds.USER_DEFINED, []))
    if num_reserved > MAX_RESERVED:
        raise ValueError(f"SentencePiece: {num_reserved} control pieces and symbols; expected at most {MAX_RESERVED}.")
    return SentencePieces(
        tokens=[piece.piece for piece in model.pieces],
        unknown=unknown[0],
        control=of_kind.get(kinds.CONTROL, []),
        byte_pieces=byte_pieces,
        symbols=sorted(of_kind.get(kinds.USER_DEFINED, []), key=len, reverse=True),
    )


def _sentencepiece_backend(model: Any, pieces: SentencePieces) -> Tokenizer:
    trainer, kinds = model.trainer_spec, _kinds_of(model)
    if trainer.model_type == trainer.UNIGRAM:
        # Ahead of every sum of log-probabilities, as SentencePiece wants its user-defined symbols.
        scores = [(piece.piece, 0.0 if piece.type == kinds.USER_DEFINED else piece.score) for piece in model.pieces]
        unk_id = pieces.tokens.index(pieces.unknown)
        return Tokenizer(models.Unigram(scores, unk_id=unk_id, byte_fallback=trainer.byte_fallback))
    if trainer.model_type not in (trainer.BPE, trainer.CHAR):
        name = trainer.ModelType.Name(trainer.model_type)
        raise ValueError(f"SentencePiece model_type={name} is not supported; expected BPE, UNIGRAM or CHAR.")
    merges = _merges(model) if trainer.model_type == trainer.BPE else []
    has_symbols = bool(pieces.symbols)
    return _bpe_backend(pieces.tokens, merges, pieces.unknown, trainer.byte_fallback, has_symbols=has_symbols)


def _merges(model: Any) -> list[tuple[str, str]]:
    """Every pair of pieces that makes up a normal piece, best piece first."""
    kinds = _kinds_of(model)
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
                f"SentencePiece piece {token!r} is not supported next to user-defined symbols; expected pieces that "
                "encode to themselves."
            )
    return build(ignore_merges=True)


def _sentencepiece_normalizer(specification: Any, symbols: Sequence[str]) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if specification.precompiled_charsmap:
        PrecompiledCharacterMap(specification.precompiled_charsmap)  # refuses what would end the process
        steps.append(normalizers.Precompiled(specification.precompiled_charsmap))
        # User-defined symbols are hidden from the map in characters of the private use area.
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


def _split_after_first(pieces: Iterable[str]) -> pre_tokenizers.PreTokenizer:
    pattern = "|".join(f"{_escape(piece[0])}(?={_escape(piece[1:])})" for piece in pieces if len(piece) > 1)
    return pre_tokenizers.Split(Regex(pattern), behavior="merged_with_previous")


def character_tokenizer(labels: Sequence[str], **options: Any) -> FastConformerTokenizer:
    """Tokenizer of a list of characters. What is not among them is left out when encoding, as NeMo's parser does."""
    check_tokens(labels, "labels")
    vocabulary = {label: label_id for label_id, label in enumerate(labels)}
    backend = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="isolated")  # a label of several characters is a word
    backend.decoder = decoders.Fuse()
    return _finish(backend, labels, text_rule="character", **options)


def wordpiece_tokenizer(
    vocabulary_lines: Sequence[str], unk_token: str = "[UNK]", lowercases: bool = False, **options: Any
) -> FastConformerTokenizer:
    """Tokenizer of a WordPiece vocabulary, one token a line."""
    check_tokens(vocabulary_lines, "tokenizer.vocab_path")
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
    of_prompts = {token.removeprefix(f"{PROMPT_PART}:"): token for token in tokens if token.startswith(PROMPT_PART)}
    options = {**_prompt_options(of_prompts), **options}
    return _finish(backend, tokens, events, text_rule="aggregate", languages=languages, **options)


def _prompt_options(tokens: Mapping[str, str]) -> dict[str, Any]:
    """
    Arguments of the tokenizer of a multitask model (NeMo's `CanaryTokenizer`, `CanaryBPETokenizer`); none for others.

    Args:
        tokens: Symbols of the vocabulary as they are written, to their names in it.
    """
    if START_TOKEN not in tokens:
        return {}
    padding = PROMPT_ROLES["pad_token"]
    special = [token for bare, token in tokens.items() if (bare[:2] == "<|" and bare[-2:] == "|>") or bare == padding]
    roles = {role: tokens[bare] for role, bare in PROMPT_ROLES.items() if bare in tokens}
    return {"prompt_tokens": special, **roles}


def _finish(
    backend: Tokenizer, tokens: Sequence[str], events: Sequence[str] = EVENT_TOKENS, **options: Any
) -> FastConformerTokenizer:
    """Add the blank after the vocabulary, unless one of its tokens pads, and name the events that are in it."""
    if "pad_token" not in options:
        blank = BLANK_TOKEN
        while blank in tokens:
            blank = f"<{blank[1:-1]}_>"
        backend.add_special_tokens([AddedToken(blank, special=True, normalized=False)])
        options["pad_token"] = blank
    present = [event for event in events if event in tokens]
    return FastConformerTokenizer(tokenizer_object=backend, event_tokens=present, **options)
