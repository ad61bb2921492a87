"""
New tokenizers: trained from text, extended with pieces for other text, or joined from one for each language.

The sentencepiece library trains; what comes out is a [`FastConformerTokenizer`], as of a checkpoint of NeMo.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from ..nemo.sentencepiece_writer import write_sentencepiece
from ..nemo.tokenizer_writer import describe_tokenizer
from ..nemo.tokenizers import aggregate_tokenizer, character_tokenizer, sentencepiece_tokenizer
from ..tokenization_checks import MAX_TOKENS
from ..tokenization_fastconformer import FastConformerTokenizer
from ..tokenization_piece_text import WORD_MARK
from ..validation import is_number, require, require_choice, require_count
from .piece_merges import continue_merges

# Kinds of SentencePiece models that the models of this package have.
KINDS = ("bpe", "unigram", "char")
# SentencePiece's names of its rules of normalisation: NFKC with fewer control characters, and with folded case.
NORMALIZATION, LOWERCASING = "nmt_nfkc", "nmt_nfkc_cf"
# Steps between the scores of pieces that are added to a BPE model; SentencePiece keeps scores in 32 bits.
SCORE_STEP = 1.0


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    kind: str = "bpe",
    *,
    symbols: Sequence[str] = (),
    lowercase: bool = False,
    byte_fallback: bool = False,
    character_coverage: float = 1.0,
) -> FastConformerTokenizer:
    """
    Train a tokenizer on transcripts, with the sentencepiece library.

    Args:
        texts: The transcripts. All are read, empty ones are passed over.
        vocab_size (`int`): Pieces, the one for the unknown included. A model has one class more, the blank.
        kind (`str`, defaults to `"bpe"`): `"bpe"` (merges of frequent pairs), `"unigram"` (the likeliest pieces) or
            `"char"` (characters).
        symbols (`list[str]`, *optional*): Texts that are always one piece, such as `"<EOU>"`.
        lowercase (`bool`, defaults to `False`): Fold upper case, when texts are encoded too.
        byte_fallback (`bool`, defaults to `False`): Have a piece for each byte, for characters that have none.
        character_coverage (`float`, defaults to 1.0): Share of all characters that have a piece; less than 1 leaves
            out rare ones, as for Chinese (0.9995).

    Returns:
        A [`FastConformerTokenizer`].

    Raises:
        ValueError: for texts without characters, and for a vocabulary that is too small for their characters or too
            large for their words; the message of the latter says how many there could be.
    """
    require_choice("kind", kind, KINDS)
    require_count("vocab_size", vocab_size)
    require(vocab_size <= MAX_TOKENS, "vocab_size", vocab_size, f"at most {MAX_TOKENS}")
    require(
        is_number(character_coverage) and 0 < character_coverage <= 1,
        "character_coverage",
        character_coverage,
        "a share above 0, and at most 1",
    )
    is_list = isinstance(symbols, list | tuple) and all(isinstance(symbol, str) and symbol for symbol in symbols)
    require(is_list, "symbols", symbols, "a list of texts")
    model = _train(
        _collect(texts),
        vocab_size=vocab_size,
        model_type=kind,
        user_defined_symbols=list(symbols),
        normalization_rule_name=LOWERCASING if lowercase else NORMALIZATION,
        byte_fallback=byte_fallback,
        character_coverage=character_coverage,
    )
    return sentencepiece_tokenizer(model)


def _collect(texts: Iterable[str]) -> list[str]:
    """Texts that are not empty."""
    require(not isinstance(texts, str | bytes), "texts", texts, "many texts, such as a list of transcripts")
    found = []
    for number, text in enumerate(texts):
        require(isinstance(text, str), f"texts[{number}]", text, "a text")
        if text.strip():
            found.append(text)
    if not found:
        raise ValueError("texts: none of them has characters; expected transcripts.")
    return found


def _train(texts: Sequence[str], **options: Any) -> bytes:
    """A SentencePiece model without begin, end and padding, as NeMo's are; no text is too long for it."""
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            # Longer sentences are dropped without a word.
            max_sentence_length=max(len(text.encode("utf-8", errors="replace")) for text in texts) + 1,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            unk_id=0,
            minloglevel=2,
            **options,
        )
    except RuntimeError as error:
        raise ValueError(
            f"vocab_size={options['vocab_size']}: SentencePiece cannot train on these {len(texts)} texts; expected "
            f"another vocab_size, or more text. {str(error).strip()}"
        ) from error
    return model.getvalue()


def extend_tokenizer(
    tokenizer: FastConformerTokenizer,
    texts: Iterable[str],
    num_new_pieces: int,
    language: str | None = None,
) -> FastConformerTokenizer:
    """
    Add pieces to a tokenizer for text that it was not made for: another language, the words of a trade.

    All pieces stay, those of a tokenizer of one vocabulary with the same ids; new ones come after them. First come
    the characters that have no piece, the frequent ones first; then, for BPE, the merges that training on `texts`
    would go on with, and for unigram models the likeliest pieces of `texts`.

    Args:
        tokenizer ([`FastConformerTokenizer`]): The tokenizer, which is not changed.
        texts: Transcripts of the new kind.
        num_new_pieces (`int`): Pieces to add.
        language (`str`, *optional*): For aggregate tokenizers, the language of `texts`: the part that is extended,
            or a new one of `num_new_pieces` pieces, trained on `texts`.

    Returns:
        The new tokenizer. [`replace_tokenizer`] gives it to a model.

    Raises:
        ValueError: for texts that give fewer new pieces, a WordPiece tokenizer, and a language that is missing or
            given to a tokenizer that has none.
    """
    require_count("num_new_pieces", num_new_pieces)
    if tokenizer.text_rule == "aggregate":
        return _extend_aggregate(tokenizer, texts, num_new_pieces, language)
    if language is not None:
        raise ValueError(
            f"language={language!r} is not supported by a tokenizer of one vocabulary; expected None, or first "
            "join_tokenizers({'en': tokenizer, ...})."
        )
    collected = _collect(texts)
    options = {"language_tag_pattern": tokenizer.language_tag_pattern}
    if tokenizer.text_rule == "character":
        labels = tokenizer.vocabulary_tokens(range(tokenizer.blank_token_id))
        counts = Counter(character for text in collected for character in text if character not in labels)
        new = [character for character, _ in _by_frequency(counts)][:num_new_pieces]
        _check_number(new, num_new_pieces)
        return character_tokenizer([*labels, *new], **options)
    if tokenizer.text_rule != "sentencepiece":
        raise ValueError(
            f"text_rule={tokenizer.text_rule!r} cannot be extended; expected a tokenizer of SentencePiece, of "
            "characters, or an aggregate. `train_tokenizer` makes a new one."
        )
    model = _Model.of(tokenizer)
    new = [*model.add_characters(collected, num_new_pieces)]
    new += model.add_pieces(collected, num_new_pieces - len(new))
    _check_number(new, num_new_pieces)
    return sentencepiece_tokenizer(model.to_bytes(), **options)


def _extend_aggregate(
    tokenizer: FastConformerTokenizer, texts: Iterable[str], num_new_pieces: int, language: str | None
) -> FastConformerTokenizer:
    parts = tokenizer.language_parts
    require(isinstance(language, str), "language", language, f"one of {list(parts)}, or a new one")
    assert language is not None
    if language in parts:
        parts[language] = extend_tokenizer(parts[language], texts, num_new_pieces)
    else:
        parts[language] = train_tokenizer(texts, num_new_pieces)
    return aggregate_tokenizer(parts, language_tag_pattern=tokenizer.language_tag_pattern)


def join_tokenizers(parts: Mapping[str, FastConformerTokenizer]) -> FastConformerTokenizer:
    """
    Make one tokenizer of several, a language each (NeMo's `AggregateTokenizer`): texts are encoded with
    `tokenizer(text, language="de")`.

    Args:
        parts: A tokenizer for each language, in the order of the ids.

    Raises:
        ValueError: for parts that are aggregates or of characters, which NeMo has no form for.
    """
    require(isinstance(parts, Mapping) and len(parts) > 0, "parts", parts, "a tokenizer for each language")
    for language, part in parts.items():
        require(isinstance(language, str) and language != "", "language", language, "a code such as 'de'")
        require(isinstance(part, FastConformerTokenizer), f"parts[{language!r}]", part, "a FastConformerTokenizer")
        require_choice(f"parts[{language!r}].text_rule", part.text_rule, ("sentencepiece", "wordpiece"))
    return aggregate_tokenizer(parts)


def _check_number(new: Sequence[str], num_new_pieces: int) -> None:
    if len(new) < num_new_pieces:
        raise ValueError(
            f"num_new_pieces={num_new_pieces} is not supported: the texts give {len(new)} new pieces; expected at "
            "most that many, or more text."
        )


def _by_frequency(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


class _Model:
    """A SentencePiece model that gets pieces, and writes texts with those that it has."""

    def __init__(self, proto: Any) -> None:
        self._proto = proto
        self._pieces = {piece.piece for piece in proto.pieces}

    @classmethod
    def of(cls, tokenizer: FastConformerTokenizer) -> _Model:
        """The model of a tokenizer, if that is all that there is to it."""
        from sentencepiece import sentencepiece_model_pb2

        messages: Any = sentencepiece_model_pb2
        content = write_sentencepiece(tokenizer, json.loads(tokenizer.complete_backend().to_str()))
        again = sentencepiece_tokenizer(content, language_tag_pattern=tokenizer.language_tag_pattern)
        if describe_tokenizer(again) != describe_tokenizer(tokenizer):
            raise ValueError(
                "the tokenizer has no form in SentencePiece and cannot be extended; expected one that has."
            )
        return cls(messages.ModelProto.FromString(content))

    def to_bytes(self) -> bytes:
        self._proto.trainer_spec.vocab_size = len(self._proto.pieces)
        return self._proto.SerializeToString(deterministic=True)

    def add_characters(self, texts: Sequence[str], max_pieces: int) -> list[str]:
        """Give characters of texts a piece that have none; the pieces."""
        normalized = self._normalize(texts)
        for piece in self._proto.pieces:
            if piece.type == piece.USER_DEFINED:
                normalized = [text.replace(piece.piece, "") for text in normalized]
        counts = Counter(character for text in normalized for character in text if character not in self._pieces)
        new = [character for character, _ in _by_frequency(counts)][:max_pieces]
        lowest = self._lowest_score()
        for number, character in enumerate(new):
            self._add(character, lowest - SCORE_STEP * (number + 1))
        return new

    def add_pieces(self, texts: Sequence[str], num_pieces: int) -> list[str]:
        """Give frequent stretches of texts a piece; the pieces, fewer where there are no more."""
        trainer = self._proto.trainer_spec
        if trainer.model_type == trainer.CHAR or num_pieces == 0:
            return []
        if trainer.model_type == trainer.BPE:
            return self._add_merges(texts, num_pieces)
        return self._add_likely_pieces(texts, num_pieces)

    def _add_merges(self, texts: Sequence[str], num_pieces: int) -> list[str]:
        words = self._split_words(texts)
        normal = {piece.piece for piece in self._proto.pieces if piece.type == piece.NORMAL}
        refused = self._pieces - normal
        while True:
            new = list(islice(continue_merges(words, normal, refused), num_pieces))
            lowest = self._lowest_score()
            scored = [(piece, lowest - SCORE_STEP * (number + 1)) for number, piece in enumerate(new)]
            # Merges that come before may cut a piece elsewhere, so that it would not be found by itself.
            unreachable = set(new) - set(self._reachable(scored))
            if not unreachable:
                break
            refused |= unreachable
        for piece, score in scored:
            self._add(piece, score)
        return new

    def _split_words(self, texts: Iterable[str]) -> Counter[tuple[str, ...]]:
        """Words as the pieces that there are now; no piece reaches over their beginning, nor over what is no text."""
        processor = self._processor()
        normal = {piece.piece for piece in self._proto.pieces if piece.type == piece.NORMAL}
        words: Counter[tuple[str, ...]] = Counter()
        for pieces in processor.encode(list(texts), out_type=str):
            word: list[str] = []
            for piece in pieces:
                if word and (piece.startswith(WORD_MARK) or piece not in normal):
                    words[tuple(word)] += 1
                    word = []
                if piece in normal:
                    word.append(piece)
            if word:
                words[tuple(word)] += 1
        return words

    def _add_likely_pieces(self, texts: Sequence[str], num_pieces: int) -> list[str]:
        normalized = [text.replace(WORD_MARK, " ").strip() for text in self._normalize(texts)]
        content = _train(
            [text for text in normalized if text],
            vocab_size=len(self._proto.pieces) + num_pieces,
            model_type="unigram",
            normalization_rule_name="identity",
            character_coverage=1.0,
            hard_vocab_limit=False,
        )
        found = type(self._proto).FromString(content).pieces
        likely = [(piece.piece, piece.score) for piece in found if piece.type == piece.NORMAL]
        proposed = [
            item for item in sorted(likely, key=lambda item: (-item[1], item[0])) if item[0] not in self._pieces
        ]
        new: list[str] = []
        while proposed and len(new) < num_pieces:
            some, proposed = proposed[: num_pieces - len(new)], proposed[num_pieces - len(new) :]
            # Pieces that are worth less than their parts would never be used.
            reachable = self._reachable(some)
            for piece, score in some:
                if piece in reachable:
                    self._add(piece, score)
                    new.append(piece)
        return new

    def _reachable(self, scored: Sequence[tuple[str, float]]) -> set[str]:
        """Those of further pieces that are encoded as themselves, once all of them are there."""
        trial = type(self._proto)()
        trial.CopyFrom(self._proto)
        for piece, score in scored:
            trial.pieces.add(piece=piece, score=score)
        normalizer = trial.normalizer_spec
        normalizer.precompiled_charsmap = b""
        normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = False
        processor = _Model(trial)._processor()
        encoded = processor.encode([piece.replace(WORD_MARK, " ") for piece, _ in scored], out_type=str)
        return {piece for (piece, _), pieces in zip(scored, encoded, strict=True) if pieces == [piece]}

    def _add(self, piece: str, score: float) -> None:
        self._proto.pieces.add(piece=piece, score=score)
        self._pieces.add(piece)

    def _lowest_score(self) -> float:
        return min((piece.score for piece in self._proto.pieces), default=0.0)

    def _processor(self) -> Any:
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_proto=self.to_bytes())

    def _normalize(self, texts: Sequence[str]) -> list[str]:
        return self._processor().normalize(list(texts))
