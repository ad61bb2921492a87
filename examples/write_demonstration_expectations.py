"""Makes the two demonstration clips (once) and stores what NeMo says to them, with its provenance.

    python examples/write_demonstration_expectations.py

Needs the extras `nemo` and `audio`, and espeak-ng if the clips are missing. Writes beside the checkpoint in
`src/transformers_fastconformer/demonstration/`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from train_digit_demonstration import SAMPLING_RATE, synthesize

from transformers_fastconformer.demonstration import (
    CHECKPOINT_PATH,
    CLIP_PATHS,
    EXPECTATIONS_PATH,
    EXPECTED_TENSORS_PATH,
)

COMMAND = "python examples/write_demonstration_expectations.py"
# Voice, text, words per minute. Both voices are unknown to the checkpoint's training.
CLIPS = (
    ("en", "three one four one five nine", 150),
    ("en-us", "two, seven, one, eight, zero six", 140),
)


def write_clip(path: Path, voice: str, text: str, words_per_minute: int) -> None:
    samples = np.round(synthesize(text, voice, words_per_minute) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLING_RATE)
        file.writeframes(samples.tobytes())


def read_clip(path: Path) -> torch.Tensor:
    """(samples,) float32 in [-1, 1)."""
    with wave.open(str(path), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    return torch.from_numpy(samples.astype(np.float32) / 32768)


def to_plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's, so that JSON takes them."""
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


@torch.no_grad()
def run_stages(model: Any, waveform: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """NeMo's tensors for one clip alone, and the greedy results of both heads."""
    lengths = torch.tensor([len(waveform)])
    features, feature_lengths = model.preprocessor(input_signal=waveform[None], length=lengths)
    encoded, encoded_lengths = model.encoder(audio_signal=features, length=feature_lengths)
    log_probs = model.ctc_decoder(encoder_output=encoded)
    (tdt,) = model.decoding.rnnt_decoder_predictions_tensor(encoded, encoded_lengths, return_hypotheses=True)
    (ctc,) = model.ctc_decoding.ctc_decoder_predictions_tensor(log_probs, encoded_lengths, return_hypotheses=True)
    tensors = {
        "input_features": features[0].T,  # (mel frames, mels)
        "encoder_output": encoded[0].T,  # (frames, hidden)
        "ctc_log_probs": log_probs[0],  # (frames, vocabulary + 1)
    }
    results = {
        "samples": len(waveform),
        "mel_lengths": int(feature_lengths[0]),
        "encoder_lengths": int(encoded_lengths[0]),
        "tdt": {
            "text": tdt.text,
            "token_ids": to_plain(tdt.y_sequence),
            "frame_indices": to_plain(tdt.timestamp),
            "score": float(tdt.score),
        },
        "ctc": {"text": ctc.text, "frame_token_ids": log_probs[0].argmax(-1).tolist()},
    }
    return tensors, results


def transcribe_with_times(model: Any, path: Path, decoder_type: str) -> tuple[dict[str, Any], Any]:
    """`transcribe(timestamps=True)` of one head: text with the times of characters, words and segments; durations.

    NeMo tells the durations of TDT tokens only when it is asked for times.
    """
    model.change_decoding_strategy(decoder_type=decoder_type, verbose=False)
    (hypothesis,) = model.transcribe([str(path)], batch_size=1, timestamps=True, verbose=False)
    times = {level: to_plain(hypothesis.timestamp[level]) for level in ("timestep", "char", "word", "segment")}
    for entry in times["char"]:
        entry["char"] = entry["char"] if isinstance(entry["char"], list) else [entry["char"]]
    return {"text": hypothesis.text, "timestamps": times}, to_plain(hypothesis.token_duration)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    import nemo
    from nemo.collections.asr.models import ASRModel

    torch.set_num_threads(1)
    for path, (voice, text, words_per_minute) in zip(CLIP_PATHS, CLIPS, strict=True):
        if not path.is_file():
            write_clip(path, voice, text, words_per_minute)
    model = ASRModel.restore_from(str(CHECKPOINT_PATH), map_location="cpu").eval()
    model.preprocessor.featurizer.dither = 0.0
    tensors, clips = {}, {}
    for path, (voice, text, words_per_minute) in zip(CLIP_PATHS, CLIPS, strict=True):
        stage_tensors, results = run_stages(model, read_clip(path))
        tensors.update({f"{path.stem}.{name}": tensor.contiguous() for name, tensor in stage_tensors.items()})
        clips[path.name] = {
            "spoken": text.replace(",", ""),
            "made_with": f"espeak-ng -v {voice} -s {words_per_minute}",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            **results,
        }
    for path in CLIP_PATHS:
        for head, decoder_type in (("tdt", "rnnt"), ("ctc", "ctc")):
            results, durations = transcribe_with_times(model, path, decoder_type)
            clips[path.name][head]["transcribe"] = results
            if head == "tdt":
                clips[path.name][head]["durations"] = durations
    provenance = {
        "command": COMMAND,
        "checkpoint": CHECKPOINT_PATH.name,
        "checkpoint_sha256": hashlib.sha256(CHECKPOINT_PATH.read_bytes()).hexdigest(),
        "nemo_version": nemo.__version__,
        "torch_version": torch.__version__,
        "python_version": platform.python_version(),
        "device": "cpu",
        "dtype": "float32",
        "decoding": "tdt: greedy_batch, ctc: greedy; every clip alone",
    }
    save_file(tensors, str(EXPECTED_TENSORS_PATH), metadata={key: str(value) for key, value in provenance.items()})
    EXPECTED_TENSORS_PATH.chmod(0o644)
    document = {"provenance": provenance, "clips": clips}
    EXPECTATIONS_PATH.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
