"""
Make the two demonstration clips (once) and store NeMo's outputs for them, stage by stage, with their provenance.

    python tools/write_demonstration_expectations.py

Needs the extras `nemo` and `audio`, and espeak-ng if the clips are missing. Writes next to the checkpoint in
`src/transformers_fastconformer/demonstration/`. With these files `fastconformer demo` verifies a conversion where NeMo
is not installed.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import wave
from pathlib import Path

import numpy as np
import torch

from train_digit_demonstration import SAMPLING_RATE, synthesize
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS, EXPECTATIONS_PATH
from transformers_fastconformer.nemo.reference import NemoRunner, save_stage_outputs

COMMAND = "python tools/write_demonstration_expectations.py"
# Voice, text, words per minute. Both voices are unknown to the checkpoint's training.
CLIPS = (
    ("en", "three one four one five nine", 150),
    ("en-us", "two, seven, one, eight, zero six", 140),
)


def write_clip(path: Path, voice: str, text: str, words_per_minute: int) -> None:
    """Let espeak-ng speak a clip, 16 kHz mono 16-bit."""
    samples = np.round(synthesize(text, voice, words_per_minute) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLING_RATE)
        file.writeframes(samples.tobytes())


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    for path, clip in zip(CLIP_PATHS, CLIPS, strict=True):
        if not path.is_file():
            write_clip(path, *clip)
    torch.set_num_threads(1)
    runner = NemoRunner(CHECKPOINT_PATH)
    batches = [runner.run(path.name, [read_audio(path)]) for path in CLIP_PATHS]

    import nemo

    provenance = {
        "command": COMMAND,
        "checkpoint": CHECKPOINT_PATH.name,
        "checkpoint_sha256": sha256_of(CHECKPOINT_PATH),
        "nemo": nemo.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": "cpu, float32, one thread",
        "decoding": "tdt: greedy_batch, ctc: greedy; every clip alone",
    }
    for path, (voice, text, words_per_minute) in zip(CLIP_PATHS, CLIPS, strict=True):
        provenance[f"{path.name} sha256"] = sha256_of(path)
        provenance[f"{path.name} spoken"] = text.replace(",", "")
        provenance[f"{path.name} made with"] = f"espeak-ng -v {voice} -s {words_per_minute}"
    save_stage_outputs(EXPECTATIONS_PATH, batches, provenance)
    EXPECTATIONS_PATH.chmod(0o644)


if __name__ == "__main__":
    main()
