"""Fixtures of tiny `.nemo` archives made by hand, without NeMo, and ways to spoil them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nemo_archives import (
    KINDS,
    Member,
    build_from_nemo,
    make_members,
    make_nemo_config,
    make_nemo_tensors,
    write_members,
)


@pytest.fixture(scope="session")
def kinds() -> tuple[str, ...]:
    """The families that `nemo_config` and `make_archive` know."""
    return KINDS


@pytest.fixture
def nemo_config() -> Callable[[str], dict[str, Any]]:
    """The function `nemo_config(kind)`: a parsed `model_config.yaml`, fresh each time."""
    return make_nemo_config


@pytest.fixture
def build_model() -> Callable[[dict[str, Any]], torch.nn.Module]:
    """The function `build_model(nemo_config)`: our model of it with random weights and statistics, for evaluation."""

    return build_from_nemo


@pytest.fixture
def nemo_state_dict() -> Callable[[dict[str, Any]], dict[str, torch.Tensor]]:
    """The function `nemo_state_dict(nemo_config)`: weights under NeMo's names, front end included."""
    return make_nemo_tensors


@pytest.fixture
def write_archive(tmp_path: Path) -> Callable[..., Path]:
    """The function `write_archive(members, name="model.nemo", mode="w")`: a tar of names with bytes and `TarInfo`s."""

    def write(members: list[Member], name: str = "model.nemo", mode: str = "w") -> Path:
        path = tmp_path / name
        with path.open("wb") as file:
            write_members(file, members, mode)
        return path

    return write


@pytest.fixture
def make_archive(write_archive: Callable[..., Path]) -> Callable[..., Path]:
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
        config = copy.deepcopy(config or make_nemo_config(kind))
        tensors = None
        if weights is not None:
            tensors = {}
        elif change_tensors is not None:
            tensors = make_nemo_tensors(config)
            change_tensors(tensors)
        (configuration, content), (name_of_weights, own_weights) = make_members(config, tensors, prefix, legacy)
        whole = [(configuration, content), (name_of_weights, own_weights if weights is None else weights)]
        return write_archive([*whole, *(extra or [])], name, mode)

    return make
