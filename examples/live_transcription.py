"""
Print words as they are spoken, each as soon as it is certain. A file at the speed of the clock stands for somebody.

    python examples/live_transcription.py talk.mp3 --model nvidia/parakeet-tdt-0.6b-v3 --latency_ms 1000

`fastconformer stream` does more: a microphone, pipes, subtitles at the end.
"""

from __future__ import annotations

import argparse
import time

from transformers_fastconformer import AudioFile, EngineOptions, StreamingTranscriber, load_model

PIECE_SAMPLES = 1600  # 0.1 s

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("audio", help="a file of any length")
parser.add_argument("--model", required=True, help="a name on the Hub, a folder, or a .nemo file")
parser.add_argument("--latency_ms", type=float, help="from a sound to its text, at most")
arguments = parser.parse_args()

model, processor = load_model(arguments.model)
sampling_rate = processor.feature_extractor.sampling_rate
with StreamingTranscriber(model, processor, EngineOptions(latency_ms=arguments.latency_ms)) as transcriber:
    start = time.monotonic()
    for block in AudioFile(arguments.audio).blocks(sampling_rate):
        for place in range(0, len(block), PIECE_SAMPLES):
            update = transcriber.push(block[place : place + PIECE_SAMPLES])
            print(update.committed, end="", flush=True)
            time.sleep(max(start + update.heard_seconds - time.monotonic(), 0))
    print(transcriber.finish().committed)
