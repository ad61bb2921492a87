"""Real NeMo models, built and saved once, and the speech that they and ours are given."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nemo_models import ModelBuilder

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.nemo.verify import build_batches

# Real speech for the numerical contract.
NUM_CLIPS = 40
MAX_SECONDS = 12
BATCH_CLIPS = 8


@pytest.fixture(scope="session")
def build_nemo_model(tmp_path_factory: pytest.TempPathFactory) -> ModelBuilder:
    """The function that builds NeMo models; see `ModelBuilder`."""
    pytest.importorskip("nemo.collections.asr", reason="needs NeMo")
    return ModelBuilder(tmp_path_factory.mktemp("nemo-tokenizers"))


@pytest.fixture(scope="session")
def nemo_archive(
    build_nemo_model: ModelBuilder, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Any, Path]]:
    """
    The function `nemo_archive(kind, **overrides) -> (model, path of its .nemo)`; equal calls share one model, so
    leave it as it is.
    """
    folder = tmp_path_factory.mktemp("nemo-archives")
    kept: dict[str, tuple[Any, Path]] = {}

    def build_and_save(kind: str, **overrides: Any) -> tuple[Any, Path]:
        key = json.dumps([kind, overrides], sort_keys=True, default=str)
        if key not in kept:
            model = build_nemo_model(kind, **overrides)
            path = folder / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.nemo"
            model.save_to(str(path))
            kept[key] = (model, path)
        return kept[key]

    return build_and_save


@pytest.fixture(scope="session")
def speech_batches(speech_dir: Path) -> dict[str, list[np.ndarray]]:
    """40 real clips of mixed lengths singly, the same in padded batches, and adversarial input."""
    entries = [json.loads(line) for line in (speech_dir / "manifest.jsonl").read_text().splitlines()]
    read = [entry for entry in entries if entry["audio_filepath"].startswith("read/")]
    digits = [entry for entry in entries if entry["audio_filepath"].startswith("digits/")]
    chosen = read[:: len(read) // (NUM_CLIPS - 6)][: NUM_CLIPS - 6] + digits[:: len(digits) // 6][:6]
    generator = np.random.default_rng(7)
    clips = {}
    for entry in chosen:
        waveform = read_audio(speech_dir / entry["audio_filepath"])
        # Odd lengths: a cut anywhere, not at a hop.
        most = int(generator.integers(2 * 16000, MAX_SECONDS * 16000))
        clips[entry["audio_filepath"]] = waveform[:most]
    assert len(clips) >= NUM_CLIPS
    names = list(clips)
    batches = {name: [clip] for name, clip in clips.items()}
    for start in range(0, len(names), BATCH_CLIPS):
        batches[f"batch {start // BATCH_CLIPS}"] = [clips[name] for name in names[start : start + BATCH_CLIPS]]
    adversarial = build_batches({names[0]: clips[names[0]]}, 16000)
    batches.update({name: adversarial[name] for name in ("odd lengths", "silence and a short clip", "two frames")})
    return batches
