"""Checkpoints of Transformers' own classes in our form, compared by running those classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from interop_cases import (
    TRANSDUCERS,
    assert_close,
    assert_same_decoder,
    assert_same_encoder,
    assert_same_joint,
    assert_same_tokens,
    load_ours,
    load_theirs,
    masked_features,
    state_of,
)
from their_models import THEIR_MODELS, build_their_model
from transformers import AutoModel

from transformers_fastconformer.interop.reading import (
    convert_transformers_checkpoint,
    is_transformers_checkpoint,
    read_transformers_checkpoint,
)
from transformers_fastconformer.interop.writing import export_to_transformers


@pytest.mark.parametrize("name", THEIR_MODELS)
def test_reading_gives_their_numbers(name: str, tmp_path: Path) -> None:
    theirs = build_their_model(name)
    theirs.save_pretrained(tmp_path / "theirs")
    assert is_transformers_checkpoint(tmp_path / "theirs")
    convert_transformers_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    ours = load_ours(tmp_path / "ours")
    assert_same_encoder(theirs, ours)
    if name in TRANSDUCERS:
        assert_same_joint(theirs, ours)
        assert_same_tokens(theirs, ours)
    if name == "ParakeetForCTC":
        features, mask = masked_features()
        with torch.no_grad():
            found, expected = ours(features, attention_mask=mask), theirs(features, attention_mask=mask)
        for clip, frames in enumerate(found.encoder_lengths):
            assert_close(found.logits[clip, :frames], expected.logits[clip, :frames])
        assert_same_tokens(theirs, ours)
    if name == "CanaryForConditionalGeneration":
        assert_same_decoder(theirs, ours)


@pytest.mark.parametrize("name", THEIR_MODELS)
def test_their_checkpoint_comes_back_bit_identical(name: str, tmp_path: Path) -> None:
    theirs = build_their_model(name)
    theirs.save_pretrained(tmp_path / "theirs")
    convert_transformers_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    export_to_transformers(tmp_path / "ours", tmp_path / "again")
    again = load_theirs(tmp_path / "again")
    expected = state_of(theirs)
    assert list(state_of(again)) == list(expected)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in state_of(again).items())
    before, after = theirs.config.to_dict(), again.config.to_dict()
    assert set(before) == set(after)
    # Padding becomes the blank: one token less to keep out of texts.
    changed = {key for key in before if before[key] != after[key]} - {"_name_or_path", "dtype", "pad_token_id"}
    for section in [key for key in changed if isinstance(before[key], dict)]:
        changed |= {key for key in before[section] if before[section][key] != after[section][key]} - {"dtype"}
        changed.discard(section)
    assert not changed - {"architectures"}


def test_the_state_dict_in_memory_is_that_of_the_converted_folder(tmp_path: Path) -> None:
    build_their_model("ParakeetForTDT").save_pretrained(tmp_path / "theirs")
    in_memory = read_transformers_checkpoint(tmp_path / "theirs").read_state_dict()
    convert_transformers_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    converted = state_of(load_ours(tmp_path / "ours"))
    assert set(in_memory) == set(converted)
    assert all(torch.equal(tensor, converted[name]) for name, tensor in in_memory.items())


def test_shards_and_their_types_are_kept(tmp_path: Path) -> None:
    theirs = build_their_model("ParakeetForCTC").to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    result = convert_transformers_checkpoint(tmp_path / "theirs", tmp_path / "ours", max_shard_size="8KB")
    assert "model.safetensors.index.json" in result.files
    ours = load_ours(tmp_path / "ours")
    assert ours.dtype == torch.bfloat16
    expected = state_of(theirs)
    assert torch.equal(ours.ctc_head.weight, expected["ctc_head.weight"].squeeze(-1))
    export_to_transformers(ours, tmp_path / "again", max_shard_size="10KB")
    found = state_of(load_theirs(tmp_path / "again"))
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())


def test_the_look_aheads_come_from_the_processor(tmp_path: Path) -> None:
    build_their_model("NemotronAsrStreamingForRNNT").save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "processor_config.json").write_text(
        json.dumps({"supported_num_lookahead_tokens": [3, 1, 0], "default_num_lookahead_tokens": 3})
    )
    config = read_transformers_checkpoint(tmp_path / "theirs").config
    assert config.attention_contexts == [[8, 3], [8, 1], [8, 0]]
    assert config.attention_context == [8, 3]


def test_the_languages_come_from_the_processor(tmp_path: Path) -> None:
    theirs = build_their_model("Nemotron3_5AsrForRNNT")
    theirs.save_pretrained(tmp_path / "theirs")
    config = read_transformers_checkpoint(tmp_path / "theirs").config
    assert (config.prompt_languages, config.default_language) == ({"auto": 2}, "auto")
    languages = {"en-US": 0, "en": 0, "de-DE": 1, "fr-FR": 2}
    (tmp_path / "theirs" / "processor_config.json").write_text(json.dumps({"prompt_dictionary": languages}))
    convert_transformers_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    ours = load_ours(tmp_path / "ours")
    assert (ours.config.prompt_languages, ours.config.default_language) == (languages, "fr-FR")
    features, mask = masked_features()
    prompts = torch.tensor([1, 0, 2, 1])
    with torch.no_grad():
        expected = theirs.get_audio_features(features, attention_mask=mask, prompt_ids=prompts).pooler_output
        encoded = ours.encode(features, attention_mask=mask, language=["de-DE", "en", "fr-FR", "de-DE"])
        found = ours.joint.encoder_proj(encoded.last_hidden_state)
    for clip, frames in enumerate(encoded.encoder_lengths):
        assert_close(found[clip, :frames], expected[clip, :frames])


def test_auto_model_of_their_folder_stays_theirs(tmp_path: Path) -> None:
    theirs = build_their_model("ParakeetForCTC")
    theirs.save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is type(theirs)
    assert type(transformers.AutoModelForCTC.from_pretrained(tmp_path)) is type(theirs)


SPOILED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"model_type": "whisper"}, "model_type='whisper'.*parakeet_ctc"),
    ({"colour": "blue"}, "colour='blue'"),
    ({"pad_token_id": 3}, "pad_token_id=3.*10, the last class"),
    ({"encoder_config": {"conv_norm_type": "layer_norm"}}, "conv_norm_type='layer_norm'"),
    ({"encoder_config": {"num_key_value_heads": 1}}, "num_key_value_heads=1.*2"),
    ({"encoder_config": {"model_type": "whisper"}}, "encoder_config.model_type='whisper'.*'parakeet_encoder'"),
    ({"encoder_config": {"hidden_size": 32}}, "tensors of the wrong shape: ctc_head.weight is .*expected"),
    ({"encoder_config": {"num_hidden_layers": 3}}, "missing tensors: encoder.layers.2"),
    ({"encoder_config": {"num_hidden_layers": 1}}, "tensors that are not supported: encoder.layers.1"),
    ({"encoder_config": {"conv_kernel_size": 4}}, "conv_kernel_size=4.*odd"),
)


@pytest.mark.parametrize(("changes", "message"), SPOILED)
def test_what_cannot_be_read_is_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    build_their_model("ParakeetForCTC").save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    config = json.loads(path.read_text())
    config["encoder_config"] |= changes.get("encoder_config", {})
    path.write_text(json.dumps({**config, **changes, "encoder_config": config["encoder_config"]}))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        convert_transformers_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    assert [child.name for child in tmp_path.iterdir()] == ["theirs"]


def test_weights_that_are_missing_broken_or_elsewhere_are_refused(tmp_path: Path) -> None:
    build_their_model("ParakeetForCTC").save_pretrained(tmp_path / "theirs")
    weights = tmp_path / "theirs" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-7])
    with pytest.raises(ValueError, match=r"model\.safetensors is cut off: it has \d+ bytes, expected \d+"):
        read_transformers_checkpoint(tmp_path / "theirs")
    weights.unlink()
    with pytest.raises(ValueError, match="no weights found"):
        read_transformers_checkpoint(tmp_path / "theirs")
    index = tmp_path / "theirs" / "model.safetensors.index.json"
    for content, message in (
        ({"weight_map": {"ctc_head.weight": "../elsewhere.safetensors"}}, "elsewhere"),
        ({"weight_map": {"ctc_head.weight": 3}}, r"index\.json: no 'weight_map' of tensors to file names found"),
        ({"weight_map": ["model.safetensors"]}, r"index\.json: no 'weight_map' of tensors to file names found"),
        ({}, r"index\.json: no 'weight_map' of tensors to file names found"),
        ([], r"index\.json: found list; expected an object"),
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            read_transformers_checkpoint(tmp_path / "theirs")
