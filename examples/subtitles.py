"""
Write SubRip subtitles, one for each sentence.

    python examples/subtitles.py talk.mp3 talk.srt --model nvidia/parakeet-tdt-0.6b-v3

`fastconformer transcribe talk.mp3 --format srt` does more: it breaks lines and keeps to a reading speed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers_fastconformer import load_model, transcribe_file


def clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("audio", help="a file of any length")
parser.add_argument("output", type=Path, help="the subtitles")
parser.add_argument("--model", required=True, help="a name on the Hub, a folder, or a .nemo file")
arguments = parser.parse_args()

model, processor = load_model(arguments.model)
transcript = transcribe_file(model, processor, arguments.audio, timestamps=["segment"])
blocks = [
    f"{number}\n{clock(segment['start'])} --> {clock(segment['end'])}\n{segment['segment']}\n"
    for number, segment in enumerate(transcript.timestamps["segment"], start=1)
]
arguments.output.write_text("\n".join(blocks), encoding="utf-8")
