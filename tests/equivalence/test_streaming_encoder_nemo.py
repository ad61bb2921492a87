"""
Live streams of the encoder next to NeMo's `cache_aware_stream_step` with the same weights, chunk by chunk.

The truth is NeMo on each stream alone, cut by its own `CacheAwareStreamingAudioBuffer`. Ours must give the same for
the stream alone and in a batch of streams of other lengths.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from nemo_encoders import NEMO_BASE, OUR_BASE, build_nemo_encoder, copy_weights
from nemo_streams import run_nemo_encoder, run_streams
from tolerances import FLOAT32_SHARE

from transformers_fastconformer import FastConformerConfig, StreamingSchedule

pytestmark = pytest.mark.nemo

# Shorter than a chunk, at the ends of chunks, and a frame or two beyond them.
MEL_LENGTHS = (333, 1, 8, 9, 57, 120, 176)

Options = tuple[dict[str, Any], dict[str, Any]]


def _streaming(contexts: list[list[int]], style: str = "chunked_limited", **nemo: Any) -> Options:
    """Options of a streaming model, NeMo's and ours; those given are NeMo's, laid over the usual ones."""
    nemo = {
        "subsampling_factor": 8,
        "causal_downsampling": True,
        "conv_context_size": "causal",
        "conv_norm_type": "layer_norm",
        "att_context_style": style,
        "att_context_size": contexts,
    } | nemo
    names = {
        "subsampling": "subsampling_type",
        "subsampling_factor": "subsampling_factor",
        "causal_downsampling": "causal_downsampling",
        "conv_norm_type": "conv_norm_type",
        "n_layers": "num_hidden_layers",
        "xscaling": "scale_input",
        "feat_out": "encoder_output_size",
    }
    ours = {ours: nemo[name] for name, ours in names.items() if name in nemo}
    conv_context = [8, 0] if nemo["conv_context_size"] == "causal" else nemo["conv_context_size"]
    ours |= {"attention_context_style": style, "attention_context": contexts[0], "conv_context": conv_context}
    if len(contexts) > 1:
        ours["attention_contexts"] = contexts
    return nemo, ours


ROWS: dict[str, Options] = {
    "nemotron-speech-streaming": _streaming([[70, 13], [70, 6], [70, 1], [70, 0]]),
    "nemotron-3.5-asr-streaming": _streaming([[56, 3], [56, 0], [56, 6], [56, 13]], xscaling=False),
    "small contexts, batch norm": _streaming([[14, 6], [14, 1], [14, 0]], conv_norm_type="batch_norm"),
    "output projection": _streaming([[12, 3]], feat_out=20),
    "striding x4": _streaming([[6, 2], [6, 0]], subsampling="striding", subsampling_factor=4),
    "stacking x4": _streaming([[6, 2], [6, 0]], subsampling="stacking", subsampling_factor=4),
    "front that is not causal": _streaming([[14, 6], [14, 0]], causal_downsampling=False),
    "convolutions that are not causal": _streaming([[14, 6], [14, 1]], conv_context_size=[5, 3]),
    "regular": _streaming([[10, 0], [4, 0]], "regular"),
    "regular, a look-ahead of 1": _streaming([[10, 1]], "regular", n_layers=1),
    "regular, a look-ahead of 2": _streaming([[10, 1]], "regular", n_layers=2),
    "regular, a look-ahead of 6": _streaming([[10, 2]], "regular"),
    "regular, symmetric convolutions": _streaming([[10, 0]], "regular", n_layers=1, conv_context_size=[4, 4]),
}
# Steps of several chunks of attention, for contexts of at most so many frames.
CHUNKS = (1, 3)
MAX_LEFT_OF_LARGE_CHUNKS = 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many small operations: more threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def conformer_encoder_class() -> Any:
    pytest.importorskip("nemo.collections.asr", reason="needs NeMo")
    from nemo.collections.asr.modules import ConformerEncoder
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(logging.ERROR)
    return ConformerEncoder


def make_clips() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    clips = [torch.randn(length, NEMO_BASE["feat_in"], generator=generator) for length in MEL_LENGTHS]
    return [*clips, torch.full((150, NEMO_BASE["feat_in"]), -16.6)]  # the last is silence, as log-mel features have it


def largest_error(ours: list[list[torch.Tensor]], truth: list[list[torch.Tensor]]) -> float:
    """
    The largest share by which a stream differs, whose chunks must have as many frames as NeMo's.

    With a look-ahead NeMo ends a stream in several steps with ever fewer mel frames, the last of which may have
    failed: all their frames are in our last chunk.
    """
    error = 0.0
    for chunks, references in zip(ours, truth, strict=True):
        references = [reference for reference in references if len(reference)]
        sizes, expected_sizes = [len(chunk) for chunk in chunks], [len(reference) for reference in references]
        assert sizes[:-1] == expected_sizes[: len(sizes) - 1]
        if references:
            frames, reference = torch.cat(chunks), torch.cat(references)
            assert len(frames) >= len(reference)
            difference = (frames[: len(reference)] - reference).abs().max()
            error = max(error, float(difference / reference.abs().max()))
    return error


def split_streams(steps: list[tuple[torch.Tensor, torch.Tensor]], num_streams: int) -> list[list[torch.Tensor]]:
    """Frames of each chunk of each stream, without those that have none."""
    return [
        [frames[row, : int(lengths[row])] for frames, lengths in steps if lengths[row] > 0]
        for row in range(num_streams)
    ]


@pytest.mark.parametrize("name", ROWS)
def test_chunks_are_those_of_nemo(name: str, conformer_encoder_class: Any):
    nemo_options, our_options = ROWS[name]
    nemo_encoder = build_nemo_encoder(conformer_encoder_class, nemo_options)
    encoder = copy_weights(nemo_encoder, FastConformerConfig(**OUR_BASE | our_options))
    clips = make_clips()
    for context in encoder.config.attention_contexts or [encoder.config.attention_context]:
        for multiple in CHUNKS if context[0] <= MAX_LEFT_OF_LARGE_CHUNKS else CHUNKS[:1]:
            schedule = StreamingSchedule.of(encoder.config, context)
            nemo_encoder.set_default_att_context_size(list(context))
            if multiple > 1:
                schedule = StreamingSchedule.of(encoder.config, context, schedule.chunk_frames * multiple)
                nemo_encoder.setup_streaming_params(schedule.step_frames, schedule.chunk_frames)
            streaming = nemo_encoder.streaming_cfg
            assert streaming.cache_drop_size == schedule.lookahead_frames
            truth = [run_nemo_encoder(nemo_encoder, clip) for clip in clips]
            errors = {}
            for implementation in ("eager", "sdpa"):
                encoder.set_attn_implementation(implementation)
                alone = [split_streams(list(run_streams(encoder, [clip], schedule)), 1)[0] for clip in clips]
                batch = split_streams(list(run_streams(encoder, clips, schedule)), len(clips))
                errors[f"{implementation} alone"] = largest_error(alone, truth)
                errors[f"{implementation} batch"] = largest_error(batch, truth)
            if schedule.lookahead_frames == 0:
                assert [sum(map(len, chunks)) for chunks in alone] == [sum(map(len, chunks)) for chunks in truth]
            print(f"\n{name} {context} x{multiple}: " + ", ".join(f"{key} {e:.1e}" for key, e in errors.items()))
            assert max(errors.values()) <= FLOAT32_SHARE, errors
