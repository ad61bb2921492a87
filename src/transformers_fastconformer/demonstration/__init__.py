"""The demonstration checkpoints: small hybrid FastConformers for spoken English digits, with two clips.

The first, with TDT and CTC heads, sees whole files; the second, with RNN-T and CTC heads, is cache-aware and streams.
NeMo wrote the checkpoints, and its outputs for the clips are stored next to them, so that a conversion can be verified
where NeMo is not installed. `README.md` in this folder and in `streaming` are the model cards; the weights and the
stored outputs are under CC BY-SA 4.0, other than the code of this package.
"""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent

#: The checkpoint as NeMo saved it.
CHECKPOINT_PATH = _FOLDER / "fastconformer-digits-tdt-ctc.nemo"

#: The streaming checkpoint as NeMo saved it.
STREAMING_CHECKPOINT_PATH = _FOLDER / "streaming" / "fastconformer-digits-streaming-rnnt-ctc.nemo"

#: Two clips by espeak-ng, 16 kHz mono 16-bit.
CLIP_PATHS = (_FOLDER / "clip-en.wav", _FOLDER / "clip-en-us.wav")

#: NeMo's outputs for each clip, stage by stage, and their origin: `nemo.stage_outputs.load_stage_outputs` reads them.
EXPECTATIONS_PATH = _FOLDER / "expectations.safetensors"

#: The same of the streaming checkpoint: a batch for each attention context and clip, named `clip-en.wav [56, 13]`.
STREAMING_EXPECTATIONS_PATH = _FOLDER / "streaming" / "expectations.safetensors"

__all__ = [
    "CHECKPOINT_PATH",
    "CLIP_PATHS",
    "EXPECTATIONS_PATH",
    "STREAMING_CHECKPOINT_PATH",
    "STREAMING_EXPECTATIONS_PATH",
]
