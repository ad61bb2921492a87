"""Prediction and joint network written token by token in float64, for one clip: the truth of the batched modules."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-values))


def predict(weights: Weights, config: Any, tokens: tuple[int, ...]) -> np.ndarray:
    """Output of the prediction network behind these tokens; the start is the blank, whose embedding is zero."""
    if config.decoder_type == "stateless":
        return predict_stateless(weights, config, tokens)
    size = config.decoder_hidden_size
    hidden = [np.zeros(size) for _ in range(config.num_decoder_layers)]
    cell = [np.zeros(size) for _ in range(config.num_decoder_layers)]
    for token in (None, *tokens):
        signal = np.zeros(size) if token is None else weights["decoder.embedding.weight"][token]
        for layer in range(config.num_decoder_layers):
            gates = weights[f"decoder.lstm.weight_ih_l{layer}"] @ signal + weights[f"decoder.lstm.bias_ih_l{layer}"]
            gates += weights[f"decoder.lstm.weight_hh_l{layer}"] @ hidden[layer]
            gates += weights[f"decoder.lstm.bias_hh_l{layer}"]
            enter, forget, update, leave = gates.reshape(4, size)
            cell[layer] = sigmoid(forget) * cell[layer] + sigmoid(enter) * np.tanh(update)
            hidden[layer] = sigmoid(leave) * np.tanh(cell[layer])
            signal = hidden[layer]
    return hidden[-1]


def predict_stateless(weights: Weights, config: Any, tokens: tuple[int, ...]) -> np.ndarray:
    """The newest token's embedding first, then older ones; places before the start are blanks."""
    blank_id = config.blank_token_id
    history = [blank_id] * config.decoder_context_size + [blank_id, *tokens]
    parts = [
        weights[f"decoder.embeddings.{age}.weight"][history[-1 - age]] for age in range(config.decoder_context_size)
    ]
    output = np.concatenate(parts)
    if config.decoder_layer_norm:
        output = (output - output.mean()) / math.sqrt(output.var() + 1e-5)
    return output


def joint_logits(weights: Weights, config: Any, frame: np.ndarray, tokens: tuple[int, ...]) -> list[float]:
    """Joint outputs for one encoder frame and the tokens so far, before the softmax."""
    summed = weights["joint.encoder_proj.weight"] @ frame + weights["joint.encoder_proj.bias"]
    summed += weights["joint.decoder_proj.weight"] @ predict(weights, config, tokens)
    summed += weights["joint.decoder_proj.bias"]
    activation = {"relu": lambda values: np.maximum(values, 0.0), "tanh": np.tanh, "sigmoid": sigmoid}
    hidden = activation[config.joint_activation](summed)
    return (weights["joint.head.weight"] @ hidden + weights["joint.head.bias"]).tolist()
