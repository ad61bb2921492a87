"""Live streams in NeMo, cut by its own buffer, and the same streams here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from transformers_fastconformer import FastConformerEncoderCache, StreamingSchedule


def make_buffer(model: Any, clips: Sequence[torch.Tensor]) -> Any:
    """NeMo's buffer with a stream for each clip, (mel frames, mels); `model` may be an encoder."""
    from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

    class FeatureBuffer(CacheAwareStreamingAudioBuffer):
        def extract_preprocessor(self) -> None:
            """Features are given."""

    encoder = getattr(model, "encoder", model)
    buffer = FeatureBuffer(SimpleNamespace(encoder=encoder, device=torch.device("cpu")), online_normalization=False)
    for clip in clips:
        buffer.append_processed_signal(clip.T[None], stream_id=-1)
    return buffer


def cut_chunks(buffer: Any) -> Iterator[dict[str, Any]]:
    """The arguments of a step for every chunk, as NeMo's streaming script gives them."""
    encoder = buffer.model.encoder
    for step, (chunk, lengths) in enumerate(buffer):
        yield {
            "processed_signal": chunk,
            "processed_signal_length": lengths,
            "keep_all_outputs": buffer.is_buffer_empty(),
            "drop_extra_pre_encoded": 0 if step == 0 else encoder.streaming_cfg.drop_extra_pre_encoded,
        }


@torch.no_grad()
def run_nemo_encoder(encoder: Any, clip: torch.Tensor) -> list[torch.Tensor]:
    """Frames that NeMo's encoder gives for each chunk of a clip alone; until it fails, if it does."""
    state = encoder.get_initial_cache_state(batch_size=1)
    outputs = []
    for arguments in cut_chunks(make_buffer(encoder, [clip])):
        names = ("cache_last_channel", "cache_last_time", "cache_last_channel_len")
        try:
            frames, lengths, *state = encoder.cache_aware_stream_step(
                **arguments, **dict(zip(names, state, strict=True))
            )
        except RuntimeError:
            break
        outputs.append(frames[0, :, : int(lengths[0])].T)
    return outputs


def run_streams(
    model: Any, clips: Sequence[torch.Tensor], schedule: StreamingSchedule, **options: Any
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """
    Encode clips as live streams of one batch, chunk by chunk: frames and lengths of each step.

    Args:
        model: One with `encode`, or an encoder.
        clips: (mel frames, mels) of each stream.
        schedule: Their schedule.
        options: Of `encode`.
    """
    cache = FastConformerEncoderCache.for_model(model, schedule, num_streams=len(clips))
    encode = getattr(model, "encode", model)
    given = [0] * len(clips)
    has_ended = [len(clip) == 0 for clip in clips]
    while not all(has_ended):
        pieces, is_last = [], []
        for row, clip in enumerate(clips):
            piece = clip[:0] if has_ended[row] else clip[given[row] : given[row] + cache.next_mel_frames(row)]
            given[row] += len(piece)
            pieces.append(piece)
            is_last.append(not has_ended[row] and given[row] == len(clip))
            has_ended[row] |= is_last[row]
        lengths = torch.tensor([len(piece) for piece in pieces])
        features = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=float("nan"))
        with torch.no_grad():
            output = encode(features, input_lengths=lengths, cache=cache, is_last=is_last, **options)
        yield output.last_hidden_state, output.encoder_lengths


def run_streams_whole(model: Any, clips: Sequence[torch.Tensor], schedule: StreamingSchedule) -> list[torch.Tensor]:
    """All frames of each stream, (frames, size)."""
    steps = list(run_streams(model, clips, schedule))
    return [torch.cat([frames[row, : int(lengths[row])] for frames, lengths in steps]) for row in range(len(clips))]
