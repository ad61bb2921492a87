"""
The front end: `nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor`, and what a class does ahead of it.

Of the classes that are converted only `SortformerEncLabelModel` does something (`process_signal`, NeMo 3.0.0). The
others give the samples as they are to the preprocessor. `transcribe` and `diarize` switch its dither and `pad_to` off.
"""

from __future__ import annotations

import math
from typing import Any

from ...checkpoints.key_table import (
    Drop,
    Map,
    NotAcceptedError,
    Read,
    Table,
    Values,
    boolean,
    integer,
    number,
    one_of,
    optional_number,
)
from ...validation import is_integer, shown
from .common import TRAINING, NemoReader, check_class

IGNORED = "NeMo 3.0 ignores it"


def _normalization(value: Any, values: Values) -> str | None:
    if value in (None, False, "", "NA"):
        return None
    if value not in ("per_feature", "all_features"):
        raise NotAcceptedError("'per_feature', 'all_features', 'NA' or null")
    return str(value)


def _log_guard(value: Any, values: Values) -> float | str:
    return value if value in ("eps", "tiny") else number(value, values)


def _fft_samples(value: Any, values: Values) -> int | None:
    return integer(value, values) if value else None


def _highest_frequency(value: Any, values: Values) -> float | None:
    return number(value, values) if value else None


def _pad_to(value: Any, values: Values) -> int:
    return max(integer(value, values), 0)


PREPROCESSOR: Table = {
    "_target_": check_class("AudioToMelSpectrogramPreprocessor"),
    "sample_rate": Map("sampling_rate", 16000, integer),
    "window_size": Read("_frame_samples", 0.02),
    "n_window_size": Read("_frame_samples"),
    "window_stride": Read("_frame_samples", 0.01),
    "n_window_stride": Read("_frame_samples"),
    "window": Map("window", "hann", one_of("hann", "hamming", "blackman", "bartlett")),
    "normalize": Map("normalize", "per_feature", _normalization),
    "n_fft": Map("n_fft", None, _fft_samples),
    "preemph": Map("preemphasis", 0.97, optional_number),
    "features": Map("feature_size", 64, integer),
    "lowfreq": Map("min_frequency", 0, number),
    "highfreq": Map("max_frequency", None, _highest_frequency),
    "log": Map("log", True, boolean),
    "log_zero_guard_type": Map("log_zero_guard_type", "add", one_of("add", "clamp")),
    "log_zero_guard_value": Map("log_zero_guard_value", 2**-24, _log_guard),
    "pad_to": Map("pad_to", 16, _pad_to),
    "pad_value": Map("padding_value", 0, number),
    "frame_splicing": Map("frame_splicing", 1, integer),
    "exact_pad": Map("exact_pad", False, boolean),
    "mag_power": Map("mag_power", 2.0, number),
    "mel_norm": Map("mel_norm", "slaney", one_of("slaney", None)),
    "dither": Drop(TRAINING),
    "rng": Drop(TRAINING),
    "nb_augmentation_prob": Drop(TRAINING),
    "nb_max_freq": Drop(TRAINING),
    "use_torchaudio": Drop(IGNORED),
    "stft_exact_pad": Drop(IGNORED),
    "stft_conv": Drop(IGNORED),
}


# Options at the top level of a Sortformer model.
WAVEFORM_SCALING: Table = {
    "streaming_mode": Read("read_peak_scaling", False),
    "eps": Read("read_peak_scaling", 1e-3),
}


def read_peak_scaling(sections: Values, reader: NemoReader) -> float | None:
    """Number that an offline Sortformer model adds to the largest sample, by whose inverse it scales a clip."""
    is_streaming, floor = sections["streaming_mode"], sections["eps"]
    if is_streaming not in (None, False, True):
        raise reader.refuse("streaming_mode", is_streaming, "true or false")
    if is_streaming:
        return None
    try:
        floor = number(floor, sections)
    except NotAcceptedError:
        floor = 0.0
    if floor <= 0:
        raise reader.refuse("eps", sections["eps"], "a number above 0")
    return floor


def map_preprocessor(section: Any, reader: NemoReader) -> dict[str, Any]:
    """Arguments of our feature extractor."""
    arguments, values = reader.apply(section, PREPROCESSOR, "preprocessor")
    arguments |= _frame_samples(values, arguments["sampling_rate"], reader)
    if arguments["n_fft"] is None:
        arguments["n_fft"] = 2 ** math.ceil(math.log2(arguments["win_length"]))
    return arguments


def _samples(seconds: Any, sampling_rate: int, name: str, reader: NemoReader) -> int:
    try:
        return int(number(seconds, {}) * sampling_rate)
    except (NotAcceptedError, OverflowError):
        raise reader.refuse(
            name, seconds, f"a number of seconds, at {shown(sampling_rate)} samples a second"
        ) from None


def _frame_samples(section: Values, sampling_rate: int, reader: NemoReader) -> dict[str, int]:
    """Window and hop in samples: either is given in seconds or in samples, and seconds have defaults."""
    arguments = {}
    for name, seconds_key, samples_key in (
        ("win_length", "window_size", "n_window_size"),
        ("hop_length", "window_stride", "n_window_stride"),
    ):
        seconds, samples = section[seconds_key], section[samples_key]
        name_of_samples = f"preprocessor.{samples_key}"
        if seconds and samples:
            raise reader.refuse(name_of_samples, samples, f"null next to {seconds_key}={seconds!r}")
        if seconds:
            samples = _samples(seconds, sampling_rate, f"preprocessor.{seconds_key}", reader)
        if not is_integer(samples) or samples <= 0:
            expected = f"a positive number of samples, or {seconds_key} in seconds"
            raise reader.refuse(name_of_samples, section[samples_key], expected)
        arguments[name] = samples
    return arguments
