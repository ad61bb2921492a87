"""Decoding: what greedy search reads, and how times of words and segments are formed."""

from __future__ import annotations

from typing import Any

from ...checkpoints.key_table import (
    Check,
    Drop,
    Map,
    NotAcceptedError,
    Pin,
    Read,
    Table,
    Values,
    integers,
    number,
    one_of,
    section,
    text,
    texts,
)
from ...configuration_fastconformer import DECODING_STRATEGIES
from ...validation import is_integer
from .common import REPORTING, SPEED, NemoReader

PHRASE_KEYS = ("model_path", "key_phrases_file", "key_phrases_list", "key_phrase_items_list")
NOT_READ = "greedy decoding does not read it"
# NeMo 3.0 takes it where there is no number, in CUDA graphs and when it fills in its defaults.
DEFAULT_MAX_SYMBOLS = 10
# NeMo's `greedy` has no limit where there is no number. A frame with so many tokens would hold NeMo for ever.
UNLIMITED_SYMBOLS = 1000


def _no_phrases(value: Any, values: Values) -> None:
    if value is not None and any(section(value, values).get(key) for key in PHRASE_KEYS):
        raise NotAcceptedError("no phrases")


def _not_multiblank(value: Any, values: Values) -> None:
    if value == "multiblank":
        raise NotAcceptedError("any other, such as 'rnnt' or 'tdt'")


GREEDY: Table = {
    "max_symbols": Read("read_max_symbols"),
    "max_symbols_per_step": Read("read_max_symbols"),
    "preserve_alignments": Drop(REPORTING),
    "preserve_frame_confidence": Drop(REPORTING),
    "compute_timestamps": Drop(REPORTING),
    "confidence_method_cfg": Drop(REPORTING),
    "confidence_measure_cfg": Drop(REPORTING),
    "confidence_method": Drop(REPORTING),
    "tdt_include_token_duration": Drop(REPORTING),
    "tdt_include_duration_confidence": Drop(REPORTING),
    "loop_labels": Drop(SPEED),
    "use_cuda_graph_decoder": Drop(SPEED),
    "allow_cuda_graphs": Drop(SPEED),
    "enable_per_stream_biasing": Drop("biases with phrases that a request brings along"),
    "ngram_lm_model": Pin((None, "")),
    "ngram_lm_alpha": Drop("the weight of ngram_lm_model"),
    "boosting_tree": Check("without phrases it changes nothing", _no_phrases),
    "boosting_tree_alpha": Drop("the weight of boosting_tree"),
}

DECODING: Table = {
    # Of CTC both give the best class of each frame.
    "strategy": Map("decoding_strategy", DECODING_STRATEGIES[0], one_of(*DECODING_STRATEGIES)),
    "greedy": Read("GREEDY", check=section),
    "durations": Read("loss.read_durations", check=integers),
    "model_type": Check("NeMo 3.0 goes by the durations", _not_multiblank),
    "big_blank_durations": Pin((None, [])),
    "temperature": Pin((1.0, None)),
    "strip_lang_tags": Read("tokenizer_map"),
    "lang_tag_pattern": Read("tokenizer_map", check=text),
    "word_seperator": Read("tokenizer_map.timestamp_options", check=text),
    "segment_seperators": Read("tokenizer_map.timestamp_options", check=texts),
    "segment_gap_threshold": Read("tokenizer_map.timestamp_options", check=number),
    "beam": Drop(NOT_READ),
    "wfst": Drop(NOT_READ),
    "preserve_alignments": Drop(REPORTING),
    "compute_timestamps": Drop(REPORTING),
    "compute_langs": Drop(REPORTING),
    "compute_hypothesis_token_set": Drop(REPORTING),
    "tdt_include_token_duration": Drop(REPORTING),
    "tdt_include_duration": Drop(REPORTING),
    "confidence_cfg": Drop(REPORTING),
    "confidence_method_cfg": Drop(REPORTING),
    "rnnt_timestamp_type": Drop(REPORTING),
    "ctc_timestamp_type": Drop(REPORTING),
    "batch_dim_index": Pin((0, None)),
    "fused_batch_size": Drop(SPEED),
}

# Times of words and segments, with the defaults of NeMo 3.0.
TIME_DEFAULTS: Values = {
    "word_seperator": " ",
    "segment_seperators": [".", "?", "!"],
    "segment_gap_threshold": None,
}


def read_decoding(decoding_section: Any, name: str, reader: NemoReader) -> tuple[Values, Values]:
    """Values of a decoding section and of its greedy part; both may be absent."""
    _, decoding = reader.apply(decoding_section or {}, DECODING, name)
    _, greedy = reader.apply(decoding["greedy"] or {}, GREEDY, f"{name}.greedy")
    return decoding, greedy


def read_max_symbols(greedy: Values, strategy: str, reader: NemoReader) -> int:
    """Most tokens in a frame."""
    default = UNLIMITED_SYMBOLS if strategy == "greedy" else DEFAULT_MAX_SYMBOLS
    limit = greedy["max_symbols"] or greedy["max_symbols_per_step"] or default
    if not is_integer(limit) or limit <= 0:
        raise reader.refuse("decoding.greedy.max_symbols", limit, "a positive integer")
    return limit


def check_times_alike(transducer: Values, ctc: Values, reader: NemoReader) -> None:
    """One checkpoint has one rule for words and segments: refuse a hybrid whose heads have two."""
    for key, default in TIME_DEFAULTS.items():
        of_transducer, of_ctc = (default if values[key] is None else values[key] for values in (transducer, ctc))
        same = set(of_transducer) == set(of_ctc) if isinstance(default, list) else of_transducer == of_ctc
        if not same:
            raise reader.refuse(f"aux_ctc.decoding.{key}", of_ctc, f"that of decoding, which is {of_transducer!r}")
