"""A process that is forked after the first computation does not hang."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from transformers_fastconformer import FastConformerFeatureExtractor

MAX_SECONDS = 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_features_in_a_forked_process() -> None:
    """`Dataset.map(num_proc=2)` forks; the parent's threads are not there in a child."""
    extractor = FastConformerFeatureExtractor()
    clips = [np.random.default_rng(seed).standard_normal(160000).astype(np.float32) for seed in range(4)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = extractor(clips, sampling_rate=16000)["input_features"]
        assert torch.get_num_threads() == 2
        child = os.fork()
        if child == 0:
            code = 4
            try:
                signal.alarm(MAX_SECONDS)  # ends a child that hangs
                found = extractor(clips, sampling_rate=16000)["input_features"]
                code = 0 if torch.get_num_threads() == 1 and np.allclose(found, expected, atol=1e-4) else 3
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
