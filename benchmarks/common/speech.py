"""Speech for measurements: the folder with its manifest, and files of any length made of the demonstration clips."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from common.folders import ROOT
from transformers_fastconformer import read_audio
from transformers_fastconformer.demonstration import CLIP_PATHS

SAMPLING_RATE = 16000
SPEECH_DIR = Path(os.environ.get("FASTCONFORMER_SPEECH_DIR", ROOT / ".." / "shared" / "speech"))
# A recording of stories, half an hour long, in the folder of speech.
STORIES = Path("long") / "crimson_joined.ogg"


def read_manifest(speech_dir: Path) -> list[dict[str, Any]]:
    """Read the manifest: file, duration, text, speaker and split of each recording."""
    lines = (speech_dir / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def write_long_file(path: Path, seconds: float) -> None:
    """Write the demonstration clips again and again, in noise, as 16-bit FLAC."""
    speech = np.concatenate([np.pad(read_audio(clip), (0, SAMPLING_RATE)) for clip in CLIP_PATHS])
    generator = np.random.default_rng(0)
    missing = round(seconds * SAMPLING_RATE)
    with soundfile.SoundFile(path, "w", SAMPLING_RATE, 1, format="FLAC", subtype="PCM_16") as file:
        while missing:
            samples = speech[:missing] + generator.normal(0.0, 1e-3, min(len(speech), missing))
            file.write(samples)
            missing -= len(samples)
