"""A model that is loaded once, and a Ray cluster on this machine for the slow tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from transformers_fastconformer.cluster.transcribe_batches import TranscribeBatches


@pytest.fixture(scope="session")
def transcribe_batches() -> TranscribeBatches:
    return TranscribeBatches("demo")


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Three processors by name, for two workers and what Ray does itself, and little memory for objects."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    ray.init(num_cpus=3, object_store_memory=300_000_000, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
