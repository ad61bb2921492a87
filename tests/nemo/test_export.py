"""Checkpoints to our form and back to NeMo's: tensors and configuration keys return, and nothing is guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from multitask_archives import (
    fit_head,
    make_canary_config,
    make_canary_tensors,
    write_canary,
    write_timed_canary,
)
from nemo_archives import KINDS, make_front_end
from safetensors.torch import load_file
from sortformer_archives import write_sortformer

from transformers_fastconformer import (
    FastConformerFeatureExtractor,
    FastConformerForDiarization,
    FastConformerForMultitask,
    FastConformerModel,
    FastConformerProcessor,
    export_nemo,
)
from transformers_fastconformer.checkpoint_sources import ORIGINAL_CONFIG_FILE
from transformers_fastconformer.checkpoints.model_classes import ARCHITECTURES
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.modeling.multitask_times import TIMES_FOLDER
from transformers_fastconformer.nemo.archive import NemoArchive
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.weight_map import TOKEN_TYPES


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with NemoArchive(path) as archive, archive.open_weights(path.parent) as weights:
        return archive.read_config(), weights.read()


def assert_same_folder(one: Path, other: Path) -> None:
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json", "processor_config.json"):
        assert (one / name).is_file() == (other / name).is_file()
        if (one / name).is_file():
            assert json.loads((one / name).read_text()) == json.loads((other / name).read_text()), name
    tensors, others = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


@pytest.mark.parametrize("kind", KINDS)
def test_an_unchanged_checkpoint_comes_back(kind: str, make_archive: Callable[..., Path], tmp_path: Path) -> None:
    source, folder, back = make_archive(kind), tmp_path / "ours", tmp_path / "back.nemo"
    convert_nemo_checkpoint(source, folder)
    result = export_nemo(folder, back)
    assert result.is_config_kept
    (config, tensors), (config_back, tensors_back) = read(source), read(back)
    assert config_back == config
    assert tensors_back.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors_back[name]) for name, tensor in tensors.items())

    (folder / ORIGINAL_CONFIG_FILE).unlink()
    assert not export_nemo(folder, tmp_path / "built.nemo").is_config_kept
    convert_nemo_checkpoint(tmp_path / "built.nemo", tmp_path / "again")
    assert_same_folder(folder, tmp_path / "again")
    assert export_nemo(folder, tmp_path / "third.nemo", original=source).is_config_kept


@pytest.mark.parametrize("options", [{}, {"streaming_mode": False, "eps": 0.01}], ids=["streaming", "whole"])
def test_models_of_speakers(options: dict[str, Any], tmp_path: Path) -> None:
    """They have a feature extractor and no tokenizer; what was kept and what is built say the same."""
    source, folder = write_sortformer(tmp_path / "source.nemo", **options), tmp_path / "ours"
    convert_nemo_checkpoint(source, folder)
    result = export_nemo(folder, tmp_path / "back.nemo")
    assert result.is_config_kept
    assert result.nemo_class == "SortformerEncLabelModel"
    assert read(tmp_path / "back.nemo")[0] == read(source)[0]
    (folder / ORIGINAL_CONFIG_FILE).unlink()
    assert not export_nemo(folder, tmp_path / "built.nemo").is_config_kept
    convert_nemo_checkpoint(tmp_path / "built.nemo", tmp_path / "again")
    assert_same_folder(folder, tmp_path / "again")
    model = FastConformerForDiarization.from_pretrained(folder)
    with pytest.raises(ValueError, match="expected a FastConformerFeatureExtractor"):
        export_nemo(model, tmp_path / "model.nemo")
    extractor = FastConformerFeatureExtractor.from_pretrained(folder)
    assert export_nemo(model, tmp_path / "model.nemo", processor=extractor).num_tensors == result.num_tensors


def test_the_demonstration_with_its_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    convert_nemo_checkpoint(CHECKPOINT_PATH, folder)
    export_nemo(folder, tmp_path / "back.nemo")
    assert read(tmp_path / "back.nemo")[0] == read(CHECKPOINT_PATH)[0]
    convert_nemo_checkpoint(tmp_path / "back.nemo", tmp_path / "again")
    assert_same_folder(folder, tmp_path / "again")
    export_nemo(folder, tmp_path / "twice.nemo")
    assert (tmp_path / "back.nemo").read_bytes() == (tmp_path / "twice.nemo").read_bytes()


def test_changed_options_are_written_over_the_others(make_archive: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    convert_nemo_checkpoint(make_archive("tdt"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dropout_pre_encoder": 0.25, "sigma": 0.03}))
    assert not export_nemo(folder, tmp_path / "back.nemo").is_config_kept
    written, _ = read(tmp_path / "back.nemo")
    assert written["encoder"]["dropout_pre_encoder"] == 0.25
    assert written["loss"]["tdt_kwargs"]["sigma"] == 0.03
    assert written["optim"] == {"name": "adamw"}


def test_options_of_training_come_back(
    make_archive: Callable[..., Path], nemo_config: Callable[[str], Any], tmp_path: Path
) -> None:
    config = nemo_config("hybrid_tdt_ctc") | {
        "spec_augment": {
            "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
            "freq_masks": 2,
            "time_masks": 5,
            "time_width": 0.05,
            "rect_masks": 1,
        },
        "interctc": {"apply_at_layers": [0], "loss_weights": [0.3]},
        "rnnt_reduction": "mean_volume",
    }
    config["aux_ctc"]["ctc_reduction"] = "mean"
    config["loss"]["tdt_kwargs"] |= {"fastemit_lambda": 0.005, "clamp": 1.0}
    config["encoder"] |= {"att_context_size": [[8, 1], [8, 3]], "att_context_probs": [0.25, 0.75]}
    source, folder = make_archive("hybrid_tdt_ctc", config=config), tmp_path / "ours"
    convert_nemo_checkpoint(source, folder)
    assert export_nemo(folder, tmp_path / "kept.nemo").is_config_kept
    # Another context in use is the first one in the archive, and takes its chance along.
    ours = json.loads((folder / "config.json").read_text()) | {"attention_context": [8, 3]}
    (folder / "config.json").write_text(json.dumps(ours | {"mask_time_count": 7}))
    export_nemo(folder, tmp_path / "changed.nemo")
    written, _ = read(tmp_path / "changed.nemo")
    assert written["spec_augment"]["time_masks"] == 7
    assert written["encoder"]["att_context_size"] == [[8, 3], [8, 1]]
    assert written["encoder"]["att_context_probs"] == [0.75, 0.25]
    # Without the configuration that was kept, all of it is written from ours.
    (folder / ORIGINAL_CONFIG_FILE).unlink()
    export_nemo(folder, tmp_path / "built.nemo")
    built, _ = read(tmp_path / "built.nemo")
    assert built["spec_augment"] == written["spec_augment"] | {"freq_width": 10}
    for key in ("interctc", "rnnt_reduction"):
        assert built[key] == config[key]
    assert built["aux_ctc"]["ctc_reduction"] == "mean"
    assert config["loss"]["tdt_kwargs"].items() <= built["loss"]["tdt_kwargs"].items()
    assert built["encoder"]["att_context_probs"] == [0.75, 0.25]


def test_what_is_switched_off_is_no_section(
    make_archive: Callable[..., Path], nemo_config: Callable[[str], Any], tmp_path: Path
) -> None:
    sections = {
        "spec_augment": {"_target_": "SpectrogramAugmentation", "time_masks": 5},
        "interctc": {"apply_at_layers": [0], "loss_weights": [0.3]},
    }
    source, folder = make_archive("ctc", config=nemo_config("ctc") | sections), tmp_path / "ours"
    convert_nemo_checkpoint(source, folder)
    ours = json.loads((folder / "config.json").read_text())
    # Masks that only this folder switches off stay in the archive.
    (folder / "config.json").write_text(json.dumps(ours | {"apply_spec_augment": False}))
    assert export_nemo(folder, tmp_path / "kept.nemo").is_config_kept
    off = {"mask_time_count": 0, "intermediate_ctc_layers": None, "intermediate_ctc_weights": None}
    (folder / "config.json").write_text(json.dumps(ours | off))
    export_nemo(folder, tmp_path / "off.nemo")
    written, _ = read(tmp_path / "off.nemo")
    assert not {"spec_augment", "interctc"} & written.keys()
    assert written["optim"] == {"name": "adamw"}


def test_a_model_in_memory(make_archive: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    result = convert_nemo_checkpoint(make_archive("rnnt"), folder)
    model = ARCHITECTURES[result.mapped.architecture].from_pretrained(folder)
    processor = FastConformerProcessor.from_pretrained(folder)
    export_nemo(model, tmp_path / "back.nemo", processor=processor)
    convert_nemo_checkpoint(tmp_path / "back.nemo", tmp_path / "again")
    assert_same_folder(folder, tmp_path / "again")
    with pytest.raises(ValueError, match="processor=None is not supported"):
        export_nemo(model, tmp_path / "none.nemo")


@pytest.mark.parametrize("is_zero", [True, False])
def test_a_blank_without_a_row(
    is_zero: bool, make_archive: Callable[..., Path], nemo_config: Callable[[str], Any], tmp_path: Path
) -> None:
    config = nemo_config("rnnt")
    config["decoder"]["blank_as_pad"] = False
    name = "decoder.prediction.embed.weight"

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name][:-1].clone()

    source = make_archive("rnnt", config=config, change_tensors=cut)
    folder = tmp_path / "ours"
    result = convert_nemo_checkpoint(source, folder)
    if not is_zero:
        model = ARCHITECTURES[result.mapped.architecture].from_pretrained(folder)
        model.decoder.embedding.weight.data[-1] = 1.0
        model.save_pretrained(folder)
    export_nemo(folder, tmp_path / "back.nemo")
    written, tensors = read(tmp_path / "back.nemo")
    assert written["decoder"]["blank_as_pad"] is not is_zero
    assert len(tensors[name]) == len(read(source)[1][name]) + (not is_zero)


def test_half_precision_stays(make_archive: Callable[..., Path], nemo_config: Callable[[str], Any], tmp_path: Path):
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update(make_front_end(nemo_config("ctc")))
        tensors.update({key: value.half() for key, value in tensors.items() if value.is_floating_point()})

    source = make_archive("ctc", change_tensors=halve)
    convert_nemo_checkpoint(source, tmp_path / "ours")
    export_nemo(tmp_path / "ours", tmp_path / "back.nemo")
    before, after = read(source)[1], read(tmp_path / "back.nemo")[1]
    assert {name: tensor.dtype for name, tensor in before.items()} == {name: t.dtype for name, t in after.items()}


def test_refusals(make_archive: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    convert_nemo_checkpoint(make_archive("ctc"), folder)
    with pytest.raises(ValueError, match=r"original='.*nowhere' is not supported; expected a \.nemo archive"):
        export_nemo(folder, tmp_path / "back.nemo", original=tmp_path / "nowhere")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(ValueError, match=r"NeMo has no form for hidden_act='relu' \(it would be 'silu'\)"):
        export_nemo(folder, tmp_path / "back.nemo")
    FastConformerModel.from_pretrained(folder).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="model_type='fastconformer' is not supported by the export to NeMo"):
        export_nemo(tmp_path / "encoder", tmp_path / "back.nemo")
    assert not (tmp_path / "back.nemo").exists()


@pytest.mark.parametrize("is_aggregate", [True, False])
@pytest.mark.parametrize("prompt_format", ["canary", "canary2"])
def test_a_canary_comes_back(tmp_path: Path, is_aggregate: bool, prompt_format: str) -> None:
    config = fit_head(make_canary_config(is_aggregate)) | {"prompt_format": prompt_format}
    if prompt_format == "canary":
        config["prompt_defaults"] = [{"role": "user", "slots": {"source_lang": "en", "task": "asr", "pnc": "no"}}]
    tensors = make_canary_tensors(config)
    folder = tmp_path / "ours"
    convert_nemo_checkpoint(write_canary(tmp_path / "a.nemo", config, tensors), folder)
    result = export_nemo(folder, tmp_path / "back.nemo")
    assert result.is_config_kept
    assert result.nemo_class == "EncDecMultiTaskModel"
    with NemoArchive(tmp_path / "back.nemo") as archive, archive.open_weights(tmp_path) as weights:
        found = weights.read()
        written = archive.read_config()
    # The files of the tokenizer are written anew.
    assert {**written, "tokenizer": None} == {**config, "tokenizer": None}
    assert written["tokenizer"]["custom_tokenizer"] == config["tokenizer"]["custom_tokenizer"]
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) or name == TOKEN_TYPES
    # Without the configuration that was kept, and with other options, one is made.
    (folder / ORIGINAL_CONFIG_FILE).unlink()
    processor = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps(processor | {"learns_prompt": False}))
    assert not export_nemo(folder, tmp_path / "built.nemo").is_config_kept
    again = tmp_path / "again"
    convert_nemo_checkpoint(tmp_path / "built.nemo", again)
    before, after = (json.loads((item / "config.json").read_text()) for item in (folder, again))
    assert after == before
    assert FastConformerProcessor.from_pretrained(again).learns_prompt is False
    assert read(tmp_path / "built.nemo")[0]["use_loss_mask_for_prompt"] is True


def test_the_model_of_times_goes_into_the_archive(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        path = write_timed_canary(tmp_path / "a.nemo")
    folder = convert_nemo_checkpoint(path, tmp_path / "ours").output_dir
    model = FastConformerForMultitask.from_pretrained(folder)
    for number, source in enumerate((folder, model)):
        processor = None if number == 0 else FastConformerProcessor.from_pretrained(folder)
        back = tmp_path / f"back{number}.nemo"
        result = export_nemo(source, back, processor=processor)
        assert "timestamps_asr_model_config.yaml" in result.members
        again = convert_nemo_checkpoint(back, tmp_path / f"again{number}").output_dir
        for part in ("", TIMES_FOLDER):
            files = [load_file(item / part / "model.safetensors") for item in (folder, again)]
            assert files[0].keys() == files[1].keys()
            assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    model.times_model = None
    model.config.has_timestamps_model = False
    export_nemo(model, tmp_path / "without.nemo", processor=FastConformerProcessor.from_pretrained(folder))
    assert "timestamps_asr_model_config.yaml" not in NemoArchive(tmp_path / "without.nemo").member_names


def test_a_canary_that_nemo_has_no_form_for_is_refused(tmp_path: Path) -> None:
    config = fit_head(make_canary_config())
    folder = convert_nemo_checkpoint(write_canary(tmp_path / "a.nemo", config), tmp_path / "ours").output_dir
    ours = json.loads((folder / "config.json").read_text())
    changed = ours | {"decoding_strategy": "greedy", "beam_size": 3}
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"NeMo has no form for beam_size=3 \(it would be 1\)"):
        export_nemo(folder, tmp_path / "back.nemo")
    assert not (tmp_path / "back.nemo").exists()
