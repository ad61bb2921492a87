"""Checkpoints by name to a model and its processor."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from archives import rewrite_archive, round_weights
from transformers import AutoConfig, AutoModel, pipeline

from transformers_fastconformer import (
    AutoModelForTDT,
    FastConformerModel,
    convert_nemo_checkpoint,
    load_model,
    quantize_dynamic_int8,
    transcribe,
)
from transformers_fastconformer.checkpoints.int8_form import is_int8_checkpoint, write_int8_checkpoint
from transformers_fastconformer.checkpoints.store import CACHE_VARIABLE, list_conversions
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.inference import loading as loading_module
from transformers_fastconformer.interop.writing import export_to_transformers
from transformers_fastconformer.modeling.quantization import is_stored_in_8_bits
from transformers_fastconformer.nemo.inspection import inspect_checkpoint

TEXT = "three one four one five nine"


def test_a_repository_with_both_forms_of_a_checkpoint(tmp_path: Path) -> None:
    """As `nvidia/parakeet-tdt-0.6b-v3` is: a `.nemo`, and the files of Transformers' own class next to it."""
    folder = tmp_path / "both"
    export_to_transformers(CHECKPOINT_PATH, folder, head="transducer")
    shutil.copy(CHECKPOINT_PATH, folder / "digits.nemo")
    model, processor = load_model(folder)
    assert type(model).__name__ == "FastConformerForTDT"
    assert transcribe(CLIP_PATHS[0], (model, processor)).text == TEXT
    assert transcribe(CLIP_PATHS[0], model=folder).text == TEXT


def test_weights_of_half_precision_are_computed_in_float32(tmp_path: Path) -> None:
    """As in NeMo, through every door; in 16 bits where they are asked for."""
    archive = rewrite_archive(
        CHECKPOINT_PATH, tmp_path / "half.nemo", lambda config: None, change_tensors=round_weights(torch.float16)
    )
    model, processor = load_model(archive, device="cpu")
    assert transcribe(CLIP_PATHS[0], model=(model, processor)).text == TEXT
    for loaded in (
        model,
        AutoModel.from_pretrained(str(archive)),
        AutoModelForTDT.from_pretrained(str(archive), dtype="auto"),
        transformers.pipeline("automatic-speech-recognition", model=str(archive), device="cpu").model,
    ):
        assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
    assert AutoModel.from_pretrained(str(archive), dtype=torch.float16).dtype == torch.float16
    assert load_model(archive, device="cpu", dtype="bfloat16")[0].dtype == torch.bfloat16
    asked_for = convert_nemo_checkpoint(archive, tmp_path / "asked-for", dtype="float16")
    assert AutoModel.from_pretrained(asked_for.output_dir).dtype == torch.float16


def test_a_head_that_is_none_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="head='both' is not supported; expected one of"):
        load_model("nothing/of-that-name", head="both")


def test_a_checkpoint_without_its_head_is_refused(tmp_path: Path) -> None:
    """A head with fresh weights would give a transcript of nothing."""
    model, processor = load_model("demo")
    FastConformerModel(model.config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks \d+ weights of FastConformerForTDT, such as '.*'; expected all"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": None}, "model=None is not supported; expected the name of a checkpoint"),
        ({"source": "demo", "dtype": "float8"}, "dtype='float8' is not supported; expected one of"),
        ({"source": "demo", "device": "nowhere"}, "device='nowhere' is not available"),
        ({"source": "demo", "device": "meta"}, "device='meta' is not available"),
    ],
)
def test_what_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(**options)


def test_a_model_that_cannot_be_had_says_what_to_do() -> None:
    """The tests are offline, as someone is who tries the package on a train."""
    with pytest.raises(OSError, match=r"nobody/nothing is not on this machine.*for a trial offline the model 'demo'"):
        load_model("nobody/nothing")


def test_archives_by_content_by_address_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_FASTCONFORMER_CACHE", str(tmp_path / "cache"))
    other_name, unpacked = tmp_path / "digits", tmp_path / "unpacked"
    with tarfile.open(CHECKPOINT_PATH) as tar:
        tar.extractall(unpacked, filter="data")
    (unpacked / "._model_weights.ckpt").write_bytes(b"of macOS")
    shutil.copy(CHECKPOINT_PATH, other_name)
    for source in (other_name, other_name.as_uri(), unpacked):
        model, _ = load_model(source)
        assert type(model).__name__ == "FastConformerForTDT"
        assert inspect_checkpoint(source).is_convertible
    for source in (other_name, unpacked):
        assert type(AutoModelForTDT.from_pretrained(source)).__name__ == "FastConformerForTDT"
        assert AutoConfig.from_pretrained(str(source)).model_type == "fastconformer_tdt"


def test_files_and_folders_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    path.write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"talk\.wav is not a checkpoint: its 4 bytes are not a tar.*expected"):
        load_model(path)
    with pytest.raises(ValueError, match=r"is not a checkpoint: it holds 'talk\.wav'; expected a \.nemo archive"):
        load_model(tmp_path)
    path = tmp_path / "model.nemo"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(ValueError, match=r"model\.nemo is a pointer of Git LFS.*Run `git lfs pull`"):
        load_model(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The demonstration checkpoint in our form, in floats and in 8 bits."""
    root = tmp_path_factory.mktemp("forms")
    convert_nemo_checkpoint(CHECKPOINT_PATH, root / "floats")
    write_int8_checkpoint(root / "floats", root / "int8")
    return root / "floats", root / "int8"


@torch.no_grad()
def test_8_bits_are_the_same_from_every_source(folders: tuple[Path, Path]) -> None:
    floats, int8 = folders
    exact, processor = load_model(floats, dtype="float32")
    features = processor(torch.randn(16000), sampling_rate=16000, return_tensors="pt").input_features
    expected = quantize_dynamic_int8(exact).encode(features).last_hidden_state
    for source, dtype in ((CHECKPOINT_PATH, "int8"), (floats, "int8"), (int8, "int8"), (int8, "auto")):
        model, _ = load_model(source, dtype=dtype)
        assert is_stored_in_8_bits(model)
        assert model.dtype == torch.float32
        assert torch.equal(model.encode(features).last_hidden_state, expected)
    ctc, _ = load_model(int8, head="ctc")
    assert is_stored_in_8_bits(ctc)
    assert pipeline("automatic-speech-recognition", model=str(int8))(str(CLIP_PATHS[0]))["text"] == TEXT


def test_the_cache_keeps_the_8_bit_form_of_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    model, _ = load_model("demo", dtype="int8")
    assert model.name_or_path == str(CHECKPOINT_PATH)
    kept = [is_int8_checkpoint(entry.folder) for entry in list_conversions()]
    assert sorted(kept) == [False, True]

    def refuse(*given: object, **options: object) -> None:
        raise AssertionError("rounded again")

    monkeypatch.setattr("transformers_fastconformer.kernels.int8_linear.round_weight", refuse)
    load_model("demo", dtype="int8")
    assert len(list_conversions()) == 2


def test_a_cache_that_cannot_be_written_costs_time_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: object, source: object) -> Path:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(loading_module, "cached_int8_folder", refuse)
    model, _ = load_model("demo", dtype="int8")
    assert is_stored_in_8_bits(model)


def test_floats_and_devices_of_a_checkpoint_in_8_bits(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, int8 = folders
    for dtype in ("float32", "bfloat16", "float16"):
        model, _ = load_model(int8, dtype=dtype)
        assert not is_stored_in_8_bits(model)
        assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    monkeypatch.setattr(loading_module, "check_device", lambda device: device)
    for dtype in ("auto", "int8"):
        with pytest.raises(ValueError, match="device='cuda' is not supported by 8-bit weights; expected 'cpu'"):
            load_model(int8, device="cuda", dtype=dtype)


def test_transformers_classes_have_no_8_bits(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights stored in 8 bits are not supported by Transformers' own classes"):
        export_to_transformers(folders[1], tmp_path / "theirs", head="transducer")
    assert not (tmp_path / "theirs").exists()


def test_a_hybrid_saved_with_its_ctc_head_is_loaded_with_it(tmp_path: Path) -> None:
    """Fine-tuned for CTC it would give the text of a transducer that was not trained."""
    model, processor = load_model("demo", head="ctc")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(load_model(tmp_path)[0]).__name__ == "ParakeetTDTForCTC"
    assert type(pipeline("automatic-speech-recognition", model=str(tmp_path)).model).__name__ == "ParakeetTDTForCTC"
    assert type(load_model(tmp_path, head="transducer")[0]).__name__ == "FastConformerForTDT"
