"""Windows through the encoder and one decoding over their frames: as if the encoder had seen the clip at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from models import HEADS, build_model, make_features

from transformers_fastconformer.inference.chunk_plan import WindowPlan
from transformers_fastconformer.inference.chunked import _Decoded, _find_forgotten, _Piece, transcribe_features
from transformers_fastconformer.inference.clip_features import ClipFeatures
from transformers_fastconformer.inference.options import ChunkOptions
from transformers_fastconformer.inference.strategy import plan_chunks
from transformers_fastconformer.modeling.masking import sees_all


def some_slow(kinds: Sequence[str], slow: Sequence[str]) -> list[Any]:
    """Parameters of which some are left out of the default run."""
    return [pytest.param(kind, marks=[pytest.mark.slow] if kind in slow else []) for kind in kinds]


def clips_of(lengths: list[int]) -> list[ClipFeatures]:
    features = make_features(lengths)
    return [ClipFeatures(clip[: length + 1], length) for clip, length in zip(features, lengths, strict=True)]


def assert_same(found: Any, expected: Any) -> None:
    for name in ("sequences", "sequence_lengths", "frame_indices", "durations", "encoder_lengths"):
        first, second = getattr(found, name), getattr(expected, name)
        assert (first is None and second is None) or torch.equal(first, second), name
    assert found.decoder_type == expected.decoder_type
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", some_slow(HEADS, ("rnnt_two_layers", "rnnt_hybrid", "tdt_hybrid", "tdt_far")))
def test_whole_clips_are_as_generate(kind: str) -> None:
    model = build_model(kind)
    lengths = [300, 17, 0, 129, 8]
    expected = model.generate(
        make_features(lengths), input_lengths=torch.tensor(lengths), return_dict_in_generate=True
    )
    assert int(expected.sequence_lengths.max()) > 0
    for batch_size in (1, 2, 5):
        assert_same(transcribe_features(model, clips_of(lengths), batch_size=batch_size), expected)


@pytest.mark.parametrize("kind", some_slow(("ctc", "rnnt", "rnnt_stateless", "tdt", "tdt_far"), ("tdt_far",)))
@pytest.mark.parametrize("causal", [pytest.param(False, marks=pytest.mark.slow), True])
def test_windows_with_all_the_context_there_is_are_as_whole(kind: str, causal: bool) -> None:
    # Two blocks that see 4 frames on each side, their convolutions 2, and the front less than 2.
    model = build_model(
        kind,
        position_embedding_type="rel_pos_local_attn",
        attention_context=[4, 4],
        causal_downsampling=causal,
    )
    lengths = [411, 37, 0, 300]
    expected = transcribe_features(model, clips_of(lengths), batch_size=5)
    assert int(expected.sequence_lengths.max()) > 5
    for window_frames, batch_size in ((31, 8), (36, 3), (40, 1)):
        plan = WindowPlan(window_frames, 14, 14)
        assert_same(transcribe_features(model, clips_of(lengths), plan, batch_size), expected)


@pytest.mark.parametrize("kind", ["rnnt", "tdt", "ctc"])
@pytest.mark.parametrize("pool", ["pooling", "striding"])
def test_windows_lie_on_the_frames_of_a_reduction(kind: str, pool: str) -> None:
    model = build_model(
        kind,
        position_embedding_type="rel_pos_local_attn",
        attention_context=[4, 4],
        reduction_type=pool,
        reduction_position=0,
        reduction_factor=2,
    )
    clips = clips_of([800, 333])
    expected = transcribe_features(model, clips, batch_size=2)
    assert int(expected.sequence_lengths.max()) > 5
    assert_same(transcribe_features(model, clips, WindowPlan(35, 14, 14), 3), expected)


def test_chunked_attention_sees_the_same_chunks() -> None:
    model = build_model("rnnt", attention_context=[4, 1], attention_context_style="chunked_limited")
    plan = plan_chunks(model.config, 0.08, ChunkOptions(chunk_length_s=40 * 0.08, stride_length_s=14 * 0.08))
    assert plan == WindowPlan(40, 14, 14, align_frames=2)
    clips = clips_of([500, 411])
    assert_same(transcribe_features(model, clips, plan, 3), transcribe_features(model, clips, batch_size=2))


def test_a_token_on_both_sides_of_a_border_is_one_token() -> None:
    model = build_model("ctc", position_embedding_type="rel_pos_local_attn", attention_context=[4, 4])
    with torch.no_grad():
        model.ctc_head.weight.zero_()
        model.ctc_head.bias.zero_()
        model.ctc_head.bias[3] = 1.0  # the same token in every frame
    output = transcribe_features(model, clips_of([1000]), WindowPlan(29, 14, 14), 4)
    assert output.sequences.tolist() == [[3]]
    assert output.frame_indices.tolist() == [[0]]


def test_frames_are_counted_as_the_encoder_counts_them() -> None:
    for overrides in ({}, {"causal_downsampling": True}, {"subsampling_type": "stacking"}):
        model = build_model("ctc", **overrides)
        for length in (1, 7, 8, 9, 63, 64, 65, 200):
            with torch.no_grad():
                encoded = model(
                    make_features([length], padded_frames=length + 1), input_lengths=torch.tensor([length])
                )
            assert model.config.count_encoder_frames(length) == int(encoded.encoder_lengths[0])


def test_a_prediction_network_restarts_behind_what_its_window_holds() -> None:
    """Full attention: a window without the last token is decoded like the start of a clip."""
    model = build_model("rnnt")
    frames = torch.zeros(3, model.config.output_size)
    pieces = [_Piece(100, frames), _Piece(100, frames), _Piece(0, frames), None]
    last_tokens = [[99], [100], [], [99]]
    decoded = [_Decoded(frame_indices=frame_indices) for frame_indices in last_tokens]
    start = model.decode_frames(torch.zeros(4, 1, model.config.output_size), torch.zeros(4, dtype=torch.int64))[1]
    state = replace(
        start,
        predictor_output=start.predictor_output + 1.0,
        predictor_state=tuple(part + 1.0 for part in start.predictor_state),
    )
    forgotten = _find_forgotten(pieces, decoded)
    assert forgotten == [0]
    restarted = model.restart_clips(state, torch.zeros(4, 3, model.config.output_size), forgotten)
    expected = [start, state, state, state]
    for clip, source in enumerate(expected):
        torch.testing.assert_close(restarted.predictor_output[clip], source.predictor_output[clip])
        for part, of_source in zip(restarted.predictor_state, source.predictor_state, strict=True):
            torch.testing.assert_close(part[:, clip], of_source[:, clip])


def test_only_full_attention_restarts() -> None:
    assert sees_all(build_model("rnnt").config)
    assert not sees_all(build_model("rnnt", attention_context=[8, 1]).config)
    local = build_model("rnnt", position_embedding_type="rel_pos_local_attn", attention_context=[4, 4])
    assert not sees_all(local.config)


def test_pooling_of_frames_cannot_be_cut() -> None:
    model = build_model("ctc", reduction_type="pooling", reduction_position=0, reduction_factor=4)
    with pytest.raises(ValueError, match=r"chunk_length_s=4.0 is not supported for a model with reduction_type='pool"):
        plan_chunks(model.config, 0.32, ChunkOptions(chunk_length_s=4.0))


@pytest.mark.parametrize(("seconds", "context"), [(2.0, 9), (3.0, 10), (6.0, 13), (12.0, 25), (120.0, 25)])
def test_the_default_context(seconds: float, context: int) -> None:
    plan = plan_chunks(build_model("ctc").config, 0.08, ChunkOptions(chunk_length_s=seconds))
    assert plan is not None
    assert (plan.left_frames, plan.right_frames) == (context, context)
    assert plan_chunks(build_model("ctc").config, 0.08, ChunkOptions()) is None
