"""Every clip once an epoch, no batch too long, the same batches after a resume, equally many for all processes."""

from __future__ import annotations

import random

import pytest

from transformers_fastconformer import SecondsBatchSampler

GENERATOR = random.Random(3)
SECONDS = [round(GENERATOR.uniform(0.5, 20.0), 2) for _ in range(211)]


@pytest.mark.parametrize("multiple", [1, 2, 7])
def test_an_epoch_has_every_clip_once_in_batches_that_fit(multiple: int) -> None:
    sampler = SecondsBatchSampler(SECONDS, 60.0, multiple=multiple)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert sorted(index for batch in batches for index in batch) == list(range(len(SECONDS)))
        assert len(batches) == len(sampler)
        assert len(batches) % multiple == 0
        assert max(max(SECONDS[index] for index in batch) * len(batch) for batch in batches) <= 60.0


def test_clips_of_a_batch_are_of_about_the_same_length() -> None:
    batches = list(SecondsBatchSampler(SECONDS, 60.0))
    padded = sum(max(SECONDS[index] for index in batch) * len(batch) for batch in batches)
    assert sum(SECONDS) / padded > 0.9
    in_order = [list(range(start, min(start + 5, len(SECONDS)))) for start in range(0, len(SECONDS), 5)]
    padded_in_order = sum(max(SECONDS[index] for index in batch) * len(batch) for batch in in_order)
    assert sum(SECONDS) / padded_in_order < 0.75, "the lengths are too even to show anything"


def test_epochs_differ_and_depend_on_nothing_but_seed_and_number() -> None:
    first, again = SecondsBatchSampler(SECONDS, 60.0, seed=5), SecondsBatchSampler(SECONDS, 60.0, seed=5)
    epochs = []
    for epoch in range(3):
        first.set_epoch(epoch)
        epochs.append(list(first))
    assert epochs[0] != epochs[1] != epochs[2]
    assert {tuple(sorted(batch)) for batch in epochs[0]} != {tuple(sorted(batch)) for batch in epochs[1]}
    again.set_epoch(2)
    assert list(again) == epochs[2]
    assert list(SecondsBatchSampler(SECONDS, 60.0, seed=6)) != epochs[0]


def test_without_shuffling_the_longest_come_first() -> None:
    sampler = SecondsBatchSampler(SECONDS, 60.0, shuffle=False)
    batches = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) == batches
    assert SECONDS[batches[0][0]] == max(SECONDS)


def test_clips_that_cannot_be_halved_come_twice_so_that_processes_have_equally_many() -> None:
    batches = list(SecondsBatchSampler([10.0, 10.0, 10.0], 10.0, multiple=2))
    assert len(batches) == 4
    assert {index for batch in batches for index in batch} == {0, 1, 2}


def test_a_batch_may_be_limited_in_clips() -> None:
    assert max(map(len, SecondsBatchSampler([1.0] * 20, 60.0, max_clips=3))) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3.0, 61.0], 60.0), "batch_seconds=60.0 is not supported; expected 61.00 or more"),
        (([3.0], 60.0, 0, 2), "1 clips do not suffice; expected 2 or more, one for each process"),
        (([3.0], 0), "batch_seconds=0 is not supported"),
        (([3.0], 60.0, -1), "seed=-1"),
    ],
)
def test_refusals(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SecondsBatchSampler(*arguments)  # type: ignore[arg-type]
