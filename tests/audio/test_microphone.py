"""Microphones, with a stand-in for sounddevice."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from microphones import FakeMicrophones

from transformers_fastconformer.audio.microphone import Microphone, NoMicrophoneError, import_sounddevice

SAMPLES = np.arange(16000, dtype=np.float32).reshape(8000, 2) / 16000


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> FakeMicrophones:
    found = FakeMicrophones(SAMPLES, overflow_blocks=(3,))
    monkeypatch.setitem(sys.modules, "sounddevice", found)
    return found


@pytest.mark.parametrize(("channel", "num_channels"), [("mix", 1), ("mix", 2), (1, 2)])
def test_all_samples_come_in_order(module: FakeMicrophones, channel: str | int, num_channels: int) -> None:
    microphone = Microphone("desk", num_channels)
    assert microphone.name == "desk microphone"
    parts: list[np.ndarray] = []
    gaps: list[bool] = []
    ended = threading.Event()
    module.then = ended.set

    def hear(samples: np.ndarray, has_gap: bool) -> None:
        parts.append(samples)
        gaps.append(has_gap)

    ends: list[bool] = []
    microphone.start(microphone.choose_rate(16000), channel, hear, lambda: ends.append(True))
    assert ended.wait(10)
    microphone.stop()
    used = SAMPLES[:, :num_channels]
    assert np.array_equal(np.concatenate(parts), used.mean(axis=1) if channel == "mix" else used[:, 1])
    assert [number for number, gap in enumerate(gaps) if gap] == [3]
    assert module.opened[0]["samplerate"] == 16000
    assert module.opened[0]["blocksize"] == 640
    assert module.is_closed
    assert not ends


def test_a_device_that_ends_the_recording_is_told(module: FakeMicrophones) -> None:
    module.ends = True
    ended = threading.Event()
    microphone = Microphone()
    microphone.start(16000, "mix", lambda samples, has_gap: None, ended.set)
    assert ended.wait(10)
    microphone.stop()


def test_a_rate_that_it_does_not_have_is_its_own(module: FakeMicrophones) -> None:
    assert Microphone().choose_rate(16000) == 16000
    assert Microphone().choose_rate(22050) == 48000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("garden", 1), "the microphone 'garden' is not there; expected one of 1 desk microphone"),
        ((0, 1), "the microphone 0 is not there"),
        ((1, 3), "num_channels=3 is not supported by desk microphone; expected 1 to 2"),
    ],
)
def test_what_it_does_not_have(module: FakeMicrophones, options: tuple[str | int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Microphone(*options)


def test_machines_without_a_microphone(module: FakeMicrophones) -> None:
    microphone = Microphone()
    module.open_error = "Device unavailable"
    with pytest.raises(NoMicrophoneError, match="The microphone cannot be opened: Device unavailable"):
        microphone.start(16000, "mix", lambda samples, has_gap: None, lambda: None)
    del module.devices[1]
    with pytest.raises(NoMicrophoneError, match="This machine has no microphone"):
        Microphone()


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ImportError, match=r'pip install "transformers-fastconformer\[microphone\]"'):
        import_sounddevice()

    class WithoutPortAudio:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice")
    monkeypatch.setattr(sys, "meta_path", [WithoutPortAudio(), *sys.meta_path])
    with pytest.raises(ImportError, match=r"apt-get install libportaudio2.*PortAudio library not found"):
        import_sounddevice()
