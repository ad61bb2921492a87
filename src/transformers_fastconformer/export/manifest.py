"""The record next to exported graphs: what they were made from, with which versions, and what was checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from ..checkpoints.model_card import read_card, read_front_matter
from ..version import __version__
from .graphs import IR_VERSION, OPSET

MANIFEST_FILE = "export.json"
PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")


def write_manifest(
    folder: Path,
    model: Any,
    source: str | None,
    target: str,
    checks: Mapping[str, float],
    others: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Write the record of an export.

    Args:
        folder: The folder of the graphs.
        model: The model that they were made from.
        source: The name of its checkpoint, whose card says the licence; None for that which the model remembers.
        target: The runtime.
        checks: The largest relative difference of each stage.
        others: More entries: what was checked besides.

    Returns:
        What was written.
    """
    name = source or model.name_or_path or None
    manifest = {
        "source": name,
        "weights_sha256": digest_weights(model),
        "license": None if name is None else read_license(name),
        "model_type": model.config.model_type,
        "head": model.decoder_type,
        "target": target,
        "opset": OPSET,
        "ir_version": IR_VERSION,
        "versions": {
            "transformers_fastconformer": __version__,
            **{package: version(package) for package in PACKAGES},
        },
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        "largest_relative_differences": dict(checks),
        **(others or {}),
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def digest_weights(model: Any) -> str:
    """The SHA-256 of the names, shapes and values of a model's weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_license(name: str) -> str | None:
    """The licence that the card of a checkpoint on this machine names; None where it names none."""
    card = read_card(name) if Path(name).exists() else None
    front_matter = None if card is None else read_front_matter(card)
    try:
        metadata = yaml.load(front_matter, Loader=yaml.BaseLoader) if front_matter else None
    except yaml.YAMLError:
        return None
    found = metadata.get("license") if isinstance(metadata, dict) else None
    return found if isinstance(found, str) else None
