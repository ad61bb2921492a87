"""A tiny Sortformer archive made by hand, without NeMo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from families import SORTFORMER_SECTIONS
from nemo_archives import make_members, make_nemo_config, make_nemo_tensors, write_members

TARGET = "nemo.collections.asr.models.sortformer_diar_models.SortformerEncLabelModel"


def make_sortformer_config(**options: Any) -> dict[str, Any]:
    """A parsed `model_config.yaml` of a streaming Sortformer, fresh each time."""
    config = make_nemo_config("ctc")
    kept = {key: config[key] for key in ("preprocessor", "encoder", "sample_rate")}
    kept["preprocessor"] |= {"normalize": "NA"}
    width = config["encoder"]["d_model"]
    sections = {
        **SORTFORMER_SECTIONS,
        "model_defaults": {"fc_d_model": width, "tf_d_model": 24},
        "sortformer_modules": {**SORTFORMER_SECTIONS["sortformer_modules"], "fc_d_model": width},
    }
    return {"target": TARGET, **kept, **sections, "streaming_mode": True, **options}


def write_sortformer(path: Path, **options: Any) -> Path:
    """A whole archive on disk, with drawn weights."""
    config = make_sortformer_config(**options)
    with torch.random.fork_rng(), path.open("wb") as file:
        torch.manual_seed(0)
        write_members(file, make_members(config, make_nemo_tensors(config)))
    return path
