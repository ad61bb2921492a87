"""
Transcribe one file or many in one line.

    python examples/transcribe.py talk.mp3 --model nvidia/parakeet-tdt-0.6b-v3
"""

from __future__ import annotations

import argparse

from transformers_fastconformer import transcribe

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("audio", nargs="+", help="files of any length")
parser.add_argument("--model", default="demo", help="a name on the Hub, a folder, a .nemo file, or demo")
arguments = parser.parse_args()

# A list of files gives a list of transcripts.
for path, transcript in zip(arguments.audio, transcribe(arguments.audio, model=arguments.model), strict=True):
    print(f"{path}: {transcript.text}")
