"""
Make the two demonstration clips (once) and store both checkpoints' outputs in NeMo, with their provenance.

    python tools/write_demonstration_expectations.py

Needs the extras `nemo` and `audio`, and espeak-ng if the clips are missing. Writes next to the checkpoints in
`src/transformers_fastconformer/demonstration/`. With these files `fastconformer demo` verifies a conversion where NeMo
is not installed. The streaming checkpoint has outputs for each of its attention contexts: all stages for the default
one, only the last ones for the others.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import wave
from pathlib import Path

import numpy as np
import torch

from digit_data import SAMPLING_RATE, synthesize
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import (
    CHECKPOINT_PATH,
    CLIP_PATHS,
    EXPECTATIONS_PATH,
    STREAMING_CHECKPOINT_PATH,
    STREAMING_EXPECTATIONS_PATH,
)
from transformers_fastconformer.nemo.reference import NemoRunner
from transformers_fastconformer.nemo.stage_outputs import StageOutputs, save_stage_outputs

COMMAND = "python tools/write_demonstration_expectations.py"
# Voice, text, words per minute. Both voices are unknown to the checkpoint's training.
CLIPS = (
    ("en", "three one four one five nine", 150),
    ("en-us", "two, seven, one, eight, zero six", 140),
)
# Stages that an attention context changes, from the end of the encoder on.
LAST_STAGES = ("encoder", "CTC log-probabilities")


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
    write_expectations(EXPECTATIONS_PATH, CHECKPOINT_PATH, batches, "tdt: greedy_batch, ctc: greedy; every clip alone")
    write_expectations(
        STREAMING_EXPECTATIONS_PATH,
        STREAMING_CHECKPOINT_PATH,
        run_attention_contexts(NemoRunner(STREAMING_CHECKPOINT_PATH)),
        "rnnt: greedy_batch, ctc: greedy; every clip alone and whole, with the masks of each attention context",
    )


def run_attention_contexts(runner: NemoRunner) -> list[StageOutputs]:
    """The clips in each attention context of a multi-latency checkpoint, the default one first."""
    encoder = runner.model.encoder
    batches = []
    for number, context in enumerate(encoder.att_context_size_all):
        encoder.set_default_att_context_size(context)
        for path in CLIP_PATHS:
            outputs = runner.run(f"{path.name} {list(context)}", [read_audio(path)])
            if number > 0:
                outputs.tensors = {stage: outputs.tensors[stage] for stage in LAST_STAGES}
            batches.append(outputs)
    return batches


def write_expectations(path: Path, checkpoint: Path, batches: list[StageOutputs], decoding: str) -> None:
    """Write batches with all that says where they come from."""
    import nemo

    provenance = {
        "command": COMMAND,
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": sha256_of(checkpoint),
        "nemo": nemo.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": "cpu, float32, one thread",
        "decoding": decoding,
    }
    for clip_path, (voice, text, words_per_minute) in zip(CLIP_PATHS, CLIPS, strict=True):
        provenance[f"{clip_path.name} sha256"] = sha256_of(clip_path)
        provenance[f"{clip_path.name} spoken"] = text.replace(",", "")
        provenance[f"{clip_path.name} made with"] = f"espeak-ng -v {voice} -s {words_per_minute}"
    save_stage_outputs(path, batches, provenance)
    path.chmod(0o644)


if __name__ == "__main__":
    main()
