"""A missing package is an error with the command that installs it."""

from __future__ import annotations

import pytest

from transformers_fastconformer.training.packages import require_package


def test_a_missing_package_has_its_command() -> None:
    require_package("torch")
    with pytest.raises(ImportError, match=r"needs no_such_package.*pip install 'transformers-fastconformer\[train\]'"):
        require_package("no_such_package")
