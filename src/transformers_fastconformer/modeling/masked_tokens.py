"""Tokens and masks of self-supervised pre-training: the random-projection quantiser, and frames that are hidden."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ..configuration_pretraining import FastConformerPreTrainingConfig

# Frames whose distances to all vectors of the codebooks are computed at a time: 8192 vectors take 64 MB.
FRAMES_AT_A_TIME = 1024


class FastConformerRandomQuantizer(nn.Module):
    """
    Frames to the nearest vectors of codebooks, after a projection that is never trained (BEST-RQ, Chiu et al., 2022).

    Follows NeMo 3.0's `RandomProjectionVectorQuantizer`, whose codebooks are of float64 and of length 1. Its `cosine`
    chooses the same vectors as `l2` then, and fails on their type there.
    """

    def __init__(self, config: FastConformerPreTrainingConfig) -> None:
        super().__init__()
        self.config = config
        size = config.token_frame_size * config.frames_per_token
        shape = (config.num_codebooks, config.codebook_size, config.codebook_dim)
        # Not parameters, which Transformers would train after loading.
        self.register_buffer("projection", torch.zeros(config.num_codebooks * config.codebook_dim, size))
        self.register_buffer("codebooks", torch.zeros(shape, dtype=torch.float64))
        self.projection: torch.Tensor
        self.codebooks: torch.Tensor

    @torch.no_grad()
    def draw(self) -> None:
        """Draw the projection and the codebooks anew, as NeMo does."""
        nn.init.xavier_normal_(self.projection)
        nn.init.normal_(self.codebooks)
        self.codebooks.copy_(functional.normalize(self.codebooks, dim=-1))

    @torch.no_grad()
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """
        Find the tokens of frames.

        Args:
            frames: (batch, frames, token_frame_size), a multiple of `frames_per_token`.

        Returns:
            (batch, frames / frames_per_token, num_codebooks)
        """
        stacked = frames.reshape(frames.shape[0], frames.shape[1] // self.config.frames_per_token, -1)
        vectors = functional.linear(stacked, self.projection)
        vectors = vectors.unflatten(-1, (self.config.num_codebooks, self.config.codebook_dim))
        vectors = functional.normalize(vectors, dim=-1).to(torch.float64)
        codebooks = self.codebooks.to(torch.float64)
        lengths = codebooks.square().sum(dim=-1)  # (books, vectors)
        found = [
            # |x - c|^2 without |x|^2, which is the same for all vectors
            (lengths - 2 * torch.einsum("tbd,bvd->tbv", part, codebooks)).argmin(dim=-1)
            for part in vectors.flatten(0, 1).split(FRAMES_AT_A_TIME)
        ]
        return torch.cat(found).reshape(vectors.shape[:3])


class FastConformerFrameMasking(nn.Module):
    """Blocks of frames that are hidden: a vector stands in their place (NeMo's `RandomBlockMasking`)."""

    def __init__(self, config: FastConformerPreTrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("embedding", torch.zeros(config.token_frame_size))
        self.embedding: torch.Tensor

    def forward(self, frames: torch.Tensor, is_hidden: torch.Tensor) -> torch.Tensor:
        """(batch, frames, size) with the vector where `is_hidden`, (batch, frames)."""
        return torch.where(is_hidden[..., None], self.embedding.to(frames.dtype), frames)

    def draw(self, lengths: torch.Tensor, num_frames: int) -> torch.Tensor:
        """
        Draw the frames to hide, with equal seeds those of NeMo.

        Args:
            lengths: (batch,), real frames of each clip.
            num_frames: Frames of the batch.

        Returns:
            (batch, num_frames), True where a frame is hidden.
        """
        draw = self._draw_anywhere if self.config.mask_overlap else self._draw_apart
        return draw(lengths, num_frames)

    def _draw_anywhere(self, lengths: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Blocks that start at any frame from which a whole one fits."""
        size = self.config.mask_block_frames
        places = torch.arange(num_frames, dtype=torch.int64, device=lengths.device)
        drawn = torch.rand(len(lengths), num_frames, dtype=torch.float32, device=lengths.device)
        starts = (drawn < self.config.mask_probability) & (places + size <= lengths[:, None])
        begun = functional.pad(starts.cumsum(dim=1), (size, 0))
        return begun[:, size:] > begun[:, :-size]

    def _draw_apart(self, lengths: torch.Tensor, num_frames: int) -> torch.Tensor:
        """As many blocks as make the share of hidden frames, in places of a grid that is moved for each clip."""
        share, size = self.config.mask_probability, self.config.mask_block_frames
        counts = torch.ceil(lengths * share / size).long()
        # Blocks of a clip that is too short for so many are shorter.
        is_short = (counts + 1) * size > lengths
        sizes = torch.where(is_short, lengths // (counts + 1), size).clamp_min(1)
        num_places = (lengths // sizes - 1).clamp_min(0)
        counts = torch.minimum(counts, num_places)
        places = torch.arange(num_frames, dtype=torch.int64, device=lengths.device)
        drawn = torch.rand(len(lengths), num_frames, dtype=torch.float32, device=lengths.device)
        drawn = drawn.masked_fill(places >= num_places[:, None], -1.0)
        rank = drawn.argsort(dim=1, descending=True).argsort(dim=1)
        is_chosen = rank < counts[:, None]
        moved = (torch.rand(len(lengths), dtype=torch.float32, device=lengths.device) * sizes).long()
        place = torch.div(places - moved[:, None], sizes[:, None], rounding_mode="floor")
        return is_chosen.gather(1, place.clamp(0, num_frames - 1)) & (place >= 0)
