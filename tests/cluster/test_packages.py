"""Packages that are not installed: the error has the command that installs them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from transformers_fastconformer.cluster.packages import import_arrow, import_ray


@pytest.mark.parametrize(("name", "load"), [("pyarrow", import_arrow), ("ray", import_ray)])
def test_the_error_has_the_command(name: str, load: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'{name}: pip install "transformers-fastconformer\[ray\]"'):
        load()
