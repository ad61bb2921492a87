"""The tokenizer of a `.nemo` archive, from its configuration and artifacts to a `FastConformerTokenizer`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..checkpoints.key_table import Check, Drop, NotAcceptedError, Pin, Read, SectionReader, Table, Values, text
from ..tokenization_checks import MAX_TOKENS
from ..tokenization_fastconformer import LANGUAGE_TAG_PATTERN, MAX_LANGUAGES, FastConformerTokenizer
from ..validation import reading, require, shown
from .archive import ARTIFACT_PREFIX
from .sections.common import class_of
from .tokenizers import aggregate_tokenizer, character_tokenizer, sentencepiece_tokenizer, wordpiece_tokenizer

ReadArtifact = Callable[[str], bytes]

WORDPIECE_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_PATTERN_CHARACTERS = 1000
MAX_LABELS_SHOWN = 20
WHOLE = "tokenizer"  # the section that is not a part of an aggregate
SUPPORTED_TYPES = ("bpe", "wpe", "agg")
TOKENIZER_CLASSES = ("EncDecCTCModelBPE", "EncDecRNNTBPEModel", "EncDecHybridRNNTCTCBPEModel")
CHARACTER_CLASSES = ("EncDecCTCModel", "EncDecRNNTModel", "EncDecHybridRNNTCTCModel")

# Classes of NeMo for prompted decoders, and the plain ones by name.
CUSTOM_TOKENIZERS = ("CanaryTokenizer", "CanaryBPETokenizer", "AggregateTokenizer", "SentencePieceTokenizer")


def _known_class(value: Any, values: Values) -> None:
    target = value.get("_target_") if isinstance(value, Mapping) else value
    if value is not None and class_of(target) not in CUSTOM_TOKENIZERS:
        raise NotAcceptedError(f"one of {CUSTOM_TOKENIZERS}")


TOKENIZER: Table = {
    "type": Read("_tokenizer_type"),
    "model_path": Read("_artifact", check=text),  # of SentencePiece
    "vocab_path": Read("_artifact", check=text),  # of WordPiece; SentencePiece has its own
    "langs": Read("build_tokenizer"),  # the parts of an aggregate tokenizer, in the order of their ids
    "hf_kwargs": Read("HF_KWARGS"),
    "special_tokens": Pin((None,)),
    "custom_tokenizer": Check("the SentencePiece models and their ids are the same", _known_class),
    "dir": Drop("a folder of the machine that trained the model; the artifacts are in the archive"),
    "spe_tokenizer_vocab": Drop("the pieces of the SentencePiece model again, as text"),
}
# A special token that is not in the vocabulary would be added to it and move the blank; one that is a word would cut
# other words where it stands in them.
TOKENS_IN_VOCABULARY = ("unk_token", "mask_token", "bos_token", "eos_token", "pad_token", "sep_token", "cls_token")
HF_KWARGS: Table = {
    # "uncased" in it lowers the letters, in an aggregate; elsewhere NeMo 3.0 takes no other than its own.
    "pretrained_model_name": Read("_single_tokenizer", check=text),
    **{key: Read("_check_special_tokens", check=text) for key in TOKENS_IN_VOCABULARY},
    "use_fast": Drop("which implementation runs, not what it gives"),
}


def _refuse(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{name}={shown(value)} is not supported; expected {expected}.")


def _section(config: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The section at a path of keys; empty where it is absent or null."""
    found: Any = config
    for position, key in enumerate(keys):
        found = found.get(key)
        if found is None:
            return {}
        if not isinstance(found, Mapping):
            raise _refuse(".".join(keys[: position + 1]), found, "a section")
    return found


def build_tokenizer(
    config: Mapping[str, Any], read_artifact: ReadArtifact, source: str = "model_config.yaml"
) -> FastConformerTokenizer:
    """
    The tokenizer that a parsed `model_config.yaml` describes.

    Args:
        config: The whole configuration.
        read_artifact: Gives the bytes of an archive member by the name that stands after `nemo:`.
        source: Where it comes from, for messages.

    Raises:
        ValueError: for a tokenizer that is damaged, too large, or of a kind that is not supported.
    """
    with reading(source, "the configuration and the files of a tokenizer"):
        return _build_tokenizer(config, read_artifact)


def _build_tokenizer(config: Mapping[str, Any], read_artifact: ReadArtifact) -> FastConformerTokenizer:
    options: dict[str, Any] = {}
    decoding = _section(config, "decoding")
    if decoding.get("strip_lang_tags"):
        options["language_tag_pattern"] = decoding.get("lang_tag_pattern") or LANGUAGE_TAG_PATTERN
        _check_pattern(options["language_tag_pattern"])
    nemo_class = class_of(config.get("target"))
    section = config.get("tokenizer")
    if nemo_class in CHARACTER_CLASSES:
        section = None  # NeMo does not read it
    if section is None:
        if nemo_class in TOKENIZER_CLASSES:
            raise ValueError(f"tokenizer=None is not supported in a model of {nemo_class}; expected a section.")
        return character_tokenizer(character_labels(config), **options)
    _, values = SectionReader(_refuse).apply(section, TOKENIZER, WHOLE)
    if _tokenizer_type(section, WHOLE) != "agg":
        return _single_tokenizer(section, WHOLE, read_artifact, **options)
    sections = values["langs"]
    if not isinstance(sections, Mapping) or not 0 < len(sections) <= MAX_LANGUAGES:
        raise _refuse(f"{WHOLE}.langs", sections, f"one section for each language, at most {MAX_LANGUAGES}")
    parts: dict[str, FastConformerTokenizer] = {}
    num_tokens = 0
    for language, section in sections.items():
        part = _single_tokenizer(section, f"{WHOLE}.langs.{language}", read_artifact)
        num_tokens += part.blank_token_id
        if num_tokens > MAX_TOKENS:
            raise _refuse(f"{WHOLE}.langs", list(sections), f"at most {MAX_TOKENS} tokens in all")
        parts[str(language)] = part
    return aggregate_tokenizer(parts, **options)


def _check_pattern(pattern: Any) -> None:
    try:
        re.compile(pattern)
        require(len(pattern) <= MAX_PATTERN_CHARACTERS, "its length", len(pattern), f"{MAX_PATTERN_CHARACTERS}")
    except Exception as error:  # of the parser: RecursionError, OverflowError
        raise ValueError(
            f"decoding.lang_tag_pattern={pattern!r} is not supported; expected a regular expression ({error})."
        ) from None


def timestamp_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `FastConformerProcessor` that say how times of words and segments are formed."""
    decoding = _section(config, "decoding")
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
    only, and so does the CTC head of a hybrid, which is not supported with other labels than the transducer's.
    """
    has_joint = config.get("joint") is not None
    of_labels = ("labels", config.get("labels"))
    of_joint = ("joint.vocabulary", _section(config, "joint").get("vocabulary"))
    of_decoder = ("decoder.vocabulary", _section(config, "decoder").get("vocabulary"))
    sections = (of_labels, of_joint, of_decoder) if has_joint else (of_decoder, of_labels)
    for name, labels in sections:
        if not labels:
            continue
        if not isinstance(labels, list | tuple):
            raise _refuse(name, labels, "a list of texts")
        wrong = [label for label in labels if not isinstance(label, str)]
        if wrong:
            raise ValueError(f"{name}: {shown(wrong[0])} is not supported; expected strings (quoted in YAML).")
        repeated = sorted(label for label, count in Counter(labels).items() if count > 1)[:MAX_LABELS_SHOWN]
        if repeated:
            raise ValueError(f"{name}: {repeated} stand there twice; expected different characters.")
        _check_ctc_labels(config, name, labels)
        return list(labels)
    raise ValueError("tokenizer, labels: not found; expected a tokenizer section, labels or decoder.vocabulary.")


def _check_ctc_labels(config: Mapping[str, Any], name: str, labels: Sequence[str]) -> None:
    """Refuse a hybrid whose CTC head has other labels than its transducer."""
    if class_of(config.get("target")) != "EncDecHybridRNNTCTCModel":
        return
    found = _section(config, "aux_ctc", "decoder").get("vocabulary")
    if found and found != list(labels):
        raise ValueError(
            f"aux_ctc.decoder.vocabulary={shown(found)} is not supported; expected the {len(labels)} labels of {name}."
        )


def _tokenizer_type(section: Mapping[str, Any], name: str) -> str:
    kind = section.get("type")
    if not isinstance(kind, str) or kind.lower() not in SUPPORTED_TYPES:
        raise _refuse(f"{name}.type", kind, f"one of {SUPPORTED_TYPES}")
    return kind.lower()


def _artifact(section: Mapping[str, Any], key: str, name: str, read_artifact: ReadArtifact) -> bytes:
    value = section.get(key)
    if not isinstance(value, str) or not value.startswith(ARTIFACT_PREFIX):
        raise _refuse(f"{name}.{key}", value, f"{ARTIFACT_PREFIX!r} and the name of a member")
    try:
        return read_artifact(value.removeprefix(ARTIFACT_PREFIX))
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{name}.{key}={value!r} is not supported; expected a member of the archive: {error}"
        ) from None


def _single_tokenizer(section: Any, name: str, read_artifact: ReadArtifact, **options: Any) -> FastConformerTokenizer:
    reader = SectionReader(_refuse)
    reader.apply(section, TOKENIZER, name)
    kind = _tokenizer_type(section, name)
    if kind == "agg":
        raise _refuse(f"{name}.type", "agg", "'bpe' or 'wpe' inside an aggregate")
    if kind == "bpe":
        return sentencepiece_tokenizer(_artifact(section, "model_path", name, read_artifact), **options)
    _, hf_kwargs = reader.apply(section.get("hf_kwargs") or {}, HF_KWARGS, f"{name}.hf_kwargs")
    with reading(f"{name}.vocab_path", "a token in UTF-8 on each line"):
        lines = _artifact(section, "vocab_path", name, read_artifact).decode("utf-8").splitlines()
    _check_special_tokens(hf_kwargs, lines, name)
    base_model = "bert-base-cased" if name == WHOLE else hf_kwargs["pretrained_model_name"] or ""
    unknown = hf_kwargs["unk_token"] or "[UNK]"
    return wordpiece_tokenizer(lines, unk_token=unknown, lowercases="uncased" in base_model, **options)


def _check_special_tokens(hf_kwargs: Values, lines: list[str], name: str) -> None:
    """Refuse special tokens that are not in the vocabulary, or do not look like ones."""
    named = {key: hf_kwargs[key] for key in TOKENS_IN_VOCABULARY if hf_kwargs[key] is not None}
    tokens = set(lines)
    missing = [token for token in (*WORDPIECE_SPECIAL_TOKENS, *named.values()) if token not in tokens]
    if missing:
        raise ValueError(f"{name}.vocab_path: special tokens {missing} are missing; expected them in the vocabulary.")
    for key, token in named.items():
        if not (token[:1] in "[<" and token[-1:] in "]>"):
            raise _refuse(f"{name}.hf_kwargs.{key}", token, "a token like '[UNK]'")
