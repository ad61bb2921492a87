"""Cases of option sets and of arrays, for every function that takes them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import fuzz_audio as audio
import numpy as np
import torch
import transformers
from fuzz_bytes import odd_value
from fuzz_cases import Case, Room, rng_of
from models import build_model

from transformers_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.audio.files import load_waveform
from transformers_fastconformer.audio.voice_activity import VoiceActivityOptions
from transformers_fastconformer.decoding.confidence import ConfidenceOptions
from transformers_fastconformer.decoding.options import DecodingOptions
from transformers_fastconformer.inference.options import ChunkOptions, TranscriptionOptions
from transformers_fastconformer.inference.transcribe import transcribe
from transformers_fastconformer.nemo.convert import ConversionOptions

KIND = "options"
TRANSDUCER: list[Any] = []
PIPELINE: list[Any] = []
FEATURES: list[torch.Tensor] = []
# Values that some option takes.
USUAL: dict[str, tuple[Any, ...]] = {
    "strategy": ("auto", "full", "local", "chunked"),
    "chunk_length_s": (0, 0.5, 1, 30.0),
    "stride_length_s": (0.1, (0.1, 0.2), [0, 0]),
    "timestamps": (True, False, "word", ["char", "segment"]),
    "return_timestamps": (True, False, "word", "char"),
    "batch_size": (1, 4, np.int64(2)),
    "batch_seconds": (1.0, 240, np.float32(10)),
    "num_workers": (0, 1, 3),
    "confidence": (ConfidenceOptions(), ConfidenceOptions(method="max_prob")),
    "max_symbols_per_step": (1, 5, None),
    "language": (None, "en"),
    "channels": ("mix", 0, 1),
    "sampling_rate": (16000, None),
    "padding": (True, False, "longest"),
    "return_tensors": ("pt", "np", None),
    "return_dict_in_generate": (True, False),
}
FORMS = (
    *("float32", "float64", "float16", "int16", "int32", "int64", "uint8", "bool", "complex64", "object", "U5", "S5"),
    *("datetime64[s]", ">f4", "longdouble", "V8"),
)
SHAPES = ((), (0,), (1,), (159,), (8000,), (1, 8000), (8000, 1), (2, 8000), (8000, 2), (3, 8000), (2, 2, 4000), (0, 5))
SHAPES += ((5, 0), (1, 1, 1, 500), (100, 100))


def prepare() -> None:
    """Build the models."""
    audio.prepare_model()
    if TRANSDUCER:
        return
    TRANSDUCER.append(build_model("tdt_hybrid"))
    FEATURES.append(torch.randn(1, 60, 8, generator=torch.Generator().manual_seed(0)))
    model, processor = audio.MODEL[0]
    PIPELINE.append(transformers.pipeline("automatic-speech-recognition", model=model, processor=processor))
    TRANSDUCER[0].generate(FEATURES[0])
    PIPELINE[0](clip())


def clip() -> np.ndarray:
    return audio.make_sound(8000, 1)[:, 0]


def pick(rng: random.Random, names: list[str], most: int = 4) -> dict[str, Any]:
    """Some options, most of them with odd values."""
    chosen = rng.sample(names, rng.randint(1, min(most, len(names))))
    return {
        name: rng.choice(USUAL[name]) if name in USUAL and rng.random() < 0.4 else very_odd_value(rng)
        for name in chosen
    }


def very_odd_value(rng: random.Random) -> Any:
    """A value of any type that Python code hands over."""
    return rng.choice(
        (
            odd_value(rng),
            odd_value(rng),
            np.float32(rng.choice((1, float("nan"), -1))),
            np.array(rng.choice((1, [1, 2], []))),
            torch.tensor(rng.choice((1.0, float("inf"), 3))),
            torch.zeros(rng.choice((0, 2))),
            b"x",
            object(),
            int,
            {1},
            (1, 2, 3),
            range(3),
            1j,
            lambda: 5,
        )
    )


def odd_array(rng: random.Random) -> Any:
    """Samples of an odd type, shape, value or container."""
    shape = rng.choice(SHAPES)
    values = np.asarray(np.random.default_rng(rng.randrange(10**6)).standard_normal(shape) * 0.1)
    if values.size and rng.random() < 0.4:
        values.flat[rng.randrange(values.size)] = rng.choice((np.nan, np.inf, -np.inf, 1e38, 1e300, 1e5))
    with np.errstate(all="ignore"):
        form = rng.choice(FORMS)
        try:
            array: Any = values.astype(form)
        except (ValueError, TypeError):
            array = values
    tensor = torch.from_numpy(values).float()
    makers: tuple[Callable[[], Any], ...] = (
        lambda: array,
        lambda: array,
        lambda: array,
        lambda: array.tolist(),
        lambda: [array, array],
        lambda: tensor,
        lambda: tensor.to(rng.choice((torch.bfloat16, torch.float16, torch.int16, torch.int64, torch.complex64))),
        lambda: tensor.to_sparse(),
        lambda: tensor.to("meta"),
        lambda: tensor.requires_grad_(),
        lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda: tensor.expand(2, *tensor.shape),
        lambda: np.ma.masked_array(values, values > 0),
        lambda: np.asfortranarray(values)[::-1],
        lambda: {
            "array": array,
            "sampling_rate": rng.choice((16000, 8000, 0, -1, 10**15, 1, "x", None, 16000.5, 1e300)),
        },
        lambda: {"raw": array, "sampling_rate": torch.tensor(16000)},
        lambda: {"array": array},
        lambda: {"sampling_rate": 16000},
        lambda: {},
        lambda: (rng.choice((16000, 8000, 0, "x")), array),
        lambda: [],
        lambda: [[]],
        lambda: [None],
        lambda: ["x"],
        lambda: None,
        lambda: very_odd_value(rng),
        lambda: iter([0.1, 0.2]),
    )
    try:
        return rng.choice(makers)()
    except (RuntimeError, NotImplementedError, TypeError):  # tensors that PyTorch does not make of this shape
        return array


def option_names(kind: type) -> list[str]:
    return [item.name for item in fields(kind)]


TRANSCRIPTION = [
    *(name for name in option_names(TranscriptionOptions) if name not in ("decoding", "chunking")),
    *option_names(DecodingOptions),
    *option_names(ChunkOptions),
]
EXTRACTOR = [
    *("feature_size", "sampling_rate", "hop_length", "win_length", "n_fft", "preemphasis", "window", "normalize"),
    *("mag_power", "log", "log_zero_guard_type", "log_zero_guard_value", "pad_to", "padding_value", "exact_pad"),
    *("frame_splicing", "min_frequency", "max_frequency", "mel_norm", "filterbank_dtype", "mel_filters"),
    "window_values",
]
EXTRACTOR_CALL = [
    "sampling_rate",
    "return_tensors",
    "padding",
    "channels",
    "truncation",
    "return_attention_mask",
    "audio_lengths",
]
GENERATE = [
    "attention_mask",
    "input_lengths",
    "decoding",
    "return_dict_in_generate",
    "language",
    "max_symbols_per_step",
]
GENERATE += ["confidence"]
PIPELINE_CALL = [
    "return_timestamps",
    "strategy",
    "chunk_length_s",
    "stride_length_s",
    "language",
    "max_symbols_per_step",
]
PIPELINE_CALL += ["confidence", "voice_activity", "batch_seconds", "generate_kwargs", "batch_size", "num_workers"]

Made = tuple[Callable[[], Any], list[str]]


def record(kind: type, rng: random.Random) -> Made:
    """A record of options, made."""
    options = pick(rng, option_names(kind))
    return partial(kind, **options), list(options)


def one_by_one(kind: Any, rng: random.Random) -> Made:
    """A record of options by names, some of them unknown."""
    names = TRANSCRIPTION if kind is TranscriptionOptions else option_names(DecodingOptions)
    options = pick(rng, [*names, "temperature"])
    return partial(kind.of, rng.choice((None, kind(), very_odd_value(rng))), options), [
        *options,
        "options",
        "decoding",
    ]


def transcription(rng: random.Random) -> Made:
    options = pick(rng, TRANSCRIPTION)
    return partial(transcribe, clip(), audio.MODEL[0], **options), list(options)


def transcription_of_arrays(rng: random.Random) -> Made:
    return partial(transcribe, odd_array(rng), audio.MODEL[0], timestamps=False), ["audio", "Clip", "clip", "path"]


def whole_settings(rng: random.Random) -> Made:
    name = rng.choice(("model", "head", "device", "dtype", "options"))
    options = {name: very_odd_value(rng)}
    if name != "model":
        options["model"] = audio.MODEL[0]
    return partial(transcribe, clip(), **options), [name, "model"]


def waveform(rng: random.Random) -> Made:
    options = {"sampling_rate": rng.choice((16000, very_odd_value(rng)))} if rng.random() < 0.3 else {}
    return partial(load_waveform, odd_array(rng), **options), ["audio", "sampling_rate", "path"]


def extractor(rng: random.Random) -> Made:
    options = pick(rng, EXTRACTOR, most=3)

    def make() -> None:
        made = FastConformerFeatureExtractor(**options)
        made(clip(), sampling_rate=made.sampling_rate)

    return make, list(options)


def extractor_sizes(rng: random.Random) -> Made:
    name = rng.choice([name for name in EXTRACTOR if name not in ("mel_filters", "window_values")])
    value = rng.choice((0, 1, 2, 3, 10**4, 10**6, 10**9, 10**12, 2**63, -1, 0.5, 1e-300, 1e300, float("nan")))

    def make() -> None:
        made = FastConformerFeatureExtractor(**{name: value})
        made(clip(), sampling_rate=made.sampling_rate)

    return make, [name]


def extractor_call(rng: random.Random) -> Made:
    made = audio.MODEL[0][1].feature_extractor
    options = {"sampling_rate": 16000, **(pick(rng, EXTRACTOR_CALL, most=2) if rng.random() < 0.5 else {})}
    sound = odd_array(rng) if rng.random() < 0.7 else clip()
    return partial(made, sound, **options), ["raw_speech", "Clip", "clip", *options]


def processor_call(rng: random.Random) -> Made:
    processor = audio.MODEL[0][1]
    options = {
        "sampling_rate": 16000,
        "return_tensors": "pt",
        **(pick(rng, ["text"], 1) if rng.random() < 0.3 else {}),
    }
    return partial(processor, odd_array(rng), **options), ["raw_speech", "audio", "Clip", "clip", *options]


def generate(rng: random.Random) -> Made:
    options = pick(rng, GENERATE, most=3)
    model = rng.choice((TRANSDUCER[0], audio.MODEL[0][0]))
    return partial(model.generate, FEATURES[0], **options), list(options)


def generate_features(rng: random.Random) -> Made:
    model = rng.choice((TRANSDUCER[0], audio.MODEL[0][0]))
    shape = rng.choice(((1, 60, 8), (1, 60, 7), (60, 8), (0, 60, 8), (1, 0, 8), (1, 1, 8), (2, 60, 8), (1, 60), ()))
    features = torch.randn(shape)
    if rng.random() < 0.5:
        features = rng.choice(
            (features * float("nan"), features.double(), features.half(), features.long(), features * 1e38)
        )
    if rng.random() < 0.1:
        features = rng.choice((features.to_sparse(), features.to("meta"), features.numpy(), None, [1.0]))
    return partial(model.generate, features), ["input_features", "features", "logits", "last_hidden_state"]


def pipeline(rng: random.Random) -> Made:
    options = pick(rng, PIPELINE_CALL, most=3)
    return partial(PIPELINE[0], clip(), **options), list(options)


def pipeline_of_arrays(rng: random.Random) -> Made:
    sound = odd_array(rng)

    def call() -> None:
        results = PIPELINE[0](sound)
        if not isinstance(results, dict | list):
            list(results)

    return call, ["audio", "Clip", "clip", "inputs"]


def pipeline_defaults(rng: random.Random) -> Made:
    options = pick(rng, PIPELINE_CALL, most=3)
    model, processor = audio.MODEL[0]

    def call() -> None:
        transformers.pipeline("automatic-speech-recognition", model=model, processor=processor, **options)(clip())

    return call, list(options)


MUTATIONS: dict[str, Callable[[random.Random], Made]] = {
    "DecodingOptions": partial(record, DecodingOptions),
    "ChunkOptions": partial(record, ChunkOptions),
    "ConfidenceOptions": partial(record, ConfidenceOptions),
    "VoiceActivityOptions": partial(record, VoiceActivityOptions),
    "TranscriptionOptions": partial(record, TranscriptionOptions),
    "ConversionOptions": partial(record, ConversionOptions),
    "TranscriptionOptions.of": partial(one_by_one, TranscriptionOptions),
    "DecodingOptions.of": partial(one_by_one, DecodingOptions),
    "transcribe": transcription,
    "transcribe, arrays": transcription_of_arrays,
    "transcribe, model": whole_settings,
    "load_waveform": waveform,
    "feature extractor": extractor,
    "feature extractor, sizes": extractor_sizes,
    "feature extractor, call": extractor_call,
    "processor": processor_call,
    "generate": generate,
    "generate, features": generate_features,
    "pipeline": pipeline,
    "pipeline, arrays": pipeline_of_arrays,
    "pipeline, defaults": pipeline_defaults,
}


def make_case(seed: int, room: Room) -> Case:
    """The case of a seed."""
    rng = rng_of(KIND, seed)
    mutation = list(MUTATIONS)[seed % len(MUTATIONS)]
    call, names = MUTATIONS[mutation](rng)
    return Case(KIND, seed, mutation, "", (call,), names)
