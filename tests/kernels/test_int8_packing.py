"""Packing by a copy: oneDNN's own bytes where the form is known, oneDNN's own way elsewhere."""

from __future__ import annotations

import pytest
import torch

from transformers_fastconformer.kernels import int8_packing
from transformers_fastconformer.kernels.int8_linear import has_int8_products
from transformers_fastconformer.kernels.int8_packing import pack_weight

pytestmark = pytest.mark.skipif(not has_int8_products(), reason="this build of torch has no 8-bit product")


def bytes_of(packed: torch.Tensor) -> torch.Tensor:
    return int8_packing._bytes_of(packed).clone()


@pytest.mark.parametrize("shape", [(64, 64), (192, 128), (128, 320), (80, 96), (33, 24), (1, 1)])
def test_packed_weights_are_those_of_onednn(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, shape, dtype=torch.int8, generator=generator)
    expected = bytes_of(torch.ops.onednn.qlinear_prepack(weight, None))
    assert torch.equal(bytes_of(pack_weight(weight)), expected)
    # A weight that stands somewhere in a file: not at a multiple of 4 bytes, and one that is not contiguous.
    shifted = torch.cat([torch.zeros(3, dtype=torch.int8), weight.flatten()])[3:].view(shape)
    assert torch.equal(bytes_of(pack_weight(shifted)), expected)
    assert torch.equal(bytes_of(pack_weight(weight.t().contiguous().t())), expected)


def test_weights_of_a_shape_share_nothing() -> None:
    one, other = (torch.full((64, 64), value, dtype=torch.int8) for value in (1, 2))
    packed = pack_weight(one)
    before = bytes_of(packed)
    assert not torch.equal(bytes_of(pack_weight(other)), before)
    assert torch.equal(bytes_of(packed), before)


def test_a_form_that_is_not_the_known_one_is_made_by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    int8_packing._find_form.cache_clear()
    weight = torch.ones(64, 64, dtype=torch.int8)
    expected = bytes_of(torch.ops.onednn.qlinear_prepack(weight, None))
    try:
        monkeypatch.setattr(int8_packing, "BLOCK_OUTPUTS", 32)
        assert int8_packing._find_form(64, 64) is None
        assert torch.equal(bytes_of(pack_weight(weight)), expected)
    finally:
        int8_packing._find_form.cache_clear()
