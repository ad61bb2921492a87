"""Models of NeMo with the folders that they are converted to, each made when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from balance import balance_classes

from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint

Pair = TypeVar("Pair")


def keep_pairs(
    build_nemo_model: Callable[..., Any],
    families: Mapping[str, tuple[str, Mapping[str, Any]]],
    clips: list[np.ndarray],
    make_folder: Callable[[str], Path],
    make_pair: Callable[[Any, Path, list[np.ndarray]], Pair],
) -> Callable[[str], Pair]:
    """
    A function that gives the pair of a family.

    Args:
        build_nemo_model: The fixture.
        families: Kind and options of the model of each family.
        clips: Waveforms at 16 kHz; the longest balances the classes, so that the best are not ties.
        make_folder: `mktemp` of pytest's factory.
        make_pair: Makes a pair of NeMo's model, the converted folder, and the clips.
    """
    kept: dict[str, Pair] = {}

    def find(family: str) -> Pair:
        if family not in kept:
            kind, overrides = families[family]
            model = build_nemo_model(kind, **overrides)
            balance_classes(model, max(clips, key=len))
            folder = make_folder("pair")
            model.save_to(str(folder / "model.nemo"))
            convert_nemo_checkpoint(folder / "model.nemo", folder / "converted")
            kept[family] = make_pair(model, folder / "converted", clips)
        return kept[family]

    return find
