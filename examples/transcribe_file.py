"""
Transcribe one file of any length, and show how far it is.

    python examples/transcribe_file.py talk.mp3 --model nvidia/parakeet-tdt-0.6b-v3
"""

from __future__ import annotations

import argparse
import sys

from transformers_fastconformer import load_model, transcribe_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("audio", help="a file, or an http(s) address")
parser.add_argument("--model", required=True, help="a name on the Hub, a folder, or a .nemo file")
arguments = parser.parse_args()

model, processor = load_model(arguments.model)
transcript = transcribe_file(
    model,
    processor,
    arguments.audio,
    on_progress=lambda seconds: print(f"{seconds:.1f} s", end="\r", file=sys.stderr),
)
print(transcript.text)
print(f"{transcript.duration_seconds:.1f} s of audio, transcribed by the strategy {transcript.strategy!r}")
