"""Batches of about as many seconds of audio each, of clips of about the same length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from ..validation import is_number, require, require_count

# The longest clip of a bucket is at most so many times as long as its shortest, unless it would be less than a batch.
BUCKET_RATIO = 1.15


class SecondsBatchSampler(Sampler[list[int]]):
    """
    Batches of clips, none of which has more seconds than asked for, padding included.

    Clips are sorted by length into buckets once. Each epoch shuffles the clips of every bucket and then all batches,
    by the seed and the number of the epoch only, so that a run that resumes meets the batches it would have met.
    Every clip is in one batch of an epoch, and all epochs have equally many batches. (Only where every batch is a
    single clip and their number is not a multiple of `multiple`, a few come twice.)

    Args:
        seconds (`list[float]`): Length of each clip.
        batch_seconds (`float`): Seconds of a batch at most: its longest clip times their number.
        seed (`int`, defaults to 0): Of the shuffling.
        multiple (`int`, defaults to 1): Number of batches is a multiple of this: of the processes times the batches
            that gradients are accumulated over. The largest batches are halved until it is.
        shuffle (`bool`, defaults to `True`): `False`: the same order in every epoch, longest clips first.
        max_clips (`int`, *optional*): Clips of a batch at most.

    Raises:
        ValueError: for a clip that is longer than a batch, and for fewer clips than `multiple`.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        batch_seconds: float,
        seed: int = 0,
        multiple: int = 1,
        shuffle: bool = True,
        max_clips: int | None = None,
    ) -> None:
        require(is_number(batch_seconds) and batch_seconds > 0, "batch_seconds", batch_seconds, "a number above 0")
        require_count("seed", seed, minimum=0)
        require_count("multiple", multiple)
        if max_clips is not None:
            require_count("max_clips", max_clips)
        if len(seconds) < multiple:
            raise ValueError(
                f"{len(seconds)} clips do not suffice; expected {multiple} or more, one for each process and each "
                "batch that gradients are accumulated over."
            )
        longest = max(seconds)
        require(
            longest <= batch_seconds,
            "batch_seconds",
            batch_seconds,
            f"{longest:.2f} or more, the length of the longest clip",
        )
        self.seconds = list(seconds)
        self.batch_seconds = batch_seconds
        self.seed = seed
        self.multiple = multiple
        self.shuffle = shuffle
        self.epoch = 0
        self.buckets = self._make_buckets(max_clips)

    def _make_buckets(self, max_clips: int | None) -> list[tuple[list[int], int]]:
        """Clips of about the same length, and how many of them are a batch."""
        order = sorted(range(len(self.seconds)), key=lambda index: (-self.seconds[index], index))
        buckets: list[tuple[list[int], int]] = []
        bucket: list[int] = []
        size = 0
        for index in order:
            longest = self.seconds[bucket[0]] if bucket else self.seconds[index]
            if bucket and len(bucket) >= size and longest > BUCKET_RATIO * self.seconds[index]:
                buckets.append((bucket, size))
                bucket = []
            if not bucket:
                size = max(int(self.batch_seconds / self.seconds[index]) if self.seconds[index] > 0 else 1, 1)
                size = size if max_clips is None else min(size, max_clips)
            bucket.append(index)
        return [*buckets, (bucket, size)]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.list_batches()

    def list_batches(self) -> list[list[int]]:
        """List the batches of the epoch, in order."""
        generator = torch.Generator(device="cpu").manual_seed(self.seed + 1_000_003 * self.epoch)
        batches = []
        for bucket, size in self.buckets:
            order = self._permute(len(bucket), generator)
            batches += [
                [bucket[place] for place in order[start : start + size]] for start in range(0, len(order), size)
            ]
        while len(batches) % self.multiple:
            # The largest by number: lengths of the same batch differ between epochs, numbers do not.
            largest = max(range(len(batches)), key=lambda place: (len(batches[place]), -place))
            if len(batches[largest]) == 1:
                batches.append(batches[len(batches) % self.multiple])  # nothing is left to halve: one comes twice
                continue
            batch = batches.pop(largest)
            batches += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        return [batches[place] for place in self._permute(len(batches), generator)]

    def _permute(self, count: int, generator: torch.Generator) -> list[int]:
        if not self.shuffle:
            return list(range(count))
        return torch.randperm(count, generator=generator, dtype=torch.int64, device="cpu").tolist()

    def __len__(self) -> int:
        num_batches = sum(-(-len(bucket) // size) for bucket, size in self.buckets)
        return -(-num_batches // self.multiple) * self.multiple
