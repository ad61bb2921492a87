"""
Transcribe a long file with the pipeline of Transformers, in chunks, with the times of words.

    python examples/pipeline_long_audio.py talk.mp3 --model nvidia/parakeet-tdt-0.6b-v3
"""

from __future__ import annotations

import argparse

from transformers import pipeline

import transformers_fastconformer  # noqa: F401, from here on Transformers knows these models

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("audio", help="a file of any length")
parser.add_argument("--model", required=True, help="a name on the Hub, a folder, or a .nemo file")
parser.add_argument("--chunk_length_s", type=float, default=30, help="seconds that the encoder sees at once")
arguments = parser.parse_args()

recognise = pipeline("automatic-speech-recognition", model=arguments.model)
result = recognise(arguments.audio, chunk_length_s=arguments.chunk_length_s, return_timestamps="word")
print(result["text"])
for chunk in result["chunks"]:
    start, end = chunk["timestamp"]
    print(f"{start:8.2f} {end:8.2f}  {chunk['text']}")
