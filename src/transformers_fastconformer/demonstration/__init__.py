"""The demonstration checkpoint: a small hybrid TDT-CTC FastConformer for spoken English digits, with two clips.

NeMo wrote the checkpoint, and its outputs for the clips are stored next to it, so that a conversion can be verified
where NeMo is not installed. `README.md` in this folder is the model card; the weights and the stored outputs are
under CC BY-SA 4.0, other than the code of this package.
"""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent

#: The checkpoint as NeMo saved it.
CHECKPOINT_PATH = _FOLDER / "fastconformer-digits-tdt-ctc.nemo"

#: Two clips by espeak-ng, 16 kHz mono 16-bit.
CLIP_PATHS = (_FOLDER / "clip-en.wav", _FOLDER / "clip-en-us.wav")

#: NeMo's outputs for each clip, stage by stage, and their origin: `nemo.reference.load_stage_outputs` reads them.
EXPECTATIONS_PATH = _FOLDER / "expectations.safetensors"

__all__ = ["CHECKPOINT_PATH", "CLIP_PATHS", "EXPECTATIONS_PATH"]
