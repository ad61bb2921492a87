"""Exported folders run from audio to text by the program that they are for, next to the model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..audio.files import read_audio
from ..validation import require

# Of each target that has a package: its name for `pip`, and the module.
PACKAGES = {"onnx-asr": ("onnx-asr", "onnx_asr"), "sherpa-onnx": ("sherpa-onnx", "sherpa_onnx")}
PACKAGES["sherpa-onnx-streaming"] = PACKAGES["sherpa-onnx"]


@dataclass(frozen=True)
class TextCheck:
    """
    A clip that was transcribed twice.

    Args:
        clip: Its path.
        expected: The text of the model.
        found: That of the program which the folder is for.
    """

    clip: str
    expected: str
    found: str


def check_package(target: str) -> None:
    """
    See that the program of a target is there.

    Raises:
        ValueError: for a target without one.
        ImportError: with the command that installs it.
    """
    require(target in PACKAGES, "verify", True, f"False for target={target!r}, which no package loads")
    package, module = PACKAGES[target]
    try:
        import_module(module)
    except ImportError as error:
        raise ImportError(f"verify needs the package {package}: pip install {package}") from error


def name_package(target: str) -> str:
    """Name and version of the program of a target."""
    package = PACKAGES[target][0]
    return f"{package} {version(package)}"


@torch.no_grad()
def check_texts(
    form: Any, folder: Path, model: Any, processor: Any, paths: Sequence[str | os.PathLike[str]], is_int8: bool
) -> list[TextCheck]:
    """
    Transcribe clips by the model and by the program of a target.

    Args:
        form: The module of the target.
        folder: The exported folder.
        model, processor: What it was made from.
        paths: Audio files.
        is_int8: True for graphs in 8 bits.

    Returns:
        A check for each clip.
    """
    sampling_rate = processor.feature_extractor.sampling_rate
    waveforms = [read_audio(path, sampling_rate) for path in paths]
    expected = []
    for waveform in waveforms:
        inputs = processor(waveform, sampling_rate=sampling_rate, return_tensors="pt")
        expected += processor.batch_decode(model.generate(**inputs))
    found = form.transcribe(folder, model, processor, waveforms, is_int8)
    texts = zip(paths, expected, found, strict=True)
    return [TextCheck(str(path), ours.strip(), theirs.strip()) for path, ours, theirs in texts]
