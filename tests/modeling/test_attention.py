"""Both forms of attention against loops over single frames, and the sliding window with its global tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from transformers_fastconformer import FastConformerConfig, FastConformerEncoder
from transformers_fastconformer.modeling.attention import (
    FastConformerAttention,
    build_position_table,
    eager_attention,
    relative_positions,
    relative_shift,
    sdpa_attention,
    sinusoids,
)
from transformers_fastconformer.modeling.local_attention import (
    blocked_local_attention,
    eager_local_attention,
    local_distances,
    select_global_tokens,
)
from transformers_fastconformer.modeling.masking import FrameMask, lengths_to_mask, resolve_context

CPU = torch.device("cpu")
HEADS, HEAD_DIM = 3, 4
LENGTHS = torch.tensor([19, 1, 11, 0])
CONTEXTS = [
    ("regular", [-1, -1]),
    ("regular", [3, 2]),
    ("regular", [-1, 0]),
    ("chunked_limited", [6, 2]),
    ("chunked_limited", [-1, 3]),
    ("chunked_limited_with_rc", [4, 3, 2]),
]
# Equal sides; unequal ones with a narrow side of none, less than half, half and more than half of the wide one.
WINDOWS = [(1, 1), (4, 4), (30, 30), (8, 0), (8, 3), (8, 4), (8, 6), (0, 8), (3, 8), (4, 8), (6, 8)]
TOKENS = [(0, 1), (1, 1), (3, 1), (4, 5), (2, 30)]  # number, spacing


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def draw_states(num_frames: int, batch_size: int = len(LENGTHS), count: int = 4) -> list[torch.Tensor]:
    """`count` tensors (batch, heads, frames, head_dim)."""
    return [draw(batch_size, HEADS, num_frames, HEAD_DIM) for _ in range(count)]


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """And one thread: the tensors are small, and more threads only wait for one another."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Positions


def test_sinusoids_are_sines_and_cosines_in_turn() -> None:
    table = sinusoids(torch.tensor([5, 0, -3]), 6, torch.float32)
    for row, position in zip(table, (5, 0, -3), strict=True):
        for column in range(6):
            angle = position / 10000 ** ((column - column % 2) / 6)
            assert float(row[column]) == pytest.approx(math.cos(angle) if column % 2 else math.sin(angle), abs=1e-6)


def test_relative_positions_run_from_the_far_left() -> None:
    assert relative_positions(3, CPU).tolist() == [2, 1, 0, -1, -2]


@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (1, 5), (4, 4), (3, 7)])
def test_relative_shift_gives_each_query_its_distances(num_queries: int, num_keys: int) -> None:
    scores = draw(2, num_queries, num_keys + num_queries - 1)
    shifted = relative_shift(scores, num_keys)
    for query in range(num_queries):
        first = num_queries - 1 - query
        assert torch.equal(shifted[:, query], scores[:, query, first : first + num_keys])


# Full, limited and chunked attention


@pytest.mark.parametrize(("style", "context"), CONTEXTS)
@pytest.mark.parametrize("has_positions", [True, False])
def test_eager_attention_is_the_loop(style: str, context: list[int], has_positions: bool) -> None:
    num_frames = 9
    query_u, query_v, key, value = draw_states(num_frames, batch_size=1)
    position_key = draw(1, HEADS, 2 * num_frames - 1, HEAD_DIM)
    mask = FrameMask(num_frames, resolve_context(style, context)).rows(slice(None), slice(None), CPU)
    output, probabilities = eager_attention(
        query_u, query_v if has_positions else None, key, value, position_key, mask, 0.0
    )
    for head in range(HEADS):
        for i in range(num_frames):
            seen = [j for j in range(num_frames) if mask is None or bool(mask[0, 0, i, j])]
            scores = [
                float(
                    query_u[0, head, i] @ key[0, head, j]
                    + (query_v[0, head, i] @ position_key[0, head, num_frames - 1 - i + j] if has_positions else 0.0)
                )
                / math.sqrt(HEAD_DIM)
                for j in seen
            ]
            shares = softmax(scores)
            expected = sum(share * value[0, head, j] for j, share in zip(seen, shares, strict=True))
            torch.testing.assert_close(output[0, head, i], expected, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(
                probabilities[0, head, i, seen], torch.tensor(shares, dtype=torch.float32), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize(("style", "context"), CONTEXTS)
@pytest.mark.parametrize("has_positions", [True, False])
@pytest.mark.parametrize("block_frames", [1, 4, 19, None])
def test_sdpa_attention_equals_eager(
    style: str, context: list[int], has_positions: bool, block_frames: int | None
) -> None:
    num_frames = 19
    query_u, query_v, key, value = draw_states(num_frames)
    position_key = draw(1, HEADS, 2 * num_frames - 1, HEAD_DIM) if has_positions else None
    for padding_mask in (None, lengths_to_mask(LENGTHS, num_frames)):
        mask = FrameMask(num_frames, resolve_context(style, context), padding_mask)
        parts = (query_u, query_v if has_positions else None, key, value, position_key)
        expected, _ = eager_attention(*parts, mask.rows(slice(None), slice(None), CPU), 0.0)
        output = sdpa_attention(*parts, mask, 0.0, block_frames)
        keep = padding_mask if padding_mask is not None else torch.ones(len(LENGTHS), num_frames, dtype=torch.bool)
        torch.testing.assert_close(output.transpose(1, 2)[keep], expected.transpose(1, 2)[keep], rtol=1e-5, atol=1e-6)


# The sliding window


@pytest.mark.parametrize(("left", "right"), WINDOWS)
def test_position_of_each_key_in_the_window(left: int, right: int) -> None:
    """
    NeMo adds `left` terms from the far edge of a window of twice the wide side, and `right + 1` up to its other edge.
    """
    wide = max(left, right)
    columns: list[int | None] = [None] * (2 * wide + 1)
    for index in range(left):
        columns[index] = left - index
    for index in range(right + 1):
        columns[2 * wide - right + index] = -index
    expected = columns[wide - left : wide + right + 1]
    distances, has_term = local_distances(left, right, CPU)
    found = [int(distance) if term else None for distance, term in zip(distances, has_term, strict=True)]
    assert found == expected
    if left == right:
        assert found == list(range(left, -right - 1, -1))


def attend_locally_in_loops(
    states: dict[str, torch.Tensor], window: tuple[int, int], num_tokens: int, spacing: int
) -> torch.Tensor:
    """One clip: (heads, frames, head_dim). `states` are query_u, query_v, key, value, position_key and global ones."""
    left, right = window
    num_frames = states["key"].shape[1]
    tokens = [token * spacing for token in range(num_tokens) if token * spacing < num_frames]
    root = math.sqrt(HEAD_DIM)
    output = torch.zeros(HEADS, num_frames, HEAD_DIM)
    for head in range(HEADS):
        own = {name: tensor[head] for name, tensor in states.items()}
        for i in range(num_frames):
            scores, values = [], []
            for token in tokens:
                scores.append(float(own["global_query"][i] @ own["global_key"][token]) / root)
                values.append(own["value"][token])
            for j in range(max(i - left, 0), min(i + right + 1, num_frames)):
                score = own["query_u"][i] @ own["key"][j]
                score = score + own["query_v"][i] @ own["position_key"][j - i + left]
                scores.append(float(score) / root)
                values.append(own["value"][j])
            output[head, i] = sum(
                (share * value for share, value in zip(softmax(scores), values, strict=True)), torch.zeros(HEAD_DIM)
            )
    # The queries of the tokens, laid out token by token and read head by head.
    shelf = [states["global_query"][head, token] for token in tokens for head in range(HEADS)]
    for head in range(HEADS):
        for place, token in enumerate(tokens):
            query = shelf[head * len(tokens) + place]
            shares = softmax([float(query @ key) / root for key in states["global_key"][head]])
            output[head, token] = sum(
                (share * value for share, value in zip(shares, states["global_value"][head], strict=True)),
                torch.zeros(HEAD_DIM),
            )
    return output


def make_local_parts(
    num_frames: int, window: tuple[int, int], num_tokens: int, spacing: int, lengths: torch.Tensor | None
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Arguments of both forms, and the tensors for the loops."""
    batch_size = 1 if lengths is None else len(lengths)
    query_u, query_v, key, value, *global_states = draw_states(num_frames, batch_size, count=7)
    position_key = draw(1, HEADS, sum(window) + 1, HEAD_DIM)
    padding_mask = None if lengths is None else lengths_to_mask(lengths, num_frames)
    tokens = None
    if num_tokens:
        tokens = select_global_tokens(tuple(global_states), num_tokens, spacing, padding_mask)  # type: ignore[arg-type]
    names = ("query_u", "query_v", "key", "value", "global_query", "global_key", "global_value")
    states = dict(zip(names, (query_u, query_v, key, value, *global_states), strict=True))
    return (query_u, query_v, key, value, position_key, window, padding_mask, tokens), states | {
        "position_key": position_key.expand(batch_size, -1, -1, -1)
    }


@pytest.mark.parametrize("window", WINDOWS[:6])
@pytest.mark.parametrize(("num_tokens", "spacing"), TOKENS)
def test_local_attention_is_the_loop_for_each_clip_of_a_batch(
    window: tuple[int, int], num_tokens: int, spacing: int
) -> None:
    """Also with several global tokens, where a clip must be what it is alone."""
    parts, states = make_local_parts(19, window, num_tokens, spacing, LENGTHS)
    outputs = eager_local_attention(*parts, 0.0)[0], blocked_local_attention(*parts, 0.0)
    for index, length in enumerate(LENGTHS.tolist()):
        clip = {name: tensor[index] for name, tensor in states.items()}
        for name in clip:
            if name != "position_key":
                clip[name] = clip[name][:, :length]
        expected = attend_locally_in_loops(clip, window, num_tokens, spacing)
        for output in outputs:
            torch.testing.assert_close(output[index, :, :length], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("num_tokens", "spacing"), TOKENS)
def test_blocks_equal_the_plain_form(window: tuple[int, int], num_tokens: int, spacing: int) -> None:
    for num_frames in (1, 2, 7, 8, 33):
        parts, _ = make_local_parts(num_frames, window, num_tokens, spacing, lengths=None)
        expected, probabilities = eager_local_attention(*parts, 0.0)
        assert probabilities.shape == (1, HEADS, num_frames, num_tokens + num_frames)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(1, HEADS, num_frames))
        for block_frames, group_frames in ((1, 1), (3, 9), (8, 8), (64, 64), (None, 4096)):
            output = blocked_local_attention(*parts, 0.0, block_frames, group_frames)
            torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)


def test_gradients_of_both_local_forms_are_equal() -> None:
    gradients = []
    parts, _ = make_local_parts(19, (4, 3), 3, 2, LENGTHS)
    leaves = [part.requires_grad_() for part in parts[:5]]
    weights = draw(len(LENGTHS), HEADS, 19, HEAD_DIM) * lengths_to_mask(LENGTHS, 19)[:, None, :, None]
    for output in (eager_local_attention(*parts, 0.0)[0], blocked_local_attention(*parts, 0.0, 4)):
        gradients.append(torch.autograd.grad((output * weights).sum(), leaves))
    for plain, fast in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_dropout_of_both_local_forms_keeps_the_mean() -> None:
    parts, _ = make_local_parts(16, (4, 4), 2, 3, lengths=None)
    expected, _ = eager_local_attention(*parts, 0.0)
    for attend in (lambda: eager_local_attention(*parts, 0.3)[0], lambda: blocked_local_attention(*parts, 0.3)):
        outputs = torch.stack([attend() for _ in range(200)])
        assert not torch.equal(outputs[0], outputs[1])
        assert (outputs.mean(dim=0) - expected).abs().mean() < 0.05


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return output


@pytest.mark.parametrize(
    "options",
    [
        {"position_embedding_type": "rel_pos_local_attn", "attention_context": [16, 16], "num_global_tokens": 2},
        {"attention_context": [70, 1], "attention_context_style": "chunked_limited"},
        {"attention_context": [16, 16]},
        {"attention_context": [8, 4, 2], "attention_context_style": "chunked_limited_with_rc"},
        {"attention_context": [-1, -1]},
    ],
)
@torch.no_grad()
def test_no_tensor_of_frames_by_frames(options: dict[str, Any]) -> None:
    """Four times the frames make tensors at most four times as large, in every kind of attention."""
    config = build_config(**options)
    attention = FastConformerAttention(config, 0).eval()
    largest = []
    for num_frames in (1024, 4096):
        with LargestTensor() as mode:
            mask = FrameMask(
                num_frames,
                resolve_context(config.attention_context_style, config.attention_context),
                lengths_to_mask(torch.tensor([num_frames - 5]), num_frames),
            )
            table = build_position_table(config, num_frames, torch.float32, CPU)
            attention(draw(1, num_frames, 8), table, mask)
        largest.append(mode.elements)
    assert largest[1] <= 4.2 * largest[0]
    assert largest[1] < 4096 * 4096 / 2


# The module


def build_config(**options: Any) -> FastConformerConfig:
    shape = {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 16,
        "num_mel_bins": 8,
        "subsampling_conv_channels": 4,
        "subsampling_factor": 4,
        "conv_kernel_size": 5,
    }
    return FastConformerConfig(**(shape | options), attn_implementation="sdpa")


def build_encoder(**options: Any) -> FastConformerEncoder:
    encoder = FastConformerEncoder(build_config(**options)).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            nn.init.normal_(parameter, std=0.4)
    return encoder


LOCAL = {"position_embedding_type": "rel_pos_local_attn", "attention_context": [4, 3]}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"position_embedding_type": "abs_pos"},
        LOCAL,
        {**LOCAL, "num_global_tokens": 3, "global_tokens_spacing": 2},
        {**LOCAL, "num_global_tokens": 3, "global_attention_separate": True},
        {"attention_context": [6, 2], "attention_context_style": "chunked_limited"},
    ],
)
@torch.no_grad()
def test_asking_for_attentions_changes_nothing_else(options: dict[str, Any]) -> None:
    encoder = build_encoder(**options)
    features, lengths = draw(2, 80, 8), torch.tensor([80, 33])
    plain = encoder(features, input_lengths=lengths)
    outputs = encoder(features, input_lengths=lengths, output_attentions=True)
    for frames, expected, length in zip(
        outputs.last_hidden_state, plain.last_hidden_state, plain.encoder_lengths, strict=True
    ):
        torch.testing.assert_close(frames[:length], expected[:length], rtol=1e-4, atol=1e-5)
    assert outputs.attentions is not None
    columns = 20 + options.get("num_global_tokens", 0)
    assert [tuple(attention.shape) for attention in outputs.attentions] == [(2, 2, 20, columns)] * 2
    assert torch.allclose(outputs.attentions[0][0].sum(-1), torch.tensor(1.0))


def test_global_projections_exist_only_where_they_are_separate() -> None:
    names = set(FastConformerAttention(build_config(**LOCAL, global_attention_separate=True), 0).state_dict())
    shared = set(FastConformerAttention(build_config(**LOCAL), 0).state_dict())
    assert {name.split(".")[0] for name in names - shared} == {"global_q_proj", "global_k_proj", "global_v_proj"}
    assert shared == set(FastConformerAttention(build_config(), 0).state_dict())


# Choosing what attention sees


@torch.no_grad()
def test_set_attention_context_is_the_configuration_of_a_new_model() -> None:
    encoder = build_encoder(attention_context=[8, 3], attention_context_style="chunked_limited")
    features = draw(1, 120, 8)
    for context, style, position_type in (
        ([4, 1], None, None),
        ([-1, -1], "regular", None),
        ([5, 5], None, "rel_pos_local_attn"),
        ([4, 3, 2], "chunked_limited_with_rc", "rel_pos"),
    ):
        encoder.set_attention_context(context, style, position_type)
        fresh = FastConformerEncoder(
            build_config(
                attention_context=context,
                attention_context_style=encoder.config.attention_context_style,
                position_embedding_type=encoder.config.position_embedding_type,
            )
        ).eval()
        fresh.load_state_dict(encoder.state_dict())
        assert torch.equal(encoder(features).last_hidden_state, fresh(features).last_hidden_state)


@pytest.mark.parametrize(
    ("context", "style", "position_type", "message"),
    [
        ([7, 2], "chunked_limited", None, "a left context that is a multiple of the chunk"),
        ([1], None, None, r"attention_context=\[1\] is not supported; expected \[left, right\]"),
        ([-2, 0], None, None, "-1 for no limit"),
        ([4, 4, 4], None, None, r"expected \[left, right\]"),
        ([4, 0, 4], "chunked_limited_with_rc", None, "with a chunk of 1 or more"),
        ([-1, 4], None, "rel_pos_local_attn", "limits on both sides"),
        ([0, 0], None, "rel_pos_local_attn", "limits on both sides"),
        ([4, 4], None, "abs_pos", "position_embedding_type='abs_pos' is not supported for a model"),
        ([4, 4], "sliding", None, "attention_context_style='sliding' is not supported"),
        ([4, 4], None, "rotary", "position_embedding_type='rotary' is not supported"),
    ],
)
def test_set_attention_context_refuses_and_keeps_the_old_one(
    context: list[int], style: str | None, position_type: str | None, message: str
) -> None:
    encoder = build_encoder(attention_context=[6, 2])
    before = encoder.config.to_dict()
    with pytest.raises(ValueError, match=message):
        encoder.set_attention_context(context, style, position_type)
    assert encoder.config.to_dict() == before


def test_set_attention_context_warns_of_a_context_not_trained_with(caplog: pytest.LogCaptureFixture) -> None:
    encoder = build_encoder(
        attention_context=[8, 3], attention_contexts=[[8, 3], [8, 1]], attention_context_style="chunked_limited"
    )
    encoder.set_attention_context([8, 1])
    assert not caplog.records
    encoder.set_attention_context([8, 0])
    assert "none of the contexts that the model was trained with: [[8, 3], [8, 1]]" in caplog.text
    assert encoder.config.attention_context == [8, 0]


def test_training_draws_from_the_contexts() -> None:
    """The rare one is used now and then, and never outside of training."""
    encoder = build_encoder(
        attention_context=[8, 3],
        attention_contexts=[[8, 3], [8, 1]],
        attention_context_probabilities=[0.25, 0.75],
        attention_context_style="chunked_limited",
    )
    assert all(encoder._choose_context() == [8, 3] for _ in range(20))
    encoder.train()
    drawn = [tuple(encoder._choose_context()) for _ in range(400)]
    assert set(drawn) == {(8, 3), (8, 1)}
    assert 200 < drawn.count((8, 1)) < 390


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"position_embedding_type": "abs_pos"},
        {"attention_context": [6, 2], "attention_context_style": "chunked_limited"},
        {**LOCAL, "num_global_tokens": 3, "global_tokens_spacing": 2},
        {"conv_norm_type": "group_norm", "conv_norm_groups": 2},
        {"subsampling_type": "stacking", "reduction_type": "pooling", "reduction_position": 0, "reduction_factor": 2},
    ],
)
def test_encoder_exports_for_any_number_of_frames(options: dict[str, Any]) -> None:
    encoder = build_encoder(**options)

    class Exported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            output = self.encoder(features, input_lengths=lengths)
            return output.last_hidden_state, output.encoder_lengths

    module = Exported().eval()
    program = torch.export.export(
        module,
        (draw(2, 600, 8), torch.tensor([600, 50])),
        dynamic_shapes=({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}, {0: torch.export.Dim.AUTO}),
        strict=False,
    )
    features, lengths = draw(3, 403, 8), torch.tensor([403, 9, 218])
    with torch.no_grad():
        output, encoder_lengths = program.module()(features, lengths)
        expected, expected_lengths = module(features, lengths)
    assert encoder_lengths.tolist() == expected_lengths.tolist()
    for exported, plain, length in zip(output, expected, expected_lengths, strict=True):
        torch.testing.assert_close(exported[:length], plain[:length], rtol=1e-4, atol=1e-5)
