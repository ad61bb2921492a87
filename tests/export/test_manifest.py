"""What the record of an export says of weights and licence."""

from __future__ import annotations

from pathlib import Path

import torch
from models import build_model

from transformers_fastconformer.export.manifest import digest_weights, read_license


def test_digest_is_that_of_the_values() -> None:
    model = build_model("ctc")
    digest = digest_weights(model)
    assert digest == digest_weights(model)
    with torch.no_grad():
        model.ctc_head.bias[0] += 1
    assert digest_weights(model) != digest


def test_licence_of_a_card(tmp_path: Path) -> None:
    assert read_license(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Card\n")
    assert read_license(str(tmp_path)) == "cc-by-4.0"
    assert read_license("nvidia/not-here") is None
