"""One rule for arrays, tensors, lists, batches and channels, through every door by which they come in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from transformers_fastconformer.audio.clips import check_samples, mono_clip, pad_clips, read_clips, take_channels
from transformers_fastconformer.audio.files import find_file, load_waveform
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.hf_pipeline import FastConformerSpeechRecognitionPipeline
from transformers_fastconformer.inference.clip_features import FrontEnd
from transformers_fastconformer.inference.file import transcribe_waveforms
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.inference.reading import prepare_clip
from transformers_fastconformer.inference.transcribe import transcribe

RATE = 16000


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.fixture(scope="module")
def recognizer() -> FastConformerSpeechRecognitionPipeline:
    model, processor = load_model(CHECKPOINT_PATH)
    return FastConformerSpeechRecognitionPipeline(model, processor=processor)


@pytest.fixture
def doors(recognizer: FastConformerSpeechRecognitionPipeline) -> dict[str, Callable[[Any], Any]]:
    """Each way in for one clip, as a function of it to its features."""
    extractor = recognizer.feature_extractor

    def features_of(waveform: Any) -> Any:
        return extractor(waveform, sampling_rate=RATE, return_tensors="pt").input_features[0]

    return {
        "the rule": lambda clip: features_of(mono_clip(clip, "Clip 0")),
        "feature extractor": lambda clip: features_of([clip]),
        "processor": lambda clip: recognizer.processor([clip], sampling_rate=RATE, return_tensors="pt")[
            "input_features"
        ][0],
        "load_waveform": lambda clip: features_of(load_waveform(clip, RATE, "Clip 0")),
        "load_waveform of a mapping": lambda clip: features_of(
            load_waveform({"array": clip, "sampling_rate": RATE}, RATE, "Clip 0")
        ),
        "pipeline": lambda clip: (
            prepare_clip(recognizer.preprocess((0, clip))[0], FrontEnd(recognizer.processor), Path(), None)
            .features[0]
            .input_features
        ),
    }


MONO = noise(2000)
STEREO = noise(2, 2000, seed=1)
INTEGERS = (MONO * 32768).round().clamp(-32768, 32767).to(torch.int16)
ACCEPTED: dict[str, tuple[Any, torch.Tensor]] = {
    "samples": (MONO, MONO),
    "array": (MONO.numpy(), MONO),
    "float64": (MONO.double().numpy(), MONO),
    "half precision": (MONO.to(torch.bfloat16), MONO.to(torch.bfloat16).float()),
    "list": (MONO.tolist(), MONO),
    "16-bit integers": (INTEGERS.numpy(), INTEGERS.float() / 32768),
    "16-bit integers, tensor": (INTEGERS, INTEGERS.float() / 32768),
    "one channel": (MONO[None], MONO),
    "one channel last": (MONO[:, None].numpy(), MONO),
    "two channels": (STEREO, STEREO.mean(dim=0)),
    "two channels last": (STEREO.T, STEREO.mean(dim=0)),
    "two channels, array": (STEREO.numpy(), STEREO.mean(dim=0)),
    "two channels, list": (STEREO.T.tolist(), STEREO.mean(dim=0)),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "three channels, or a batch": (noise(3, RATE), r"Clip 0 has shape \(3, 16000\); expected .* at most 2 channels"),
    "three channels last": (noise(RATE, 3).numpy(), r"Clip 0 has shape \(16000, 3\); .* A batch is a list of clips"),
    "features": (noise(80, 500), r"Clip 0 has shape \(80, 500\); expected \(samples,\)"),
    "square": (noise(2, 2), r"Clip 0 has shape \(2, 2\): which side is time cannot be told"),
    "three dimensions": (noise(1, 2, 3), r"Clip 0 has shape \(1, 2, 3\); expected \(samples,\)"),
    "no samples": (noise(0), r"Clip 0 is empty \(0 samples\)"),
    "no channels": (noise(0, 100), r"Clip 0 is empty \(0 samples\)"),
    "integers": (
        (MONO * 32767).to(torch.int32).numpy(),
        r"Clip 0 has samples of type int32; .* by their full scale first: 2147483648 for 32 bits, 32768 for 16 bits",
    ),
    "8 bits": (np.zeros(100, dtype=np.int8), r"Clip 0 has samples of type int8"),
    "sparse": (
        torch.zeros(100).to_sparse(),
        r"Clip 0 is a tensor of torch.float32 and layout torch.sparse_coo on cpu; expected a dense",
    ),
    "without values": (
        torch.zeros(100, device="meta"),
        r"Clip 0 is a tensor of torch.float32 and layout torch.strided on meta",
    ),
    "too large": (MONO * 1e38, r"Clip 0 has values up to .*e\+37; expected samples in \[-1, 1\]"),
    "integer tensor": (torch.zeros(100, dtype=torch.int32), r"Clip 0 has samples of type torch.int32; .* 32 bits"),
    "booleans": (np.zeros(100, dtype=bool), r"Clip 0 has samples of type bool; expected floating-point samples"),
    "complex": (np.zeros(100, dtype=complex), r"Clip 0 has samples of type complex128"),
    "ragged": ([[0.1, 0.2], [0.3]], r"Clip 0 has rows of different lengths"),
    "not finite": (torch.tensor([0.0, 0.1, float("nan")]), r"Clip 0 has the value nan at sample 2; expected finite"),
    "something else": (object(), r"Clip 0 is of type object; expected"),
}


@pytest.mark.parametrize("form", ACCEPTED)
def test_every_door_takes_the_same(form: str, doors: dict[str, Callable[[Any], Any]]) -> None:
    clip, mono = ACCEPTED[form]
    expected = doors["feature extractor"](mono)
    for door, open_door in doors.items():
        assert torch.equal(open_door(clip), expected), door


@pytest.mark.parametrize("form", REFUSED)
def test_every_door_refuses_the_same(form: str, doors: dict[str, Callable[[Any], Any]]) -> None:
    clip, message = REFUSED[form]
    for open_door in doors.values():
        if form in ("not finite", "too large", "no samples", "no channels") and open_door is doors["the rule"]:
            continue  # checked by those who use it
        with pytest.raises(ValueError, match=message):
            open_door(clip)


def test_more_channels_are_taken_where_channels_says_so() -> None:
    six = noise(6, 3000)
    for clip in (six, six.T, six.numpy()):
        assert torch.equal(mono_clip(clip, "Clip 0", "mix"), six.mean(dim=0))
        assert torch.equal(mono_clip(clip, "Clip 0", 4), six[4])
        for waveform in (read_clips([clip], channels=4).waveforms, read_clips(clip, channels=4).waveforms):
            assert torch.equal(waveform[0], six[4])
    with pytest.raises(ValueError, match=r"channels=6 of Clip 0 does not exist; it has channels 0 to 5"):
        mono_clip(six, "Clip 0", 6)
    with pytest.raises(ValueError, match=r"Clip 0 has shape \(80, 500\); .* at most 32 channels"):
        mono_clip(noise(80, 500), "Clip 0", "mix")
    for channels in ("left", -1, True, 1.0):
        with pytest.raises(ValueError, match=f"channels={channels!r} is not supported; expected 'mix' or the number"):
            mono_clip(six, "Clip 0", channels)  # type: ignore[arg-type]


def test_a_decoder_says_itself_which_side_is_time() -> None:
    """As torchcodec's `AudioDecoder`: (channels, samples), however many channels."""
    six = noise(6, 4)
    decoder = SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=six, sample_rate=RATE))
    np.testing.assert_allclose(load_waveform(decoder), six.mean(dim=0).numpy(), atol=1e-7)


@pytest.mark.parametrize("rate", [RATE, np.int64(RATE), torch.tensor(RATE), np.array(RATE)])
def test_a_rate_and_samples_are_one_clip_at_every_door(
    rate: Any, recognizer: FastConformerSpeechRecognitionPipeline
) -> None:
    """As Gradio's audio component has them, and rates as tensors of no dimensions."""
    stereo = (INTEGERS / 2).to(torch.int16).numpy()[:, None].repeat(2, axis=1)
    expected = stereo[:, 0] / np.float32(32768)
    assert np.array_equal(load_waveform((rate, stereo)), expected)
    assert np.array_equal(load_waveform({"array": stereo, "sampling_rate": rate}), expected)
    assert find_file((rate, stereo)) is None
    assert np.array_equal(read_clips((rate, stereo), sampling_rate=RATE).waveforms[0], expected)
    assert np.array_equal(read_clips([(rate, stereo)], sampling_rate=RATE).waveforms[0], expected)
    assert set(recognizer((rate, stereo))) == {"text"}
    assert transcribe((rate, stereo), model=(recognizer.model, recognizer.processor)).duration_seconds == 2000 / RATE
    with pytest.raises(ValueError, match=r"Clip 0 has 16000 Hz; expected 8000 Hz \(load_waveform resamples\)"):
        read_clips([(rate, stereo)], sampling_rate=8000)


def test_the_seconds_of_a_waveform_do_not_depend_on_the_place_of_its_channels(
    recognizer: FastConformerSpeechRecognitionPipeline,
) -> None:
    for clip in (MONO, STEREO.numpy(), STEREO.T.numpy(), INTEGERS.numpy()):
        (transcript,) = transcribe_waveforms(recognizer.model, recognizer.processor, [clip])
        assert transcript.duration_seconds == 2000 / RATE


def test_batches() -> None:
    assert [len(waveform) for waveform in read_clips([MONO, STEREO, MONO[:7]]).waveforms] == [2000, 2000, 7]
    padded = read_clips(noise(3, 500), [500, 20, 1])
    assert padded.lengths == [500, 20, 1]
    assert [len(waveform) for waveform in padded.waveforms] == [500, 500, 500]
    stereo = read_clips(torch.stack([STEREO, STEREO]), [2000, 100])
    assert torch.equal(stereo.waveforms[1], STEREO.mean(dim=0))
    with pytest.raises(ValueError, match=r"raw_speech of shape \(2, 2000\) may be a batch or one clip with channels"):
        read_clips(STEREO)


def test_tensors_are_noticed() -> None:
    assert read_clips([MONO.numpy(), MONO]).holds_tensors
    assert read_clips(MONO).holds_tensors
    assert not read_clips(MONO.numpy()).holds_tensors
    assert not read_clips([MONO.tolist()]).holds_tensors


def test_padding_leaves_out_what_does_not_count() -> None:
    clip = MONO.clone()
    clip[5:] = float("nan")
    padded = pad_clips([clip, MONO[:3]], [5, 3], torch.device("cpu"))
    assert padded.shape == (2, 2000)
    assert torch.equal(padded[0, :5], MONO[:5])
    assert not padded[0, 5:].any()
    assert not padded[1, 3:].any()
    with pytest.raises(ValueError, match="Clip 8 has the value nan at sample 5"):
        pad_clips([MONO, clip], [5, 6], torch.device("cpu"), first_index=7)


def test_float_samples_of_other_scales_are_taken() -> None:
    check_samples(torch.tensor([[-(2.0**31), 2.0**31]]), ["a"])
    with pytest.raises(ValueError, match=r"b has values up to 1e\+38; expected samples in \[-1, 1\]"):
        check_samples(torch.tensor([[0.0], [-1e38]]), ["a", "b"])


def test_what_is_not_finite_is_named() -> None:
    check_samples(noise(2, 10), ["a", "b"])
    samples = noise(2, 10)
    samples[1, 3] = float("-inf")
    with pytest.raises(ValueError, match="b has the value -inf at sample 103; expected finite samples"):
        check_samples(samples, ["a", "b"], first_sample=100)


def test_channels_of_a_known_layout() -> None:
    samples = noise(50, 3).numpy()
    assert np.array_equal(take_channels(samples, "mix", "x"), samples.mean(axis=1))
    assert np.array_equal(take_channels(samples, 2, "x"), samples[:, 2])
    with pytest.raises(ValueError, match="channels=3 of x does not exist; it has channels 0 to 2"):
        take_channels(samples, 3, "x")
