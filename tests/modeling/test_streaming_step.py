"""Steps of live streams next to the offline pass over the whole clip."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import HEADS, build_model, few_of
from nemo_streams import run_streams, run_streams_whole
from tolerances import FLOAT32_SHARE

from transformers_fastconformer import FastConformerEncoderCache, StreamingSchedule

CAUSAL: dict[str, Any] = {"causal_downsampling": True, "conv_context": [4, 0], "conv_norm_type": "layer_norm"}
CHUNKS: dict[str, Any] = {
    **CAUSAL,
    "attention_context_style": "chunked_limited",
    "attention_context": [6, 2],
    "attention_contexts": [[6, 2], [6, 1], [6, 0]],
}
MODELS: dict[str, dict[str, Any]] = {
    "chunks": CHUNKS,
    "batch norm, unscaled, projected": {
        **CHUNKS,
        "conv_norm_type": "batch_norm",
        "scale_input": False,
        "encoder_output_size": 12,
    },
    "striding x4": {**CHUNKS, "subsampling_type": "striding", "subsampling_factor": 4},
    "stacking x4": {**CHUNKS, "subsampling_type": "stacking_norm", "subsampling_factor": 4},
    "speakers": {**CHUNKS, "has_speaker_kernel": True},
    "band": {**CAUSAL, "attention_context": [5, 0]},
    "band that looks ahead": {**CAUSAL, "attention_context": [5, 1]},
    "band and convolutions that look ahead": {**CAUSAL, "attention_context": [5, 1], "conv_context": [2, 2]},
}
LENGTHS = (1, 8, 10, 58, 107)


def make_clips(lengths: tuple[int, ...] = LENGTHS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(length, 8, generator=generator) for length in lengths]


@torch.no_grad()
def run_offline(encoder: Any, clips: list[torch.Tensor]) -> list[torch.Tensor]:
    frames = []
    for clip in clips:
        output = encoder(clip[None])
        frames.append(output.last_hidden_state[0, : output.encoder_lengths[0]])
    return frames


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    scale = max(float(frames.abs().max()) for frames in expected if len(frames))
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=FLOAT32_SHARE * scale)


# Both forms of attention for the first model; the others differ in what both are given.
@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        *((name, "sdpa") for name in MODELS),
        *(pytest.param(name, "eager", marks=pytest.mark.slow if number else []) for number, name in enumerate(MODELS)),
    ],
)
def test_exact_streams_are_the_offline_pass(name: str, implementation: str):
    encoder = build_model("encoder", **MODELS[name])
    encoder.set_attn_implementation(implementation)
    clips = make_clips()
    for context in encoder.config.attention_contexts or [encoder.config.attention_context]:
        expected = run_offline(encoder.with_attention_context(context), clips)
        unit_frames = StreamingSchedule.of(encoder.config, context).chunk_frames
        for chunk_frames in (unit_frames, 3 * unit_frames):
            schedule = StreamingSchedule.of(encoder.config, context, chunk_frames, is_exact=True)
            alone = [run_streams_whole(encoder, [clip], schedule)[0] for clip in clips]
            assert_same(alone, expected)
            assert_same(run_streams_whole(encoder, clips, schedule), expected)


def test_streams_are_the_offline_pass_but_for_the_end_and_a_first_chunk_of_one_frame():
    encoder = build_model("encoder", seed=1, **CHUNKS)  # with positive biases in the front
    clip = make_clips((131,))[0]
    for context, are_equal in (([6, 2], True), ([6, 1], True), ([6, 0], False)):
        (expected,) = run_offline(encoder.with_attention_context(context), [clip])
        (found,) = run_streams_whole(encoder, [clip], StreamingSchedule.of(encoder.config, context))
        # 131 mel frames are one, 16 times 8 and two, which NeMo leaves out unless 8 or more are in the last chunk.
        schedule = StreamingSchedule.of(encoder.config, context)
        is_left_out = (len(clip) - schedule.first_mel_frames) % schedule.mel_frames < 8
        assert len(expected) == 18
        assert len(found) == 18 - is_left_out
        tolerance = FLOAT32_SHARE * float(expected.abs().max())
        assert bool(((found - expected[: len(found)]).abs() <= tolerance).all()) == are_equal


def test_later_audio_does_not_change_frames_that_were_given_out():
    encoder = build_model("encoder", **CHUNKS)
    clip = make_clips((131,))[0]
    other = clip.clone()
    other[70:] = 5.0
    schedule = StreamingSchedule.of(encoder.config, [6, 1])
    steps = [list(run_streams(encoder, [features], schedule)) for features in (clip, other)]
    mel_frames = schedule.first_mel_frames
    for (frames, _), (other_frames, _) in zip(*steps, strict=True):
        assert torch.equal(frames, other_frames) == (mel_frames <= 70)
        mel_frames += schedule.mel_frames


def test_streams_that_start_at_different_times_are_what_each_is_alone():
    encoder = build_model("encoder", **CHUNKS)
    clips = make_clips((131, 90, 60))
    for context in encoder.config.attention_contexts:
        schedule = StreamingSchedule.of(encoder.config, context)
        cache = FastConformerEncoderCache.for_model(encoder, schedule, len(clips))
        found: list[list[torch.Tensor]] = [[] for _ in clips]
        given = [0] * len(clips)
        for step in range(1000):
            if all(count == len(clip) for count, clip in zip(given, clips, strict=True)):
                break
            pieces, is_last = [], []
            for row, clip in enumerate(clips):
                # Stream r starts at step 2r, and sits out every fourth step after that.
                is_active = step >= 2 * row and (step + row) % 4 and given[row] < len(clip)
                piece = clip[given[row] :][: cache.next_mel_frames(row) if is_active else 0]
                given[row] += len(piece)
                pieces.append(piece)
                is_last.append(bool(is_active) and given[row] == len(clip))
            lengths = torch.tensor([len(piece) for piece in pieces])
            with torch.no_grad():
                output = encoder(
                    torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=float("nan")),
                    input_lengths=lengths,
                    cache=cache,
                    is_last=is_last,
                )
            for row, length in enumerate(output.encoder_lengths.tolist()):
                assert length == 0 or lengths[row] > 0
                found[row].append(output.last_hidden_state[row, :length])
        alone = [run_streams_whole(encoder, [clip], schedule)[0] for clip in clips]
        assert_same([torch.cat(frames) for frames in found], alone)


@pytest.mark.parametrize("kind", few_of(["model", *HEADS]))
def test_every_model_streams(kind: str):
    model = build_model(kind, **CHUNKS)
    clips = make_clips((131,))
    schedule = StreamingSchedule.of(model.config, is_exact=True)
    assert_same(run_streams_whole(model, clips, schedule), run_offline(model.encoder, clips))


def test_chunks_of_other_sizes_are_refused_with_what_is_accepted():
    encoder = build_model("encoder", **CHUNKS)
    schedule = StreamingSchedule.of(encoder.config)
    assert (schedule.first_mel_frames, schedule.mel_frames) == (17, 24)
    cache = FastConformerEncoderCache.for_model(encoder, schedule)
    with pytest.raises(ValueError, match="16 mel frames for stream 0; expected 17"):
        encoder(torch.zeros(1, 16, 8), cache=cache)
    assert cache.counts[0].mel_frames == 0
    encoder(torch.zeros(1, 17, 8), cache=cache)
    with pytest.raises(ValueError, match="17 mel frames for stream 0; expected 24"):
        encoder(torch.zeros(1, 17, 8), cache=cache)
    with pytest.raises(ValueError, match="25 mel frames for stream 0; expected 24"):
        encoder(torch.zeros(1, 25, 8), cache=cache, is_last=True)
    assert encoder(torch.zeros(1, 0, 8), cache=cache).encoder_lengths.tolist() == [0]
    assert encoder(torch.zeros(1, 9, 8), cache=cache, is_last=True).encoder_lengths.tolist() == [2]
    with pytest.raises(ValueError, match="stream 0 has ended"):
        encoder(torch.zeros(1, 24, 8), cache=cache)


def test_what_a_step_cannot_do_is_refused_by_name():
    encoder = build_model("encoder", **CHUNKS)
    cache = FastConformerEncoderCache.for_model(encoder, StreamingSchedule.of(encoder.config))
    features = torch.zeros(1, 17, 8)
    for match, arguments in (
        ("output_hidden_states=True", {"output_hidden_states": True}),
        ("output_attentions=True", {"output_attentions": True}),
        (r"is_last=\[True, True\]", {"is_last": [True, True]}),
    ):
        with pytest.raises(ValueError, match=match):
            encoder(features, cache=cache, **arguments)
    with pytest.raises(ValueError, match="is_last=True"):
        encoder(features, is_last=True)
    with pytest.raises(ValueError, match="the batch of input_features=2"):
        encoder(torch.zeros(2, 17, 8), cache=cache)
    with pytest.raises(ValueError, match="training=True"):
        encoder.train()(features, cache=cache)


def test_changed_weights_are_seen_when_a_stream_starts():
    encoder = build_model("encoder", **CHUNKS)
    clips = make_clips((58,))
    schedule = StreamingSchedule.of(encoder.config, is_exact=True)
    before = run_streams_whole(encoder, clips, schedule)
    encoder.layers[0].self_attn.relative_k_proj.weight.data.mul_(-3.0)
    after = run_streams_whole(encoder, clips, schedule)
    assert not torch.allclose(before[0], after[0], atol=1e-3)
    assert_same(after, run_offline(encoder, clips))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_as_near_as_the_offline_pass(dtype: torch.dtype):
    encoder = build_model("encoder", **CHUNKS)
    clips = make_clips((131,))
    (truth,) = run_offline(encoder, clips)
    half = encoder.to(dtype)
    (offline,) = run_offline(half, [clip.to(dtype) for clip in clips])
    (stream,) = run_streams_whole(half, clips, StreamingSchedule.of(half.config, is_exact=True))
    assert stream.dtype == dtype
    own, reference = (stream.float() - truth).abs().mean(), (offline.float() - truth).abs().mean()
    assert own <= 1.3 * reference  # of few values: they scatter by more than the contract's tenth
