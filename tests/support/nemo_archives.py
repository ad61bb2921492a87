"""Tiny `.nemo` archives made by hand, without NeMo: their configurations, weights and members."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from typing import IO, Any

import torch
import yaml

from transformers_fastconformer.audio.mel_filterbank import mel_filterbank
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


def make_nemo_config(kind: str) -> dict[str, Any]:
    """A parsed `model_config.yaml`, fresh each time."""
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


def build_from_nemo(config: dict[str, Any]) -> torch.nn.Module:
    """Our model of a configuration with random weights and statistics, for evaluation."""
    mapped = map_config(config)
    torch.manual_seed(0)
    model = ARCHITECTURES[mapped.architecture](mapped.config).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else torch.randn_like(tensor))
    return model


def make_front_end(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Window and filters as NeMo stores them."""
    arguments = map_config(config).feature_extractor_arguments
    filters = mel_filterbank(arguments["sampling_rate"], arguments["n_fft"], arguments["feature_size"])
    return {
        WINDOW: torch.hann_window(arguments["win_length"], periodic=False),
        FILTERBANK: torch.from_numpy(filters)[None],
    }


def make_nemo_tensors(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights under NeMo's names, front end included."""
    model: Any = build_from_nemo(config)
    return {**make_front_end(config), **unmap_state_dict(model.state_dict(), model.config)}


def make_members(
    config: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None, prefix: str = "./", legacy: bool = False
) -> list[tuple[str, bytes]]:
    """
    Names and bytes of the two members that every archive has.

    Args:
        config: The configuration.
        tensors: The weights; None: random ones.
        prefix: Text before the names.
        legacy: Write PyTorch's old pickle.
    """
    buffer = io.BytesIO()
    torch.save(
        make_nemo_tensors(config) if tensors is None else tensors, buffer, _use_new_zipfile_serialization=not legacy
    )
    return [
        (f"{prefix}model_config.yaml", yaml.safe_dump(config, sort_keys=False).encode()),
        (f"{prefix}model_weights.ckpt", buffer.getvalue()),
    ]


Member = tuple[str, bytes] | tarfile.TarInfo


def write_members(file: IO[bytes], members: Iterable[Member], mode: str = "w") -> None:
    """Write a tar of names with bytes and of `TarInfo`s."""
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
