"""Options of beam search refuse what no search does."""

from __future__ import annotations

from typing import Any

import pytest

from transformers_fastconformer.decoding.beam_options import STRATEGIES, BeamOptions
from transformers_fastconformer.decoding.options import DecodingOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 0),
        ("num_beams", 2.5),
        ("num_best", 5),
        ("strategy", "maes"),
        ("maes_num_steps", 0),
        ("maes_expansion_beta", -1),
        ("maes_expansion_gamma", 0.0),
        ("normalize_length", 1),
        ("blank_lm_score_mode", "full"),
        ("pruning_mode", None),
        ("beam_threshold", 0),
        ("beam_beta", "1"),
    ],
)
def test_wrong_values_are_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        BeamOptions(**{name: value})


def test_each_decoder_has_its_strategies() -> None:
    for decoder, names in STRATEGIES.items():
        assert BeamOptions().check_decoder(decoder) == names[0]
        for name in names:
            assert BeamOptions(strategy=name).check_decoder(decoder) == name
    with pytest.raises(ValueError, match=r"strategy='beam_batch'.*TDT.*'malsd_batch'"):
        BeamOptions(strategy="beam_batch").check_decoder("tdt")


def test_what_adaptive_expansion_does_not_read_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pruning_mode='early' of strategy='maes_batch'"):
        BeamOptions(strategy="maes_batch", pruning_mode="early")
    with pytest.raises(ValueError, match=r"max_symbols_per_step=3 is not read by strategy='maes_batch'"):
        DecodingOptions(beam=BeamOptions(strategy="maes_batch"), max_symbols_per_step=3)
    with pytest.raises(ValueError, match=r"strategy='maes_batch'.*TDT"):
        BeamOptions(strategy="maes_batch").check_decoder("tdt")


def test_the_number_of_beams_is_short_for_the_options() -> None:
    assert DecodingOptions(num_beams=3).beam == BeamOptions(num_beams=3)
    assert DecodingOptions(num_beams=1).beam is None
    assert DecodingOptions(beam=BeamOptions(num_beams=1)).num_beams == 1
    assert DecodingOptions.of(DecodingOptions(num_beams=2), {"num_beams": 2}).num_beams == 2
    with pytest.raises(ValueError, match=r"num_beams.*contradict one another"):
        DecodingOptions(num_beams=3, beam=BeamOptions(num_beams=2))
    with pytest.raises(ValueError, match="num_best=2"):
        DecodingOptions(beam=BeamOptions(num_best=2)).require_one_text()
