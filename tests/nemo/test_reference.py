"""NeMo as the reference: without it the message says what to do."""

from __future__ import annotations

import builtins
import copy
from typing import Any

import pytest

from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.nemo.reference import NemoRunner


def test_without_nemo_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = copy.copy(builtins.__import__)

    def without_nemo(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "nemo" or name.startswith("nemo."):
            raise ImportError(f"No module named {name!r}")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_nemo)
    with pytest.raises(ImportError, match=r"pip install 'transformers-fastconformer\[nemo\]'"):
        NemoRunner(CHECKPOINT_PATH)
