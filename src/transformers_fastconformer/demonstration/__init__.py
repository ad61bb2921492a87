"""The demonstration checkpoints: small FastConformers for spoken English digits and who says them, with clips.

The first, with TDT and CTC heads, sees whole files; the second, with RNN-T and CTC heads, is cache-aware and streams.
NeMo wrote these two, and its outputs for the clips are stored next to them, so that a conversion can be verified where
NeMo is not installed. The third, a streaming Sortformer, tells the speakers of the digits apart. `README.md` in this
folder, in `streaming` and in `speakers` are the model cards; the weights, the stored outputs and the conversation are
under CC BY-SA 4.0, other than the code of this package.
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

#: The model of speakers.
SPEAKERS_CHECKPOINT_PATH = _FOLDER / "speakers" / "fastconformer-digits-sortformer.nemo"

#: A conversation of its speakers, of clips that it has not heard, 16 kHz mono 16-bit.
CONVERSATION_PATH = _FOLDER / "speakers" / "conversation.wav"

__all__ = [
    "CHECKPOINT_PATH",
    "CLIP_PATHS",
    "CONVERSATION_PATH",
    "EXPECTATIONS_PATH",
    "SPEAKERS_CHECKPOINT_PATH",
    "STREAMING_CHECKPOINT_PATH",
    "STREAMING_EXPECTATIONS_PATH",
]
