"""The features that NeMo's own `transcribe` and `diarize` give the encoder, for every class that is converted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Family, write_bert_base

from transformers_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.reference import NemoRunner
from transformers_fastconformer.nemo.verify import verify_conversion

pytestmark = pytest.mark.nemo

# One family a class, and those with options of the front end that say something here.
OF_A_CLASS = list(
    {
        family.build.get("nemo_class", family.kind): family
        for family in reversed(FAMILIES)
        if not family.build.get("sections", {}).get("streaming_mode")  # cuts the features up
    }.values()
)
DIARISERS = [family for family in FAMILIES if family.build.get("nemo_class") == "SortformerEncLabelModel"]
NOT_NORMALIZED = {"normalize": "NA", "pad_to": 16, "dither": 0.3}


class SeenError(Exception):
    """Raised with what the encoder was given, so that NeMo goes no further."""


@pytest.fixture(scope="module", autouse=True)
def offline_bert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(write_bert_base(tmp_path_factory.mktemp("bert")))
        yield


def build(builder: Callable[..., Any], family: Family) -> Any:
    """Without normalisation, which would hide a scaling; with dither and padding, which NeMo has to switch off."""
    return builder(family.kind, **{**family.build, "preprocessor": NOT_NORMALIZED})


def given_to_the_encoder(model: Any, waveform: np.ndarray) -> torch.Tensor:
    """(mel frames, mels) of one clip, by the method that users call."""

    def hook(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        raise SeenError(options["audio_signal"][0], int(options["length"][0]))

    handle = model.encoder.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        if hasattr(model, "diarize"):
            model.diarize([waveform], sample_rate=16000, batch_size=1, num_workers=0, verbose=False)
        else:
            model.transcribe([waveform], batch_size=1, verbose=False)
    except SeenError as seen:
        features, length = seen.args
        return features[:, :length].T
    finally:
        handle.remove()
    raise AssertionError("the encoder was not called")


@pytest.mark.parametrize("family", OF_A_CLASS, ids=lambda family: family.name)
def test_features_are_those_of_the_method_that_users_call(
    family: Family, build_nemo_model: Callable[..., Any], speech_batches: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    model = build(build_nemo_model, family)
    if not (hasattr(model, "transcribe") or hasattr(model, "diarize")):
        pytest.skip("this class has no such method")
    if hasattr(model, "set_speaker_targets"):  # NeMo 3.0's own loader of arrays leaves the speakers out
        forward = model._transcribe_forward
        model._transcribe_forward = lambda batch, options: forward((*batch, None, None), options)
    clip = next(clips[0] for clips in speech_batches.values() if len(clips) == 1)[: 3 * 16000 + 77]
    archive = tmp_path / "model.nemo"
    model.save_to(str(archive))
    convert_nemo_checkpoint(archive, tmp_path / "out")
    extractor = FastConformerFeatureExtractor.from_pretrained(tmp_path / "out")
    assert (extractor.peak_scaling == 1e-3) == (family.name == "sortformer")
    for waveform in (clip, 0.1 * clip):
        expected = given_to_the_encoder(model, waveform)
        inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
        assert torch.equal(inputs.input_features[0, : int(inputs.input_lengths[0])], expected)
        nemo = NemoRunner(archive)
        outputs = nemo.run("clip", [waveform], joint_targets=[], language=family.languages[0])
        assert torch.equal(outputs.tensors["features"][0], expected)


@pytest.mark.parametrize("family", DIARISERS, ids=lambda family: family.name)
def test_verification_of_a_diariser_finds_a_scaling_that_is_missing(
    family: Family, build_nemo_model: Callable[..., Any], speech_batches: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    archive, folder = tmp_path / "model.nemo", tmp_path / "out"
    build(build_nemo_model, family).save_to(str(archive))
    convert_nemo_checkpoint(archive, folder)
    clips = {name: clips[0][:32000] for name, clips in list(speech_batches.items())[:3]}
    report = verify_conversion(archive, folder, clips)
    assert report.passed, report.to_markdown()
    extractor = FastConformerFeatureExtractor.from_pretrained(folder)
    extractor.peak_scaling = None if extractor.peak_scaling else 1e-3
    extractor.save_pretrained(folder)
    rows = {row.stage: row for row in verify_conversion(archive, folder, clips).rows}
    assert not rows["features"].passed
    assert not rows["encoder"].passed
