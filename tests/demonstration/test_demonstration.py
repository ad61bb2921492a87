"""The demonstration files: complete, small, whole, and consistent with one another."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import wave

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from transformers_fastconformer import demonstration

HEADS = ("tdt", "ctc")


@pytest.fixture(scope="module")
def expectations() -> dict:
    return json.loads(demonstration.EXPECTATIONS_PATH.read_text(encoding="utf-8"))


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


def test_expectations_belong_to_these_files(expectations):
    provenance = expectations["provenance"]
    checkpoint_hash = hashlib.sha256(demonstration.CHECKPOINT_PATH.read_bytes()).hexdigest()
    assert provenance["checkpoint_sha256"] == checkpoint_hash
    assert provenance["checkpoint"] == demonstration.CHECKPOINT_PATH.name
    assert provenance["nemo_version"].startswith("3.")
    assert provenance["command"] == "python examples/write_demonstration_expectations.py"
    assert sorted(expectations["clips"]) == sorted(path.name for path in demonstration.CLIP_PATHS)
    for path in demonstration.CLIP_PATHS:
        assert expectations["clips"][path.name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_nemo_understood_both_clips(expectations):
    for clip in expectations["clips"].values():
        for head in HEADS:
            assert clip[head]["text"] == clip["spoken"]
            assert clip[head]["transcribe"]["text"] == clip["spoken"]
            words = clip[head]["transcribe"]["timestamps"]["word"]
            assert [word["word"] for word in words] == clip["spoken"].split()
            starts = [word["start"] for word in words]
            assert starts == sorted(starts)
            assert all(0 <= word["start"] <= word["end"] <= clip["samples"] / 16000 + 0.4 for word in words)


def test_stored_tensors_fit_the_stored_lengths(expectations):
    tensors = load_file(demonstration.EXPECTED_TENSORS_PATH)
    assert len(tensors) == 3 * len(demonstration.CLIP_PATHS)
    for path in demonstration.CLIP_PATHS:
        clip = expectations["clips"][path.name]
        features = tensors[f"{path.stem}.input_features"]
        encoder_output = tensors[f"{path.stem}.encoder_output"]
        log_probs = tensors[f"{path.stem}.ctc_log_probs"]
        assert features.shape[1] == 80
        assert clip["mel_lengths"] == clip["samples"] // 160 <= features.shape[0]
        assert clip["encoder_lengths"] <= encoder_output.shape[0] == log_probs.shape[0]
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(len(log_probs)))
        assert log_probs.argmax(-1).tolist() == clip["ctc"]["frame_token_ids"]
        tdt = clip["tdt"]
        assert len(tdt["token_ids"]) == len(tdt["frame_indices"]) == len(tdt["durations"]) > 0
        assert max(tdt["frame_indices"]) < clip["encoder_lengths"]
        assert set(tdt["durations"]) <= {0, 1, 2, 3, 4}


def test_card_honours_the_licence_of_the_digits():
    card = (demonstration.CHECKPOINT_PATH.parent / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-sa-4.0" in card
    assert "Free Spoken Digit Dataset" in card
    assert "https://github.com/Jakobovski/free-spoken-digit-dataset" in card
    assert "https://creativecommons.org/licenses/by-sa/4.0/" in card
    licence = (demonstration.CHECKPOINT_PATH.parent / "LICENSE").read_text(encoding="utf-8")
    assert "Attribution-ShareAlike 4.0 International" in licence
