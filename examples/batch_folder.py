"""
Transcribe all short recordings of a folder in batches, each into a text file next to it.

    python examples/batch_folder.py recordings --model nvidia/parakeet-tdt-0.6b-v3

`fastconformer transcribe recordings --output_dir texts` does more: it packs by length, goes on where it was stopped,
and reads files ahead of the model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers_fastconformer import load_model, read_audio, transcribe_waveforms

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path, help="with .wav, .flac, .ogg or .mp3 files")
parser.add_argument("--model", required=True, help="a name on the Hub, a folder, or a .nemo file")
parser.add_argument("--batch_size", type=int, default=8)
arguments = parser.parse_args()

model, processor = load_model(arguments.model)
# Clips of similar sizes go together, so that little of a batch is padding.
paths = [path for path in arguments.folder.iterdir() if path.suffix in (".wav", ".flac", ".ogg", ".mp3")]
paths.sort(key=lambda path: (path.stat().st_size, path.name))
for start in range(0, len(paths), arguments.batch_size):
    batch = paths[start : start + arguments.batch_size]
    waveforms = [read_audio(path, processor.feature_extractor.sampling_rate) for path in batch]
    for path, transcript in zip(batch, transcribe_waveforms(model, processor, waveforms), strict=True):
        path.with_suffix(".txt").write_text(transcript.text + "\n", encoding="utf-8")
        print(f"{path.name}: {transcript.text}")
