"""
Self-attention with relative positions as a part of an ONNX graph, whose memory grows linearly with the audio.

While a graph is made, attention is one operator without a meaning of its own, which holds its place. Afterwards it
gets its meaning, written in ONNX's text form: a loop over blocks of queries, each against all keys, so that nothing of
size frames x frames exists. The mathematics are those of `modeling.full_attention`.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ..modeling.attention import AttentionStates, FastConformerAttention
from ..modeling.masking import ContextWindow, FrameMask

DOMAIN = "transformers_fastconformer"
OPERATOR = "BlockedAttention"
OPERATOR_VERSION = 1
# Queries in a block: few enough that the scores of a block stay in the caches of a CPU.
BLOCK_FRAMES = 128
# Limits of a window that has none, in frames.
UNLIMITED = 1 << 40

# A row r of a block of q queries needs the distances that start q - 1 - r columns into the slice of the block: with
# one column more than keys + q - 1, dropping the first q - 1 values and the last one makes rows that are one shorter.
_FUNCTION = """
<domain: "{domain}", opset_import: ["": {opset}]>
{operator} (query_u, query_v, key, value, position_key, padding_mask) => (output)
{{
    zero = Constant <value = int64[1] {{0}}> ()
    one = Constant <value = int64[1] {{1}}> ()
    minus_one = Constant <value = int64[1] {{-1}}> ()
    frames_axis = Constant <value = int64[1] {{2}}> ()
    last_axis = Constant <value = int64[1] {{3}}> ()
    most_frames = Constant <value = int64[1] {{{block_frames}}}> ()
    frames = Shape <start = 2, end = 3> (key)
    batch_and_heads = Shape <start = 0, end = 2> (key)
    block = Min (most_frames, frames)
    block_before = Sub (block, one)
    rounded_up = Add (frames, block_before)
    blocks = Div (rounded_up, block)
    num_blocks = Squeeze (blocks)
    padded_frames = Mul (blocks, block)
    filling = Sub (padded_frames, frames)
    six_zeros = Constant <value = int64[6] {{0, 0, 0, 0, 0, 0}}> ()
    two_zeros = Constant <value = int64[2] {{0, 0}}> ()
    three_zeros = Constant <value = int64[3] {{0, 0, 0}}> ()
    query_padding = Concat <axis = 0> (six_zeros, filling, zero)
    padded_u = Pad (query_u, query_padding)
    padded_v = Pad (query_v, query_padding)
    position_padding = Concat <axis = 0> (two_zeros, filling, three_zeros, one, zero)
    padded_positions = Pad (position_key, position_padding)
    position_columns = Transpose <perm = [0, 1, 3, 2]> (padded_positions)
    key_columns = Transpose <perm = [0, 1, 3, 2]> (key)
    rows = Add (frames, block)
    row_stride = Sub (rows, one)
    flat_shape = Concat <axis = 0> (batch_and_heads, minus_one)
    shifted_shape = Concat <axis = 0> (batch_and_heads, block, row_stride)
    mask_axes = Constant <value = int64[2] {{1, 2}}> ()
    key_mask = Unsqueeze (padding_mask, mask_axes)
    lowest = Constant <value = float {{-1e30}}> ()
    no_bias = Constant <value = float {{0.0}}> ()
    key_bias = Where (key_mask, no_bias, lowest)
    is_true = Constant <value = bool {{1}}> ()
{window_setup}
    pieces = Loop (num_blocks, is_true) <body = attend
    (int64 index, bool keeps_going) => (bool goes_on, float[b, h, q, d] piece)
    {{
        goes_on = Identity (keeps_going)
        start = Mul (index, block)
        stop = Add (start, block)
        block_u = Slice (padded_u, start, stop, frames_axis)
        block_v = Slice (padded_v, start, stop, frames_axis)
        first_distance = Sub (padded_frames, stop)
        last_distance = Add (first_distance, rows)
        distances = Slice (position_columns, first_distance, last_distance, last_axis)
        position_scores = MatMul (block_v, distances)
        flat = Reshape (position_scores, flat_shape)
        moved = Slice (flat, block_before, minus_one, frames_axis)
        shifted = Reshape (moved, shifted_shape)
        terms = Slice (shifted, zero, frames, last_axis)
        content_scores = MatMul (block_u, key_columns)
        biased = Add (terms, key_bias)
        scores = Add (content_scores, biased)
{window_scores}
        probabilities = Softmax <axis = -1> (seen)
        piece = MatMul (probabilities, value)
    }}>
    blocks_last = Transpose <perm = [1, 2, 0, 3, 4]> (pieces)
    size = Shape <start = 3, end = 4> (value)
    joined_shape = Concat <axis = 0> (batch_and_heads, padded_frames, size)
    joined = Reshape (blocks_last, joined_shape)
    output = Slice (joined, zero, frames, frames_axis)
}}
"""

# A query sees the keys around its chunk, see `ContextWindow`.
_WINDOW_SETUP = """
    chunk = Constant <value = int64[1] {{{chunk_frames}}}> ()
    frames_before = Constant <value = int64[1] {{{left_frames}}}> ()
    frames_after = Constant <value = int64[1] {{{right_frames}}}> ()
    first = Constant <value = int64 {{0}}> ()
    step = Constant <value = int64 {{1}}> ()
    frames_scalar = Squeeze (frames)
    block_scalar = Squeeze (block)
    keys = Range (first, frames_scalar, step)
    row_range = Range (first, block_scalar, step)
    row_numbers = Unsqueeze (row_range, one)
"""
_WINDOW_SCORES = """
        query_frames = Add (row_numbers, start)
        chunk_numbers = Div (query_frames, chunk)
        chunk_starts = Mul (chunk_numbers, chunk)
        earliest = Sub (chunk_starts, frames_before)
        latest = Add (chunk_starts, frames_after)
        is_late_enough = GreaterOrEqual (keys, earliest)
        is_early_enough = Less (keys, latest)
        is_seen = And (is_late_enough, is_early_enough)
        seen = Where (is_seen, scores, lowest)
"""


def attend_in_graph(
    attention: FastConformerAttention, states: AttentionStates, mask: FrameMask, output_attentions: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`FastConformerAttention.attend` while a graph is made: the operator that holds the place of attention."""
    query_u, query_v, key, value, position_key, _ = states
    assert query_v is not None
    assert position_key is not None
    assert mask.padding_mask is not None
    scale = 1.0 / math.sqrt(query_u.shape[-1])
    output = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{OPERATOR}",
        (query_u * scale, query_v * scale, key, value, position_key, mask.padding_mask),
        dtype=value.dtype,
        shape=value.shape,
        version=OPERATOR_VERSION,
    )
    return output, None


def give_meaning(model: Any, window: ContextWindow) -> Any:
    """
    Write attention out in a graph in which its operator holds its place.

    Args:
        model: A `ModelProto` of onnx.
        window: The keys that a query may see.

    Returns:
        The model in operators of ONNX only.
    """
    import onnx.inliner
    import onnx.parser

    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    setup, scores = "", "        seen = Identity (scores)"
    if not window.is_unlimited:
        setup, scores = _WINDOW_SETUP, _WINDOW_SCORES
        frames = {
            "chunk_frames": window.chunk_frames,
            "left_frames": UNLIMITED if window.left_frames is None else window.left_frames,
            "right_frames": window.chunk_frames + (UNLIMITED if window.right_frames is None else window.right_frames),
        }
        setup = setup.format(**frames)
    text = _FUNCTION.format(
        domain=DOMAIN,
        operator=OPERATOR,
        opset=opset,
        block_frames=BLOCK_FRAMES,
        window_setup=setup,
        window_scores=scores,
    )
    model.functions.append(onnx.parser.parse_function(text))
    if not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, OPERATOR_VERSION))
    # The inliner serialises the model, which takes no more than two gigabytes.
    weights = [tensor for tensor in model.graph.initializer if tensor.HasField("raw_data")]
    values = {tensor.name: tensor.raw_data for tensor in weights}
    for tensor in weights:
        tensor.ClearField("raw_data")
    inlined = onnx.inliner.inline_local_functions(model)
    for tensor in inlined.graph.initializer:
        if tensor.name in values:
            tensor.raw_data = values.pop(tensor.name)
    return inlined
