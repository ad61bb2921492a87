"""The demonstration files: complete, small, whole, and consistent with one another."""

from __future__ import annotations

import hashlib
import io
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from transformers_fastconformer import demonstration
from transformers_fastconformer.frames import find_subsampling
from transformers_fastconformer.nemo.stage_outputs import StageOutputs, load_stage_outputs

HEADS = ("tdt", "ctc")


Expectations = tuple[list[StageOutputs], dict[str, str]]


@pytest.fixture(scope="module")
def expectations() -> Expectations:
    return load_stage_outputs(demonstration.EXPECTATIONS_PATH)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_checkpoint_is_at_most_four_megabytes():
    assert 1_000_000 < demonstration.CHECKPOINT_PATH.stat().st_size <= 4_000_000


def test_checkpoint_is_a_hybrid_tdt_ctc_archive():
    with tarfile.open(demonstration.CHECKPOINT_PATH) as archive:
        members = {member.name.removeprefix("./"): member for member in archive.getmembers()}
        configuration = yaml.safe_load(archive.extractfile(members["model_config.yaml"]))
        weights_file = io.BytesIO(archive.extractfile(members["model_weights.ckpt"]).read())
    assert configuration["target"].endswith("EncDecHybridRNNTCTCBPEModel")
    assert configuration["loss"]["tdt_kwargs"]["durations"] == [0, 1, 2, 3, 4]
    assert configuration["preprocessor"]["features"] == 80
    assert configuration["encoder"]["subsampling"] == "dw_striding"
    assert configuration["encoder"]["xscaling"] is False
    weights = torch.load(weights_file, weights_only=True)
    assert {name.split(".")[0] for name in weights} == {"preprocessor", "encoder", "decoder", "joint", "ctc_decoder"}
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_configuration_names_no_folder_of_the_training_machine():
    with tarfile.open(demonstration.CHECKPOINT_PATH) as archive:
        member = next(member for member in archive.getmembers() if member.name.endswith("model_config.yaml"))
        text = archive.extractfile(member).read().decode()
    assert [line for line in text.splitlines() if ": /" in line] == []


def test_clips_are_short_16_khz_mono_16_bit():
    assert len(demonstration.CLIP_PATHS) == 2
    for path in demonstration.CLIP_PATHS:
        with wave.open(str(path)) as clip:
            assert (clip.getframerate(), clip.getnchannels(), clip.getsampwidth()) == (16000, 1, 2)
            assert 2.0 <= clip.getnframes() / 16000 <= 4.5
            samples = np.frombuffer(clip.readframes(clip.getnframes()), dtype="<i2")
        assert np.abs(samples).max() > 1000


def test_expectations_belong_to_these_files(expectations: Expectations) -> None:
    batches, provenance = expectations
    assert provenance["checkpoint"] == demonstration.CHECKPOINT_PATH.name
    assert provenance["checkpoint_sha256"] == sha256_of(demonstration.CHECKPOINT_PATH)
    assert provenance["nemo"].startswith("3.")
    assert provenance["command"] == "python tools/write_demonstration_expectations.py"
    assert [batch.name for batch in batches] == [path.name for path in demonstration.CLIP_PATHS]
    for path in demonstration.CLIP_PATHS:
        assert provenance[f"{path.name} sha256"] == sha256_of(path)


def test_nemo_understood_both_clips(expectations: Expectations) -> None:
    batches, provenance = expectations
    for batch in batches:
        spoken = provenance[f"{batch.name} spoken"]
        for head in HEADS:
            (clip,) = batch.hypotheses[head]
            assert clip.text == spoken
            words = clip.timestamps["word"]
            assert [word[0] for word in words] == spoken.split()
            starts = [word[3] for word in words]
            assert starts == sorted(starts)


def test_stored_stages_fit_one_another(expectations: Expectations) -> None:
    for batch in expectations[0]:
        features, encoded, log_probs = (
            batch.tensors[stage][0] for stage in ("features", "encoder", "CTC log-probabilities")
        )
        assert features.shape[1] == 80
        num_frames = find_subsampling("dw_striding", 8).count_frames(features.shape[0])
        assert encoded.shape[0] == log_probs.shape[0] == num_frames
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(len(log_probs)))
        (tdt,) = batch.hypotheses["tdt"]
        assert tdt.durations is not None
        assert len(tdt.tokens) == len(tdt.frame_indices) == len(tdt.durations) > 0
        assert max(tdt.frame_indices) < encoded.shape[0]
        assert set(tdt.durations) <= {0, 1, 2, 3, 4}


def test_card_honours_the_licence_of_the_digits():
    card = (demonstration.CHECKPOINT_PATH.parent / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-sa-4.0" in card
    assert "Free Spoken Digit Dataset" in card
    assert "https://github.com/Jakobovski/free-spoken-digit-dataset" in card
    assert "https://creativecommons.org/licenses/by-sa/4.0/" in card
    licence = (demonstration.CHECKPOINT_PATH.parent / "LICENSE").read_text(encoding="utf-8")
    assert "Attribution-ShareAlike 4.0 International" in licence
