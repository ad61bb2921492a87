"""
Use the encoder without a head: a vector for each 80 ms of two clips in one padded batch.

    python examples/encoder_features.py one.wav two.wav --model nvidia/parakeet-tdt-0.6b-v3
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoFeatureExtractor, AutoModel

from transformers_fastconformer import read_audio

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("audio", nargs="+", help="short files")
parser.add_argument("--model", required=True, help="a name on the Hub, a folder, or a .nemo file")
arguments = parser.parse_args()

encoder = AutoModel.from_pretrained(arguments.model).eval()
feature_extractor = AutoFeatureExtractor.from_pretrained(arguments.model)
speech = [read_audio(path, feature_extractor.sampling_rate) for path in arguments.audio]
features = feature_extractor(speech, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt")
with torch.inference_mode():
    encoded = encoder(features.input_features, input_lengths=features.input_lengths)

for path, frames, length in zip(arguments.audio, encoded.last_hidden_state, encoded.encoder_lengths, strict=True):
    frames = frames[:length]  # (frames, hidden_size), without padding
    print(f"{path}: {tuple(frames.shape)}, mean of the clip {frames.mean(dim=0)[:3].tolist()} ...")
