"""Whole Canary archives: converted, and refused where a tensor is not what it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from multitask_archives import fit_head, make_canary_config, make_canary_tensors, write_canary
from multitask_models import random_features
from nemo_archives import build_from_nemo, make_members, make_nemo_config
from transformers import AutoModelForCTC, AutoModelForSpeechSeq2Seq

from transformers_fastconformer import FastConformerForMultitask, convert_nemo_checkpoint
from transformers_fastconformer.nemo.convert import TIMES_FOLDER
from transformers_fastconformer.nemo.inspection import inspect_checkpoint
from transformers_fastconformer.nemo.weight_map import POSITION_TABLE, TIED_HEAD, unmap_state_dict


@pytest.mark.parametrize("is_aggregate", [True, False])
def test_a_converted_archive_loads_and_decodes(tmp_path: Path, is_aggregate: bool) -> None:
    config = fit_head(make_canary_config(is_aggregate))
    tensors = make_canary_tensors(config)
    result = convert_nemo_checkpoint(write_canary(tmp_path / "a.nemo", config, tensors), tmp_path / "out")
    assert result.mapped.architecture == "FastConformerForMultitask"
    assert not result.parts_left_out
    model = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "out").eval()
    assert isinstance(model, FastConformerForMultitask)
    back = unmap_state_dict(model.state_dict(), model.config)
    for name, tensor in back.items():
        assert torch.equal(tensor, tensors[name]), name
    prompt = [model.config.decoder_start_token_id, model.config.bos_token_id]
    assert model.generate(**random_features([97]), prompt_ids=prompt).shape[0] == 1
    assert model.generation_config.eos_token_id == model.config.eos_token_id
    # The archive itself loads too, and is looked into.
    assert type(AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "a.nemo")) is FastConformerForMultitask
    found = inspect_checkpoint(tmp_path / "a.nemo")
    assert found.refusal is None
    assert found.family == "multitask"


def test_the_model_of_times_is_converted_next_to_it(tmp_path: Path) -> None:
    config = fit_head(make_canary_config())
    times_config = make_nemo_config("ctc")
    members = [(name.replace("model_", "timestamps_asr_model_"), data) for name, data in make_members(times_config)]
    path = write_canary(tmp_path / "a.nemo", config, extra=members)
    result = convert_nemo_checkpoint(path, tmp_path / "out")
    assert not result.parts_left_out
    assert TIMES_FOLDER in result.files
    model = AutoModelForCTC.from_pretrained(tmp_path / "out" / TIMES_FOLDER)
    expected = build_from_nemo(times_config)
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in expected.state_dict().items())
    assert (tmp_path / "out" / TIMES_FOLDER / "tokenizer.json").is_file()
    assert not inspect_checkpoint(path).parts_left_out
    # NeMo leaves it out where its configuration says so.
    path = write_canary(tmp_path / "b.nemo", config | {"restore_timestamps_model": False}, extra=members)
    assert TIMES_FOLDER not in convert_nemo_checkpoint(path, tmp_path / "without").files


def test_only_the_encoder_is_converted_on_request(tmp_path: Path) -> None:
    path = write_canary(tmp_path / "a.nemo", fit_head(make_canary_config()))
    result = convert_nemo_checkpoint(path, tmp_path / "out", encoder_only=True)
    assert result.mapped.architecture == "FastConformerModel"
    assert set(result.parts_left_out) == {"encoder_decoder_proj", "log_softmax", "transf_decoder", "transf_encoder"}


@pytest.mark.parametrize("name", [TIED_HEAD, POSITION_TABLE])
def test_tensors_that_are_something_else_are_refused(tmp_path: Path, name: str) -> None:
    config = fit_head(make_canary_config())
    tensors = make_canary_tensors(config)
    tensors[name] = tensors[name] + 1e-3
    with pytest.raises(ValueError, match=name):
        convert_nemo_checkpoint(write_canary(tmp_path / "a.nemo", config, tensors), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_positions_of_16_bits_stay_so(tmp_path: Path) -> None:
    config = fit_head(make_canary_config())
    tensors = make_canary_tensors(config)
    rounded = {name: tensor.half() for name, tensor in tensors.items()}
    convert_nemo_checkpoint(write_canary(tmp_path / "a.nemo", config, rounded), tmp_path / "out")
    model = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "out")
    table = model.decoder.position_table(torch.float32, torch.device("cpu"))
    assert torch.equal(table[:32], rounded[POSITION_TABLE].float())


def test_a_head_of_another_size_than_the_tokenizer_is_refused(tmp_path: Path) -> None:
    config = fit_head(make_canary_config())
    config["head"]["num_classes"] += 8
    with pytest.raises(ValueError, match="the next multiple of 8"):
        convert_nemo_checkpoint(write_canary(tmp_path / "a.nemo", config), tmp_path / "out")
