"""What an application says with `torch.set_default_dtype` and `torch.set_default_device` changes no result of ours."""

from __future__ import annotations

import ast
import contextlib
import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from models import HEADS, build_model, few_of, make_features
from torch.testing import assert_close

import transformers_fastconformer
from transformers_fastconformer import (
    ConfidenceOptions,
    FastConformerFeatureExtractor,
    load_model,
    quantize_dynamic_int8,
    read_audio,
    transcribe_waveforms,
)
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.losses.ctc import ctc_loss
from transformers_fastconformer.losses.rnnt import rnnt_loss
from transformers_fastconformer.losses.tdt import tdt_loss

OTHER_DTYPES = (torch.bfloat16, torch.float16, torch.float64)
LENGTHS = [75, 40, 100]
# Functions of torch that make a tensor of the default dtype on the default device unless they are told others.
VALUES = ("zeros", "ones", "empty", "full", "eye", "tensor", "as_tensor", "scalar_tensor")
RANGES = ("arange", "linspace", "logspace", "hann_window", "hamming_window", "blackman_window", "bartlett_window")
RANDOM = ("rand", "randn", "randint", "randperm")


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """An application that computes in another type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def name_of(function: ast.expr) -> tuple[str, str]:
    """What stands before the last dot and after it."""
    if isinstance(function, ast.Attribute):
        return getattr(function.value, "id", ""), function.attr
    return "", getattr(function, "id", "")


def calls_without(source: str) -> list[str]:
    """
    Calls of makers that leave dtype or device to the application.

    Parameters follow the default, by which Transformers builds a model in another type; `arange` of integers is int64
    whatever the default is.
    """
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    # A module is made on the default device, or on the one that loading chooses.
    names = [(call, *name_of(call.func)) for call in calls]
    of_modules = (("nn", "Parameter"), ("self", "register_buffer"))
    of_parameters = {id(value) for call, *path in names if tuple(path) in of_modules for value in call.args}
    found = []
    for call, module, name in names:
        if module != "torch" or name not in (*VALUES, *RANGES, *RANDOM) or id(call) in of_parameters:
            continue
        given = {keyword.arg for keyword in call.keywords}
        numbers = [node.value for value in call.args for node in ast.walk(value) if isinstance(node, ast.Constant)]
        is_of_integers = name in ("as_tensor", "arange", "randint", "randperm") and not any(
            isinstance(n, float) for n in numbers
        )
        if "device" not in given or ("dtype" not in given and not is_of_integers):
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


def test_every_tensor_that_is_made_has_its_dtype_and_device() -> None:
    """The mechanism: no call that makes a tensor leaves them to the application."""
    root = Path(transformers_fastconformer.__file__).parent
    found = {
        str(path.relative_to(root)): calls_without(path.read_text(encoding="utf-8")) for path in root.rglob("*.py")
    }
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("torch.zeros(3, device=d)", True),
        ("torch.tensor([n], dtype=torch.int64)", True),
        ("torch.arange(0, 1, 0.1, device=d)", True),
        ("torch.arange(n, device=d)", False),
        ("torch.rand((), dtype=t, device=d)", False),
        ("nn.Parameter(torch.zeros(3))", False),
        ("self.register_buffer('x', torch.zeros(3))", False),
    ],
)
def test_the_walk_finds_what_it_looks_for(source: str, is_found: bool) -> None:
    assert bool(calls_without(source)) == is_found


def run_head(model: Any, features: torch.Tensor) -> dict[str, Any]:
    """All that a head computes: states, tokens, confidences, losses, gradients, a step of training."""
    model = copy.deepcopy(model)  # training changes the statistics of batch norms
    lengths = torch.tensor(LENGTHS, dtype=torch.int64)
    found: dict[str, Any] = {}
    with torch.no_grad():
        found["packed"] = model.encode(features, input_lengths=lengths).last_hidden_state
        found["padded"] = model.encode(features, input_lengths=lengths, output_hidden_states=True).hidden_states
    generated = model.generate(
        features, input_lengths=lengths, return_dict_in_generate=True, confidence=ConfidenceOptions()
    )
    found |= {f"generate.{name}": value for name, value in generated.items() if torch.is_tensor(value)}
    labels = torch.tensor([[1, 2, 2], [3, -100, -100], [4, 5, -100]], dtype=torch.int64)
    found["loss"] = model(features, input_lengths=lengths, labels=labels).loss
    found["loss"].backward()
    found |= {f"gradient.{name}": value.grad for name, value in model.named_parameters() if value.grad is not None}
    torch.manual_seed(0)
    random.seed(0)
    model.train()
    found["loss in training"] = model(features, input_lengths=lengths, labels=labels).loss
    return found


@pytest.mark.parametrize("kind", few_of(HEADS))
def test_heads_under_another_default_dtype(kind: str) -> None:
    """Encoder, decoding, confidences, losses and gradients are bit for bit those under float32."""
    model, features = build_model(kind, layerdrop=0.5), make_features(LENGTHS)
    expected = run_head(model, features)
    for dtype in (torch.bfloat16, torch.float64):
        with default_dtype(dtype):
            found = run_head(model, features)
        assert_close(found, expected, rtol=0, atol=0, msg=lambda text, dtype=dtype: f"{dtype}: {text}")


@pytest.mark.parametrize(
    "overrides",
    [
        {"position_embedding_type": "abs_pos"},
        {"position_embedding_type": "rel_pos_local_attn", "attention_context": [8, 8], "num_global_tokens": 1},
        {"attention_context_style": "chunked_limited", "attention_context": [9, 2], "causal_downsampling": True},
        {"conv_norm_type": "group_norm", "conv_norm_groups": 2},
        {"reduction_type": "pooling", "reduction_position": 0, "reduction_factor": 2},
        {"has_speaker_kernel": True},
    ],
    ids=lambda overrides: next(iter(overrides)),
)
def test_encoders_under_another_default_dtype(overrides: dict[str, Any]) -> None:
    model = build_model("encoder", **overrides)
    features = make_features(LENGTHS)

    def encode() -> torch.Tensor:
        with torch.no_grad():
            lengths = torch.tensor(LENGTHS, dtype=torch.int64)
            return model(features, input_lengths=lengths, output_attentions=True).last_hidden_state

    expected = encode()
    for dtype in OTHER_DTYPES:
        with default_dtype(dtype):
            assert_close(encode(), expected, rtol=0, atol=0)


def test_losses_under_another_default_dtype() -> None:
    generator = torch.Generator().manual_seed(0)
    joint = torch.randn(2, 6, 4, 9, generator=generator)
    lengths = {"encoder_lengths": torch.tensor([6, 4]), "target_lengths": torch.tensor([3, 2])}
    targets = torch.tensor([[1, 1, 2], [3, 0, -100]])

    def compute() -> list[torch.Tensor]:
        return [
            rnnt_loss(joint[..., :6], targets, **lengths, blank_id=5, reduction="mean", fastemit_lambda=0.1),
            tdt_loss(joint, targets, **lengths, blank_id=5, durations=[0, 1, 2], sigma=0.05, omega=1e-9),
            ctc_loss(
                joint[:, :, 0], targets.clamp(min=0), **lengths, blank_id=5, reduction="mean", zero_infinity=True
            ),
        ]

    expected = compute()
    for dtype in OTHER_DTYPES:
        with default_dtype(dtype):
            assert_close(compute(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"normalize": "all_features", "filterbank_dtype": "bfloat16"}])
def test_feature_extractor_made_under_another_default_dtype(options: dict[str, Any]) -> None:
    """Filterbanks and windows too are made under the other default."""
    clips = [
        torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float32) for size in (9000, 4000)
    ]
    expected = FastConformerFeatureExtractor(**options)(clips, sampling_rate=16000)
    for dtype in OTHER_DTYPES:
        with default_dtype(dtype):
            found = FastConformerFeatureExtractor(**options)(clips, sampling_rate=16000)
            listed = FastConformerFeatureExtractor(**options)([clip.tolist() for clip in clips], sampling_rate=16000)
        assert_close(dict(found), dict(expected), rtol=0, atol=0)
        assert torch.from_numpy(listed["input_features"]).equal(expected["input_features"])


@pytest.mark.parametrize("options", [{"strategy": "full"}, {"strategy": "local"}, {"chunk_length_s": 1.5}], ids=str)
def test_transcription_under_another_default_dtype(options: dict[str, Any]) -> None:
    """A checkpoint that is loaded under another default is the one stored, and transcribes the same."""
    waveform = read_audio(CLIP_PATHS[0])
    expected = transcribe_waveforms(*load_model("demo"), [waveform, waveform[:20000]], **options)
    with default_dtype(torch.bfloat16):
        model, processor = load_model("demo")
        assert model.dtype == torch.float32
        assert transcribe_waveforms(model, processor, [waveform, waveform[:20000]], **options) == expected


def test_8_bits_under_another_default_dtype() -> None:
    features = make_features([80])
    model = quantize_dynamic_int8(build_model("ctc", hidden_size=32, num_attention_heads=2))
    expected = model.generate(features, return_dict_in_generate=True).log_probs
    for dtype in OTHER_DTYPES:
        with default_dtype(dtype):
            assert_close(model.generate(features, return_dict_in_generate=True).log_probs, expected, rtol=0, atol=0)


def test_another_default_device() -> None:
    """A model and its features stay on the CPU where the default device is another one."""
    model, processor = load_model("demo")
    waveform = read_audio(CLIP_PATHS[0])
    expected = transcribe_waveforms(model, processor, [waveform], chunk_length_s=1.5)
    kinds = {kind: build_model(kind) for kind in ("ctc", "rnnt_stateless", "tdt_hybrid")}
    features = make_features(LENGTHS)
    sequences = {kind: head.generate(features) for kind, head in kinds.items()}
    with torch.device("meta"):
        assert transcribe_waveforms(model, processor, [waveform], chunk_length_s=1.5) == expected
        assert processor(waveform, sampling_rate=16000)["input_features"].dtype == torch.float32
        for kind, head in kinds.items():
            assert head.generate(features).equal(sequences[kind]), kind
