"""
The FastConformer encoder written as loops over single numbers, in float64: slow, plain, the truth of the fast one.

One clip at a time and without padding, so that there is no mask: batches are held to the clips alone. Only group and
instance norm see more than the clip: NeMo has one masked mel frame behind a clip alone, which may make one encoder
frame more, and takes their statistics over that frame too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


def encode_clip(weights: Weights, config: Any, features: np.ndarray) -> list[np.ndarray]:
    """
    Args:
        weights: State dict of a `FastConformerEncoder`, as arrays.
        config: Its configuration.
        features: (mel frames, mels) of one clip.

    Returns:
        Input of the first block, output of each block, and the encoder's output: (frames, width) each.
    """
    frames = subsample(weights, config, features.astype(np.float64))
    has_frame_more = len(subsample(weights, config, np.vstack([features, 0.0 * features[:1]]))) > len(frames)
    if config.scale_input:
        frames = frames * math.sqrt(config.hidden_size)
    if config.position_embedding_type == "abs_pos":
        frames = np.array([frame + sinusoid(t, config.hidden_size) for t, frame in enumerate(frames)])
    stages = [frames]
    for index in range(config.num_hidden_layers):
        frames = block(part(weights, f"layers.{index}."), config, frames, has_frame_more)
        if index == config.reduction_position and config.reduction_type is not None:
            frames = reduce_frames(weights, config, frames)
        stages.append(frames)
    if "output_proj.weight" in weights:
        frames = linear(part(weights, "output_proj."), frames)
    if config.reduction_position == -1 and config.reduction_type is not None:
        frames = reduce_frames(weights, config, frames)
    return [*stages, frames]


def part(weights: Weights, prefix: str) -> Weights:
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}


def linear(weights: Weights, frames: np.ndarray) -> np.ndarray:
    matrix, bias = weights["weight"], weights.get("bias")
    output = np.zeros((len(frames), len(matrix)))
    for t, frame in enumerate(frames):
        for row in range(len(matrix)):
            output[t, row] = np.dot(matrix[row], frame) + (0.0 if bias is None else bias[row])
    return output


def layer_norm(weights: Weights, frames: np.ndarray) -> np.ndarray:
    output = np.zeros_like(frames)
    for t, frame in enumerate(frames):
        mean = sum(frame) / len(frame)
        variance = sum((value - mean) ** 2 for value in frame) / len(frame)
        output[t] = (frame - mean) / math.sqrt(variance + 1e-5) * weights["weight"] + weights["bias"]
    return output


def silu(values: np.ndarray) -> np.ndarray:
    return values / (1.0 + np.exp(-values))


def sinusoid(position: int, size: int) -> np.ndarray:
    """Sines of falling frequency in the even places, cosines in the odd ones."""
    return np.array(
        [
            (math.sin if place % 2 == 0 else math.cos)(position / 10000.0 ** ((place - place % 2) / size))
            for place in range(size)
        ]
    )


# The front


def subsample(weights: Weights, config: Any, features: np.ndarray) -> np.ndarray:
    own = part(weights, "subsampling.")
    factor = config.subsampling_factor
    if config.subsampling_type == "none":
        return linear(part(own, "linear."), features)
    if config.subsampling_type in ("stacking", "stacking_norm"):
        if config.subsampling_type == "stacking_norm":
            features = layer_norm(part(own, "norm."), features)
        stacks = [np.concatenate(features[t * factor : (t + 1) * factor]) for t in range(len(features) // factor)]
        return linear(part(own, "linear."), np.array(stacks).reshape(len(stacks), -1))
    return convolve(own, config.subsampling_type, factor, features, (2, 1) if config.causal_downsampling else (1, 1))


def convolve(
    weights: Weights, subsampling_type: str, factor: int, frames: np.ndarray, padding: tuple[int, int]
) -> np.ndarray:
    planes = frames[None]  # (channels, frames, mels)
    position = 0
    while factor > 1:
        layer = part(weights, f"conv_layers.{position}.")
        is_depthwise = layer["weight"].shape[1] == 1 and len(planes) > 1
        planes = strided_convolution(layer, planes, padding, is_depthwise)
        if subsampling_type == "dw_striding" and position > 0:
            position += 1
            pointwise = part(weights, f"conv_layers.{position}.")
            mixed = np.zeros_like(planes)
            for out in range(len(planes)):
                for channel in range(len(planes)):
                    mixed[out] += pointwise["weight"][out, channel, 0, 0] * planes[channel]
                mixed[out] += pointwise["bias"][out]
            planes = mixed
        planes = np.maximum(planes, 0.0)
        position += 2
        factor //= 2
    flat = [np.concatenate([plane[t] for plane in planes]) for t in range(planes.shape[1])]
    return linear(part(weights, "linear."), np.array(flat))


def strided_convolution(
    weights: Weights, planes: np.ndarray, padding: tuple[int, int], is_depthwise: bool
) -> np.ndarray:
    kernel, bias = weights["weight"], weights["bias"]
    before, after = padding
    _, num_frames, num_mels = planes.shape
    shape = len(kernel), (num_frames + before + after - 3) // 2 + 1, (num_mels + before + after - 3) // 2 + 1
    output = np.zeros(shape)
    for out, row, column in np.ndindex(shape):
        total = bias[out]
        for channel in [out] if is_depthwise else range(len(planes)):
            for i in range(3):
                for j in range(3):
                    t, mel = 2 * row + i - before, 2 * column + j - before
                    if 0 <= t < num_frames and 0 <= mel < num_mels:
                        total += kernel[out, 0 if is_depthwise else channel, i, j] * planes[channel, t, mel]
        output[out, row, column] = total
    return output


def reduce_frames(weights: Weights, config: Any, frames: np.ndarray) -> np.ndarray:
    factor = config.reduction_factor
    if config.reduction_type == "pooling":
        return np.array([frames[t * factor : (t + 1) * factor].max(axis=0) for t in range(len(frames) // factor)])
    return convolve(part(weights, "reduction."), "striding", factor, frames, (1, 1))


# The block


def block(weights: Weights, config: Any, frames: np.ndarray, has_frame_more: bool) -> np.ndarray:
    frames = frames + 0.5 * feed_forward(
        part(weights, "feed_forward1."), layer_norm(part(weights, "norm_feed_forward1."), frames)
    )
    frames = frames + attention(
        part(weights, "self_attn."), config, layer_norm(part(weights, "norm_self_att."), frames)
    )
    normed = layer_norm(part(weights, "norm_conv."), frames)
    frames = frames + convolution(part(weights, "conv."), config, normed, has_frame_more)
    frames = frames + 0.5 * feed_forward(
        part(weights, "feed_forward2."), layer_norm(part(weights, "norm_feed_forward2."), frames)
    )
    return layer_norm(part(weights, "norm_out."), frames)


def feed_forward(weights: Weights, frames: np.ndarray) -> np.ndarray:
    return linear(part(weights, "linear2."), silu(linear(part(weights, "linear1."), frames)))


def sees(config: Any, query: int, key: int) -> bool:
    """Whether attention may look from one frame at another."""
    context, style = config.attention_context, config.attention_context_style
    if style == "chunked_limited_with_rc":
        left, chunk, right = context
        if max(context) < 0:
            return True
        first = query // chunk * chunk
        return first - left <= key < first + chunk + right
    left, right = context
    if style == "chunked_limited" and right >= 0:
        chunk = right + 1
        chunks_back = query // chunk - key // chunk
        return chunks_back >= 0 and (left < 0 or chunks_back <= left // chunk)
    return (left < 0 or query - key <= left) and (right < 0 or key - query <= right)


def attention(weights: Weights, config: Any, frames: np.ndarray) -> np.ndarray:
    size, num_heads = config.hidden_size, config.num_attention_heads
    width = size // num_heads
    queries, keys, values = (linear(part(weights, f"{name}_proj."), frames) for name in "qkv")
    context = np.zeros_like(frames)
    for head in range(num_heads):
        own = slice(head * width, (head + 1) * width)
        for i in range(len(frames)):
            visible = [j for j in range(len(frames)) if sees(config, i, j)]
            scores = []
            for j in visible:
                query, key = queries[i, own], keys[j, own]
                if config.position_embedding_type == "abs_pos":
                    score = np.dot(query, key)
                else:
                    distance = linear(part(weights, "relative_k_proj."), sinusoid(i - j, size)[None])[0, own]
                    score = np.dot(query + weights["bias_u"][head], key)
                    score += np.dot(query + weights["bias_v"][head], distance)
                scores.append(score / math.sqrt(width))
            if not visible:
                continue
            shares = [math.exp(score - max(scores)) for score in scores]
            for j, share in zip(visible, shares, strict=True):
                context[i, own] += share / sum(shares) * values[j, own]
    return linear(part(weights, "o_proj."), context)


def convolution(weights: Weights, config: Any, frames: np.ndarray, has_frame_more: bool) -> np.ndarray:
    size = config.hidden_size
    projected = linear(part(weights, "pointwise_conv1."), frames)
    gated = projected[:, :size] / (1.0 + np.exp(-projected[:, size:]))
    before = config.conv_padding[0]
    output = np.zeros((len(gated) + has_frame_more, size))
    for t in range(len(output)):
        for channel in range(size):
            total = weights["depthwise_conv.bias"][channel] if "depthwise_conv.bias" in weights else 0.0
            for tap in range(config.conv_kernel_size):
                if 0 <= t + tap - before < len(gated):
                    total += weights["depthwise_conv.weight"][channel, 0, tap] * gated[t + tap - before, channel]
            output[t, channel] = total
    normed = conv_norm(part(weights, "norm."), config, output)[: len(frames)]
    return linear(part(weights, "pointwise_conv2."), silu(normed))


def conv_norm(weights: Weights, config: Any, frames: np.ndarray) -> np.ndarray:
    kind = config.conv_norm_type
    if kind == "layer_norm":
        return layer_norm(weights, frames)
    if kind == "fused_batch_norm":
        return frames * weights["weight"] + weights["bias"]
    if kind == "batch_norm":
        centred = (frames - weights["running_mean"]) / np.sqrt(weights["running_var"] + 1e-5)
        return centred * weights["weight"] + weights["bias"]
    groups = config.hidden_size if kind == "instance_norm" else config.conv_norm_groups
    output = np.zeros_like(frames)
    width = config.hidden_size // groups
    for group in range(groups):
        own = slice(group * width, (group + 1) * width)
        output[:, own] = (frames[:, own] - frames[:, own].mean()) / np.sqrt(frames[:, own].var() + 1e-5)
    return output if kind == "instance_norm" else output * weights["weight"] + weights["bias"]
