"""
The time of a frame, written into the states of an encoder with relative positions: how a small one begins.

A decoder with cross-attention finds the seventh word of a clip, and says when it was, by the positions in the states
of the encoder. An encoder with relative positions has them only as far as it learns to measure the distance to the
start of the clip, which large models do in long training. Here the last layers begin with it: a channel of a
convolution marks the first frame (its kernel sees the padding before it), and each attention head of the layers after
it weighs that frame against the frame itself by a wave of their distance. Eight heads are the hands of a clock with
four wavelengths.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

#: Cosine and sine of each, in frames of 80 ms: the longest is unambiguous for 45 s, the next three refine it.
WAVELENGTHS = (1100.0, 240.0, 52.0, 13.5)
WAVE = 3.0  # of the logarithm of a weight
SELF_WEIGHT = 5.0  # the same, of a frame itself; of its neighbours somewhat less
# Logarithm of the weight of the first frame relative to a frame itself and its neighbours, at the mean of a wave.
MARKED_WEIGHT = 2.0
MARK = 1000.0  # what marks the first frame: so much that nothing else is left of it once it is normalised
HAND = 3.0  # what a head adds to a state at the most
RIDGE = 0.01  # of the mean variance of states, where they are told from the marked one
LONGEST_CLIP_FRAMES = 512
NEIGHBOURHOOD_FRAMES = 4.0  # about how far from a frame its neighbours count as the frame itself


def measure_directions(states: Tensor, count: int) -> Tensor:
    """
    Directions in which states differ least, which are free for other uses.

    Args:
        states: (frames, width).
        count: Directions to find.

    Returns:
        (count, width): orthonormal, and orthogonal to (1, ..., 1), as layer norm removes that.
    """
    width = states.shape[-1]
    covariance = torch.cov(states.double().T)
    ones = torch.ones(width, dtype=torch.float64) / math.sqrt(width)
    covariance = covariance + 1e6 * torch.outer(ones, ones)
    return torch.linalg.eigh(covariance).eigenvectors[:, :count].T.float()


@torch.no_grad()
def mark_first_frame(layer: Any, channel: int, direction: Tensor) -> None:
    """Let one channel of a layer's convolution add a mark to the first frame, and nothing elsewhere."""
    convolution = layer.conv
    width = direction.shape[0]
    for index, bias in ((channel, 1.0), (channel + width, 20.0)):  # the gated linear unit gives 1
        convolution.pointwise_conv1.weight[index].zero_()
        convolution.pointwise_conv1.bias[index] = bias
    kernel = convolution.depthwise_conv.weight
    kernel[channel].zero_()
    kernel[channel, 0, kernel.shape[-1] // 2] = 1.0
    kernel[channel, 0, kernel.shape[-1] // 2 - 1] = -1.0
    convolution.depthwise_conv.bias[channel] = 0.0
    norm = convolution.batch_norm
    norm.running_mean[channel], norm.running_var[channel] = 0.0, 1.0
    norm.weight[channel], norm.bias[channel] = 1.0, 0.0
    convolution.pointwise_conv2.weight[:, channel, 0] = MARK * direction


@torch.no_grad()
def empty_layer(layer: Any) -> None:
    """Let a layer pass its input on, normalised: what it adds begins at zero."""
    for part in (layer.feed_forward1.linear2, layer.feed_forward2.linear2, layer.conv.pointwise_conv2):
        part.weight.zero_()
        part.bias.zero_()
    layer.self_attn.linear_out.weight.zero_()
    layer.self_attn.linear_out.bias.zero_()


def fit_neighbourhood(frequencies: Tensor) -> Tensor:
    """
    Weights of cosines whose sum is near 1 for a frame and its neighbours, and near 0 for distant frames.

    Args:
        frequencies: (cosines): radians a frame.

    Returns:
        (cosines).
    """
    distances = torch.arange(LONGEST_CLIP_FRAMES, dtype=torch.float64)
    cosines = torch.cos(distances[:, None] * frequencies.double())
    wanted = torch.exp(-0.5 * (distances / NEIGHBOURHOOD_FRAMES).square())
    penalty = 0.05 * torch.eye(len(frequencies), dtype=torch.float64)
    solution = torch.linalg.solve(cosines.T @ cosines + penalty, cosines.T @ wanted)
    return (solution / solution.sum()).float()


@torch.no_grad()
def set_hands(layer: Any, waves: list[tuple[float, float]], marked: Tensor, others: Tensor, hands: Tensor) -> None:
    """
    Let each head of an empty layer weigh the marked frame by a wave of the distance to it.

    Args:
        layer: NeMo's `ConformerLayer` with relative positions.
        waves: Wavelength in frames and phase of each head.
        marked: (width,): the normalised state of the marked frame.
        others: (frames, width): normalised states of other frames.
        hands: (heads, width): the direction that each head writes to.
    """
    attention = layer.self_attn
    width, head_width = marked.shape[0], attention.d_k
    # A key is 1 for the marked frame and about 0 for others.
    difference = marked - others.mean(dim=0)
    covariance = torch.cov(others.T)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(width)
    detector = torch.linalg.solve(covariance + ridge, difference)
    detector /= detector @ difference
    offset = -float(others.mean(dim=0) @ detector)
    for linear in (attention.linear_q, attention.linear_k, attention.linear_v):
        linear.weight.zero_()
        linear.bias.zero_()
    attention.linear_pos.weight.zero_()
    attention.pos_bias_u.zero_()
    attention.pos_bias_v.zero_()
    # Position i of NeMo's encoding has the sines at even places, the cosines at odd ones.
    frequencies = torch.exp(torch.arange(0, width, 2) * -(math.log(10000.0) / width))
    neighbourhood = fit_neighbourhood(frequencies)
    neighbourhood_norm = float(neighbourhood.norm())
    scale = math.sqrt(head_width)
    for head, (wavelength, phase) in enumerate(waves):
        first = head * head_width
        nearest = int((frequencies - 2 * math.pi / wavelength).abs().argmin())
        attention.linear_k.weight[first] = detector
        attention.linear_k.bias[first] = offset
        attention.linear_v.weight[first] = detector
        attention.linear_v.bias[first] = offset
        attention.linear_pos.weight[first + 1, 1::2] = neighbourhood / neighbourhood_norm
        attention.linear_pos.weight[first + 2, 2 * nearest] = 1.0
        attention.linear_pos.weight[first + 3, 2 * nearest + 1] = 1.0
        at_self = SELF_WEIGHT + WAVE * math.cos(phase)
        attention.pos_bias_u[head, 0] = scale * (at_self + MARKED_WEIGHT)
        attention.pos_bias_v[head, 1] = scale * SELF_WEIGHT * neighbourhood_norm
        # cos(w d + phase) = cos(phase) cos(w d) - sin(phase) sin(w d)
        attention.pos_bias_v[head, 2] = -scale * WAVE * math.sin(phase)
        attention.pos_bias_v[head, 3] = scale * WAVE * math.cos(phase)
        attention.linear_out.weight[:, first] = HAND * hands[head]


@torch.no_grad()
def add_clock(encoder: Any, features: Tensor, feature_lengths: Tensor, first_layer: int) -> None:
    """
    Make the layers from `first_layer` on, two at least, measure the distance to the start of a clip.

    Args:
        encoder: NeMo's `ConformerEncoder` in evaluation mode, whose layers before `first_layer` are trained.
        features: (clips, mels, frames): some speech, to see which directions of the states are free.
        feature_lengths: (clips).
        first_layer: The first layer that is new.
    """
    layers = encoder.layers[first_layer:]
    for layer in layers:
        empty_layer(layer)

    def run() -> tuple[Tensor, Tensor]:
        """States of the first frames and of all others, normalised."""
        encoded, lengths = encoder(audio_signal=features, length=feature_lengths)
        states = torch.nn.functional.layer_norm(encoded.transpose(1, 2), encoded.shape[1:2])
        others = torch.cat([row[5:length] for row, length in zip(states, lengths.tolist(), strict=True)])
        return states[:, 0].mean(dim=0), others

    heads = encoder.layers[0].self_attn.h
    waves = [(wavelength, phase) for wavelength in WAVELENGTHS for phase in (0.0, -0.5 * math.pi)]
    directions = measure_directions(run()[1], 1 + len(waves))
    weakest = encoder.layers[first_layer - 1].conv.pointwise_conv2.weight[..., 0].norm(dim=0).argmin()
    mark_first_frame(encoder.layers[first_layer - 1], int(weakest), directions[0])
    for number, layer in enumerate(layers[: len(waves) // heads]):
        chosen = slice(number * heads, (number + 1) * heads)
        marked, others = run()
        set_hands(layer, waves[chosen], marked, others, directions[1:][chosen])
