"""Checkpoints for Transformers' own classes, compared by running those classes; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from interop_cases import (
    BETWEEN,
    PROMPTS,
    STREAMING,
    TRANSDUCERS,
    WRITTEN,
    assert_close,
    assert_same_decoder,
    assert_same_encoder,
    assert_same_joint,
    assert_same_tokens,
    build_ours,
    build_their_extractor,
    load_ours,
    load_theirs,
    masked_features,
    state_of,
)
from models import BLANK, VOCAB_SIZE, build_model
from safetensors.torch import load_file, save_file
from their_models import calm_joint, class_of_transformers

from transformers_fastconformer import FastConformerFeatureExtractor, FastConformerProcessor
from transformers_fastconformer.interop.reading import convert_transformers_checkpoint, read_transformers_checkpoint
from transformers_fastconformer.interop.writing import export_to_transformers
from transformers_fastconformer.nemo.tokenizers import character_tokenizer


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in BETWEEN else []) for name in WRITTEN]
)
def test_writing_gives_our_numbers(name: str, tmp_path: Path) -> None:
    kind, overrides, head = WRITTEN[name]
    symbols = {"max_symbols_per_step": 3} if "rnnt" in kind or "tdt" in kind else {}
    ours = build_ours(kind, **overrides, **symbols)
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
    if result.class_name == "CanaryForConditionalGeneration":
        assert_same_decoder(theirs, ours)
    # And back again, to the same bits where no width had to be filled up.
    convert_transformers_checkpoint(tmp_path / "theirs", tmp_path / "back")
    back, before = state_of(load_ours(tmp_path / "back")), state_of(ours)
    if kind == "encoder":
        before = {f"encoder.{key}": tensor for key, tensor in before.items()}
    if "joint" not in name:
        assert set(back) | set(result.tensors_left_out) == set(before)
        assert all(torch.equal(tensor, before[key]) for key, tensor in back.items())


def expected_class(name: str) -> str:
    if name.startswith("multitask"):
        return "CanaryForConditionalGeneration"
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


def test_the_type_to_compute_in_is_kept(saved_model: Any, tmp_path: Path) -> None:
    """That of a folder's configuration, whatever its weights have; of a model in memory that of its weights."""
    folder = shutil.copytree(saved_model("ctc")[1], tmp_path / "ours")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors")
    export_to_transformers(folder, tmp_path / "folder")
    export_to_transformers(build_model("ctc").bfloat16(), tmp_path / "model")
    for name, expected in (("folder", "float32"), ("model", "bfloat16")):
        assert json.loads((tmp_path / name / "config.json").read_text())["dtype"] == expected
        stored = load_file(tmp_path / name / "model.safetensors")
        assert stored["ctc_head.weight"].dtype == torch.bfloat16


def test_a_folder_with_tied_position_biases_is_written(tmp_path: Path) -> None:
    ours = build_model("ctc", tie_position_biases=True)
    ours.save_pretrained(tmp_path / "ours")
    export_to_transformers(tmp_path / "ours", tmp_path / "theirs")
    assert_same_encoder(load_theirs(tmp_path / "theirs"), ours)


def test_the_losses_are_those_of_their_classes(tmp_path: Path) -> None:
    features, mask = masked_features()
    labels = torch.tensor([[3, 1, 1, 7, 0]])
    inputs = {"input_features": features[:1], "attention_mask": mask[:1]}
    for reduction in ("sum", "mean_per_token"):
        ours = build_model("ctc", ctc_loss_reduction=reduction)
        export_to_transformers(ours, tmp_path / reduction)
        expected = load_theirs(tmp_path / reduction)(**inputs, labels=labels).loss
        torch.testing.assert_close(ours(**inputs, labels=labels).loss, expected, rtol=1e-5, atol=0)
        assert read_transformers_checkpoint(tmp_path / reduction).config.ctc_loss_reduction == reduction

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
    ("tdt", {"decoding_strategy": "greedy"}, None, "decoding_strategy='greedy'.*ParakeetForTDT.*'greedy_batch'"),
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
