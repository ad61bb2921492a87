"""The configuration of 8-bit weights: what it accepts, what it writes, and the wish of a call for floats."""

from __future__ import annotations

import pytest
from transformers.quantizers.auto import AutoQuantizationConfig

from transformers_fastconformer import FastConformerInt8Config
from transformers_fastconformer.modeling.int8_config import (
    METHOD,
    dequantizing,
    is_dequantization_asked,
    is_int8_config,
)


def test_it_comes_back_from_what_it_writes() -> None:
    written = FastConformerInt8Config(dequantize=True).to_dict()
    assert written == {"quant_method": METHOD}
    found = AutoQuantizationConfig.from_dict(written)
    assert type(found) is FastConformerInt8Config
    assert not found.dequantize
    assert is_int8_config(found)
    assert is_int8_config(written)
    assert not is_int8_config({"quant_method": "gptq"})
    assert not is_int8_config(None)


def test_other_values_are_refused() -> None:
    with pytest.raises(ValueError, match="dequantize='yes' is not supported"):
        FastConformerInt8Config(dequantize="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="quant_method='gptq' is not supported"):
        FastConformerInt8Config(quant_method="gptq")


def test_a_wish_for_floats_is_taken_out_of_a_call() -> None:
    options = {"quantization_config": FastConformerInt8Config(dequantize=True), "dtype": "auto"}
    with dequantizing(options):
        assert is_dequantization_asked()
        assert options == {"dtype": "auto"}
        with dequantizing({}):
            assert not is_dequantization_asked()
    assert not is_dequantization_asked()
    plain = {"quantization_config": FastConformerInt8Config()}
    with dequantizing(plain):
        assert not is_dequantization_asked()
        assert plain
