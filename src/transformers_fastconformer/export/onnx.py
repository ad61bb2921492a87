"""A model out to ONNX, in the form that another runtime loads as its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..checkpoints.output_folder import check_output, written_as_one
from ..modeling.int8_config import is_int8_config
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from ..validation import require, require_choice
from . import onnx_asr, plain, sherpa_onnx
from .graphs import check_packages, write_graph
from .manifest import write_manifest
from .stage_checks import check_stages

TARGETS: dict[str, Any] = {"onnx-asr": onnx_asr, "sherpa-onnx": sherpa_onnx, "plain": plain}


@dataclass(frozen=True)
class OnnxExportResult:
    """
    The outcome of an export to ONNX.

    Args:
        folder: The folder.
        target: The runtime that loads it.
        files: Names of the files in it, and their bytes.
        differences: The largest difference of each stage to the model, as a share of the stage's largest magnitude.
    """

    folder: Path
    target: str
    files: dict[str, int]
    differences: dict[str, float]


def export_onnx(
    model: tuple[FastConformerRecognizer, FastConformerProcessor],
    folder: str | os.PathLike[str],
    *,
    target: str = "onnx-asr",
    source: str | None = None,
    overwrite: bool = False,
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
        target: The program that loads it: `"onnx-asr"`, `"sherpa-onnx"` (whole recordings), or `"plain"` for
            one of your own.
        source: Name of the checkpoint for the manifest; by default the one that the model remembers.
        overwrite: Replace a folder that is not empty.

    Returns:
        [`OnnxExportResult`]; the manifest in the folder, `export.json`, says the same, with versions and licence.

    Raises:
        ValueError: naming what the target cannot express, its value and what is accepted; for a model in another
            dtype or on another device, and for a folder that is in use.
        RuntimeError: when a graph does not give what the model gives.
        ImportError: the extra `onnx` is not installed; the message holds the command.
    """
    require_choice("target", target, tuple(TARGETS))
    form = TARGETS[target]
    recognizer, processor = _check_model(model)
    output = Path(folder)
    check_output(output, overwrite)
    form.check_expressible(recognizer, processor)
    check_packages()
    parts = form.graph_parts(recognizer)
    metadata = form.metadata(recognizer, processor)
    with written_as_one(output, overwrite) as written:
        for name, part in parts.items():
            write_graph(part, written / name, recognizer.config, metadata.get(name))
        differences = check_stages(recognizer, parts, written)
        form.write_settings(written, recognizer, processor)
        write_manifest(written, recognizer, source, target, differences)
        files = {path.name: path.stat().st_size for path in sorted(written.iterdir())}
    return OnnxExportResult(output, target, files, differences)


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
