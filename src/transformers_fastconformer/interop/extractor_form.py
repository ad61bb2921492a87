"""Feature extractors of Transformers' classes and ours, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checkpoints.key_table import (
    Check,
    Drop,
    Map,
    Pin,
    Read,
    SectionReader,
    Table,
    Values,
    check_pins,
    one_of,
    write_section,
)
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from .families import Family
from .refusals import refuse_reading, refuse_writing

# Normalization of features by the class, which has no option for it.
NORMALIZE_OF_EXTRACTOR = {
    "ParakeetFeatureExtractor": "per_feature",
    "NemotronAsrStreamingFeatureExtractor": None,
}
FILTER_DTYPE = "mel_filters_dtype"  # of the streaming class
COMPUTED = "computed"

FEATURES: Table = {
    "feature_size": Map("feature_size", 80),
    "sampling_rate": Map("sampling_rate", 16000),
    "hop_length": Map("hop_length", 160),
    "n_fft": Map("n_fft", 512),
    "win_length": Map("win_length", 400),
    "preemphasis": Map("preemphasis", 0.97),
    FILTER_DTYPE: Map("filterbank_dtype", "float32"),
    "padding_value": Drop("fills audio after a clip, which is masked"),
    "padding_side": Check("audio is padded on the right", one_of("right")),
    "return_attention_mask": Drop("the mask is always returned"),
    "feature_extractor_type": Read("NORMALIZE_OF_EXTRACTOR"),
    "processor_class": Drop("the class that joins it with a tokenizer"),
    "auto_map": Drop("no code is loaded"),
    "mel_filters": Drop(COMPUTED),
    "window": Drop(COMPUTED),
}
# Options of ours that theirs has no key for.
PINS: dict[str, Pin] = {
    "window": Pin(("hann",)),
    "mag_power": Pin((2.0,)),
    "log": Pin((True,)),
    "log_zero_guard_type": Pin(("add",)),
    "log_zero_guard_value": Pin((2**-24,)),
    "exact_pad": Pin((False,)),
    "frame_splicing": Pin((1,)),
    "padding_value": Pin((0.0,)),
    "min_frequency": Pin((0.0,)),
    "mel_norm": Pin(("slaney",)),
    "peak_scaling": Pin((None,)),
}


def extractor_from_transformers(extractor_dict: Mapping[str, Any], source: str) -> Values:
    """
    Arguments of our feature extractor for one of theirs.

    Args:
        extractor_dict: Its part of their `processor_config.json` or `preprocessor_config.json`.
        source: That file, for messages.

    Raises:
        ValueError: for another class, a key that is not known, and a value that is not accepted.
    """
    kind = extractor_dict.get("feature_extractor_type")
    if kind not in NORMALIZE_OF_EXTRACTOR:
        raise ValueError(
            f"{source}: feature_extractor_type={kind!r} is not supported; expected one of "
            f"{sorted(NORMALIZE_OF_EXTRACTOR)}."
        )
    arguments, _ = SectionReader(refuse_reading(source)).apply(extractor_dict, FEATURES, "")
    return {**arguments, "normalize": NORMALIZE_OF_EXTRACTOR[kind]}


def extractor_to_transformers(extractor: FastConformerFeatureExtractor, family: Family) -> tuple[str, Values]:
    """
    The class and arguments of their feature extractor for ours.

    Raises:
        ValueError: naming an option that theirs cannot express, its value and what is accepted.
    """
    name = "NemotronAsrStreamingFeatureExtractor" if family.is_streaming else "ParakeetFeatureExtractor"
    refuse = refuse_writing(name)

    def option(key: str) -> Any:
        return getattr(extractor, key)

    pins = {
        **PINS,
        "normalize": Pin((NORMALIZE_OF_EXTRACTOR[name],)),
        "max_frequency": Pin((None, extractor.sampling_rate / 2)),
    }
    if not family.is_streaming:
        pins["filterbank_dtype"] = Pin(("float32",))
    check_pins(pins, option, refuse)
    for key in ("mel_filters", "window_values"):
        if option(key) is not None:
            raise refuse(key, "an array", "None: it computes its own")
    values = write_section(FEATURES, option)
    if values[FILTER_DTYPE] == "float32":
        del values[FILTER_DTYPE]
    return name, values
