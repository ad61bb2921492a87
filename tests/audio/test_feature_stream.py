"""Features of live streams: those of the whole audio to the last bit, in pieces of any size, together and restored."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from transformers_fastconformer.audio.feature_stream import FeatureStream, push_streams
from transformers_fastconformer.audio.log_mel import MIN_COLUMNS
from transformers_fastconformer.audio.running_normalization import RunningNormalization
from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor

SETTINGS: dict[str, dict[str, Any]] = {
    "80 mels": {},
    "128 mels": {"feature_size": 128},
    "short window": {"win_length": 320, "feature_size": 64},
    "exact_pad": {"exact_pad": True},
    "exact_pad without pre-emphasis": {"exact_pad": True, "preemphasis": None},
    "8 kHz": {"sampling_rate": 8000, "hop_length": 80, "win_length": 200, "n_fft": 256},
    "spliced": {"preemphasis": None, "frame_splicing": 3},
    "clamp, eps": {"log_zero_guard_type": "clamp", "log_zero_guard_value": "eps"},
    "long hop": {"hop_length": 400},
    "hop beyond the transform": {"hop_length": 600},
    "odd transform": {"n_fft": 511, "win_length": 401},
    "magnitudes": {"log": False, "mag_power": 1.0},
    "padding": {"padding_value": -3.0, "window": "bartlett", "pad_to": 16},
}
NUM_SAMPLES = (20001, 20160, 25000)


def make_extractor(**settings: Any) -> FastConformerFeatureExtractor:
    return FastConformerFeatureExtractor(**{"normalize": None, **settings})


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(num_samples) * 0.1).astype(np.float32)


def cut(samples: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Pieces of these sizes, again and again."""
    pieces, start = [], 0
    for size in itertools.cycle(sizes):
        pieces.append(samples[start : start + size])
        start += size
        if start >= len(samples):
            return pieces
    raise AssertionError


def extract(stream: FeatureStream, pieces: Sequence[Any], with_masked_frame: bool = False) -> torch.Tensor:
    parts = [stream.push(piece) for piece in pieces]
    return torch.cat([*parts, stream.finish(with_masked_frame=with_masked_frame)])


def whole_features(extractor: FastConformerFeatureExtractor, samples: Any) -> tuple[torch.Tensor, int]:
    found = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    return found["input_features"][0], int(found["input_lengths"][0])


@pytest.mark.parametrize("name", SETTINGS)
def test_a_stream_is_the_whole_audio_to_the_last_bit(name: str) -> None:
    extractor = make_extractor(**SETTINGS[name])
    for num_samples in NUM_SAMPLES:
        samples = noise(num_samples)
        whole, mel_length = whole_features(extractor, samples)
        assert mel_length > MIN_COLUMNS
        for sizes in ([160], [7, 1, 999, 0, 160], [1280], [num_samples]):
            found = extract(FeatureStream(extractor.log_mel), cut(samples, sizes))
            assert torch.equal(found, whole[:mel_length])
    with_mask = extract(FeatureStream(extractor.log_mel), [samples], with_masked_frame=True)
    assert torch.equal(with_mask, whole[: mel_length + 1])
    assert (with_mask[-1] == extractor.padding_value).all()


def test_pieces_of_one_sample() -> None:
    extractor = make_extractor()
    samples = noise(6000)
    whole, mel_length = whole_features(extractor, samples)
    stream = FeatureStream(extractor.log_mel)
    arrivals = [stream.push(samples[place : place + 1]).shape[0] for place in range(len(samples))]
    # A frame comes with the last sample of its window: half a transform after its middle.
    assert [place for place, count in enumerate(arrivals) if count] == list(range(255, 6000, 160))
    assert set(arrivals) == {0, 1}
    assert torch.equal(extract(FeatureStream(extractor.log_mel), cut(samples, [1])), whole[:mel_length])


@pytest.mark.parametrize("exact_pad", [False, True])
@pytest.mark.parametrize("num_samples", [0, 1, 159, 160, 161, 255, 256, 257, 320, 1599, 1600])
def test_short_streams(num_samples: int, exact_pad: bool) -> None:
    """The whole clip itself is rounded otherwise where it has few frames."""
    extractor = make_extractor(exact_pad=exact_pad)
    samples = noise(num_samples)
    found = extract(FeatureStream(extractor.log_mel), cut(samples, [33]), with_masked_frame=True)
    if num_samples:
        whole, mel_length = whole_features(extractor, samples)
        torch.testing.assert_close(found, whole[: mel_length + 1], atol=2e-6, rtol=0)
    else:
        assert found.shape == (1, 80)
        assert not found.any()


def test_later_audio_changes_nothing_that_was_given() -> None:
    """With `exact_pad` the end of a clip is cut off, which must not be known in advance."""
    for exact_pad in (False, True):
        extractor = make_extractor(exact_pad=exact_pad)
        samples = noise(16000)
        for stop in (8000, 8100, 8159):
            first, second = FeatureStream(extractor.log_mel), FeatureStream(extractor.log_mel)
            given = first.push(samples[:stop])
            assert torch.equal(given, second.push(samples)[: len(given)])
            whole, mel_length = whole_features(extractor, samples[:stop])
            assert torch.equal(torch.cat([given, first.finish()]), whole[:mel_length])


@pytest.mark.parametrize("normalize", [None, "per_feature"])
def test_streams_together_are_as_alone(normalize: str | None) -> None:
    extractors = [make_extractor(normalize=normalize), make_extractor(feature_size=128, normalize=normalize)]
    clips = [noise(length, seed=length) for length in (16000, 9000, 20480, 3)]
    log_mels = [extractors[index % 2].log_mel for index in range(4)]
    alone = [extract(FeatureStream(log_mel), [clip]) for log_mel, clip in zip(log_mels, clips, strict=True)]
    streams = [FeatureStream(log_mel) for log_mel in log_mels]
    parts: list[list[torch.Tensor]] = [[] for _ in streams]
    for start in range(0, 20480, 1024):
        active = [place for place, clip in enumerate(clips) if start < len(clip)]
        pieces = [clips[place][start : start + 1024] for place in active]
        are_last = [start + 1024 >= len(clips[place]) for place in active]
        found = push_streams([streams[place] for place in active], pieces, are_last)
        for place, features in zip(active, found, strict=True):
            parts[place].append(features)
    for expected, found in zip(alone, parts, strict=True):
        assert torch.equal(torch.cat(found), expected)
    assert all(stream.is_finished for stream in streams)


@pytest.mark.parametrize("normalize", [None, "per_feature", "all_features"])
@pytest.mark.parametrize("name", ["80 mels", "exact_pad", "hop beyond the transform"])
def test_a_restored_stream_goes_on_as_if_nothing_had_happened(
    name: str, normalize: str | None, tmp_path: Path
) -> None:
    log_mel = make_extractor(normalize=normalize, **SETTINGS[name]).log_mel
    samples = noise(20000)
    expected = extract(FeatureStream(log_mel), [samples])
    stream, parts = FeatureStream(log_mel), []
    for piece in cut(samples, [100, 1, 3333]):
        parts.append(stream.push(piece))
        safetensors.torch.save_file(stream.state_dict(), tmp_path / "stream.safetensors")
        stream = FeatureStream(log_mel)
        stream.load_state_dict(safetensors.torch.load_file(tmp_path / "stream.safetensors"))
    assert torch.equal(torch.cat([*parts, stream.finish()]), expected)
    assert (stream.num_heard, stream.seconds_heard) == (20000, 1.25)
    finished = FeatureStream(log_mel)
    finished.load_state_dict(stream.state_dict())
    with pytest.raises(ValueError, match="stream is finished"):
        finished.push(samples)


def test_the_state_does_not_grow() -> None:
    log_mel = make_extractor(normalize="per_feature").log_mel
    stream = FeatureStream(log_mel, sampling_rate=48000)
    sizes = []
    for _ in range(200):
        stream.push(noise(3840))
        sizes.append(sum(tensor.numel() for tensor in stream.state_dict().values()))
    assert max(sizes) < 15000  # a second of frames that wait, samples of the resampler
    assert max(sizes[20:]) < 7500
    plain = FeatureStream(make_extractor().log_mel)
    for size in (100000, 77, 1000):
        plain.push(noise(size))
        assert plain.state_dict()["samples"].numel() < 512 + 160 + 1


@pytest.mark.parametrize("sampling_rate", [8000, 44100, 48000])
def test_other_rates_are_resampled_as_the_whole_audio(sampling_rate: int) -> None:
    from transformers_fastconformer.audio.resampling import make_resampler

    extractor = make_extractor()
    samples = noise(sampling_rate * 2 + 17)
    whole, mel_length = whole_features(extractor, make_resampler(sampling_rate, 16000)(samples, True))
    for sizes in ([1000], [sampling_rate // 100, 1, 7], [len(samples)]):
        stream = FeatureStream(extractor.log_mel, sampling_rate)
        assert torch.equal(extract(stream, cut(samples, sizes)), whole[:mel_length])
        assert stream.num_heard == len(samples)
    stream = FeatureStream(extractor.log_mel, sampling_rate)
    parts = [stream.push(samples[:20000])]
    restored = FeatureStream(extractor.log_mel, sampling_rate)
    restored.load_state_dict(stream.state_dict())
    parts += [restored.push(samples[20000:]), restored.finish()]
    torch.testing.assert_close(torch.cat(parts), whole[:mel_length], atol=2e-4, rtol=0)


def test_all_forms_of_samples_are_the_same() -> None:
    log_mel = make_extractor().log_mel
    integers = (noise(4000) * 32767).astype(np.int16)
    floats = integers.astype(np.float32) / np.float32(32768)
    expected = extract(FeatureStream(log_mel), [floats])
    stereo = np.stack([floats, -floats], axis=1)
    for pieces in (
        cut(integers, [100, 3]),
        [torch.from_numpy(floats)],
        [torch.from_numpy(integers)],
        [floats.tolist()],
        [floats[None, :1000], floats[1000:, None]],
    ):
        assert torch.equal(extract(FeatureStream(log_mel), pieces), expected)
    silence = extract(FeatureStream(log_mel), [np.zeros_like(floats)])
    for pieces in ([stereo], [stereo.T], cut(stereo, [33, 700])):
        assert torch.equal(extract(FeatureStream(log_mel, channels=0), pieces), expected)
        assert torch.equal(extract(FeatureStream(log_mel), pieces), silence)
    assert torch.equal(extract(FeatureStream(log_mel), cut(stereo, [3, 700])), silence)


def test_the_memory_of_a_piece_may_be_used_again() -> None:
    log_mel = make_extractor().log_mel
    samples, buffer = noise(4000), np.zeros(100, dtype=np.float32)
    stream, parts = FeatureStream(log_mel), []
    for piece in cut(samples, [100]):
        buffer[:] = piece
        parts.append(stream.push(buffer))
    assert torch.equal(torch.cat([*parts, stream.finish()]), extract(FeatureStream(log_mel), [samples]))


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (np.array([0.0, np.nan], dtype=np.float32), "call has the value nan at sample 101; expected finite samples"),
        (np.array([np.inf], dtype=np.float32), "call has the value inf at sample 100"),
        (np.array([1e20], dtype=np.float32), "call has values up to 1e"),
        (np.zeros((2, 1), dtype=np.float32), r"shape of the samples of call=\(2, 1\) is not supported"),
        (np.zeros((2, 2), dtype=np.float32), r"shape of the samples of call=\(2, 2\)"),
        ([[0.1], [0.2]], r"shape of the samples of call=\(2, 1\)"),
        (np.zeros((50, 3), dtype=np.float32), "call has shape"),
        (np.zeros(10, dtype=np.int64), "call has samples of type int64"),
        ("audio.wav", "call is of type str"),
    ],
)
def test_wrong_samples_are_named_and_change_nothing(piece: Any, message: str) -> None:
    log_mel = make_extractor().log_mel
    samples = noise(3000)
    stream, other = FeatureStream(log_mel, name="call"), FeatureStream(log_mel)
    parts = [stream.push(samples[:100])]
    with pytest.raises(ValueError, match=message):
        push_streams([other, stream], [samples[:100], piece])
    assert other.num_heard == 0
    parts += [stream.push(samples[100:]), stream.finish()]
    assert torch.equal(torch.cat(parts), extract(FeatureStream(log_mel), [samples]))


def test_what_cannot_stream_is_refused() -> None:
    with pytest.raises(ValueError, match=r"peak_scaling=0\.001 is not supported; expected None for a stream"):
        FeatureStream(make_extractor(peak_scaling=1e-3).log_mel)
    with pytest.raises(ValueError, match=r"normalization=.* is not supported; expected None for a model without"):
        FeatureStream(make_extractor().log_mel, normalization=RunningNormalization())
    with pytest.raises(ValueError, match=r"sampling_rate=0"):
        FeatureStream(make_extractor().log_mel, sampling_rate=0)
    with pytest.raises(ValueError, match="channels='left'"):
        FeatureStream(make_extractor().log_mel, channels="left")


def test_lists_of_different_lengths_are_refused() -> None:
    log_mel, samples = make_extractor().log_mel, noise(1000)
    streams = [FeatureStream(log_mel), FeatureStream(log_mel)]
    with pytest.raises(ValueError, match="found 1 and 2; expected one for each of 2 streams"):
        push_streams(streams, [samples])
    with pytest.raises(ValueError, match="found 2 and 1; expected one for each of 2 streams"):
        push_streams(streams, [samples, samples], [True])
    assert not any(stream.num_heard for stream in streams)


def test_a_state_of_another_stream_is_refused() -> None:
    samples = noise(1000)
    stream = FeatureStream(make_extractor().log_mel)
    stream.push(samples)
    for other, message in (
        (FeatureStream(make_extractor(n_fft=1024).log_mel), "samples of the state"),
        (FeatureStream(make_extractor(normalize="per_feature").log_mel), r"type of 'normalization\.counts'"),
        (FeatureStream(make_extractor().log_mel, 48000), r"type of 'resampler\.counts'"),
    ):
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(stream.state_dict())


def test_normalization_nears_that_of_the_whole_audio() -> None:
    extractor = make_extractor(normalize="per_feature")
    samples = noise(32000)
    whole, mel_length = whole_features(extractor, samples)
    held = extract(
        FeatureStream(extractor.log_mel, normalization=RunningNormalization(hold_seconds=10.0)), cut(samples, [1280])
    )
    torch.testing.assert_close(held, whole[:mel_length], atol=2e-5, rtol=0)
    running = extract(FeatureStream(extractor.log_mel), cut(samples, [1280]))
    assert 1e-3 < (running - whole[:mel_length]).abs().mean() < 0.1
