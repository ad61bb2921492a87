"""Adapters on named parts: which layers they get, what they train, and the checkpoint that they become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import build_model, make_features

from transformers_fastconformer import FastConformerForTDT, LoraOptions, add_lora, merge_lora

pytest.importorskip("peft", reason="peft is not installed")


def adapted_layers(model: Any) -> set[str]:
    names = {name for name, _ in model.named_parameters() if "lora_" in name}
    return {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in names}


@pytest.mark.parametrize(
    ("kind", "targets", "expected"),
    [
        ("tdt", ("attention",), {f"encoder.layers.{n}.self_attn.{p}_proj" for n in (0, 1) for p in "qkvo"}),
        ("tdt", ("joint",), {f"joint.{name}" for name in ("encoder_proj", "decoder_proj", "head")}),
        ("tdt", ("prediction_network",), {"decoder.embedding", "joint.decoder_proj"}),
        ("rnnt_stateless", (r"decoder\.embeddings\..*",), {"decoder.embeddings.0", "decoder.embeddings.1"}),
        ("ctc", (r"encoder\.layers\.1\.conv\..*",), {f"encoder.layers.1.conv.pointwise_conv{n}" for n in (1, 2)}),
    ],
)
def test_targets_by_name(kind: str, targets: tuple[str, ...], expected: set[str]) -> None:
    adapted, parameters = add_lora(build_model(kind), LoraOptions(targets, rank=2))
    assert adapted_layers(adapted) == expected
    trained = sum(parameter.numel() for name, parameter in adapted.named_parameters() if "lora_" in name)
    assert parameters.trainable == trained > 0


@pytest.mark.parametrize("kind", ["ctc", "tdt_hybrid"])
def test_the_default_is_encoder_and_heads(kind: str) -> None:
    layers = adapted_layers(add_lora(build_model(kind), LoraOptions(rank=2))[0])
    assert {"ctc_head", "encoder.layers.0.feed_forward1.linear1", "encoder.layers.1.self_attn.o_proj"} <= layers
    assert ("joint.head" in layers) == (kind == "tdt_hybrid")
    assert not any("subsampling" in name or "relative" in name for name in layers)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_adapters_come_without_warnings() -> None:
    add_lora(build_model("tdt_hybrid"), LoraOptions(rank=2))


def test_refusals() -> None:
    with pytest.raises(
        ValueError, match=r"targets='joint' matches no layer of FastConformerForCTC; expected .*ctc_head"
    ) as error:
        add_lora(build_model("ctc"), LoraOptions(("joint",)))
    assert "encoder.layers.*.self_attn.q_proj" in str(error.value)
    with pytest.raises(ValueError, match="is no regular expression"):
        add_lora(build_model("ctc"), LoraOptions(("(",)))
    with pytest.raises(ValueError, match=r"dropout=0.1 is not supported on joint.head"):
        add_lora(build_model("tdt"), LoraOptions(dropout=0.1))
    add_lora(build_model("tdt"), LoraOptions(("attention",), dropout=0.1))
    refused: dict[str, Any] = {"rank": 0, "alpha": 0, "dropout": 1, "targets": ()}
    for name, value in refused.items():
        with pytest.raises(ValueError, match=f"{name}="):
            LoraOptions(**{name: value})


def test_a_merged_model_saves_as_every_checkpoint(tmp_path: Path) -> None:
    model = build_model("tdt")
    names = set(model.state_dict())
    adapted, _ = add_lora(model, LoraOptions(("encoder", "prediction_network", "joint"), rank=2))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    features, labels = make_features([64, 50]), torch.tensor([[1, 2, 3], [4, 5, -100]])
    lengths = torch.tensor([64, 50])
    adapted.eval()
    expected = adapted(features, input_lengths=lengths, labels=labels).loss
    spoken = adapted.generate(input_features=features, input_lengths=lengths)
    assert abs(float(expected) - float(build_model("tdt")(features, input_lengths=lengths, labels=labels).loss)) > 0.1
    merge_lora(adapted).save_pretrained(tmp_path)
    loaded = FastConformerForTDT.from_pretrained(tmp_path).eval()
    assert set(loaded.state_dict()) == names
    torch.testing.assert_close(loaded(features, input_lengths=lengths, labels=labels).loss, expected)
    assert torch.equal(loaded.generate(features, input_lengths=lengths), spoken)
