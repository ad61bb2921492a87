"""
How much time does `fastconformer transcribe` add to that of the encoder?

The command runs on a long file with a checkpoint of a published shape and random weights, in a process of its own,
whole and in chunks. The shapes of the encoder's inputs are noted, and afterwards only the encoder runs on inputs of
these shapes again, in the same process. `other_percent` is the time that reading, features, decoding and writing add
to that; `whole_percent` also counts starting Python and loading the weights.

    pip install 'transformers-fastconformer[nemo]'
    python benchmarks/bench_command.py --shape parakeet-tdt-0.6b-v2 --minutes 10 --folder /tmp/shapes
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile
import torch

from common.csv_files import write_rows
from common.folders import RESULTS
from common.machine import use_given_threads
from common.nemo_shapes import find_archive
from common.speech import SAMPLING_RATE, SPEECH_DIR, STORIES, write_long_file
from transformers_fastconformer.audio.files import load_waveform

# In the process that is measured


def run_command(report: Path, arguments: list[str]) -> None:
    """Run the command, and after it only the encoder on inputs of the same shapes; figures go to `report`."""
    from transformers_fastconformer.cli import transcribe_run
    from transformers_fastconformer.cli.main import app
    from transformers_fastconformer.modeling.encoder import FastConformerEncoder

    figures: dict[str, Any] = {"encoder_busy_seconds": 0.0, "encoder_passes": 0}
    inputs: list[tuple[FastConformerEncoder, dict[str, Any]]] = []
    load_model, forward = transcribe_run.load_model, FastConformerEncoder.forward

    def load_and_note(*given: Any) -> Any:
        loaded = load_model(*given)
        figures["loaded_at"] = time.time()
        return loaded

    def encode_and_note(encoder: FastConformerEncoder, input_features: torch.Tensor, *given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        output = forward(encoder, input_features, *given, **named)
        figures["encoder_busy_seconds"] += time.perf_counter() - start
        figures["encoder_passes"] += 1
        inputs.append((encoder, {"input_features": input_features.shape, "given": given, "named": named}))
        return output

    transcribe_run.load_model = load_and_note
    FastConformerEncoder.forward = encode_and_note  # type: ignore[method-assign]
    app(arguments, standalone_mode=False)
    figures["ended_at"] = time.time()
    FastConformerEncoder.forward = forward  # type: ignore[method-assign]
    with torch.inference_mode():
        start = time.perf_counter()
        for encoder, call in inputs:
            features = torch.randn(call["input_features"]).to(encoder.dtype)
            forward(encoder, features, *call["given"], **call["named"])
        figures["encoder_seconds"] = time.perf_counter() - start
    figures |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    report.write_text(json.dumps(figures), encoding="utf-8")


# In the process that measures


def write_audio(path: Path, speech_dir: Path, minutes: float) -> str:
    """Write minutes of speech, from the long recording if it exists; returns the name of the recording."""
    source = speech_dir / STORIES
    if not source.is_file():
        write_long_file(path, 60 * minutes)
        return "demonstration clips"
    waveform = load_waveform(source, SAMPLING_RATE)[: round(60 * minutes * SAMPLING_RATE)]
    soundfile.write(path, waveform, SAMPLING_RATE)
    return source.name


def measure(path: Path, model: Path, cache: Path, options: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        report, output = Path(folder) / "report.json", Path(folder) / "output"
        command = ["transcribe", str(path), "--model", str(model), "--output_dir", str(output), *options]
        start = time.time()
        subprocess.run(
            [sys.executable, __file__, "--report", str(report), *command],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "TRANSFORMERS_FASTCONFORMER_CACHE": str(cache)},
        )
        figures = json.loads(report.read_text(encoding="utf-8"))
        transcript = json.loads((output / f"{path.stem}.json").read_text(encoding="utf-8"))
    encoder = figures["encoder_seconds"]
    whole, work = figures["ended_at"] - start, figures["ended_at"] - figures["loaded_at"]
    tokens = transcript["timestamps"]["token"]
    starts = [token["start"] for token in tokens]
    return {
        "strategy": transcript["strategy"],
        "encoder_passes": figures["encoder_passes"],
        "command_seconds": round(whole, 1),
        "work_seconds": round(work, 1),
        "encoder_busy_seconds": round(figures["encoder_busy_seconds"], 1),
        "encoder_seconds": round(encoder, 1),
        "other_percent": round(100 * (work / encoder - 1), 1),
        "whole_percent": round(100 * (whole / encoder - 1), 1),
        "tokens_a_second": round(len(tokens) / transcript["duration_seconds"], 2),
        # Random weights give no words, but they take all steps.
        "is_in_order": starts == sorted(starts) and (not starts or starts[-1] <= transcript["duration_seconds"]),
        "threads": figures["threads"],
        "torch": figures["torch"],
    }


def main() -> None:
    if sys.argv[1:2] == ["--report"]:
        use_given_threads()
        run_command(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="parakeet-tdt-0.6b-v2", help="name in benchmarks/common/nemo_shapes.py")
    parser.add_argument("--folder", type=Path, help="where the archive is kept for the next run")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--strategies", nargs="+", default=["chunked", "full", "local"])
    parser.add_argument("--speech_dir", type=Path, default=SPEECH_DIR)
    options = parser.parse_args()
    from transformers_fastconformer.inference.loading import load_model

    rows: list[dict[str, Any]] = []
    target = RESULTS / f"command_{options.shape}_{options.dtype}_cpu.csv"
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        archive, cache = find_archive(options.shape, folder), folder / "conversions"
        os.environ["TRANSFORMERS_FASTCONFORMER_CACHE"] = str(cache)
        load_model(archive)  # converts it
        path = Path(temporary) / "long.wav"
        name = write_audio(path, options.speech_dir, options.minutes)
        for strategy in options.strategies:
            command = ["--strategy", strategy, "--dtype", options.dtype, "--format", "json,srt"]
            row = {"shape": options.shape, "dtype": options.dtype, "audio": name, "minutes": options.minutes}
            rows.append({**row, **measure(path, archive, cache, command)})
            print(json.dumps(rows[-1]), flush=True)
            write_rows(target, rows)


if __name__ == "__main__":
    main()
