"""Statistics of a clip that are joined from its blocks."""

from __future__ import annotations

import torch

from transformers_fastconformer.audio.feature_normalization import FeatureStatistics


def test_statistics_of_blocks_are_those_of_the_whole() -> None:
    values = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0)) + 1000.0
    whole = FeatureStatistics.of(values)
    joined = FeatureStatistics.of(values[:, :0])
    for part in values.split((1, 499, 0, 500), dim=1):
        joined = joined.join(FeatureStatistics.of(part))
    assert joined.num_frames == 1000
    exact = values.double()
    torch.testing.assert_close(joined.means, exact.mean(dim=1), rtol=1e-14, atol=0)
    torch.testing.assert_close(joined.squares, exact.var(dim=1) * 999, rtol=1e-11, atol=0)
    torch.testing.assert_close(whole.squares, joined.squares, rtol=1e-11, atol=0)
