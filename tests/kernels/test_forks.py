"""A process that is forked after the first computation does not hang."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os
import numpy as np
import torch
from transformers_fastconformer import FastConformerFeatureExtractor

torch.set_num_threads(2)
extractor = FastConformerFeatureExtractor()
clips = [np.random.default_rng(seed).standard_normal(160000).astype(np.float32) for seed in range(4)]
expected = extractor(clips, sampling_rate=16000)["input_features"]
assert torch.get_num_threads() == 2
child = os.fork()
if child == 0:
    found = extractor(clips, sampling_rate=16000)["input_features"]
    os._exit(0 if torch.get_num_threads() == 1 and np.allclose(found, expected, atol=1e-4) else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.get_num_threads() == 2
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_features_in_a_forked_process() -> None:
    """`Dataset.map(num_proc=2)` forks; the parent's threads are not there in a child."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, timeout=60, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
