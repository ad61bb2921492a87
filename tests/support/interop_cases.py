"""Models of theirs and ours next to one another: cases to write, and what must be the same."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import BLANK, build_model, make_features
from multitask_models import build_multitask
from their_models import class_of_transformers
from transformers import PreTrainedModel

import transformers_fastconformer

LENGTHS = [97, 64, 33, 17]
TOLERANCE = 5e-6  # of the largest magnitude
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
    "multitask": ("multitask", {}, None),
    "multitask, gelu": ("multitask", {"decoder_activation": "gelu", "num_decoder_layers": 1}, None),
}
# Cases each part of which another one has too.
BETWEEN = (
    "model",
    "factor 2",
    "rnnt",
    "rnnt, narrow joint",
    "transducer of a streaming hybrid",
    "ctc of an rnnt hybrid",
    "multitask, gelu",
)
# Of a Canary that their class can be.
MULTITASK: dict[str, Any] = {
    "decoder_hidden_size": 32,
    "num_transformer_encoder_layers": 0,
    "max_generation_delta": -1,  # theirs has no such limit
}


def build_ours(kind: str, **overrides: Any) -> Any:
    """A tiny model of a kind of `WRITTEN`."""
    if kind != "multitask":
        return build_model(kind, **overrides)
    return build_multitask(**{**MULTITASK, "spread": 3.0, **overrides})


def masked_features(num_mels: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Features with zeros behind the clips, as their feature extractor makes them, and the mask."""
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    features = torch.cat([make_features(LENGTHS, seed) for seed in range(num_mels // 8)], dim=-1)
    return features.masked_fill(~mask[..., None], 0.0), mask


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * expected.abs().max().item())


def encoder_of(model: Any) -> Any:
    """The encoder of a model of theirs or ours."""
    if type(model).__name__.startswith("Canary"):
        return model.model.encoder
    return getattr(model, "encoder", model)


@torch.no_grad()
def assert_same_encoder(theirs: Any, ours: Any) -> None:
    features, mask = masked_features(ours.config.num_mel_bins)
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
    assert_close(ours(features[:1], labels=labels, output_logits=True).logits, expected)


@torch.no_grad()
def assert_same_decoder(theirs: Any, ours: Any) -> None:
    """Logits of a prompted decoder for given tokens, and the ids that both write greedily after a prompt."""
    config = ours.config
    features, mask = masked_features(config.num_mel_bins)
    inputs = {"input_features": features, "attention_mask": mask}
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, config.num_tokens, (len(LENGTHS), 24), generator=generator)
    found, expected = (model(**inputs, decoder_input_ids=tokens).logits for model in (ours, theirs))
    assert_close(found, expected)
    prompt = [config.decoder_start_token_id, 9, 10, 11]
    sequences = theirs.generate(**inputs, decoder_input_ids=torch.tensor([prompt] * len(LENGTHS)), max_new_tokens=20)
    written = ours.generate(**inputs, prompt_ids=prompt, max_new_tokens=20).tolist()
    rows = sequences[:, len(prompt) :].tolist()
    ends = {config.eos_token_id, config.pad_token_id}
    rows = [[*itertools.takewhile(lambda token: token not in ends, row)] for row in rows]
    assert [[*itertools.takewhile(lambda token: token not in ends, row)] for row in written] == rows
    assert len({token for row in rows for token in row}) > 2
    assert len({tuple(row) for row in rows}) > 1


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


def build_their_extractor(extractor_class: Any, num_mels: int) -> Any:
    try:
        return extractor_class(feature_size=num_mels)
    except ImportError as error:  # older releases compute their filters with librosa
        pytest.skip(str(error).strip().splitlines()[0])
