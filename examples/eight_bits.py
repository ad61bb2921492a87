"""
Transcribe on a CPU with the encoder in 8 bits, which is faster than float32 and takes little from the accuracy.

    python examples/eight_bits.py talk.mp3 --model nvidia/parakeet-tdt-0.6b-v3
"""

from __future__ import annotations

import argparse
import time

from transformers_fastconformer import load_model, quantize_dynamic_int8, remove_int8, transcribe_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("audio", help="a file of any length")
parser.add_argument("--model", required=True, help="a name on the Hub, a folder, or a .nemo file")
arguments = parser.parse_args()

model, processor = load_model(arguments.model, dtype="float32")
for name, change in (("float32", remove_int8), ("8 bits", quantize_dynamic_int8)):
    change(model)
    start = time.perf_counter()
    transcript = transcribe_file(model, processor, arguments.audio, timestamps=False)
    print(f"{name}, {time.perf_counter() - start:.2f} s: {transcript.text}")
