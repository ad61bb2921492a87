"""Live streams in a cache: rows joined, taken out and put elsewhere change nothing, and no tensor grows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import build_model
from nemo_streams import run_streams_whole
from tolerances import FLOAT32_SHARE

from transformers_fastconformer import FastConformerEncoderCache, StreamingSchedule

STREAMING: dict[str, Any] = {
    "causal_downsampling": True,
    "conv_context": [4, 0],
    "conv_norm_type": "layer_norm",
    "attention_context_style": "chunked_limited",
    "attention_context": [4, 1],
    "attention_contexts": [[4, 1], [4, 0]],
}
LENGTHS = (150, 41, 97)


@pytest.fixture
def encoder() -> Any:
    return build_model("encoder", **STREAMING)


@pytest.fixture
def schedule(encoder: Any) -> StreamingSchedule:
    return StreamingSchedule.of(encoder.config)


def make_clips() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(length, 8, generator=generator) for length in LENGTHS]


class Feeder:
    """Streams that go on in whatever cache and row they are put in; `frames` holds what each was given out."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.clips = make_clips()
        self.given = [0] * len(self.clips)
        self.frames: list[list[torch.Tensor]] = [[] for _ in self.clips]

    def step(self, cache: FastConformerEncoderCache, streams: list[int | None]) -> None:
        """A step of the streams in the rows of a cache; None for a row that sits it out."""
        pieces, is_last = [], []
        for row, stream in enumerate(streams):
            clip = torch.zeros(0, 8) if stream is None else self.clips[stream]
            start = 0 if stream is None else self.given[stream]
            piece = clip[start : start + cache.next_mel_frames(row)]
            if stream is not None:
                self.given[stream] += len(piece)
            pieces.append(piece)
            is_last.append(stream is not None and self.given[stream] == len(clip))
        features = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
        lengths = torch.tensor([len(piece) for piece in pieces])
        with torch.no_grad():
            output = self.encoder(features, input_lengths=lengths, cache=cache, is_last=is_last)
        for row, stream in enumerate(streams):
            if stream is not None:
                self.frames[stream].append(output.last_hidden_state[row, : output.encoder_lengths[row]])

    def finish(self, cache: FastConformerEncoderCache, streams: list[int]) -> None:
        while any(self.given[stream] < len(self.clips[stream]) for stream in streams):
            self.step(cache, [s if self.given[s] < len(self.clips[s]) else None for s in streams])

    def check(self, schedule: StreamingSchedule, streams: list[int]) -> None:
        """All frames of the streams are those of each alone."""
        for stream in streams:
            (alone,) = run_streams_whole(self.encoder, [self.clips[stream]], schedule)
            found = torch.cat(self.frames[stream])
            assert found.shape == alone.shape
            torch.testing.assert_close(found, alone, rtol=0, atol=FLOAT32_SHARE * float(alone.abs().max()))


def test_rows_taken_out_joined_and_reordered_go_on_as_before(encoder: Any, schedule: StreamingSchedule):
    feeder = Feeder(encoder)
    first = FastConformerEncoderCache.for_model(encoder, schedule, 2)
    feeder.step(first, [0, None])
    feeder.step(first, [0, 1])
    second = FastConformerEncoderCache.for_model(encoder, schedule, 1)
    feeder.step(second, [2])
    joined = FastConformerEncoderCache.concatenate([first, second])
    feeder.step(joined, [0, 1, None])
    joined.reorder([2, 0, 1])
    feeder.step(joined, [2, 0, 1])
    feeder.finish(joined.select([1, 2, 0]), [0, 1, 2])
    feeder.check(schedule, [0, 1, 2])


def test_copies_do_not_share_their_state(encoder: Any, schedule: StreamingSchedule):
    feeder = Feeder(encoder)
    cache = FastConformerEncoderCache.for_model(encoder, schedule)
    feeder.step(cache, [0])
    copy = cache.select([0])
    Feeder(encoder).step(FastConformerEncoderCache.concatenate([cache]), [None])
    feeder.step(cache, [0])
    assert copy.counts != cache.counts
    assert not torch.equal(copy.keys, cache.keys)


def test_a_stream_is_put_into_a_slot_and_a_reset_one_starts_anew(encoder: Any, schedule: StreamingSchedule):
    feeder = Feeder(encoder)
    slots = FastConformerEncoderCache.for_model(encoder, schedule, 2)
    feeder.finish(slots, [1, 2])
    single = FastConformerEncoderCache.for_model(encoder, schedule)
    feeder.step(single, [0])
    slots.write([1], single)
    slots.keys[:, 0] = float("nan")  # of a stream that went wrong
    slots.reset([0])
    again = Feeder(encoder)
    while again.given[1] < LENGTHS[1] or feeder.given[0] < LENGTHS[0]:
        if again.given[1] < LENGTHS[1]:
            again.step(slots, [1, None])
        if feeder.given[0] < LENGTHS[0]:
            feeder.step(slots, [None, 0])
    feeder.check(schedule, [0, 1, 2])
    again.check(schedule, [1])


def test_a_state_goes_through_tensors(encoder: Any, schedule: StreamingSchedule):
    feeder = Feeder(encoder)
    cache = FastConformerEncoderCache.for_model(encoder, schedule, 3)
    for streams in ([0, None, None], [0, 1, None], [0, 1, 2]):
        feeder.step(cache, streams)
    again = StreamingSchedule.of(encoder.config, **cache.describe_schedule())
    restored = FastConformerEncoderCache.from_state(encoder.config, again, cache.state_dict())
    assert restored.schedule == schedule
    feeder.finish(restored, [0, 1, 2])
    feeder.check(schedule, [0, 1, 2])


def test_hundreds_of_chunks_leave_the_tensors_their_sizes(encoder: Any, schedule: StreamingSchedule):
    cache = FastConformerEncoderCache.for_model(encoder, schedule)
    names = ("mel", "keys", "values", "convolutions")
    sizes = {name: (getattr(cache, name).shape, getattr(cache, name).data_ptr()) for name in names}
    num_bytes = cache.num_bytes
    with torch.inference_mode():
        encoder(torch.randn(1, schedule.first_mel_frames, 8), cache=cache)
        chunk = torch.randn(1, schedule.mel_frames, 8)
        for _ in range(300):
            encoder(chunk, cache=cache)
    assert cache.num_bytes == num_bytes
    assert {name: (getattr(cache, name).shape, getattr(cache, name).data_ptr()) for name in names} == sizes
    assert cache.counts[0].encoder_frames == 301 * schedule.chunk_frames


def test_a_cache_goes_to_another_dtype(encoder: Any, schedule: StreamingSchedule):
    cache = FastConformerEncoderCache.for_model(encoder, schedule)
    half = cache.to(dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.num_bytes * 2 == cache.num_bytes
    features = torch.randn(1, schedule.first_mel_frames, 8)
    with pytest.raises(ValueError, match=r"cache\.dtype=torch\.bfloat16"):
        encoder(features, cache=half)
    output = encoder.to(torch.bfloat16)(features, cache=half)
    assert output.last_hidden_state.dtype == torch.bfloat16
    assert output.last_hidden_state.isfinite().all()


def test_what_does_not_fit_is_refused_by_name(encoder: Any, schedule: StreamingSchedule):
    cache = FastConformerEncoderCache.for_model(encoder, schedule, 2)
    other = FastConformerEncoderCache.for_model(encoder, StreamingSchedule.of(encoder.config, [4, 0]))
    wide = build_model("encoder", **STREAMING, hidden_size=32)
    for match, call in (
        (r"rows=\[2\]", lambda: cache.select([2])),
        (r"rows=\[0, 0\].*once", lambda: cache.reorder([0, 0])),
        (r"rows=\[0, 1\].*1 different rows", lambda: cache.write([0, 1], cache.select([0]))),
        (r"caches=\[\]", lambda: FastConformerEncoderCache.concatenate([])),
        ("caches: schedule", lambda: FastConformerEncoderCache.concatenate([cache, other])),
        ("num_streams=-1", lambda: FastConformerEncoderCache.for_model(encoder, schedule, -1)),
        (r"cache\.keys\.shape", lambda: wide(torch.randn(2, schedule.first_mel_frames, 8), cache=cache)),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("counts", lambda counts: counts - 1, "counts"),
        ("counts", lambda counts: counts.float(), "counts"),
        ("keys", lambda keys: keys[..., :-1], "shape of keys"),
        ("values", lambda values: values.half(), "dtypes"),
        ("mel", lambda mel: None, "tensors"),
    ],
)
def test_a_damaged_state_is_refused(encoder: Any, schedule: StreamingSchedule, name: str, change: Any, match: str):
    tensors = FastConformerEncoderCache.for_model(encoder, schedule).state_dict()
    tensors[name] = change(tensors[name])
    tensors = {key: value for key, value in tensors.items() if value is not None}
    with pytest.raises(ValueError, match=match):
        FastConformerEncoderCache.from_state(encoder.config, schedule, tensors)
