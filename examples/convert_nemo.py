"""
Convert a .nemo checkpoint to a folder that Transformers loads, and load it from there.

    python examples/convert_nemo.py fine-tuned.nemo folder

`fastconformer convert --verify` runs NeMo on the same audio as well and compares every stage.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers import AutoProcessor

from transformers_fastconformer import AutoModelForTDT, convert_nemo_checkpoint

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint", help="a .nemo file with a TDT head, or the name of a repository with one")
parser.add_argument("output_dir", type=Path)
arguments = parser.parse_args()

convert_nemo_checkpoint(arguments.checkpoint, arguments.output_dir)
for path in sorted(arguments.output_dir.iterdir()):
    print(f"{path.name}: {path.stat().st_size} bytes")

model = AutoModelForTDT.from_pretrained(arguments.output_dir)
processor = AutoProcessor.from_pretrained(arguments.output_dir)
print(f"{type(model).__name__} with {model.num_parameters()} parameters; {type(processor).__name__}")
