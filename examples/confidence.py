"""
Mark the words that the model is not sure of, for a person to listen to.

    python examples/confidence.py talk.mp3 --model nvidia/parakeet-tdt-0.6b-v3 --below 0.4
"""

from __future__ import annotations

import argparse

from transformers_fastconformer import ConfidenceOptions, load_model, transcribe_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("audio", help="a file of any length")
parser.add_argument("--model", required=True, help="a name on the Hub, a folder, or a .nemo file")
parser.add_argument("--below", type=float, default=0.4, help="words with less confidence are marked")
arguments = parser.parse_args()

model, processor = load_model(arguments.model)
# The confidence of a word is that of its least sure token, NeMo's default; "mean" is the average.
options = ConfidenceOptions(aggregation="min")
transcript = transcribe_file(model, processor, arguments.audio, timestamps=["word"], confidence=options)
for word, confidence in zip(transcript.timestamps["word"], transcript.word_confidences, strict=True):
    mark = "?" if confidence < arguments.below else " "
    print(f"{mark} {confidence:.2f} {word['start']:8.2f} s  {word['word']}")
