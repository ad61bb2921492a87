"""The tokenizer: token ids to text and back.

Encoding is the work of the `tokenizers` library. Decoding is written out here, because the text must be NeMo's to the
last space (checked against NeMo 3.0.0: `AbstractCTCDecoding` and `AbstractRNNTDecoding.decode_tokens_to_str`,
`SentencePieceTokenizer`, `AggregateTokenizer`).
"""

from __future__ import annotations

import base64
import codecs
import copy
import itertools
import json
import os
import re
import struct
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer, normalizers
from transformers import BatchEncoding, PreTrainedTokenizerFast
from transformers.utils import to_py_obj

from .checkpoint_sources import LoadsFromSources
from .validation import is_integer, is_number, reading, require, require_choice, shown

TEXT_RULES = ("sentencepiece", "character", "wordpiece", "aggregate")
WORD_MARK = "▁"
CONTINUATION_MARK = "##"
UNKNOWN_TEXT = " ⁇ "  # what SentencePiece writes for its unknown piece
LANGUAGE_TAG_PATTERN = r"\s*<[a-z]{2}-[A-Z]{2}>"  # what NeMo 3.0.0 strips unless the configuration says otherwise
IGNORED_LABEL = -100
# About ten times what the largest published tokenizers have, of 16 thousand tokens.
MAX_TOKENS = 2**18
MAX_TOKEN_CHARACTERS = 256
MAX_VOCABULARY_CHARACTERS = 2**22
MAX_LANGUAGES = 256
MAX_REPLACEMENT_BYTES = 1024  # of one stretch of text, in a map of characters
MAX_PADDING = 2**20
# Keys of an entry of `added_tokens` in a tokenizer.json.
ADDED_TOKEN_KEYS = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")


def punctuation_of(tokens: Iterable[str]) -> frozenset[str]:
    """
    Punctuation that a vocabulary can write: all characters of a Unicode P category in its tokens.

    Tokens that begin with the word or continuation mark, and bracketed ones such as `<unk>` or `[CLS]`, do not count
    (NeMo 3.0.0, `extract_punctuation_from_vocab`).
    """
    found: set[str] = set()
    for token in tokens:
        if token.startswith((WORD_MARK, CONTINUATION_MARK)) or re.match(r"<.*>$|\[.*\]$", token):
            continue
        found.update(character for character in token if unicodedata.category(character).startswith("P"))
    return frozenset(found)


class PrecompiledCharacterMap:
    """
    Text normalisation of a SentencePiece model, longest match first as SentencePiece does it.

    The `Precompiled` normalizer of the tokenizers library takes the shortest match and replaces whole grapheme
    clusters, so that combining accents get lost or composed where SentencePiece leaves them.

    Args:
        blob: `precompiled_charsmap` of the model: the length in bytes of a double-array trie, the trie, and the
            replacements, each ended by a zero byte.
    """

    def __init__(self, blob: bytes):
        with reading("precompiled_charsmap", "a map of characters as SentencePiece writes it"):
            self._units, self._replacements = self._parse(blob)

    @staticmethod
    def _parse(blob: bytes) -> tuple[tuple[int, ...], bytes]:
        """
        The trie and the replacements, checked.

        The tokenizers library follows every place without a look and ends the process where there is none.
        """
        trie_bytes = int.from_bytes(blob[:4], "little")
        if len(blob) < 4 or trie_bytes % 4 or not 0 < trie_bytes <= len(blob) - 4:
            raise ValueError(f"{len(blob)} bytes with a trie of {trie_bytes}; expected a trie of whole units in them.")
        units = np.frombuffer(blob, "<u4", trie_bytes // 4, 4).astype(np.int64)
        replacements = blob[4 + trie_bytes :]
        nodes = np.flatnonzero(units >> 31 == 0)  # the others hold the place of a replacement
        children = nodes ^ ((units[nodes] >> 10) << ((units[nodes] & 0x200) >> 6))
        if np.any(children | 0xFF >= len(units)):
            raise ValueError("a unit of its trie leads out of it; expected units that stay inside.")
        replacements.decode("utf-8")
        places = units[children[units[nodes] >> 8 & 1 == 1]] & 0x7FFFFFFF
        text = np.frombuffer(replacements, np.uint8)
        ends = np.flatnonzero(text == 0)
        if len(text) and (not len(ends) or ends[-1] != len(text) - 1):
            raise ValueError("its last replacement has no end; expected a zero byte after each.")
        if np.any(places >= len(text)) or np.any(text[places] & 0xC0 == 0x80):
            raise ValueError("a replacement does not begin where a character does; expected places of characters.")
        if len(ends) and np.diff(ends, prepend=-1).max() > MAX_REPLACEMENT_BYTES:
            raise ValueError(f"a replacement is longer than expected; expected at most {MAX_REPLACEMENT_BYTES} bytes.")
        return struct.unpack_from(f"<{len(units)}I", blob, 4), replacements

    def _longest_match(self, text: bytes, start: int) -> tuple[int, int] | None:
        """Number of bytes matched at `start` and the place of their replacement."""
        units = self._units
        found = None
        node = self._child_base(units[0])
        for end in range(start, len(text)):
            node ^= text[end]
            if node >= len(units):
                break
            unit = units[node]
            if unit & 0x800000FF != text[end]:  # the label, and the bit that marks a value in its place
                break
            node ^= self._child_base(unit)
            if unit >> 8 & 1:
                found = (end - start + 1, units[node] & 0x7FFFFFFF)
        return found

    @staticmethod
    def _child_base(unit: int) -> int:
        return (unit >> 10) << ((unit & 0x200) >> 6)

    def normalize(self, text: str, kept: re.Pattern[str] | None = None) -> str:
        """The mapped text; matches of `kept` stay as they are."""
        parts: list[str] = []
        position = 0
        for match in kept.finditer(text) if kept is not None else ():
            parts += [self._map(text[position : match.start()]), match.group()]
            position = match.end()
        return "".join([*parts, self._map(text[position:])])

    def _map(self, text: str) -> str:
        encoded = text.encode("utf-8", errors="replace")
        mapped = bytearray()
        position = 0
        while position < len(encoded):
            match = self._longest_match(encoded, position)
            if match is None:
                size = 1
                while position + size < len(encoded) and encoded[position + size] & 0xC0 == 0x80:
                    size += 1
                mapped += encoded[position : position + size]
            else:
                size, replacement = match
                mapped += self._replacements[replacement : self._replacements.index(0, replacement)]
            position += size
        return mapped.decode("utf-8")


@dataclass(frozen=True)
class LanguageSpan:
    """The ids `start` to `start + size - 1` of an aggregate tokenizer, which belong to one language."""

    language: str
    start: int
    size: int


@dataclass(frozen=True)
class PieceTextState:
    """
    State of text whose tokens come piece by piece, see [`FastConformerTokenizer.extend_piece_text`].

    Args:
        has_pieces: There were tokens.
        has_text: They had text.
        at_start: A word mark here was put there by the encoder.
        mark_dropped: The token before lost such a mark, and the next one does not.
        unfinished_bytes: Bytes at the end that may begin a character.
    """

    has_pieces: bool = False
    has_text: bool = False
    at_start: bool = True
    mark_dropped: bool = False
    unfinished_bytes: bytes = b""


class FastConformerTokenizer(LoadsFromSources, PreTrainedTokenizerFast):
    """
    Tokenizer of the FastConformer models.

    Ids `0` to `vocab_size - 1` are NeMo's. The next one is the blank, an added special token that also pads. `decode`
    gives NeMo's text: one space before punctuation is dropped where the vocabulary knows that punctuation, and tokens
    that are unknown, invisible or a byte are written as SentencePiece does. The blank and the ignored label -100 never
    show. The best classes of CTC frames become text too, see `decode`.

    Args:
        tokenizer_object, tokenizer_file: The backend, as in [`PreTrainedTokenizerFast`].
        text_rule (`str`, defaults to `"sentencepiece"`):
            Rule by which tokens become text: `"sentencepiece"`, `"character"`, `"wordpiece"` or `"aggregate"`.
        control_tokens (`list[str]`, *optional*): Tokens without text (SentencePiece's control pieces).
        byte_tokens (`bool`, defaults to `False`): Tokens such as `<0x41>` are bytes of UTF-8 text.
        unknown_text (`str`, *optional*): Text of `unk_token`.
        add_dummy_prefix, remove_extra_whitespaces (`bool`, default to `True`):
            Options of the SentencePiece model that decide which leading spaces are dropped.
        kept_symbols (`list[str]`, *optional*): User-defined symbols, which normalisation leaves alone.
        event_tokens (`list[str]`, *optional*):
            Tokens that report an event (`<EOU>`: the end of an utterance). `decode(..., skip_special_tokens=True)`
            leaves them out; without it they are written, as NeMo does. [`FastConformerProcessor`] lists them.
        language_tag_pattern (`str`, *optional*): Regular expression of language tags to delete from the text.
        languages (`list[list]`, *optional*):
            For `"aggregate"`: language, number of tokens and `tokenizer.json` of each part, in the order of the ids.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json"}
    model_input_names = ["input_ids", "attention_mask"]
    _tokenizer: Any  # the `tokenizers.Tokenizer`, never None once made

    def __init__(
        self,
        *args: Any,
        text_rule: str = "sentencepiece",
        control_tokens: Sequence[str] = (),
        byte_tokens: bool = False,
        unknown_text: str = UNKNOWN_TEXT,
        add_dummy_prefix: bool = True,
        remove_extra_whitespaces: bool = True,
        kept_symbols: Sequence[str] = (),
        event_tokens: Sequence[str] = (),
        language_tag_pattern: str | None = None,
        languages: Sequence[Sequence[Any]] = (),
        **kwargs: Any,
    ):
        require_choice("text_rule", text_rule, TEXT_RULES)
        _check_options(
            {
                "control_tokens": control_tokens,
                "kept_symbols": kept_symbols,
                "event_tokens": event_tokens,
                "byte_tokens": byte_tokens,
                "add_dummy_prefix": add_dummy_prefix,
                "remove_extra_whitespaces": remove_extra_whitespaces,
                "unknown_text": unknown_text,
            }
        )
        require(isinstance(languages, list | tuple), "languages", languages, "a list with an entry for each language")
        max_tokens = kwargs.get("model_max_length")
        require(max_tokens is None or is_number(max_tokens), "model_max_length", max_tokens, "a number of tokens")
        tokenizer_file = kwargs.get("tokenizer_file")
        if kwargs.get("tokenizer_object") is None and isinstance(tokenizer_file, str):
            check_tokenizer_json(_read_text(tokenizer_file), tokenizer_file)
        # A transcript may hold the characters "<blank>" or "<unk>"; they are text there.
        kwargs.setdefault("split_special_tokens", True)
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        with reading(str(tokenizer_file or "tokenizer"), "a tokenizer.json and the options next to it"):
            super().__init__(
                *args,
                text_rule=text_rule,
                control_tokens=list(control_tokens),
                byte_tokens=byte_tokens,
                unknown_text=unknown_text,
                add_dummy_prefix=add_dummy_prefix,
                remove_extra_whitespaces=remove_extra_whitespaces,
                kept_symbols=list(kept_symbols),
                event_tokens=list(event_tokens),
                language_tag_pattern=language_tag_pattern,
                languages=[list(entry) for entry in languages],
                **kwargs,
            )
        self.text_rule = text_rule
        self.byte_tokens = byte_tokens
        self.unknown_text = unknown_text
        self.add_dummy_prefix = add_dummy_prefix
        self.remove_extra_whitespaces = remove_extra_whitespaces
        self.event_tokens = list(event_tokens)
        self.language_tag_pattern = language_tag_pattern
        self._set_up_vocabulary(control_tokens, kept_symbols)
        self._set_up_languages(languages)

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Keep `tokenizer.json` whole: rebuilding the backend from its vocabulary would lose the normalizer."""
        return kwargs

    def _set_up_vocabulary(self, control_tokens: Sequence[str], kept_symbols: Sequence[str]) -> None:
        ids = self._tokenizer.get_vocab(with_added_tokens=False)
        if sorted(ids.values()) != list(range(len(ids))):
            raise ValueError(f"tokenizer.json: the {len(ids)} ids of the vocabulary are not 0 to {len(ids) - 1}.")
        self._tokens = sorted(ids, key=ids.__getitem__)
        if self.pad_token_id != len(ids):
            raise ValueError(
                f"pad_token_id={self.pad_token_id} is not supported; expected {len(ids)}, the size of the vocabulary, "
                "which is the id of the blank."
            )
        missing = [token for token in (*control_tokens, *self.event_tokens, *kept_symbols) if token not in ids]
        if missing:
            raise ValueError(f"control_tokens, event_tokens, kept_symbols: {missing} are not in the vocabulary.")
        self._control_ids = frozenset(ids[token] for token in control_tokens)
        self._event_ids = frozenset(ids[token] for token in self.event_tokens)
        if self.byte_tokens:
            _check_bytes(ids, "byte_tokens=True")
        self._byte_values = {ids[f"<0x{byte:02X}>"]: byte for byte in range(256)} if self.byte_tokens else {}

        # The character map is applied here and not by the backend, which gets it back when it is saved.
        self._saved_normalizer = self._tokenizer.normalizer
        self._character_map = None
        state = json.loads(self._saved_normalizer.__getstate__()) if self._saved_normalizer is not None else {}
        steps = state.get("normalizers", [])
        for position, step in enumerate(steps):
            if step["type"] == "Precompiled":
                self._character_map = PrecompiledCharacterMap(base64.b64decode(step["precompiled_charsmap"]))
                rest = [self._saved_normalizer[index] for index in range(len(steps)) if index != position]
                self._tokenizer.normalizer = normalizers.Sequence(rest)
        longest_first = sorted(kept_symbols, key=len, reverse=True)
        self._kept_pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def _set_up_languages(self, languages: Sequence[Sequence[Any]]) -> None:
        """Read the parts of an aggregate tokenizer, and the punctuation, which needs their bare tokens."""
        if bool(languages) != (self.text_rule == "aggregate"):
            raise ValueError(f"languages: found {len(languages)}; expected some only where text_rule='aggregate'.")
        self.language_spans: list[LanguageSpan] = []
        self._language_tokenizers: dict[str, FastConformerTokenizer] = {}
        if len(languages) > MAX_LANGUAGES:
            raise ValueError(f"languages: found {len(languages)}; expected at most {MAX_LANGUAGES}.")
        start = 0
        for entry in languages:
            language, size, part = _read_language(entry)
            self._language_tokenizers[language] = part
            self.language_spans.append(LanguageSpan(language, start, size))
            start += size
        if self.language_spans:
            if start != len(self._tokens):
                raise ValueError(f"languages: {start} tokens in all; the vocabulary has {len(self._tokens)}.")
            self._tokens = [token for part in self._language_tokenizers.values() for token in part._tokens]
        self.punctuation = punctuation_of(self._tokens)
        characters = "".join(map(re.escape, sorted(self.punctuation)))
        self._space_before_punctuation = re.compile(rf"\s([{characters}])") if characters else None
        if self.text_rule == "character":
            self.word_rule = "character"  # how tokens group into words, see `decoding.timestamps.word_spans`
        elif any(token.startswith(CONTINUATION_MARK) for token in self._tokens):
            self.word_rule = "continuation_mark"
        else:
            self.word_rule = "word_mark"
        with reading(f"language_tag_pattern={shown(self.language_tag_pattern)}", "a regular expression"):
            self._language_tag = re.compile(self.language_tag_pattern) if self.language_tag_pattern else None

    def complete_backend(self) -> Tokenizer:
        """A copy of the backend with all of its normalizer, as it is saved."""
        backend = copy.deepcopy(self._tokenizer)
        if self._saved_normalizer is not None:
            backend.normalizer = self._saved_normalizer
        return backend

    def _save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        file_names = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        self.complete_backend().save(file_names[-1])
        return file_names

    # Ids to text

    @property
    def blank_token_id(self) -> int:
        """Id of the blank, which is also the padding: the size of the vocabulary."""
        return len(self._tokens)

    @property
    def event_token_ids(self) -> frozenset[int]:
        """Ids of `event_tokens`."""
        return self._event_ids

    @property
    def text_options(self) -> dict[str, Any]:
        """Arguments that make an equal tokenizer out of an equal backend, as plain values."""
        names = (
            "text_rule",
            "control_tokens",
            "byte_tokens",
            "unknown_text",
            "add_dummy_prefix",
            "remove_extra_whitespaces",
            "kept_symbols",
        )
        return {
            **{name: self.init_kwargs[name] for name in names},
            "pad_token": self.pad_token,
            "unk_token": self.unk_token,
        }

    def vocabulary_tokens(self, token_ids: Iterable[int]) -> list[str]:
        """Vocabulary strings as NeMo has them; `convert_ids_to_tokens` names the language too in aggregates."""
        return [self._tokens[token_id] for token_id in token_ids]

    def language_of(self, token_id: int) -> str | None:
        """Language of a token of an aggregate tokenizer; `None` in others."""
        for span in self.language_spans:
            if span.start <= token_id < span.start + span.size:
                return span.language
        return None

    def piece_text(self, token_ids: Sequence[int]) -> str:
        """Text of tokens without blanks, before spaces in front of punctuation and language tags are deleted."""
        text, state = self.extend_piece_text(token_ids, PieceTextState())
        return text + text_from_bytes(state.unfinished_bytes)[0]

    def extend_piece_text(self, token_ids: Sequence[int], state: PieceTextState) -> tuple[str, PieceTextState]:
        """
        Text as of `piece_text` that further tokens add, of what comes piece by piece.

        Args:
            token_ids: The next tokens, without blanks.
            state: What the call for the tokens before returned; `PieceTextState()` at the start.

        Returns:
            The text that cannot change any more, and the state for the tokens that follow. Bytes that begin a
            character wait in it for the others.
        """
        if not len(token_ids):
            return "", state
        if self.text_rule == "sentencepiece":
            return self._extend_sentencepiece_text(token_ids, state)
        tokens = self.vocabulary_tokens(token_ids)
        if self.text_rule == "wordpiece":
            # The text of a piece depends on whether another one stands before it, and on nothing else.
            before = tokens[:1] if state.has_pieces else []
            start = len(self._tokenizer.decoder.decode(before)) if before else 0
            text = self._tokenizer.decoder.decode([*before, *tokens])[start:]
        else:
            text = "".join(tokens)
            text = text.replace(WORD_MARK, " ") if self.text_rule == "aggregate" else text
        return text, replace(state, has_pieces=True)

    def _extend_sentencepiece_text(
        self, token_ids: Sequence[int], state: PieceTextState
    ) -> tuple[str, PieceTextState]:
        text = ""
        pending = bytearray(state.unfinished_bytes)
        drops_leading_mark = self.add_dummy_prefix or self.remove_extra_whitespaces
        at_start, mark_dropped = state.at_start, state.mark_dropped
        for token_id in token_ids:
            if token_id in self._byte_values:
                pending.append(self._byte_values[token_id])
                continue
            text += text_from_bytes(pending)[0]
            pending.clear()
            at_start = at_start and not (state.has_text or text) and not mark_dropped
            if token_id in self._control_ids:
                mark_dropped = False
            elif token_id == self.unk_token_id:
                text += self.unknown_text
                mark_dropped = False
            else:
                token = self._tokens[token_id]
                mark_dropped = False
                if at_start and drops_leading_mark and token.startswith(WORD_MARK):
                    token = token[1:]
                    # Where extra spaces are removed, every leading one goes, not just the first.
                    mark_dropped = not self.remove_extra_whitespaces
                text += token.replace(WORD_MARK, " ")
        characters, num_bytes = text_from_bytes(pending, is_last=False)
        text += characters
        has_text = state.has_text or bool(text)
        return text, PieceTextState(True, has_text, at_start, mark_dropped, bytes(pending[num_bytes:]))

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, group_tokens: bool | None = None, **kwargs: Any
    ) -> Any:
        """
        Text of ids, or the texts of a batch of them.

        Args:
            token_ids: Ids of one clip, or a list of them for each; an array or tensor of either.
            skip_special_tokens (`bool`, defaults to `False`): Leave `event_tokens` out.
            group_tokens (`bool`, *optional*):
                `True`: the ids are the best classes of the frames of a CTC head (`logits.argmax(-1)`), in which equal
                neighbours are one token. `False`: each id is a token, as in labels and in what `generate` returns.
                `None` (default): frames if in any row of the batch a blank stands before a token, which it never does
                among tokens. Say `True` for a single short clip, whose frames may lack such a blank.

                Frames may end in a run of class 0, if that is the unknown token: it is the best class of the -100
                with which `Trainer` pads logits, and is dropped.
        """
        require_choice("group_tokens", group_tokens, (None, True, False))
        ids = to_py_obj(token_ids)
        if group_tokens is None:
            is_list = isinstance(ids, list | tuple)
            rows = ids if is_list and ids and isinstance(ids[0], list | tuple) else [ids if is_list else [ids]]
            group_tokens = any(map(self._has_blank_before_token, rows))
        return super().decode(ids, skip_special_tokens=skip_special_tokens, group_tokens=group_tokens, **kwargs)

    def batch_decode(self, sequences: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Texts of a batch, with the arguments of `decode`; none of an empty one."""
        return super().batch_decode(sequences, *args, **kwargs) if len(sequences) else []

    def _has_blank_before_token(self, row: Sequence[int]) -> bool:
        places = range(len(row) - 1, -1, -1)
        last = next((place for place in places if row[place] not in (self.blank_token_id, IGNORED_LABEL)), 0)
        return self.blank_token_id in row[:last]

    def _join_frames(self, row: Iterable[int]) -> list[int]:
        """One id for each run of equal ones."""
        frames = [int(token_id) for token_id in row if token_id != IGNORED_LABEL]
        while self.unk_token_id == 0 and frames and frames[-1] == 0:
            frames.pop()
        return [token_id for token_id, _ in itertools.groupby(frames)]

    def _decode(
        self,
        token_ids: int | Sequence[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        group_tokens: bool = False,
        **kwargs: Any,
    ) -> str:
        if clean_up_tokenization_spaces:
            raise ValueError("clean_up_tokenization_spaces=True is not supported; the text is NeMo's, unaltered.")
        if kwargs:
            raise TypeError(f"decode() does not know {sorted(kwargs)}.")
        row = [token_ids] if isinstance(token_ids, int) else token_ids
        spoken = self.spoken_ids(self._join_frames(row) if group_tokens else row)
        if skip_special_tokens:
            spoken = [token_id for token_id in spoken if token_id not in self._event_ids]
        text = self.piece_text(spoken)
        if self._space_before_punctuation is not None:
            text = self._space_before_punctuation.sub(r"\1", text)
        return self._language_tag.sub("", text).strip() if self._language_tag is not None else text

    def spoken_ids(self, token_ids: Iterable[int]) -> list[int]:
        """The ids without blanks, padding and ignored labels."""
        spoken = [int(token_id) for token_id in token_ids]
        spoken = [token_id for token_id in spoken if token_id not in (self.blank_token_id, IGNORED_LABEL)]
        wrong = [token_id for token_id in spoken if not 0 <= token_id < self.blank_token_id]
        if wrong:
            raise ValueError(
                f"token_ids: found {wrong[0]}; expected 0 to {self.blank_token_id} (the blank) or {IGNORED_LABEL}."
            )
        return spoken

    # Text to ids

    def _encode_plus(self, *args: Any, **kwargs: Any) -> BatchEncoding:
        text, text_pair = [*args, None, None][:2]
        text = kwargs.pop("text", text)
        text_pair = kwargs.pop("text_pair", text_pair)
        language = kwargs.pop("language", None)
        if text_pair is not None or kwargs.get("is_split_into_words"):
            raise ValueError("text_pair and is_split_into_words are not supported; expected transcripts.")
        if self.text_rule == "aggregate":
            return self._encode_in_language(text, language, **kwargs)
        if language is not None:
            raise ValueError(f"language={language!r} is not supported; this tokenizer has one vocabulary.")
        return super()._encode_plus(self._normalize(text), **kwargs)

    def _normalize(self, text: Any) -> Any:
        if isinstance(text, (list, tuple)):
            return [self._normalize(entry) for entry in text]
        if self._character_map is None or not isinstance(text, str):
            return text
        return self._character_map.normalize(text, self._kept_pattern)

    def _encode_in_language(self, text: Any, language: str | None, **kwargs: Any) -> BatchEncoding:
        if language not in self._language_tokenizers:
            raise ValueError(
                f"language={language!r} is not supported; expected one of {[*self._language_tokenizers]}."
            )
        part = self._language_tokenizers[language]
        start = next(span.start for span in self.language_spans if span.language == language)
        return_tensors = kwargs.pop("return_tensors", None)
        padding = kwargs.pop("padding_strategy", False)
        encoding = part._encode_plus(text, **kwargs)
        is_batched = isinstance(text, (list, tuple))
        rows = encoding["input_ids"] if is_batched else [encoding["input_ids"]]
        shifted = [[token_id + start for token_id in row] for row in rows]
        return self.pad(
            {"input_ids": shifted if is_batched or return_tensors else shifted[0]},
            padding=padding,
            max_length=kwargs.get("max_length"),
            pad_to_multiple_of=kwargs.get("pad_to_multiple_of"),
            padding_side=kwargs.get("padding_side"),
            return_attention_mask=kwargs.get("return_attention_mask"),
            return_tensors=return_tensors,
        )


def check_tokens(tokens: Collection[Any], name: str) -> None:
    """
    Raise a `ValueError` for tokens that are not texts of a sensible length, or more than a vocabulary has.

    Args:
        tokens: The tokens.
        name: Where they come from, for messages.
    """
    if len(tokens) > MAX_TOKENS:
        raise ValueError(f"{name}: {len(tokens)} tokens are not supported; expected at most {MAX_TOKENS}.")
    for token in tokens:
        if not isinstance(token, str):
            raise ValueError(f"{name}: the token {shown(token)} is not supported; expected text.")
        if not 0 < len(token) <= MAX_TOKEN_CHARACTERS:
            raise ValueError(
                f"{name}: the token {shown(token)} has {len(token)} characters; expected 1 to {MAX_TOKEN_CHARACTERS}."
            )
        if not token.isascii():
            try:
                token.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{name}: the token {shown(token)} is not Unicode ({error}); expected text."
                ) from None
    num_characters = sum(map(len, tokens))
    if num_characters > MAX_VOCABULARY_CHARACTERS:
        raise ValueError(
            f"{name}: the tokens have {num_characters} characters; expected at most {MAX_VOCABULARY_CHARACTERS}."
        )


def check_tokenizer_json(text: str, name: str) -> dict[str, Any]:
    """
    The content of a `tokenizer.json`, looked at before the tokenizers library sees it.

    Args:
        text: The file.
        name: Its name in messages.

    Raises:
        ValueError: for what is not JSON of a tokenizer, and for what would end the process or never end.
    """
    with reading(name, "the JSON of a tokenizer"):
        state = json.loads(text)
        model = state["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, list):
            wrong = [score for _, score in vocabulary if not is_number(score)]
            if wrong:
                raise ValueError(f"model.vocab: the score {shown(wrong[0])} is not supported; expected a number.")
            check_tokens([token for token, _ in vocabulary], "model.vocab")
        else:
            check_tokens(dict(vocabulary).keys(), "model.vocab")
        for step in _steps(state.get("normalizer")):
            if step["type"] == "Precompiled":
                PrecompiledCharacterMap(base64.b64decode(step["precompiled_charsmap"], validate=True))
        check_added_tokens(state)
        strategy = (state.get("padding") or {}).get("strategy")
        length = strategy.get("Fixed", 0) if isinstance(strategy, dict) else 0
        require(0 <= length <= MAX_PADDING, "padding.strategy.Fixed", length, f"0 to {MAX_PADDING}")
    return state


def check_added_tokens(state: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for keys of an entry in `added_tokens` that the tokenizers library prints and drops."""
    for token in state.get("added_tokens") or ():
        unknown = sorted(set(token).difference(ADDED_TOKEN_KEYS))
        if unknown:
            raise ValueError(f"added_tokens: key {shown(unknown[0])} is unknown; expected {ADDED_TOKEN_KEYS}.")


def _steps(normalizer: Any) -> Iterator[Any]:
    """The normalizers of a `tokenizer.json`, those of sequences one by one."""
    if normalizer is not None and normalizer["type"] == "Sequence":
        for step in normalizer["normalizers"]:
            yield from _steps(step)
    elif normalizer is not None:
        yield normalizer


def _read_text(path: str) -> str:
    with reading(path, "text in UTF-8"), open(path, encoding="utf-8") as file:
        return file.read()


def _read_language(entry: Any) -> tuple[str, int, FastConformerTokenizer]:
    """Name, number of tokens and tokenizer of a part of an aggregate."""
    with reading("languages", "a name, a number of tokens and the options of a tokenizer for each"):
        language, size, options = entry
        require(isinstance(language, str), "language", language, "a text")
        require(is_integer(size) and size >= 0, "size", size, "a number of tokens")
        options = dict(options)
        text = options.pop("tokenizer")
        check_tokenizer_json(text, f"languages: {language}")
        return language, size, FastConformerTokenizer(tokenizer_object=Tokenizer.from_str(text), **options)


def _check_bytes(tokens: Collection[str], name: str) -> None:
    """Raise a `ValueError` where a token of one of the 256 bytes is missing."""
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in tokens]
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} tokens such as '<0x{missing[0]:02X}>' are missing; expected all 256 of the bytes."
        )


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of another kind than their default."""
    for name, value in options.items():
        if name.endswith(("_tokens", "_symbols")) and name != "byte_tokens":
            is_list = isinstance(value, list | tuple) and all(isinstance(token, str) for token in value)
            require(is_list, name, value, "a list of tokens")
        elif name == "unknown_text":
            require(isinstance(value, str) and len(value) <= MAX_TOKEN_CHARACTERS, name, value, "a short text")
        else:
            require(isinstance(value, bool), name, value, "True or False")


def text_from_bytes(encoded: bytes | bytearray, is_last: bool = True) -> tuple[str, int]:
    """
    UTF-8 text; every byte that does not start a character becomes U+FFFD, one for each as in SentencePiece.

    Args:
        encoded: The bytes.
        is_last: No more follow. Otherwise those at the end that may begin a character are left.

    Returns:
        The text, and the number of bytes that it stands for.
    """
    text = ""
    position = 0
    while position < len(encoded):
        for size in range(1, 5):
            try:
                text += encoded[position : position + size].decode("utf-8")
            except UnicodeDecodeError:
                continue
            position += size
            break
        else:
            if not is_last and _is_beginning(encoded[position:]):
                break
            text += "\N{REPLACEMENT CHARACTER}"
            position += 1
    return text, position


def _is_beginning(encoded: bytes | bytearray) -> bool:
    """True for bytes that are the beginning of one character in UTF-8, and nothing else."""
    try:
        return not codecs.getincrementaldecoder("utf-8")().decode(bytes(encoded), final=False)
    except UnicodeDecodeError:
        return False
