"""Archives as they are met: adapters, events, language tags, old layouts. NeMo makes them or says what is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import rewrite_archive
from families import event_tokenizer, tagged_tokenizer

from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.converted_runner import ConvertedRunner
from transformers_fastconformer.nemo.inspection import inspect_checkpoint
from transformers_fastconformer.nemo.reference import NemoRunner
from transformers_fastconformer.nemo.stage_comparison import compare_outputs
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor

pytestmark = pytest.mark.nemo


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [0.1 * generator.standard_normal(samples).astype(np.float32) for samples in (24000, 17111)]


def assert_equal_to_nemo(archive: Path, folder: Path, clips: list[np.ndarray]) -> None:
    reference = NemoRunner(archive).run("clips", clips)
    ours = ConvertedRunner(folder, attn_implementation="eager").run("clips", clips, reference.joint_targets)
    failures = [row for row in compare_outputs([reference], [ours]) if not row.passed]
    assert not failures, failures


def build_with_adapter(build_nemo_model: Callable[..., Any], enabled: bool, target: str, kind: str) -> Any:
    from nemo.collections.asr.parts.submodules import adapters
    from nemo.collections.common.parts.adapter_modules import LinearAdapterConfig

    model = build_nemo_model(
        "rnnt", encoder={"_target_": "nemo.collections.asr.modules.conformer_encoder.ConformerEncoderAdapter"}
    )
    options = {
        "LinearAdapter": lambda: LinearAdapterConfig(in_features=32, dim=4),
        "RelPositionMultiHeadAttentionAdapter": lambda: adapters.RelPositionMultiHeadAttentionAdapterConfig(
            n_head=4, n_feat=32, dropout_rate=0.0, proj_dim=8
        ),
    }
    model.add_adapter(target, cfg=options[kind]())
    for name, parameter in model.named_parameters():
        if "adapter_layer" in name:
            torch.nn.init.normal_(parameter)
    model.set_enabled_adapters(enabled=enabled)
    return model.eval()


@pytest.mark.parametrize(
    ("target", "kind", "tensors_in_block"),
    [
        ("accent", "LinearAdapter", 4),  # norm with two tensors, two linear layers
        ("encoder:accent", "LinearAdapter", 4),
        ("accent", "RelPositionMultiHeadAttentionAdapter", 13),
    ],
)
def test_an_adapter_in_use_is_refused_and_one_that_is_off_left_out(
    build_nemo_model: Callable[..., Any],
    clips: list[np.ndarray],
    tmp_path: Path,
    target: str,
    kind: str,
    tensors_in_block: int,
) -> None:
    for enabled in (True, False):
        path = tmp_path / f"{enabled}.nemo"
        build_with_adapter(build_nemo_model, enabled, target, kind).save_to(str(path))
        if enabled:
            with pytest.raises(ValueError, match=rf"adapters\.accent \({kind}\) is in use and not supported"):
                convert_nemo_checkpoint(path, tmp_path / "out")
            assert "is in use and not supported" in str(inspect_checkpoint(path).refusal)
            continue
        result = convert_nemo_checkpoint(path, tmp_path / "out")
        dropped = [name for name in result.dropped_tensors if ".adapter_layer.accent." in name]
        assert len(dropped) == 2 * tensors_in_block
        assert_equal_to_nemo(path, tmp_path / "out", clips)


def test_events_are_seen_and_not_in_the_text(build_nemo_model: Callable[..., Any], tmp_path: Path) -> None:
    model = build_nemo_model("rnnt", nemo_class="EncDecRNNTBPEEOUModel", tokenizer=event_tokenizer)
    model.save_to(str(tmp_path / "model.nemo"))
    convert_nemo_checkpoint(tmp_path / "model.nemo", tmp_path / "out")
    assert "events <EOU>, <EOB>" in str(inspect_checkpoint(tmp_path / "model.nemo").tokenizer)
    processor = FastConformerProcessor.from_pretrained(tmp_path / "out")
    tokenizer = processor.tokenizer
    assert tokenizer.event_token_ids == {model.eou_token, model.eob_token}
    spoken = model.tokenizer.text_to_ids("one two")
    ids = [*spoken, model.eou_token, *model.tokenizer.text_to_ids("three"), model.eob_token]
    assert tokenizer.decode(ids, skip_special_tokens=False) == model.tokenizer.ids_to_text(ids)
    assert "<EOU>" not in tokenizer.decode(ids, skip_special_tokens=True)
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == ["one", "two", "three"]


def test_language_tags_are_stripped_as_nemo_strips_them(build_nemo_model: Callable[..., Any], tmp_path: Path) -> None:
    for strips in (True, False):
        model = build_nemo_model("rnnt", tokenizer=tagged_tokenizer, decoding={"strip_lang_tags": strips})
        path, folder = tmp_path / f"{strips}.nemo", tmp_path / f"{strips}"
        model.save_to(str(path))
        convert_nemo_checkpoint(path, folder)
        tokenizer = FastConformerProcessor.from_pretrained(folder).tokenizer
        ids = model.tokenizer.text_to_ids("one two<de-DE> three <en-US>")
        found = tokenizer.decode(ids)
        assert found == model.decoding.decode_tokens_to_str_with_strip_punctuation(ids)
        assert ("<de-DE>" in found) == (not strips)


@pytest.mark.parametrize("kind", ["ctc", "rnnt", "hybrid_tdt_ctc"])
def test_old_layouts(build_nemo_model: Callable[..., Any], clips: list[np.ndarray], tmp_path: Path, kind: str) -> None:
    """No `target`, no `decoding`, sections of long ago, `./` before every member, artifacts hashed once more."""
    plain, old = tmp_path / "plain.nemo", tmp_path / "old.nemo"
    build_nemo_model(kind).save_to(str(plain))

    def change(config: dict[str, Any]) -> None:
        del config["target"]
        if kind != "hybrid_tdt_ctc":
            config.pop("decoding", None)
        config.pop("nemo_version", None)
        config["spec_augment"] = {"cls": "nemo.collections.asr.modules.SpectrogramAugmentation", "params": {}}
        config["some_section_of_long_ago"] = {"a": [1, 2]}
        config["encoder"] = {"cls": config["encoder"].pop("_target_"), "params": config["encoder"]}

    def rename(name: str) -> str:
        name = name.removeprefix("./")
        return f"./{name}" if name.startswith("model_") else f"./{'0' * 32}_{name}"

    rewrite_archive(plain, old, change, rename)
    assert inspect_checkpoint(old).is_convertible
    result = convert_nemo_checkpoint(old, tmp_path / "out")
    assert result.mapped.nemo_class is None
    assert result.mapped.family == kind
    assert_equal_to_nemo(plain, tmp_path / "out", clips)


def test_the_encoder_of_any_model(
    nemo_archive: Callable[..., tuple[Any, Path]], clips: list[np.ndarray], tmp_path: Path
) -> None:
    _, path = nemo_archive("hybrid_tdt_ctc")
    result = convert_nemo_checkpoint(path, tmp_path / "out", encoder_only=True)
    assert list(result.parts_left_out) == ["ctc_decoder", "decoder", "joint"]
    nemo = NemoRunner(path)
    nemo.heads = []
    reference = nemo.run("clips", clips)
    ours = ConvertedRunner(tmp_path / "out", attn_implementation="eager").run("clips", clips, [])
    rows = compare_outputs([reference], [ours])
    assert all(row.passed for row in rows)
    assert {row.stage for row in rows} == {"features", "subsampling", "block 0", "block 1", "encoder"}


def test_nemo_cannot_start_an_lstm_with_a_projection(build_nemo_model: Callable[..., Any]) -> None:
    """Why `rnn_hidden_size` is refused: the states that NeMo 3.0 decodes from have another width than its LSTM."""
    model = build_nemo_model("rnnt", decoder={"prednet": {"rnn_hidden_size": 40}})
    start = torch.full((1, 1), model.decoder.blank_idx)
    state = model.decoder.initialize_state(torch.zeros(1, 1))
    with pytest.raises(RuntimeError, match="size"):
        model.decoder.predict(start, state, add_sos=False)
