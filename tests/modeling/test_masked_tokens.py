"""The random-projection quantiser next to a plain loop, and the frames that are hidden."""

from __future__ import annotations

import pytest
import torch
from models import ENCODER_SHAPE

from transformers_fastconformer import FastConformerPreTrainingConfig
from transformers_fastconformer.modeling import masked_tokens
from transformers_fastconformer.modeling.masked_tokens import FastConformerFrameMasking, FastConformerRandomQuantizer


def make_config(**options: object) -> FastConformerPreTrainingConfig:
    return FastConformerPreTrainingConfig(**{**ENCODER_SHAPE, "num_codebooks": 2, "codebook_size": 20, **options})


def test_tokens_are_the_nearest_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = FastConformerRandomQuantizer(make_config())
    quantizer.draw()
    assert torch.allclose(quantizer.codebooks.norm(dim=-1), torch.ones(2, 20, dtype=torch.float64))
    frames = torch.randn(3, 48, 8, generator=torch.Generator().manual_seed(0))
    tokens = quantizer(frames)
    assert tokens.shape == (3, 6, 2)
    for clip in range(3):
        for token in range(6):
            stacked = frames[clip, 8 * token : 8 * token + 8].flatten()
            vectors = (quantizer.projection @ stacked).reshape(2, 16)
            for book, vector in enumerate(vectors):
                distances = (quantizer.codebooks[book] - vector / vector.norm()).norm(dim=-1)
                assert int(distances.argmin()) == int(tokens[clip, token, book])
    monkeypatch.setattr(masked_tokens, "FRAMES_AT_A_TIME", 5)
    assert torch.equal(quantizer(frames), tokens)


@pytest.mark.parametrize("overlap", [True, False])
def test_hidden_blocks_lie_in_the_clip(overlap: bool) -> None:
    config = make_config(mask_probability=0.05 if overlap else 0.5, mask_block_frames=6, mask_overlap=overlap)
    masking = FastConformerFrameMasking(config)
    torch.manual_seed(0)
    lengths = torch.tensor([200, 90, 5, 0]).repeat(8)
    hidden = masking.draw(lengths, 200)
    assert hidden.shape == (32, 200)
    for row, length in zip(hidden, lengths.tolist(), strict=True):
        assert not row[length:].any()
        runs = "".join("x" if one else " " for one in row.tolist()).split()
        if length > 6:
            assert all(len(run) >= 6 for run in runs)
        if length == 200:
            assert runs
            assert overlap or 90 <= int(row.sum()) <= 110
    torch.manual_seed(0)
    assert torch.equal(masking.draw(lengths, 200), hidden)


def test_a_vector_stands_in_the_place_of_hidden_frames() -> None:
    masking = FastConformerFrameMasking(make_config())
    masking.embedding.fill_(7.0)
    frames = torch.zeros(1, 4, 8)
    hidden = torch.tensor([[False, True, True, False]])
    assert masking(frames, hidden)[0, :, 0].tolist() == [0.0, 7.0, 7.0, 0.0]
