"""Checkpoints of Transformers' own classes, both ways, compared by running those classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from models import BLANK, VOCAB_SIZE, build_model, make_features
from their_models import THEIR_MODELS, build_their_model, calm_joint, class_of_transformers
from tolerances import FLOAT32_SHARE
from transformers import AutoModel, PreTrainedModel

import transformers_fastconformer
from transformers_fastconformer import FastConformerFeatureExtractor, FastConformerProcessor
from transformers_fastconformer.checkpoints.key_table import Map, Read
from transformers_fastconformer.interop.config_form import config_from_transformers, config_to_transformers
from transformers_fastconformer.interop.config_tables import ENCODER, HEADS, encoder_table
from transformers_fastconformer.interop.families import FAMILIES, FAMILY_OF_TYPE
from transformers_fastconformer.interop.reading import (
    convert_transformers_checkpoint,
    is_transformers_checkpoint,
    read_transformers_checkpoint,
)
from transformers_fastconformer.interop.weight_names import name_table
from transformers_fastconformer.interop.writing import export_to_transformers
from transformers_fastconformer.nemo.tokenizer_map import character_tokenizer

LENGTHS = [97, 64, 33, 17]
TRANSDUCERS = ("ParakeetForRNNT", "ParakeetForTDT", "NemotronAsrStreamingForRNNT", "Nemotron3_5AsrForRNNT")
PROMPTS: dict[str, Any] = {
    "num_prompts": 4,
    "prompt_languages": {"en-US": 0, "de-DE": 1, "auto": 3},
    "default_language": "auto",
}
STREAMING: dict[str, Any] = {
    "causal_downsampling": True,
    "conv_norm_type": "layer_norm",
    "conv_context": [4, 0],
    "attention_context_style": "chunked_limited",
    "attention_context": [8, 3],
}
# Name: kind of `models.py`, overrides, head.
WRITTEN: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "encoder": ("encoder", {}, None),
    "model": ("model", {}, None),
    "streaming model": ("model", STREAMING, None),
    "ctc": ("ctc", {}, None),
    "ctc without biases": ("ctc", {"attention_bias": False, "convolution_bias": False, "scale_input": False}, None),
    "tied position biases": ("ctc", {"tie_position_biases": True}, None),
    "factor 4": ("ctc", {"subsampling_factor": 4}, None),
    "factor 2": ("ctc", {"subsampling_factor": 2}, None),
    "rnnt": ("rnnt", {"joint_hidden_size": 12}, None),
    "rnnt, two layers, tanh": ("rnnt_two_layers", {"joint_hidden_size": 12, "joint_activation": "tanh"}, None),
    "rnnt, wide joint": ("rnnt_two_layers", {"joint_hidden_size": 15}, None),
    "rnnt, narrow joint": ("rnnt", {"joint_hidden_size": 9, "joint_activation": "sigmoid"}, None),
    "tdt": ("tdt", {"joint_hidden_size": 12}, None),
    "streaming rnnt": ("rnnt", {"joint_hidden_size": 12, **STREAMING}, None),
    "transducer of a streaming hybrid": ("rnnt_hybrid", {"joint_hidden_size": 12, **STREAMING}, "transducer"),
    "prompted streaming rnnt": ("rnnt", {"joint_hidden_size": 12, **STREAMING, **PROMPTS}, None),
    "transducer of a hybrid": ("tdt_hybrid", {"joint_hidden_size": 12}, "transducer"),
    "ctc of a hybrid": ("tdt_hybrid_ctc", {}, "ctc"),
    "ctc of an rnnt hybrid": ("rnnt_hybrid_ctc", {}, "ctc"),
}


def masked_features() -> tuple[torch.Tensor, torch.Tensor]:
    """Features with zeros behind the clips, as their feature extractor makes them, and the mask."""
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    return make_features(LENGTHS).masked_fill(~mask[..., None], 0.0), mask


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=FLOAT32_SHARE * expected.abs().max().item())


def encoder_of(model: Any) -> Any:
    """The encoder of a model of theirs or ours."""
    if type(model).__name__.startswith("Canary"):
        return model.model.encoder
    return getattr(model, "encoder", model)


@torch.no_grad()
def assert_same_encoder(theirs: Any, ours: Any) -> None:
    features, mask = masked_features()
    found = encoder_of(ours)(features, attention_mask=mask)
    expected = encoder_of(theirs)(features, attention_mask=mask)
    assert found.encoder_lengths.tolist() == expected.attention_mask.sum(-1).tolist()
    for clip, frames in enumerate(found.encoder_lengths):
        assert_close(found.last_hidden_state[clip, :frames], expected.last_hidden_state[clip, :frames])


@torch.no_grad()
def assert_same_joint(theirs: Any, ours: Any) -> None:
    """Joint outputs for given tokens, which are what the loss is made of."""
    features, _ = masked_features()
    labels = torch.tensor([[3, 1, 1, 7, 0, 9]])
    start = torch.full((1, 1), BLANK)
    encoded = theirs.get_audio_features(
        features[:1], attention_mask=torch.ones(1, features.shape[1], dtype=torch.bool)
    )
    predictions = theirs.decoder(torch.cat([start, labels], dim=1))
    expected = theirs.joint(
        encoder_hidden_states=encoded.pooler_output[:, :, None], decoder_hidden_states=predictions[:, None]
    )
    assert_close(ours(features[:1], labels=labels).logits, expected)


@torch.no_grad()
def assert_same_tokens(theirs: Any, ours: Any) -> None:
    """What greedy decoding finds, clip by clip: theirs lets a shorter clip of a batch go on."""
    features, mask = masked_features()
    num_tokens = 0
    for clip, frames in enumerate(LENGTHS):
        inputs = {
            "input_features": features[clip : clip + 1, :frames],
            "attention_mask": mask[clip : clip + 1, :frames],
        }
        # Without a limit theirs has room for one step too few where every frame is full of tokens.
        limit = {"max_new_tokens": 500} if hasattr(theirs, "joint") else {}
        found = theirs.generate(**inputs, **limit)
        ids = getattr(found, "sequences", found)[0].tolist()
        if "CTC" in type(theirs).__name__:
            ids = [token for position, token in enumerate(ids) if position == 0 or token != ids[position - 1]]
        expected = [token for token in ids if token != BLANK]
        tokens = ours.generate(**inputs)[0].tolist()
        assert [token for token in tokens if token != BLANK] == expected
        num_tokens += len(expected)
    assert num_tokens > 0


def load_ours(folder: Path) -> Any:
    """Our model of a folder, of the class that its configuration names."""
    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    return getattr(transformers_fastconformer, name).from_pretrained(folder).eval()


def load_theirs(folder: Path) -> Any:
    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    return class_of_transformers(name).from_pretrained(folder).eval()


def state_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


# Reading


@pytest.mark.parametrize("name", THEIR_MODELS)
def test_reading_gives_their_numbers(name: str, tmp_path: Path) -> None:
    theirs = build_their_model(name)
    theirs.save_pretrained(tmp_path / "theirs")
    assert is_transformers_checkpoint(tmp_path / "theirs")
    result = convert_transformers_checkpoint(tmp_path / "theirs", tmp_path / "ours")
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
    assert bool(result.checkpoint.left_out) == (name == "CanaryForConditionalGeneration")


@pytest.mark.parametrize("name", [name for name in THEIR_MODELS if not name.startswith("Canary")])
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


# Writing


@pytest.mark.parametrize("name", WRITTEN)
def test_writing_gives_our_numbers(name: str, tmp_path: Path) -> None:
    kind, overrides, head = WRITTEN[name]
    symbols = {"max_symbols_per_step": 3} if "rnnt" in kind or "tdt" in kind else {}
    ours = build_model(kind, **overrides, **symbols)
    if hasattr(ours, "joint"):
        calm_joint(ours.joint)
    class_of_transformers(expected_class(name))
    result = export_to_transformers(ours, tmp_path / "theirs", head=head)
    assert result.class_name == expected_class(name)
    theirs = load_theirs(tmp_path / "theirs")
    assert_same_encoder(theirs, ours)
    if result.class_name in TRANSDUCERS:
        assert_same_joint(theirs, ours)
        assert_same_tokens(theirs, ours)
    if result.class_name == "ParakeetForCTC":
        features, mask = masked_features()
        with torch.no_grad():
            found, expected = theirs(features, attention_mask=mask), ours(features, attention_mask=mask)
        for clip, frames in enumerate(expected.encoder_lengths):
            assert_close(found.logits[clip, :frames], expected.logits[clip, :frames])
        assert_same_tokens(theirs, ours)
    # And back again, to the same bits where no width had to be filled up.
    convert_transformers_checkpoint(tmp_path / "theirs", tmp_path / "back")
    back, before = state_of(load_ours(tmp_path / "back")), state_of(ours)
    if kind == "encoder":
        before = {f"encoder.{key}": tensor for key, tensor in before.items()}
    if "joint" not in name:
        assert set(back) | set(result.tensors_left_out) == set(before)
        assert all(torch.equal(tensor, before[key]) for key, tensor in back.items())


def expected_class(name: str) -> str:
    if "model" in name or name == "encoder":
        return "NemotronAsrStreamingEncoder" if "streaming" in name else "ParakeetEncoder"
    if "streaming" in name:
        return "Nemotron3_5AsrForRNNT" if "prompted" in name else "NemotronAsrStreamingForRNNT"
    if name.startswith("rnnt"):
        return "ParakeetForRNNT"
    return "ParakeetForTDT" if name in ("tdt", "transducer of a hybrid") else "ParakeetForCTC"


def test_a_folder_is_written_as_the_model_that_it_holds(saved_model: Any, tmp_path: Path) -> None:
    for kind in ("ctc", "encoder", "model"):
        model, folder = saved_model(kind)
        export_to_transformers(model, tmp_path / kind / "model")
        export_to_transformers(folder, tmp_path / kind / "folder")
        from_model, from_folder = (load_theirs(tmp_path / kind / name) for name in ("model", "folder"))
        assert all(
            torch.equal(tensor, other)
            for tensor, other in zip(state_of(from_model).values(), state_of(from_folder).values(), strict=True)
        )


def test_a_folder_with_tied_position_biases_is_written(tmp_path: Path) -> None:
    ours = build_model("ctc", tie_position_biases=True)
    ours.save_pretrained(tmp_path / "ours")
    export_to_transformers(tmp_path / "ours", tmp_path / "theirs")
    assert_same_encoder(load_theirs(tmp_path / "theirs"), ours)


def test_the_losses_are_those_of_their_classes(tmp_path: Path) -> None:
    features, mask = masked_features()
    labels = torch.tensor([[3, 1, 1, 7, 0]])
    inputs = {"input_features": features[:1], "attention_mask": mask[:1]}
    ours = build_model("ctc", ctc_loss_reduction="sum")
    export_to_transformers(ours, tmp_path / "ctc")
    expected = load_theirs(tmp_path / "ctc")(**inputs, labels=labels).loss
    torch.testing.assert_close(ours(**inputs, labels=labels).loss, expected, rtol=1e-5, atol=0)

    if not hasattr(transformers, "ParakeetForRNNT"):
        return  # the TDT loss of those releases fails in the oldest torch
    ours = build_model("tdt", joint_hidden_size=12, sigma=0.0)
    export_to_transformers(ours, tmp_path / "tdt")
    decoder_input_ids = torch.cat([torch.full((1, 1), BLANK), labels], dim=1)
    expected = load_theirs(tmp_path / "tdt")(**inputs, labels=labels, decoder_input_ids=decoder_input_ids).loss
    # Theirs is the mean over the tokens, ours NeMo's `mean_batch`.
    torch.testing.assert_close(ours(**inputs, labels=labels).loss, expected * labels.shape[1], rtol=1e-5, atol=0)


def test_what_their_classes_need_to_generate_is_written(tmp_path: Path) -> None:
    export_to_transformers(build_model("tdt", joint_hidden_size=12), tmp_path / "tdt")
    generation = json.loads((tmp_path / "tdt" / "generation_config.json").read_text())
    assert generation["decoder_start_token_id"] == generation["pad_token_id"] == BLANK
    assert generation["suppress_tokens"] == list(range(VOCAB_SIZE, VOCAB_SIZE + 5))


# Refusing

REFUSED: tuple[tuple[str, dict[str, Any], str | None, str], ...] = (
    ("ctc", {"subsampling_type": "striding"}, None, "subsampling_type='striding'.*ParakeetForCTC.*'dw_striding'"),
    ("ctc", {"subsampling_type": "stacking"}, None, "subsampling_type='stacking'"),
    ("ctc", {"reduction_type": "pooling", "reduction_position": 0, "reduction_factor": 2}, None, "reduction_type"),
    ("ctc", {"position_embedding_type": "abs_pos"}, None, "position_embedding_type='abs_pos'"),
    (
        "ctc",
        {"position_embedding_type": "rel_pos_local_attn", "attention_context": [4, 4]},
        None,
        "position_embedding_type='rel_pos_local_attn'",
    ),
    ("ctc", {"conv_norm_type": "layer_norm"}, None, "conv_norm_type='layer_norm'.*'batch_norm'"),
    ("ctc", {"conv_norm_type": "group_norm", "conv_norm_groups": 2}, None, "conv_norm_type='group_norm'"),
    ("ctc", {"conv_context": [4, 0]}, None, r"conv_context=\[4, 0\].*\[2, 2\]"),
    ("ctc", {"attention_context": [8, 8]}, None, r"attention_context=\[8, 8\].*\[-1, -1\]"),
    ("ctc", {"num_mel_bins": 12}, None, "num_mel_bins=12.*multiple of subsampling_factor=8"),
    ("ctc", {"encoder_output_size": 12}, None, "encoder_output_size=12.*None or 16"),
    ("ctc", {"has_speaker_kernel": True}, None, "has_speaker_kernel=True"),
    ("ctc", STREAMING, None, "causal_downsampling=True.*fastconformer_ctc.*NemotronAsrStreamingForRNNT"),
    ("tdt", STREAMING, None, "causal_downsampling=True.*fastconformer_tdt"),
    ("rnnt", {**STREAMING, "conv_norm_type": "batch_norm"}, None, "conv_norm_type='batch_norm'.*'layer_norm'"),
    ("rnnt", {**STREAMING, "attention_context_style": "regular"}, None, "attention_context_style='regular'"),
    ("rnnt", {**STREAMING, "conv_context": [2, 2]}, None, r"conv_context=\[2, 2\].*\[4, 0\]"),
    ("rnnt", {**STREAMING, "attention_context": [-1, 3]}, None, r"attention_context=\[-1, 3\]"),
    ("rnnt_stateless", {}, None, "decoder_type='stateless'.*'lstm'"),
    ("rnnt", PROMPTS, None, "num_prompts=4.*ParakeetForRNNT.*0"),
    ("rnnt_hybrid", {**STREAMING, **PROMPTS}, "ctc", "causal_downsampling=True.*head='ctc'"),
    ("rnnt", {**STREAMING, **PROMPTS, "default_language": None}, None, "default_language=None.*'auto', 'de-DE'"),
    ("tdt_far", {}, None, r"durations=\[0, 2, 4, 8\].*\[0, 1, 2, 3\]"),
    ("tdt_hybrid", {}, None, "has_ctc_head=True.*head='transducer' or head='ctc'"),
    ("tdt", {}, "ctc", "head='ctc'.*None"),
    ("tdt_hybrid", {}, "tdt", "head='tdt'.*'ctc', 'transducer'"),
)


@pytest.mark.parametrize(("kind", "overrides", "head", "message"), REFUSED)
def test_what_their_classes_cannot_express_is_refused_by_name(
    kind: str, overrides: dict[str, Any], head: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        export_to_transformers(build_model(kind, **overrides), tmp_path / "theirs", head=head)
    assert not any(tmp_path.iterdir())


def test_what_timestamps_alone_need_is_left_out_and_named(tmp_path: Path) -> None:
    build_their_extractor(class_of_transformers("ParakeetFeatureExtractor"), 8)
    tokenizer = character_tokenizer(list("abcdefghij"))
    extractor = FastConformerFeatureExtractor(feature_size=8)
    processor = FastConformerProcessor(extractor, tokenizer, word_separator="|", segment_gap_frames=4)
    result = export_to_transformers(build_model("ctc"), tmp_path / "theirs", processor=processor)
    assert set(result.options_left_out) == {"word_separator", "segment_gap_frames"}
    read = read_transformers_checkpoint(tmp_path / "theirs")
    again = read.read_processor()
    assert again is not None
    assert again.tokenizer.text_options == tokenizer.text_options


def test_what_training_alone_needs_is_left_out_and_named(tmp_path: Path) -> None:
    model = build_model(
        "ctc", dropout_pre_encoder=0.3, layerdrop=0.2, attention_contexts=[[-1, -1], [8, 8]], ctc_loss_reduction="sum"
    )
    result = export_to_transformers(model, tmp_path / "theirs")
    assert set(result.options_left_out) == {"attention_contexts", "dropout_pre_encoder"}
    assert load_theirs(tmp_path / "theirs").config.encoder_config.layerdrop == 0.0


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
    with pytest.raises(ValueError, match=r"model\.safetensors: .*expected a safetensors file"):
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


def test_a_folder_in_use_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    model = build_model("ctc")
    with pytest.raises(ValueError, match="not empty"):
        export_to_transformers(model, tmp_path / "used")
    export_to_transformers(model, tmp_path / "used", overwrite=True)
    assert load_theirs(tmp_path / "used").config.model_type == "parakeet_ctc"
    assert not (tmp_path / "used" / "notes.txt").exists()


def test_a_class_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers_fastconformer.interop.writing.transformers", SimpleNamespace(__version__="5"))
    with pytest.raises(ValueError, match="ParakeetForCTC is not in transformers 5; expected a release that has it"):
        export_to_transformers(build_model("ctc"), tmp_path / "theirs")


# The tables


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_the_tables_know_every_key_of_their_configurations(family: Any) -> None:
    config_class = class_of_transformers(family.config_class_name)
    values = config_class().to_dict()
    section = values if family.is_encoder_alone else values["encoder_config"]
    tables = [(encoder_table(family.model_type), section)]
    if not family.is_encoder_alone:
        tables.append((HEADS[family.model_type], values))
    for table, stored in tables:
        for key, row in table.items():
            if key in stored and isinstance(row, Map | Read) and key != "encoder_config":
                found = stored[key]
                assert (list(found) if isinstance(row.default, list) else found) == row.default, key
    read_family, config = config_from_transformers(values)
    assert read_family is family
    if family.is_written:
        again, written = config_to_transformers(config)
        assert again is family
        stored = written if family.is_encoder_alone else written["encoder_config"]
        assert all(stored[key] == section[key] for key, row in ENCODER.items() if isinstance(row, Map))


def test_no_two_keys_are_one_option() -> None:
    for table in (ENCODER, *HEADS.values()):
        targets = [row.targets for row in table.values() if isinstance(row, Map)]
        assert len(set(targets)) == len(targets)


@pytest.mark.parametrize("name", WRITTEN)
def test_names_map_there_and_back(name: str) -> None:
    kind, overrides, head = WRITTEN[name]
    model = build_model(kind, **overrides)
    family, _ = config_to_transformers(model.config, head)
    table = name_table(family, model.config)
    names = [key if kind != "encoder" else f"encoder.{key}" for key in model.state_dict()]
    mapped = {ours: table.to_theirs(ours) for ours in names}
    for ours, found in mapped.items():
        if found is not None:
            back = table.to_ours(found[0])
            assert back is not None
            assert back == (ours, found[1])
    theirs = [found[0] for found in mapped.values() if found is not None]
    assert len(set(theirs)) == len(theirs)


# Feature extractors


def build_their_extractor(extractor_class: Any, num_mels: int) -> Any:
    try:
        return extractor_class(feature_size=num_mels)
    except ImportError as error:  # older releases compute their filters with librosa
        pytest.skip(str(error).strip().splitlines()[0])


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


def test_every_family_has_its_model_type_once() -> None:
    assert len(FAMILY_OF_TYPE) == len(FAMILIES)
