"""Short spoken clips in files and manifests, the processor that reads them, and the model without chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from transformers_fastconformer import (
    AutoModelForTDT,
    FastConformerProcessor,
    RowForm,
    TrainingClips,
    read_audio,
)
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS

TEXTS = ("three one", "four one five", "nine", "two", "six five three", "eight nine seven")


@pytest.fixture(scope="session")
def processor() -> FastConformerProcessor:
    return FastConformerProcessor.from_pretrained(CHECKPOINT_PATH)


@pytest.fixture(scope="session")
def waveforms() -> list[np.ndarray]:
    """Six clips of 0.6 to 1.6 s; what is said in them does not matter."""
    speech = np.concatenate([read_audio(path) for path in CLIP_PATHS])
    return [speech[2000 * place : 2000 * place + 9600 + 3200 * place] for place in range(len(TEXTS))]


@pytest.fixture(scope="session")
def rows(waveforms: list[np.ndarray]) -> list[dict[str, Any]]:
    return [
        {"audio": {"array": waveform, "sampling_rate": 16000}, "text": text}
        for waveform, text in zip(waveforms, TEXTS, strict=True)
    ]


@pytest.fixture
def clips(rows: list[dict[str, Any]]) -> TrainingClips:
    seconds = [len(row["audio"]["array"]) / 16000 for row in rows]
    return TrainingClips(rows, range(len(rows)), seconds, RowForm())


@pytest.fixture(scope="session")
def manifest(waveforms: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips as files, in a manifest with relative paths."""
    import soundfile

    folder = tmp_path_factory.mktemp("data")
    lines = []
    for place, (waveform, text) in enumerate(zip(waveforms, TEXTS, strict=True)):
        soundfile.write(folder / f"{place}.wav", waveform, 16000)
        line = {"audio_filepath": f"{place}.wav", "text": text, "duration": len(waveform) / 16000}
        lines.append(json.dumps(line))
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "train.jsonl"


def load_model_without_chance() -> Any:
    """The demonstration's hybrid without dropout and masks: the same batch has the same loss."""
    model = AutoModelForTDT.from_pretrained(CHECKPOINT_PATH)
    model.config.apply_spec_augment = False
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.fixture
def model() -> Any:
    return load_model_without_chance()
