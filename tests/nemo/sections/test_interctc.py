"""The section of losses between the blocks."""

from __future__ import annotations

from typing import Any

import pytest

from transformers_fastconformer.nemo.config_map import map_config

SECTION = {"loss_weights": [0.3, 0.1], "apply_at_layers": [0, 1]}


@pytest.mark.parametrize("kind", ["ctc", "hybrid_tdt_ctc"])
def test_layers_and_weights(kind: str, nemo_config: Any) -> None:
    config = map_config(nemo_config(kind) | {"interctc": SECTION}).config
    assert config.intermediate_ctc_layers == [0, 1]
    assert config.intermediate_ctc_weights == [0.3, 0.1]
    for nothing in (None, {"loss_weights": [], "apply_at_layers": []}):
        assert map_config(nemo_config(kind) | {"interctc": nothing}).config.intermediate_ctc_layers is None


def test_a_model_without_a_ctc_head_does_not_read_it(nemo_config: Any) -> None:
    mapped = map_config(nemo_config("tdt") | {"interctc": SECTION})
    assert mapped.config.intermediate_ctc_layers is None
    assert mapped.dropped["interctc"] == "NeMo reads it only in models with a CTC head"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_weights": [0.3]}, r"interctc\.loss_weights=\[0\.3\] is not supported; expected as many as"),
        ({"loss_weights": [0.6, 0.4]}, "less than 1 in sum"),
        ({"apply_at_layers": [0, 2]}, r"intermediate_ctc_layers=\[0, 2\] is not supported; expected 0 to 1 each"),
        ({"apply_at": [0]}, r"interctc\.apply_at=\[0\] is not supported"),
    ],
)
def test_values_are_refused(change: dict[str, Any], message: str, nemo_config: Any) -> None:
    with pytest.raises(ValueError, match=message):
        map_config(nemo_config("ctc") | {"interctc": SECTION | change})
