"""Checkpoint folders with 8-bit weights, written from those with floating ones, tensor by tensor."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import torch

from ..kernels.int8_linear import round_weight, weight_scale
from ..modeling.int8_config import FastConformerInt8Config
from ..modeling.int8_quantizer import STORED_DTYPES, find_stored_linears
from ..modeling.multitask_times import TIMES_FOLDER
from .files import CARD_FILE, CONFIG_FILE, read_json
from .model_classes import ARCHITECTURES, CONFIG_CLASSES, build_without_memory
from .output_folder import check_output, written_as_one
from .safetensors_writer import INDEX_FILE, TensorEntry, parse_bytes, write_checkpoint
from .store import cache_folder, cached_conversion, check_space
from .stored_tensors import StoredTensors, main_dtype

# Raised when this module gives other files for the same input than before.
INT8_FORM = 2
WEIGHT = ".weight"
INT8_PART, SCALE_PART = (f".{part}" for part in STORED_DTYPES)
CARD_SECTION = """
## Precision

The weights of the encoder's blocks are stored in 8 bits: whole numbers with a scale for each output, as
`quantize_dynamic_int8` of `transformers_fastconformer` rounds them. They are multiplied on CPUs only, and cannot be
trained; `load_model(..., dtype="float32")` makes floating weights of the rounded ones. A verification on this page is
that of the weights before they were rounded.
"""


def is_int8_checkpoint(folder: str | os.PathLike[str]) -> bool:
    """True for a folder whose configuration says that its weights are quantized, in any form."""
    return bool(read_json(Path(folder) / CONFIG_FILE).get("quantization_config"))


def write_int8_checkpoint(
    source: Path, output_dir: Path, *, max_shard_size: int | str = "5GB", overwrite: bool = False
) -> None:
    """
    Round the weights of a checkpoint folder to 8 bits; everything else in it is kept.

    Nothing appears at `output_dir` before everything is written. Weights in float16, which 8-bit weights are not used
    with, become float32.

    Args:
        source: A folder in the form of this package.
        output_dir: Folder to make. It must not exist, be empty, or be replaced on request.
        max_shard_size: Most bytes of weights in a file, as a number or text such as `"5GB"`.
        overwrite: Replace what is at `output_dir`.

    Raises:
        ValueError: for a folder in another form, or in 8 bits already, and for an output folder that is in use.
    """
    max_shard_bytes = parse_bytes(max_shard_size)
    check_output(output_dir, overwrite)
    content = read_json(source / CONFIG_FILE)
    model_type, architecture = content.get("model_type"), (content.get("architectures") or [None])[0]
    if model_type not in CONFIG_CLASSES or architecture not in ARCHITECTURES:
        raise ValueError(
            f"{source}: a {architecture or 'model'} of type {model_type!r} cannot be stored in 8 bits; expected one "
            f"of {sorted(ARCHITECTURES)}."
        )
    if is_int8_checkpoint(source):
        raise ValueError(f"{source}: the weights are quantized already; expected a checkpoint of floating weights.")
    config = CONFIG_CLASSES[model_type].from_pretrained(source)
    model = build_without_memory(ARCHITECTURES[architecture], config)
    rounded_names = {name + WEIGHT for name, _ in find_stored_linears(model)}
    stored = StoredTensors(source)
    lacking = sorted(rounded_names - stored.shapes.keys())
    if lacking:
        raise ValueError(f"{source}: {lacking[0]} is missing; expected all weights of {architecture}.")

    def fetch(name: str) -> torch.Tensor:
        stem = name.removesuffix(INT8_PART).removesuffix(SCALE_PART) + WEIGHT
        if stem not in rounded_names or name == stem:
            return stored.read(name).to(dtypes[name])
        weight = stored.read(stem)
        return weight_scale(weight) if name.endswith(SCALE_PART) else round_weight(weight)[0]

    entries = _plan_entries(stored, rounded_names)
    dtypes = {entry.name: entry.dtype for entry in entries}
    with written_as_one(output_dir, overwrite) as folder:
        write_checkpoint(folder, entries, fetch, max_shard_bytes)
        weight_files = {path.name for path in stored.paths} | {INDEX_FILE}
        for path in source.iterdir():
            if path.is_file() and path.name not in {*weight_files, CONFIG_FILE}:
                shutil.copyfile(path, folder / path.name)
        if (source / TIMES_FOLDER).is_dir():
            write_int8_checkpoint(source / TIMES_FOLDER, folder / TIMES_FOLDER, max_shard_size=max_shard_size)
        card = folder / CARD_FILE
        if card.is_file():
            card.write_text(card.read_text(encoding="utf-8").rstrip() + "\n" + CARD_SECTION, encoding="utf-8")
        # Last: a folder without it is no checkpoint to any loader.
        config.dtype = main_dtype(entry for entry in entries if not entry.name.endswith(SCALE_PART))
        config.quantization_config = FastConformerInt8Config().to_dict()
        config.save_pretrained(folder)


def _plan_entries(stored: StoredTensors, rounded_names: set[str]) -> list[TensorEntry]:
    entries = []
    for name, shape in stored.shapes.items():
        if name in rounded_names:
            stem = name.removesuffix(WEIGHT)
            entries.append(TensorEntry(stem + INT8_PART, shape, torch.int8))
            entries.append(TensorEntry(stem + SCALE_PART, shape[:1], torch.float32))
        else:
            dtype = stored.dtypes[name]
            entries.append(TensorEntry(name, shape, torch.float32 if dtype == torch.float16 else dtype))
    return entries


def cached_int8_folder(folder: str | os.PathLike[str], source: str | os.PathLike[str]) -> Path:
    """
    The 8-bit form of a converted checkpoint in the cache, next to it, made once.

    Args:
        folder: The entry of the cache with floating weights; its name stands for its content.
        source: Name of the checkpoint that the user gave.

    Raises:
        OSError: for a cache that cannot be written.
    """
    folder = Path(folder)

    def convert(target: Path) -> None:
        check_space(target.parent, sum(path.stat().st_size for path in folder.rglob("*")) // 2, str(source))
        write_int8_checkpoint(folder, target, overwrite=True)

    digest = hashlib.sha256(f"int8 {INT8_FORM} {folder.name}".encode()).hexdigest()
    return cached_conversion(digest, os.fspath(source), convert, cache_folder())
