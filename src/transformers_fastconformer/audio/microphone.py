"""Live audio of a microphone, by sounddevice and PortAudio, which the extra `microphone` brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .clips import take_channels

INSTALL_COMMAND = 'pip install "transformers-fastconformer[microphone]"'
INSTALL_PORTAUDIO = "apt-get install libportaudio2 (Debian, Ubuntu), dnf install portaudio (Fedora)"
# Samples that come at a time.
BLOCK_SECONDS = 0.04

# Called in a thread of PortAudio with the next samples, (samples,) float32, which belong to the called function, and
# True if some before them were lost; it must not wait.
OnSamples = Callable[[np.ndarray, bool], None]


class NoMicrophoneError(OSError):
    """The machine has no microphone, or its system does not give it."""


def import_sounddevice() -> Any:
    """
    The module sounddevice.

    Raises:
        ImportError: the extra `microphone` or PortAudio is not installed; the message holds the command.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise ImportError(f"The microphone needs sounddevice: {INSTALL_COMMAND}") from error
    except OSError as error:
        raise ImportError(f"The microphone needs PortAudio: {INSTALL_PORTAUDIO}. {error}") from error
    return sounddevice


@contextmanager
def _port_audio_errors(sounddevice: Any) -> Iterator[None]:
    try:
        yield
    except sounddevice.PortAudioError as error:
        words = error.args[0] if error.args else error
        raise NoMicrophoneError(
            f"The microphone cannot be opened: {words}; expected one that this machine has and that this program may "
            "use."
        ) from error


class Microphone:
    """
    A microphone.

    Args:
        device: Number of an input device or words of its name; None: that of the system.
        num_channels: Channels that are recorded.

    Attributes:
        name: Name of the device.

    Raises:
        ImportError: something is not installed; the message holds the command.
        NoMicrophoneError: there is no microphone.
        ValueError: for a device that is not there, and for more channels than it has.
    """

    def __init__(self, device: int | str | None = None, num_channels: int = 1) -> None:
        self._sounddevice = import_sounddevice()
        self._num_channels = num_channels
        self._stream: Any = None
        self._is_stopping = False
        with _port_audio_errors(self._sounddevice):
            devices = list(self._sounddevice.query_devices())
            inputs = [f"{info['index']} {info['name']}" for info in devices if info["max_input_channels"] > 0]
            if not inputs:
                raise NoMicrophoneError("This machine has no microphone; expected an input device of its system.")
            try:
                found = self._sounddevice.query_devices(device, "input")
            except ValueError as error:
                raise ValueError(
                    f"the microphone {device!r} is not there; expected one of {', '.join(inputs)}."
                ) from error
        self.name = str(found["name"])
        self._index = int(found["index"])
        self._default_rate = int(found["default_samplerate"])
        most = int(found["max_input_channels"])
        if num_channels > most:
            raise ValueError(f"num_channels={num_channels} is not supported by {self.name}; expected 1 to {most}.")

    def choose_rate(self, sampling_rate: int) -> int:
        """This rate in Hz if the device has it, else the device's own."""
        try:
            self._sounddevice.check_input_settings(
                device=self._index, channels=self._num_channels, dtype="float32", samplerate=sampling_rate
            )
        except (self._sounddevice.PortAudioError, ValueError):
            return self._default_rate
        return sampling_rate

    def start(self, sampling_rate: int, channel: int | str, on_samples: OnSamples, on_end: Callable[[], None]) -> None:
        """
        Begin to record.

        Args:
            sampling_rate: Rate in Hz, as `choose_rate` gave it.
            channel: `"mix"` for the mean of the channels, or the number of one.
            on_samples: Called with all samples, in order.
            on_end: Called when the device ends the recording, and not after `stop`.

        Raises:
            NoMicrophoneError: it cannot be opened.
        """

        def call(data: Any, num_frames: int, when: Any, status: Any) -> None:
            samples = np.frombuffer(data, dtype=np.float32).reshape(num_frames, self._num_channels)
            on_samples(take_channels(samples, channel, self.name).copy(), bool(status.input_overflow))

        def end() -> None:
            if not self._is_stopping:
                on_end()

        with _port_audio_errors(self._sounddevice):
            self._stream = self._sounddevice.RawInputStream(
                samplerate=sampling_rate,
                blocksize=round(BLOCK_SECONDS * sampling_rate),
                device=self._index,
                channels=self._num_channels,
                dtype="float32",
                callback=call,
                finished_callback=end,
            )
            self._stream.start()

    def stop(self) -> None:
        """End the recording; what was recorded has been given."""
        self._is_stopping = True
        if self._stream is not None:
            with _port_audio_errors(self._sounddevice):
                self._stream.stop()
                self._stream.close()
            self._stream = None
