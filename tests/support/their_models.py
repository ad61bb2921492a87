"""Tiny models of Transformers' own classes, and ours that they can express."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from models import ENCODER_SHAPE, VOCAB_SIZE, perturb_weights

SLIDING_WINDOW, LOOK_AHEAD = 9, 3
ENCODER = {**ENCODER_SHAPE, "layerdrop": 0.0}
STREAMING_ENCODER = {**ENCODER, "sliding_window": SLIDING_WINDOW, "default_num_lookahead_tokens": LOOK_AHEAD}
TRANSDUCER = {
    "vocab_size": VOCAB_SIZE,
    "blank_token_id": VOCAB_SIZE - 1,
    "pad_token_id": 2,
    "decoder_hidden_size": 12,
    "max_symbols_per_step": 3,
}
SINUSOIDS = ("inv_freq", "positional_embedding")
CANARY_DECODER = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
DECODER_SPREAD = 3.0
# Class: the configuration's class, its arguments.
THEIR_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "ParakeetEncoder": ("ParakeetEncoderConfig", ENCODER),
    "ParakeetForCTC": (
        "ParakeetCTCConfig",
        {"vocab_size": VOCAB_SIZE, "pad_token_id": VOCAB_SIZE - 1, "encoder_config": ENCODER},
    ),
    "ParakeetForRNNT": ("ParakeetRNNTConfig", {**TRANSDUCER, "encoder_config": ENCODER}),
    "ParakeetForTDT": ("ParakeetTDTConfig", {**TRANSDUCER, "num_decoder_layers": 1, "encoder_config": ENCODER}),
    "NemotronAsrStreamingEncoder": ("NemotronAsrStreamingEncoderConfig", STREAMING_ENCODER),
    "NemotronAsrStreamingForRNNT": ("NemotronAsrStreamingConfig", {**TRANSDUCER, "encoder_config": STREAMING_ENCODER}),
    "Nemotron3_5AsrForRNNT": (
        "Nemotron3_5AsrConfig",
        {
            **TRANSDUCER,
            "num_prompts": 4,
            "default_prompt_id": 2,
            "prompt_intermediate_size": 32,
            "encoder_config": STREAMING_ENCODER,
        },
    ),
    "CanaryForConditionalGeneration": (
        "CanaryConfig",
        {"vocab_size": 16, "encoder_config": ENCODER, "decoder_config": CANARY_DECODER},
    ),
}


def class_of_transformers(name: str) -> Any:
    """A class of the installed Transformers; the test is skipped where it has none of that name."""
    found = getattr(transformers, name, None)
    if found is None:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    return found


def build_their_model(name: str, seed: int = 0, **overrides: Any) -> Any:
    """A tiny model of one of their classes in evaluation mode, every weight random."""
    model_class = class_of_transformers(name)
    config_name, values = THEIR_MODELS[name]
    model = model_class(getattr(transformers, config_name)(**{**values, **overrides})).eval()
    sinusoids = {buffer: values.clone() for buffer, values in model.named_buffers() if buffer.endswith(SINUSOIDS)}
    perturb_weights(model, seed)
    for buffer, values in sinusoids.items():
        model.get_buffer(buffer).copy_(values)
    if name.startswith("Canary"):
        enliven_decoder(model.model.decoder.layers)
    if hasattr(model, "joint"):
        calm_joint(model.joint)
        # As in the published checkpoints.
        model.generation_config.decoder_start_token_id = VOCAB_SIZE - 1
        model.generation_config.suppress_tokens = list(range(VOCAB_SIZE, model.joint.head.out_features)) or None
    return model


def enliven_decoder(layers: Any) -> None:
    """
    Let what the layers of a random prompted decoder add outweigh the last token, which the tied head would repeat.
    """
    with torch.no_grad():
        for parameter in layers.parameters():
            if parameter.ndim == 2:
                parameter.mul_(DECODER_SPREAD)


def calm_joint(joint: Any) -> None:
    """
    Let a random transducer, theirs or ours, mostly end its frames by itself: for TDT theirs has no limit of tokens a
    frame.
    """
    with torch.no_grad():
        joint.head.bias[VOCAB_SIZE - 1] += 2.0
        joint.head.bias[VOCAB_SIZE : VOCAB_SIZE + 1] = -1000.0  # the duration 0
