"""Values that no checkpoint is as large as: refused, with the limit."""

from __future__ import annotations

import pytest

from transformers_fastconformer import (
    FastConformerConfig,
    FastConformerCTCConfig,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)

LARGE = [
    (FastConformerConfig, {"hidden_size": 4 * 10**12}, "hidden_size=4000000000000 .* at most 16384"),
    (FastConformerConfig, {"num_hidden_layers": 3000}, "num_hidden_layers=3000 .* at most 512"),
    (FastConformerConfig, {"num_mel_bins": 10**9}, "num_mel_bins=1000000000 .* at most 2048"),
    (FastConformerConfig, {"subsampling_factor": 2**40}, "subsampling_factor=.* at most 256"),
    (FastConformerConfig, {"subsampling_conv_channels": 10**7}, "subsampling_conv_channels=.* at most 16384"),
    (FastConformerConfig, {"conv_kernel_size": 10**9 + 1}, "conv_kernel_size=.* at most 1023"),
    (FastConformerConfig, {"attention_contexts": [[10**400, 0]]}, "attention_contexts=.* at most 16777216"),
    (FastConformerConfig, {"attention_contexts": [[0, 0]] * 2000}, "attention_contexts=.* at most 1024 entries"),
    (FastConformerConfig, {"initializer_range": float("inf")}, "initializer_range=inf .* a finite number"),
    (
        FastConformerConfig,
        {"hidden_size": 2**14, "num_hidden_layers": 512, "intermediate_size": 2**16},
        "hidden_size=16384, num_hidden_layers=512 and the other widths .* expected at most 20000000000",
    ),
    (FastConformerCTCConfig, {"vocab_size": 10**9}, "vocab_size=1000000000 .* at most 262144"),
    (FastConformerCTCConfig, {"pad_token_id": 10**20}, "pad_token_id=.* at most 2147483647"),
    (FastConformerRNNTConfig, {"num_decoder_layers": 10**7}, "num_decoder_layers=10000000 .* at most 64"),
    (FastConformerRNNTConfig, {"max_symbols_per_step": 10**12}, "max_symbols_per_step=.* at most 1024"),
    (FastConformerTDTConfig, {"durations": [0, 10**12]}, "durations=.* at most 4096"),
    (FastConformerTDTConfig, {"durations": list(range(1000))}, "durations=.* at most 256 entries"),
    (FastConformerTDTConfig, {"sigma": float("nan")}, "sigma=nan .* a finite number"),
]


@pytest.mark.parametrize(("config_class", "values", "message"), LARGE)
def test_what_no_checkpoint_is_as_large_as_is_refused_with_the_limit(config_class, values, message):
    with pytest.raises(ValueError, match=message):
        config_class(**values)
