"""Archives that are another one with its configuration changed."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml


def rewrite_archive(
    source: Path,
    target: Path,
    change: Callable[[dict[str, Any]], Any],
    rename: Callable[[str], str] = lambda name: name,
    change_tensors: Callable[[dict[str, torch.Tensor]], Any] | None = None,
) -> Path:
    """
    Write `source` to `target` with `change` done to its configuration, `change_tensors` done to its weights, and its
    members renamed; gives `target`.
    """
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for info in old:
            if not info.isfile():
                continue
            stream = old.extractfile(info)
            assert stream is not None
            content = stream.read()
            if info.name.endswith("model_config.yaml"):
                config = yaml.safe_load(content)
                change(config)
                content = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
            if change_tensors is not None and info.name.endswith("model_weights.ckpt"):
                tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                change_tensors(tensors)
                buffer = io.BytesIO()
                torch.save(tensors, buffer)
                content = buffer.getvalue()
            member = tarfile.TarInfo(rename(info.name))
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return target


def round_weights(dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], None]:
    """A change of the weights as a training in half precision leaves them."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                tensors[name] = tensor.to(dtype)

    return change
