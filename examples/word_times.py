"""
Print every word with the time at which it begins and ends.

    python examples/word_times.py talk.mp3 --model nvidia/parakeet-tdt-0.6b-v3
"""

from __future__ import annotations

import argparse

from transformers_fastconformer import load_model, transcribe_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("audio", help="a file of any length")
parser.add_argument("--model", required=True, help="a name on the Hub, a folder, or a .nemo file")
arguments = parser.parse_args()

model, processor = load_model(arguments.model)
transcript = transcribe_file(model, processor, arguments.audio, timestamps=["word"])  # or "char", "segment", "token"
for word in transcript.timestamps["word"]:
    print(f"{word['start']:8.2f} {word['end']:8.2f}  {word['word']}")
