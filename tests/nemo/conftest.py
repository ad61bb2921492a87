"""Tiny `.nemo` archives made by hand, without NeMo: configurations, weights, and ways to spoil them."""

from __future__ import annotations

import copy
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from transformers_fastconformer.audio.log_mel import mel_filterbank
from transformers_fastconformer.checkpoints.model_classes import ARCHITECTURES
from transformers_fastconformer.nemo.config_map import map_config
from transformers_fastconformer.nemo.weight_map import FILTERBANK, WINDOW, unmap_state_dict

KINDS = ("ctc", "rnnt", "tdt", "hybrid_rnnt_ctc", "hybrid_tdt_ctc")
LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
DURATIONS = [0, 2, 4, 8]
TARGETS = {
    "ctc": "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
    "rnnt": "nemo.collections.asr.models.rnnt_models.EncDecRNNTModel",
    "tdt": "nemo.collections.asr.models.rnnt_models.EncDecRNNTModel",
    "hybrid_rnnt_ctc": "nemo.collections.asr.models.hybrid_rnnt_ctc_models.EncDecHybridRNNTCTCModel",
    "hybrid_tdt_ctc": "nemo.collections.asr.models.hybrid_rnnt_ctc_models.EncDecHybridRNNTCTCModel",
}


def _nemo_config(kind: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "target": TARGETS[kind],
        "nemo_version": "3.0.0",
        "sample_rate": 16000,
        "labels": list(LABELS),
        "train_ds": {"manifest_filepath": "${oc.env:HOME}/train.json"},
        "optim": {"name": "adamw"},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "window_size": 0.025,
            "window_stride": 0.01,
            "features": 16,
            "n_fft": 512,
            "pad_to": 0,
            "dither": 1e-5,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 16,
            "n_layers": 2,
            "d_model": 16,
            "n_heads": 2,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 8,
            "conv_kernel_size": 5,
        },
    }
    if kind == "ctc":
        config["decoder"] = {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": 16,
            "num_classes": len(LABELS),
            "vocabulary": list(LABELS),
        }
        return config
    is_tdt = "tdt" in kind
    config["decoder"] = {
        "_target_": "nemo.collections.asr.modules.RNNTDecoder",
        "prednet": {"pred_hidden": 12, "pred_rnn_layers": 2, "dropout": 0.2},
        "vocab_size": len(LABELS),
    }
    config["joint"] = {
        "_target_": "nemo.collections.asr.modules.RNNTJoint",
        "jointnet": {"joint_hidden": 20, "activation": "relu", "dropout": 0.2},
        "num_classes": len(LABELS),
        "num_extra_outputs": len(DURATIONS) if is_tdt else 0,
    }
    config["decoding"] = {"strategy": "greedy_batch", "greedy": {"max_symbols": 5}}
    config["loss"] = {"loss_name": "default"}
    if is_tdt:
        # The durations of the decoding are stale, as in published archives.
        config["decoding"] |= {"model_type": "tdt", "durations": [0, 1]}
        config["loss"] = {"loss_name": "tdt", "tdt_kwargs": {"durations": list(DURATIONS), "sigma": 0.05}}
    if kind.startswith("hybrid"):
        config["aux_ctc"] = {
            "ctc_loss_weight": 0.3,
            "decoder": {
                "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
                "feat_in": 16,
                "num_classes": len(LABELS),
                "vocabulary": list(LABELS),
            },
            "decoding": {"strategy": "greedy"},
        }
    return config


@pytest.fixture(scope="session")
def kinds() -> tuple[str, ...]:
    """The families that `nemo_config` and `make_archive` know."""
    return KINDS


@pytest.fixture
def nemo_config() -> Callable[[str], dict[str, Any]]:
    """The function `nemo_config(kind)`: a parsed `model_config.yaml`, fresh each time."""
    return _nemo_config


@pytest.fixture
def build_model() -> Callable[[dict[str, Any]], torch.nn.Module]:
    """The function `build_model(nemo_config)`: our model of it with random weights and statistics, for evaluation."""

    def build(config: dict[str, Any]) -> torch.nn.Module:
        mapped = map_config(config)
        torch.manual_seed(0)
        model = ARCHITECTURES[mapped.architecture](mapped.config).eval()
        with torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else torch.randn_like(tensor))
        return model

    return build


def _front_end(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    arguments = map_config(config).feature_extractor_arguments
    filters = mel_filterbank(arguments["sampling_rate"], arguments["n_fft"], arguments["feature_size"])
    return {
        WINDOW: torch.hann_window(arguments["win_length"], periodic=False),
        FILTERBANK: torch.from_numpy(filters)[None],
    }


@pytest.fixture
def nemo_state_dict(
    build_model: Callable[[dict[str, Any]], torch.nn.Module],
) -> Callable[[dict[str, Any]], dict[str, torch.Tensor]]:
    """The function `nemo_state_dict(nemo_config)`: weights under NeMo's names, front end included."""

    def build(config: dict[str, Any]) -> dict[str, torch.Tensor]:
        model = build_model(config)
        return {**_front_end(config), **unmap_state_dict(model.state_dict(), model.config)}

    return build


Member = tuple[str, bytes] | tarfile.TarInfo


@pytest.fixture
def write_archive(tmp_path: Path) -> Callable[..., Path]:
    """The function `write_archive(members, name="model.nemo", mode="w")`: a tar of names with bytes and `TarInfo`s."""

    def write(members: list[Member], name: str = "model.nemo", mode: str = "w") -> Path:
        path = tmp_path / name
        with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
            for member in members:
                if isinstance(member, tarfile.TarInfo):
                    tar.addfile(member)
                    continue
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
        return path

    return write


@pytest.fixture
def make_archive(
    write_archive: Callable[..., Path], nemo_state_dict: Callable[[dict[str, Any]], dict[str, torch.Tensor]]
) -> Callable[..., Path]:
    """
    The function `make_archive(kind, ...)`: a whole archive on disk.

    Its arguments: `config` instead of the kind's own; `change_tensors(state_dict)` changes the weights in place;
    `prefix` before member names; `mode` of the tar; `legacy` for PyTorch's old pickle; `weights` as bytes; `extra`
    members; `name` of the file.
    """

    def make(
        kind: str = "tdt",
        *,
        config: dict[str, Any] | None = None,
        change_tensors: Callable[[dict[str, torch.Tensor]], Any] | None = None,
        prefix: str = "./",
        mode: str = "w",
        legacy: bool = False,
        weights: bytes | None = None,
        extra: list[Member] | None = None,
        name: str = "model.nemo",
    ) -> Path:
        config = copy.deepcopy(config or _nemo_config(kind))
        if weights is None:
            tensors = nemo_state_dict(config)
            if change_tensors is not None:
                change_tensors(tensors)
            buffer = io.BytesIO()
            torch.save(tensors, buffer, _use_new_zipfile_serialization=not legacy)
            weights = buffer.getvalue()
        members: list[Member] = [
            (f"{prefix}model_config.yaml", yaml.safe_dump(config, sort_keys=False).encode()),
            (f"{prefix}model_weights.ckpt", weights),
        ]
        return write_archive([*members, *(extra or [])], name, mode)

    return make
