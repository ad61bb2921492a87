"""Feature extractors of theirs and ours."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from interop_cases import (
    build_their_extractor,
    load_ours,
)
from models import build_model
from their_models import THEIR_MODELS, build_their_model, class_of_transformers

from transformers_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.interop.reading import convert_transformers_checkpoint
from transformers_fastconformer.interop.writing import export_to_transformers


@pytest.mark.parametrize("kind", ["ParakeetFeatureExtractor", "NemotronAsrStreamingFeatureExtractor"])
@pytest.mark.parametrize("num_mels", [80, 128])
def test_features_are_theirs_both_ways(kind: str, num_mels: int, tmp_path: Path) -> None:
    extractor_class = class_of_transformers(kind)
    is_streaming = kind.startswith("Nemotron")
    generator = torch.Generator().manual_seed(0)
    clips = [0.1 * torch.randn(size, generator=generator).numpy() for size in (16000, 7777, 4001)]
    name = "NemotronAsrStreamingForRNNT" if is_streaming else "ParakeetForCTC"
    config = {**THEIR_MODELS[name][1]["encoder_config"], "num_mel_bins": num_mels}
    theirs = build_their_extractor(extractor_class, num_mels)
    build_their_model(name, encoder_config=config).save_pretrained(tmp_path / "theirs")
    theirs.save_pretrained(tmp_path / "theirs")
    convert_transformers_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    ours = FastConformerFeatureExtractor.from_pretrained(tmp_path / "ours")
    found = ours(clips, sampling_rate=16000, return_tensors="pt")
    expected = theirs(clips, sampling_rate=16000, return_tensors="pt")
    assert torch.equal(found.attention_mask, expected.attention_mask.bool())
    torch.testing.assert_close(found.input_features, expected.input_features, rtol=0, atol=2e-5)

    model = load_ours(tmp_path / "ours")
    export_to_transformers(model, tmp_path / "again", processor=ours)
    again = extractor_class.from_pretrained(tmp_path / "again")
    assert again.to_dict() == theirs.to_dict()


def test_features_that_theirs_does_not_have_are_refused(tmp_path: Path) -> None:
    model = build_model("ctc")
    for options, message in (
        ({"normalize": None}, "normalize=None.*'per_feature'"),
        ({"window": "hamming"}, "window='hamming'.*'hann'"),
        ({"log_zero_guard_type": "clamp"}, "log_zero_guard_type='clamp'"),
        ({"mel_norm": None}, "mel_norm=None"),
        ({"max_frequency": 7000.0}, "max_frequency=7000.0.*None or 8000.0"),
        ({"filterbank_dtype": "bfloat16"}, "filterbank_dtype='bfloat16'"),
        ({"window_values": [1.0] * 400}, "window_values.*None"),
    ):
        extractor = FastConformerFeatureExtractor(feature_size=8, **options)
        with pytest.raises(ValueError, match=message):
            export_to_transformers(model, tmp_path / "theirs", processor=extractor)
        shutil.rmtree(tmp_path / "theirs", ignore_errors=True)
