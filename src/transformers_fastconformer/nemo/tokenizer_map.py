"""The tokenizer of a `.nemo` archive, from its configuration and artifacts to a `FastConformerTokenizer`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..checkpoints.key_table import Check, Drop, NotAcceptedError, Pin, Read, SectionReader, Table, Values
from ..tokenization_fastconformer import FastConformerTokenizer
from .archive import ARTIFACT_PREFIX
from .sections.common import class_of
from .tokenizers import aggregate_tokenizer, character_tokenizer, sentencepiece_tokenizer, wordpiece_tokenizer

ReadArtifact = Callable[[str], bytes]

LANGUAGE_TAG_PATTERN = r"\s*<[a-z]{2}-[A-Z]{2}>"  # what NeMo 3.0.0 strips unless the configuration says otherwise
WORDPIECE_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
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
    "model_path": Read("_artifact"),  # of SentencePiece
    "vocab_path": Read("_artifact"),  # of WordPiece; SentencePiece has its own
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
    "pretrained_model_name": Read("_single_tokenizer"),
    **{key: Read("_check_special_tokens") for key in TOKENS_IN_VOCABULARY},
    "use_fast": Drop("which implementation runs, not what it gives"),
}


def _refuse(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{name}={value!r} is not supported; expected {expected}.")


def build_tokenizer(config: Mapping[str, Any], read_artifact: ReadArtifact) -> FastConformerTokenizer:
    """
    The tokenizer that a parsed `model_config.yaml` describes.

    Args:
        config: The whole configuration.
        read_artifact: Gives the bytes of an archive member by the name that stands after `nemo:`.
    """
    options: dict[str, Any] = {}
    decoding = config.get("decoding") or {}
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
    parts = values["langs"]
    if not isinstance(parts, Mapping) or not parts:
        raise _refuse(f"{WHOLE}.langs", parts, "one section for each language")
    return aggregate_tokenizer(
        {
            str(language): _single_tokenizer(part, f"{WHOLE}.langs.{language}", read_artifact)
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
    only, and so does the CTC head of a hybrid, which is not supported with other labels than the transducer's.
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
    if class_of(config.get("target")) != "EncDecHybridRNNTCTCModel":
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
    lines = _artifact(section, "vocab_path", name, read_artifact).decode("utf-8").splitlines()
    _check_special_tokens(hf_kwargs, lines, name)
    base_model = "bert-base-cased" if name == WHOLE else hf_kwargs["pretrained_model_name"] or ""
    unknown = hf_kwargs["unk_token"] or "[UNK]"
    return wordpiece_tokenizer(lines, unk_token=unknown, lowercases="uncased" in base_model, **options)


def _check_special_tokens(hf_kwargs: Values, lines: list[str], name: str) -> None:
    """Refuse special tokens that are not in the vocabulary, or do not look like ones."""
    named = {key: hf_kwargs[key] for key in TOKENS_IN_VOCABULARY if hf_kwargs[key] is not None}
    missing = [token for token in (*WORDPIECE_SPECIAL_TOKENS, *named.values()) if token not in lines]
    if missing:
        raise ValueError(f"{name}.vocab_path: special tokens {missing} are missing; expected them in the vocabulary.")
    for key, token in named.items():
        if not (token[:1] in "[<" and token[-1:] in "]>"):
            raise _refuse(f"{name}.hf_kwargs.{key}", token, "a token like '[UNK]'")
