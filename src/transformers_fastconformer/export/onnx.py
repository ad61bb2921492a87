"""A model out to ONNX, in the form that another runtime loads as its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..checkpoints.output_folder import check_output, written_as_one
from ..demonstration import CLIP_PATHS
from ..modeling.int8_config import is_int8_config
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from ..validation import require, require_choice
from . import onnx_asr, plain, sherpa_onnx, sherpa_onnx_streaming
from .graph_decoding import TokenCheck, check_tokens
from .graphs import check_packages, write_graph
from .int8 import int8_name, quantize_graphs
from .manifest import write_manifest
from .stage_checks import check_stages
from .text_checks import TextCheck, check_package, check_texts, name_package

TARGETS: dict[str, Any] = {
    "onnx-asr": onnx_asr,
    "sherpa-onnx": sherpa_onnx,
    "sherpa-onnx-streaming": sherpa_onnx_streaming,
    "plain": plain,
}


@dataclass(frozen=True)
class OnnxExportResult:
    """
    The outcome of an export to ONNX.

    Args:
        folder: The folder.
        target: The runtime that loads it.
        files: Names of the files in it, and their bytes.
        differences: The largest difference of each stage to the model, as a share of the stage's largest magnitude.
        int8_differences: Of graphs in 8 bits the difference of each stage to float32, as a share of the stage, both by
            their root mean squares; empty for graphs in float32.
        texts: Clips that the program of the target transcribed, with `verify`.
        tokens: With `int8` or `verify`, clips decoded by the graphs from the features of the model.
    """

    folder: Path
    target: str
    files: dict[str, int]
    differences: dict[str, float]
    int8_differences: dict[str, float] = field(default_factory=dict)
    texts: list[TextCheck] = field(default_factory=list)
    tokens: TokenCheck | None = None


def export_onnx(
    model: tuple[FastConformerRecognizer, FastConformerProcessor],
    folder: str | os.PathLike[str],
    *,
    target: str = "onnx-asr",
    source: str | None = None,
    overwrite: bool = False,
    int8: bool = False,
    verify: bool = False,
    verify_audio: Sequence[str | os.PathLike[str]] | None = None,
) -> OnnxExportResult:
    """
    Write ONNX graphs of a model and what a runtime reads next to them. The folder appears whole or not at all.

    Batch and length of the graphs are open: there is no longest recording, and the memory of attention grows linearly
    with it. Before the folder takes its place, ONNX Runtime runs the graphs on inputs of several sizes, and what they
    give is compared with the model.

    Args:
        model: The model and its processor, as [`load_model`] returns them with `device="cpu", dtype="float32"`; of a
            hybrid the head that was chosen there.
        folder: The folder to make.
        target: The program that loads it: `"onnx-asr"`, `"sherpa-onnx"` (whole recordings),
            `"sherpa-onnx-streaming"` (live streams of cache-aware models, in the attention context that the model is
            set to), or `"plain"` for one of your own.
        source: Name of the checkpoint for the manifest; by default the one that the model remembers.
        overwrite: Replace a folder that is not empty.
        int8: Write graphs with 8-bit weights (`encoder.int8.onnx`) in place of those in float32, which are made and
            compared with the model first, and count the tokens of the clips that change.
        verify: Transcribe clips by the target's own package too. With onnx-asr and float32 their texts must be those
            of the model; sherpa-onnx has features of its own, and 8 bits change words, so there they are only told.
        verify_audio: Audio files to transcribe, and whose tokens are counted; None: the two clips of digits that the
            package carries.

    Returns:
        [`OnnxExportResult`]; the manifest in the folder, `export.json`, says the same, with versions and licence.

    Raises:
        ValueError: naming what the target cannot express, its value and what is accepted; for a model in another
            dtype or on another device, and for a folder that is in use.
        RuntimeError: when a graph does not give what the model gives.
        ImportError: the extra `onnx`, or with `verify` the target's package, is not installed; the message holds the
            command.
    """
    require_choice("target", target, tuple(TARGETS))
    form = TARGETS[target]
    recognizer, processor = _check_model(model)
    output = Path(folder)
    check_output(output, overwrite)
    # Nobody tells a graph whom to follow: it would write what all say, and nobody would know.
    follows = recognizer.config.follows_speakers
    require(not follows, "follows_speakers", follows, "False: multi-talker models run by `transcribe_speakers`")
    form.check_expressible(recognizer, processor)
    check_packages()
    require(verify or int8 or not verify_audio, "verify_audio", verify_audio, "None without verify and int8")
    if verify:
        check_package(target)
    parts = form.graph_parts(recognizer)
    metadata = form.metadata(recognizer, processor)
    with written_as_one(output, overwrite) as written:
        for name, part in parts.items():
            write_graph(part, written / name, recognizer.config, metadata.get(name))
        differences = check_stages(recognizer, parts, written)
        int8_differences = quantize_graphs(recognizer, parts, written) if int8 else {}
        form.write_settings(written, recognizer, processor)
        texts, tokens = [], None
        if verify or int8:
            graphs = {name: written / (int8_name(name) if int8 else name) for name in parts}
            tokens = check_tokens(recognizer, processor, parts, graphs, verify_audio or CLIP_PATHS)
            _require_tokens(tokens, int8)
        if verify:
            texts = check_texts(form, written, recognizer, processor, verify_audio or CLIP_PATHS, int8)
            _require_texts(texts, target, int8)
        others = _describe_checks(target, int8_differences, texts, tokens)
        write_manifest(written, recognizer, source, target, differences, others)
        files = {path.name: path.stat().st_size for path in sorted(written.iterdir())}
    return OnnxExportResult(output, target, files, differences, int8_differences, texts, tokens)


def _require_tokens(tokens: TokenCheck, is_int8: bool) -> None:
    """Raise a `RuntimeError` for graphs in float32 that give other tokens than the model."""
    if tokens.differences > 0 and not is_int8:
        raise RuntimeError(
            f"{tokens.differences} of {tokens.tokens} tokens by the graphs differ from the model for equal features; "
            "expected none. Nothing was written."
        )


def _require_texts(texts: Sequence[TextCheck], target: str, is_int8: bool) -> None:
    """Raise a `RuntimeError` where texts should be those of the model and are not."""
    others = [check for check in texts if check.found != check.expected]
    if others and target == "onnx-asr" and not is_int8:
        first = others[0]
        raise RuntimeError(
            f"{target} transcribes {len(others)} of {len(texts)} clips otherwise than the model, {first.clip} as "
            f"{first.found!r}; expected {first.expected!r}. Nothing was written."
        )


def _describe_checks(
    target: str, int8_differences: dict[str, float], texts: Sequence[TextCheck], tokens: TokenCheck | None
) -> dict[str, Any]:
    """Entries of the manifest for 8 bits, tokens and texts."""
    described: dict[str, Any] = {}
    if int8_differences:
        described["int8_relative_rms_differences"] = int8_differences
    if tokens is not None:
        described["tokens"] = asdict(tokens)
    if texts:
        num_alike = sum(check.found == check.expected for check in texts)
        described["texts"] = {"package": name_package(target), "clips": len(texts), "identical": num_alike}
    return described


def _check_model(model: Any) -> tuple[Any, Any]:
    """The two parts of what `load_model` returns, of a model whose values a graph can hold."""
    is_pair = isinstance(model, tuple) and len(model) == 2
    if not (is_pair and isinstance(model[0], PreTrainedModel) and isinstance(model[1], FastConformerProcessor)):
        raise ValueError(
            f"model is a {type(model).__name__}; expected the model and the processor that load_model returns."
        )
    recognizer, processor = model
    if not isinstance(recognizer, FastConformerRecognizer):
        raise ValueError(f"{type(recognizer).__name__} has no head to export; expected a model that transcribes.")
    is_int8 = is_int8_config(getattr(recognizer.config, "quantization_config", None))
    require(not is_int8, "dtype", "int8", "weights in float32 (load_model(..., dtype='float32'))")
    for name, value, expected in (
        ("dtype", recognizer.dtype, torch.float32),
        ("device", recognizer.device, torch.device("cpu")),
    ):
        require(
            value == expected, f"model.{name}", value, f"{expected} (load_model(..., device='cpu', dtype='float32'))"
        )
    return recognizer, processor
