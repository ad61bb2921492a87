"""
What does it cost to check an archive, next to the reading of its bytes and to the whole conversion?

An archive of the shape of a published 0.6B encoder (24 layers of width 1024, random float32 values, 2.4 GB)
is read in turns: `bytes` reads the file in blocks and does nothing with them; `tensors` reads every tensor into memory
of its own by the package's reader with checksums switched off; `checked` opens it as a conversion does, reads every
tensor and compares every checksum; `conversion` does all that and writes the folder that is loaded from then on. The
file is in the page cache. Turns are paired and alternate; the result has the minimum of each, by the clock and of the
processor (which the load of the machine changes less), and the ratios to `bytes` and to `tensors`.

    python benchmarks/bench_archive_checks.py --folder /tmp/archives
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml

from common.csv_files import write_rows
from common.folders import RESULTS
from common.machine import name_machine
from common.timing import seconds_of, take_turns
from transformers_fastconformer.checkpoints.model_classes import ARCHITECTURES
from transformers_fastconformer.nemo import weight_records
from transformers_fastconformer.nemo.archive import NemoArchive
from transformers_fastconformer.nemo.config_map import map_config
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.weight_map import unmap_state_dict

LAYERS, WIDTH = 24, 1024
BLOCK_BYTES = 2**20
CONFIG: dict[str, Any] = {
    "target": "nemo.collections.asr.models.EncDecCTCModelBPE",
    "preprocessor": {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "features": 128,
        "n_fft": 512,
        "window_size": 0.025,
        "window_stride": 0.01,
    },
    "encoder": {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": 128,
        "n_layers": LAYERS,
        "d_model": WIDTH,
        "n_heads": 8,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 256,
        "conv_kernel_size": 9,
    },
}


def build_archive(path: Path) -> None:
    """Write an archive of an encoder with random weights."""
    mapped = map_config(CONFIG, encoder_only=True)
    torch.manual_seed(0)
    model = ARCHITECTURES[mapped.architecture](mapped.config)
    weights = path.with_suffix(".ckpt")
    torch.save(unmap_state_dict(model.state_dict(), model.config), weights)
    with tarfile.open(path, "w") as tar:
        content = yaml.safe_dump(CONFIG).encode()
        config = tarfile.TarInfo("./model_config.yaml")
        config.size = len(content)
        tar.addfile(config, io.BytesIO(content))
        tar.add(weights, "./model_weights.ckpt")
    weights.unlink()


def read_bytes(path: Path) -> None:
    buffer = bytearray(BLOCK_BYTES)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def read_checked(path: Path) -> None:
    with NemoArchive(path) as archive, archive.open_weights(path.parent) as weights:
        for name in weights.headers:
            weights.read_tensor(name)
        weights.check_rest()


def read_tensors(path: Path) -> None:
    read_directory = weight_records.read_zip_directory

    def read_without_checksums(part: weight_records.FilePart) -> dict[str, weight_records.Record]:
        return {name: record._replace(checksum=None) for name, record in read_directory(part).items()}

    with patch.object(weight_records, "read_zip_directory", read_without_checksums):
        read_checked(path)


def convert(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        convert_nemo_checkpoint(path, Path(folder) / "converted", encoder_only=True)


KINDS: dict[str, Callable[[Path], None]] = {
    "bytes": read_bytes,
    "tensors": read_tensors,
    "checked": read_checked,
    "conversion": convert,
}


def measure(kind: str, path: Path) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    start = time.process_time()
    seconds = seconds_of(lambda: KINDS[kind](path))
    return seconds, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the archive is kept for the next run")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "checks_0.6b.nemo"
        if not path.exists():
            build_archive(path)
        read_bytes(path)
        runs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for _, kind in take_turns(KINDS, options.repeats, is_alternating=True):
            runs[kind].append(measure(kind, path))
        for kind, values in runs.items():
            seconds, processor = (min(column) for column in zip(*values, strict=True))
            bytes_seconds, bytes_processor = (min(column) for column in zip(*runs["bytes"], strict=True))
            rows.append(
                {
                    "kind": kind,
                    "archive_bytes": path.stat().st_size,
                    "seconds_min": round(seconds, 3),
                    "processor_seconds_min": round(processor, 3),
                    "over_bytes": round(seconds / bytes_seconds, 2),
                    "over_bytes_processor": round(processor / bytes_processor, 2),
                    "over_tensors": round(seconds / min(column[0] for column in runs["tensors"]), 2),
                    "over_tensors_processor": round(processor / min(column[1] for column in runs["tensors"]), 2),
                    "repeats": options.repeats,
                    "torch": torch.__version__,
                    "cpu": name_machine(),
                }
            )
    result = RESULTS / "archive_checks_float32_cpu.csv"
    write_rows(result, rows)
    for row in rows:
        print("  ".join(f"{name}={value}" for name, value in row.items()))
    print(f"written to {result}")


if __name__ == "__main__":
    main()
