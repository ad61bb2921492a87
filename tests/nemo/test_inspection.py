"""What `inspect_checkpoint` tells, and that it reads no weights."""

from __future__ import annotations

import io

import models
import pytest
import torch

from transformers_fastconformer.checkpoints.int8_form import write_int8_checkpoint
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.nemo.archive import NemoArchive
from transformers_fastconformer.nemo.inspection import inspect_checkpoint


def test_what_is_told(make_archive, nemo_config, build_model, kinds):
    for kind in kinds:
        path = make_archive(kind, name=f"{kind}.nemo")
        found = inspect_checkpoint(path)
        assert found.is_convertible, found.refusal
        assert (found.family, found.nemo_version, found.dtype) == (kind, "3.0.0", "float32")
        model = build_model(nemo_config(kind))
        assert found.architecture == type(model).__name__
        assert found.num_parameters == sum(parameter.numel() for parameter in model.parameters())
        assert found.archive_bytes == path.stat().st_size
        assert found.sizes["layers"] == 2
        assert found.sizes["mels"] == 16
        assert found.tokenizer == "characters, 28 tokens"
        assert found.options["conv_kernel_size"] == (5, 9)
        assert "optim" in found.dropped["training only"]
        assert found.dropped["rebuilt by the feature extractor, which is checked"]
    assert found.options["durations"] == ([0, 2, 4, 8], [0, 1, 2, 3, 4])
    assert ("has_ctc_head" in found.options) == kind.startswith("hybrid")


def test_a_strategy_of_decoding_that_is_not_the_usual_one_is_told(make_archive, nemo_config):
    for strategy in ("greedy", "greedy_batch"):
        config = nemo_config("tdt")
        config["decoding"]["strategy"] = strategy
        found = inspect_checkpoint(make_archive("tdt", config=config, name=f"{strategy}.nemo"))
        told = found.options.get("decoding_strategy")
        assert told == (("greedy", "greedy_batch") if strategy == "greedy" else None)


def test_the_demonstration_checkpoint():
    found = inspect_checkpoint(CHECKPOINT_PATH)
    assert found.tokenizer == "SentencePiece, 48 tokens"
    assert found.nemo_class == "EncDecHybridRNNTCTCBPEModel"


def test_no_weights_are_loaded(make_archive, monkeypatch):
    path = make_archive("tdt")

    def refuse(*arguments, **options):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(NemoArchive, "open_weights", refuse)
    assert inspect_checkpoint(path).is_convertible


def test_where_headers_would_mean_to_read_all(make_archive):
    path = make_archive("tdt", mode="w:gz")
    with NemoArchive(path) as archive:
        assert archive.read_tensor_headers() is None
    found = inspect_checkpoint(path)
    assert found.is_convertible
    assert (found.dtype, found.num_archive_tensors) == (None, None)
    assert found.num_parameters > 0


def test_headers_are_those_of_the_tensors(make_archive, nemo_config, nemo_state_dict):
    def change(tensors):
        tensors["encoder.half"] = torch.zeros(2, 3, dtype=torch.float16)
        tensors["encoder.parameter"] = torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))

    expected = nemo_state_dict(nemo_config("tdt"))
    change(expected)
    with NemoArchive(make_archive("tdt", change_tensors=change)) as archive:
        headers = archive.read_tensor_headers()
    assert headers == {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in expected.items()
    }


def test_refusals_are_told_with_what_was_found(make_archive, nemo_config):
    config = nemo_config("tdt")
    config["encoder"]["conv_norm_type"] = "weight_norm"
    buffer = io.BytesIO()
    torch.save({"encoder.a": torch.zeros(2)}, buffer)
    found = inspect_checkpoint(make_archive(config=config, weights=buffer.getvalue()))
    assert found.refusal.startswith("encoder.conv_norm_type='weight_norm' is not supported; expected")
    assert found.nemo_class == "EncDecRNNTModel"
    assert found.sizes == {"layers": 2, "width": 16, "attention heads": 2, "mels": 16, "subsampling": 8}
    assert found.family is None

    def add_tensor(tensors):
        tensors["encoder.strange"] = torch.zeros(2)

    found = inspect_checkpoint(make_archive("tdt", change_tensors=add_tensor))
    assert "tensors that are not supported: encoder.strange" in found.refusal
    assert found.family == "tdt"


def test_pickles_that_would_run_code_are_refused_unread(make_archive, write_archive, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    buffer = io.BytesIO()
    torch.save({"encoder.a": Evil()}, buffer)
    found = inspect_checkpoint(make_archive("tdt", weights=buffer.getvalue()))
    assert "model_weights.ckpt cannot be read: it asks for" in found.refusal
    assert not (tmp_path / "evil").exists()


def test_encoders_alone_name_what_is_left_out(make_archive, nemo_config):
    path = make_archive("hybrid_tdt_ctc")
    found = inspect_checkpoint(path, encoder_only=True)
    assert (found.family, found.architecture, found.tokenizer) == ("encoder", "FastConformerModel", None)
    assert list(found.parts_left_out) == ["ctc_decoder", "decoder", "joint"]


def test_what_is_no_archive_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        inspect_checkpoint(tmp_path / "missing.nemo")
    (tmp_path / "broken.nemo").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"is not a \.nemo archive|truncated or damaged"):
        inspect_checkpoint(tmp_path / "broken.nemo")


def test_a_folder_of_this_package(tmp_path):
    """Its weights may be floats or in 8 bits."""
    model = models.build_model("tdt")
    model.save_pretrained(tmp_path / "floats")
    write_int8_checkpoint(tmp_path / "floats", tmp_path / "int8")
    found = inspect_checkpoint(tmp_path / "floats")
    assert (found.is_converted, found.architecture, found.dtype) == (True, "FastConformerForTDT", "float32")
    assert found.num_parameters == model.num_parameters()
    assert found.sizes["width"] == 16
    assert found.archive_bytes == (tmp_path / "floats" / "model.safetensors").stat().st_size
    rounded = inspect_checkpoint(tmp_path / "int8")
    assert rounded.num_parameters == found.num_parameters
    assert rounded.dtype == "int8 in the encoder's blocks, float32 elsewhere"
