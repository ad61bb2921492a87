"""The tokenizer: token ids to text and back.

Encoding is the work of the `tokenizers` library. Decoding is written out here, because the text must be NeMo's to the
last space (checked against NeMo 3.0.0: `AbstractCTCDecoding` and `AbstractRNNTDecoding.decode_tokens_to_str`,
`SentencePieceTokenizer`, `AggregateTokenizer`).
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Tokenizer, normalizers
from transformers import BatchEncoding, PreTrainedTokenizerFast
from transformers.utils import to_py_obj

from .checkpoint_sources import LoadsFromSources
from .decoding.prompts import CONTEXT_TOKEN, FIRST_PIECE
from .losses.smoothed_cross_entropy import IGNORED_LABEL
from .tokenization_character_map import PrecompiledCharacterMap, text_from_bytes
from .tokenization_checks import check_bytes, check_options, check_tokenizer_json
from .tokenization_piece_text import CONTINUATION_MARK, UNKNOWN_TEXT, WORD_MARK, PieceText, PieceTextState
from .validation import is_integer, is_number, reading, require, require_choice, shown

TEXT_RULES = ("sentencepiece", "character", "wordpiece", "aggregate")
LANGUAGE_TAG_PATTERN = r"\s*<[a-z]{2}-[A-Z]{2}>"  # what NeMo 3.0.0 strips unless the configuration says otherwise

TIME_PATTERN = re.compile(r"<\|(\d+)\|>")  # tokens of times, which count encoder frames
HEAD_MULTIPLE = 8  # to which the classes of a multitask model are padded
# The part of an aggregate that holds the tokens of prompts, and the regions that stand for a language without one.
PROMPT_PART = "spl_tokens"
REGION_OF_LANGUAGE = {"en": "en-US", "es": "es-ES", "fr": "fr-FR", "de": "de-DE"}
MAX_LANGUAGES = 256


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


@dataclass(frozen=True)
class LanguageSpan:
    """The ids `start` to `start + size - 1` of an aggregate tokenizer, which belong to one language."""

    language: str
    start: int
    size: int


class FastConformerTokenizer(LoadsFromSources, PreTrainedTokenizerFast):
    """
    Tokenizer of the FastConformer models.

    Ids `0` to `vocab_size - 1` are NeMo's. The next one is the blank, an added special token that also pads; multitask
    models pad with a token of their vocabulary and have no blank. `decode`
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
        prompt_tokens (`list[str]`, *optional*):
            Special tokens of a multitask model: those of prompts (`<|en|>`), times (`<|12|>`) and the padding.
            `decode(..., skip_special_tokens=True)` leaves them out.
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
        prompt_tokens: Sequence[str] = (),
        language_tag_pattern: str | None = None,
        languages: Sequence[Sequence[Any]] = (),
        **kwargs: Any,
    ):
        require_choice("text_rule", text_rule, TEXT_RULES)
        check_options(
            {
                "control_tokens": control_tokens,
                "kept_symbols": kept_symbols,
                "event_tokens": event_tokens,
                "prompt_tokens": prompt_tokens,
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
                prompt_tokens=list(prompt_tokens),
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
        self.prompt_tokens = list(prompt_tokens)
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
        if self.pad_token_id != len(ids) and self.pad_token not in self.prompt_tokens:
            raise ValueError(
                f"pad_token_id={self.pad_token_id} is not supported; expected {len(ids)}, the size of the vocabulary, "
                "which is the id of the blank."
            )
        named = (*control_tokens, *self.event_tokens, *self.prompt_tokens, *kept_symbols)
        missing = [token for token in named if token not in ids]
        if missing:
            raise ValueError(
                f"control_tokens, event_tokens, prompt_tokens, kept_symbols: {missing} are not in the vocabulary."
            )
        control_ids = frozenset(ids[token] for token in control_tokens)
        self._event_ids = frozenset(ids[token] for token in self.event_tokens)
        self._prompt_ids = {token.removeprefix(f"{PROMPT_PART}:"): ids[token] for token in self.prompt_tokens}
        times = {token_id: TIME_PATTERN.fullmatch(token) for token, token_id in self._prompt_ids.items()}
        self._frames_of_time = {token_id: int(match[1]) for token_id, match in times.items() if match}
        if self.byte_tokens:
            check_bytes(ids, "byte_tokens=True")
        self._piece_text = PieceText(
            self.text_rule,
            self._tokens,
            self._decode_word_pieces,
            {ids[f"<0x{byte:02X}>"]: byte for byte in range(256)} if self.byte_tokens else {},
            control_ids,
            self.unk_token_id,
            self.unknown_text,
            self.add_dummy_prefix,
            self.remove_extra_whitespaces,
        )

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
            self._piece_text = replace(self._piece_text, tokens=self._tokens)
        self.punctuation = punctuation_of(self._tokens)
        characters = "".join(map(re.escape, sorted(self.punctuation)))
        # A multitask model writes French punctuation with its space.
        drops_space = bool(characters) and not self.prompt_tokens
        self._space_before_punctuation = re.compile(rf"\s([{characters}])") if drops_space else None
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
    def hidden_token_ids(self) -> frozenset[int]:
        """Ids that `skip_special_tokens` leaves out: of events, and of prompts, times and padding."""
        return self._event_ids | frozenset(self._prompt_ids.values())

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of all special tokens, those of prompts and times among them."""
        return list(dict.fromkeys([*super().all_special_ids, *self._prompt_ids.values()]))

    @property
    def prompt_token_ids(self) -> dict[str, int]:
        """
        Ids of the tokens that prompts are made of; empty for models without prompts.

        A single SentencePiece model begins every text with its word mark, so that this is one of them.
        """
        ids = {
            token: token_id
            for token, token_id in self._prompt_ids.items()
            if token.startswith("<|") and token_id not in self._frames_of_time
        }
        if ids and self.text_rule == "sentencepiece" and self.add_dummy_prefix and FIRST_PIECE in self._tokens:
            ids[FIRST_PIECE] = self._tokens.index(FIRST_PIECE)
        return ids

    def prompt_token_id(self, token: str) -> int | None:
        """Id of one of `prompt_tokens` as it is written, such as `"<|endoftext|>"`; None: the vocabulary lacks it."""
        return self._prompt_ids.get(token)

    @property
    def has_time_tokens(self) -> bool:
        """True where some tokens are times."""
        return bool(self._frames_of_time)

    def frame_of_time(self, token_id: int) -> int | None:
        """Encoder frame that a time token stands for; None for other tokens."""
        return self._frames_of_time.get(token_id)

    def context_ids(self, text: str, target_lang: str | None = None) -> list[int]:
        """
        Ids of the context of a prompt, as they stand inside it.

        Args:
            text: The context.
            target_lang: Language that the model writes, for aggregate tokenizers.
        """
        if self.text_rule == "aggregate":
            return list(self(text, language=target_lang)["input_ids"]) if text else []
        before = list(self(CONTEXT_TOKEN)["input_ids"])
        return list(self(CONTEXT_TOKEN + text)["input_ids"])[len(before) :]

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
            "prompt_tokens",
        )
        return {
            **{name: self.init_kwargs[name] for name in names},
            "pad_token": self.pad_token,
            "unk_token": self.unk_token,
        }

    def vocabulary_tokens(self, token_ids: Iterable[int]) -> list[str]:
        """Vocabulary strings as NeMo has them; `convert_ids_to_tokens` names the language too in aggregates."""
        return [self._tokens[token_id] for token_id in token_ids]

    @property
    def languages_of_text(self) -> list[str]:
        """Languages of an aggregate tokenizer, without its part of tokens of prompts."""
        return [span.language for span in self.language_spans if span.language != PROMPT_PART or not self._prompt_ids]

    @property
    def language_parts(self) -> dict[str, FastConformerTokenizer]:
        """The tokenizer of each language of an aggregate, in the order of the ids; none for others."""
        return dict(self._language_tokenizers)

    def language_of_text(self, language: str | None) -> str | None:
        """Name of the part of an aggregate tokenizer for a language; multitask models take `"en"` for `"en-US"`."""
        region = REGION_OF_LANGUAGE.get(language or "") if self._prompt_ids else None
        is_other = language not in self._language_tokenizers and region in self._language_tokenizers
        return region if is_other else language

    def language_of(self, token_id: int) -> str | None:
        """Language of a token of an aggregate tokenizer; `None` in others."""
        for span in self.language_spans:
            if span.start <= token_id < span.start + span.size:
                return span.language
        return None

    def part_of_language(self, language: str | None) -> tuple[FastConformerTokenizer, int]:
        """Tokenizer of the texts of a language, and the id of its first token; without parts it is this one."""
        if self.text_rule != "aggregate":
            return self, 0
        name = self.language_of_text(language)
        require_choice("language", name, tuple(self.languages_of_text))
        assert name is not None
        return self._language_tokenizers[name], next(
            span.start for span in self.language_spans if span.language == name
        )

    @property
    def unknown_token_ids(self) -> frozenset[int]:
        """Ids that stand for what the vocabulary cannot write."""
        if self.text_rule != "aggregate":
            return frozenset(() if self.unk_token_id is None else (self.unk_token_id,))
        starts = {span.language: span.start for span in self.language_spans}
        return frozenset(
            token_id + starts[language]
            for language, part in self._language_tokenizers.items()
            for token_id in part.unknown_token_ids
        )

    def piece_text(self, token_ids: Sequence[int]) -> str:
        """Text of tokens without blanks, before spaces in front of punctuation and language tags are deleted."""
        text, state = self.extend_piece_text(token_ids, PieceTextState())
        return text + text_from_bytes(state.unfinished_bytes)[0]

    def _decode_word_pieces(self, tokens: list[str]) -> str:
        return str(self._tokenizer.decoder.decode(tokens))

    def extend_piece_text(self, token_ids: Sequence[int], state: PieceTextState) -> tuple[str, PieceTextState]:
        """Text as of `piece_text` that further tokens add, of what comes piece by piece; see [`PieceText.extend`]."""
        return self._piece_text.extend(token_ids, state)

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, group_tokens: bool | None = None, **kwargs: Any
    ) -> Any:
        """
        Text of ids, or the texts of a batch of them.

        Args:
            token_ids: Ids of one clip, or a list of them for each; an array or tensor of either.
            skip_special_tokens (`bool`, defaults to `False`): Leave `event_tokens` and `prompt_tokens` out.
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
            hidden_ids = self.hidden_token_ids
            spoken = [token_id for token_id in spoken if token_id not in hidden_ids]
        text = self.piece_text(spoken)
        if self._space_before_punctuation is not None:
            text = self._space_before_punctuation.sub(r"\1", text)
        return self._language_tag.sub("", text).strip() if self._language_tag is not None else text

    def spoken_ids(self, token_ids: Iterable[int]) -> list[int]:
        """The ids without blanks, ignored labels and classes that are no token."""
        spoken = [int(token_id) for token_id in token_ids]
        spoken = [token_id for token_id in spoken if token_id not in (self.blank_token_id, IGNORED_LABEL)]
        if self._prompt_ids:
            # Classes by which the head of a multitask model is padded; NeMo 3.0 fails on them.
            num_classes = -(-self.blank_token_id // HEAD_MULTIPLE) * HEAD_MULTIPLE
            spoken = [token_id for token_id in spoken if not self.blank_token_id <= token_id < num_classes]
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
        language = self.language_of_text(language)
        if language not in self._language_tokenizers:
            raise ValueError(f"language={language!r} is not supported; expected one of {self.languages_of_text}.")
        part = self._language_tokenizers[language]
        start = next(span.start for span in self.language_spans if span.language == language)
        return_tensors = kwargs.pop("return_tensors", None)
        padding = kwargs.pop("padding_strategy", False)
        encoding = part._encode_plus(text, **kwargs)
        is_batched = isinstance(text, (list, tuple))
        rows = encoding["input_ids"] if is_batched else [encoding["input_ids"]]
        shifted = [[token_id + start for token_id in row] for row in rows]
        return self.pad(
            BatchEncoding({"input_ids": shifted if is_batched or return_tensors else shifted[0]}),
            padding=padding,
            max_length=kwargs.get("max_length"),
            pad_to_multiple_of=kwargs.get("pad_to_multiple_of"),
            padding_side=kwargs.get("padding_side"),
            return_attention_mask=kwargs.get("return_attention_mask"),
            return_tensors=return_tensors,
        )


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
