"""
How many tokens does a lower precision change, against float32?

Runs the demonstration checkpoint on the whole folder of speech: single digits, read and long recordings (these in
pieces of 30 s; the checkpoint knows only digits, so it hears other words as digits there), with both heads and in
batches of uneven clips. An error is a token inserted, left out or replaced; scored by jiwer.

    python benchmarks/bench_token_error.py
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch

from common.batches import split_batches
from common.csv_files import write_rows
from common.folders import RESULTS
from common.machine import name_machine
from common.speech import SAMPLING_RATE, SPEECH_DIR, read_manifest
from transformers_fastconformer import FastConformerProcessor, load_model, quantize_dynamic_int8, read_audio
from transformers_fastconformer.demonstration import CHECKPOINT_PATH

PIECE_SECONDS = 30
EDGE_SECONDS = 0.2
PRECISIONS = {"cpu": ("bfloat16", "float16", "int8"), "cuda": ("bfloat16", "float16")}


def read_clips(speech_dir: Path, share: int) -> dict[str, list[np.ndarray]]:
    """Samples of every clip, or of every `share`-th, by folder."""
    clips: dict[str, list[np.ndarray]] = defaultdict(list)
    edge = np.zeros(int(EDGE_SECONDS * SAMPLING_RATE), dtype=np.float32)
    for entry in read_manifest(speech_dir)[::share]:
        name = entry["audio_filepath"]
        waveform = read_audio(speech_dir / name, SAMPLING_RATE)
        for start in range(0, len(waveform), PIECE_SECONDS * SAMPLING_RATE):
            piece = waveform[start : start + PIECE_SECONDS * SAMPLING_RATE]
            clips[name.split("/")[0]].append(np.concatenate([edge, piece, edge]))
    return clips


@torch.inference_mode()
def decode(
    model: Any, processor: FastConformerProcessor, clips: list[np.ndarray], batch_size: int
) -> Iterator[list[int]]:
    """Tokens of each clip."""
    for batch in split_batches(clips, batch_size):
        inputs = processor(list(batch), sampling_rate=SAMPLING_RATE, return_tensors="pt").to(model.device)
        output = model.generate(**inputs, return_dict_in_generate=True)
        for tokens, length in zip(output.sequences.tolist(), output.sequence_lengths.tolist(), strict=True):
            yield tokens[:length]


def score(expected: list[list[int]], found: list[list[int]]) -> tuple[int, int]:
    """Number of errors, and of tokens in float32."""
    num_tokens = sum(map(len, expected))
    surplus = sum(len(tokens) for truth, tokens in zip(expected, found, strict=True) if not truth)
    pairs = [(truth, tokens) for truth, tokens in zip(expected, found, strict=True) if truth]
    if not pairs:
        return surplus, num_tokens
    words = jiwer.process_words(
        [" ".join(map(str, truth)) for truth, _ in pairs], [" ".join(map(str, tokens)) for _, tokens in pairs]
    )
    return words.substitutions + words.deletions + words.insertions + surplus, num_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech_dir", type=Path, default=SPEECH_DIR)
    parser.add_argument("--model", default=str(CHECKPOINT_PATH))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--share", type=int, default=1, help="Every n-th clip only.")
    parser.add_argument("--output", type=Path, help="CSV; default: benchmarks/results/token_error_<device>.csv.")
    options = parser.parse_args()
    device_type = torch.device(options.device).type
    clips = read_clips(options.speech_dir, options.share)
    rows = []
    for head in ("transducer", "ctc"):
        exact: dict[str, list[list[int]]] = {}
        for precision in ("float32", *PRECISIONS[device_type]):
            dtype = "float32" if precision == "int8" else precision
            model, processor = load_model(options.model, head, options.device, dtype)
            if precision == "int8":
                quantize_dynamic_int8(model)
            for folder, waveforms in clips.items():
                found = list(decode(model, processor, waveforms, options.batch_size))
                if precision == "float32":
                    exact[folder] = found
                    continue
                errors, num_tokens = score(exact[folder], found)
                same = sum(map(list.__eq__, exact[folder], found))
                rows.append(
                    {
                        "head": head,
                        "precision": precision,
                        "speech": folder,
                        "clips": len(found),
                        "same_clips": same,
                        "tokens": num_tokens,
                        "errors": errors,
                        "token_error_percent": round(100 * errors / max(num_tokens, 1), 3),
                        "torch": torch.__version__,
                        "device": device_type,
                        "machine": name_machine(device_type),
                    }
                )
                print(
                    f"{head:10} {precision:8} {folder:6} {errors:5} of {num_tokens:6} tokens differ, "
                    f"{same} of {len(found)} clips are equal",
                    flush=True,
                )
    path = options.output or RESULTS / f"token_error_{device_type}.csv"
    write_rows(path, rows)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
