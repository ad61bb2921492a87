"""A stand-in for the module sounddevice, with microphones that play an array."""

from __future__ import annotations

import threading
import types
from typing import Any

import numpy as np


class PortAudioError(Exception):
    """As sounddevice has it."""


class FakeMicrophones(types.ModuleType):
    """
    The module.

    Args:
        samples: (samples, channels) float32 that a recording plays from the start, as fast as it is taken.
        rates: Rates that the device has.
        then: Called in the thread of the recording after the last sample.
        overflow_blocks: Numbers of the blocks before which samples were lost.
        ends: The device ends the recording after the last sample, as one that is pulled out does.
    """

    def __init__(
        self,
        samples: np.ndarray,
        rates: tuple[int, ...] = (16000, 48000),
        then: Any = None,
        overflow_blocks: tuple[int, ...] = (),
        ends: bool = False,
    ) -> None:
        super().__init__("sounddevice")
        self.PortAudioError = PortAudioError
        self.devices = [
            {"index": 0, "name": "speaker", "max_input_channels": 0, "default_samplerate": 44100.0},
            {"index": 1, "name": "desk microphone", "max_input_channels": 2, "default_samplerate": float(rates[-1])},
        ]
        self.samples, self.rates, self.then = samples, rates, then
        self.overflow_blocks, self.ends = overflow_blocks, ends
        self.opened: list[dict[str, Any]] = []
        self.is_closed = False
        self.open_error: str | None = None

    def query_devices(self, device: Any = None, kind: str | None = None) -> Any:
        if device is None and kind is None:
            return self.devices
        for info in self.devices:
            is_wanted = device is None or device == info["index"] or str(device) in str(info["name"])
            if is_wanted and info["max_input_channels"]:
                return info
        raise ValueError(f"No input device matching {device!r}")

    def check_input_settings(self, device: int, channels: int, dtype: str, samplerate: int) -> None:
        if samplerate not in self.rates:
            raise PortAudioError("Invalid sample rate", -9997)

    def RawInputStream(self, **options: Any) -> _Recording:  # noqa: N802  (the name of sounddevice)
        self.opened.append(options)
        if self.open_error is not None:
            raise PortAudioError(self.open_error, -9985)
        return _Recording(self, **options)


class _Recording:
    def __init__(self, module: FakeMicrophones, **options: Any) -> None:
        self._module, self._options = module, options
        self._is_stopped = False
        self._thread = threading.Thread(target=self._play, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _play(self) -> None:
        size, channels = self._options["blocksize"], self._options["channels"]
        for number, place in enumerate(range(0, self._module.samples.shape[0], size)):
            if self._is_stopped:
                return
            block = np.ascontiguousarray(self._module.samples[place : place + size, :channels], dtype=np.float32)
            status = types.SimpleNamespace(input_overflow=number in self._module.overflow_blocks)
            self._options["callback"](memoryview(block).cast("B"), block.shape[0], None, status)
        if self._module.ends:
            self._options["finished_callback"]()
        if self._module.then is not None:
            self._module.then()

    def stop(self) -> None:
        self._is_stopped = True
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._options["finished_callback"]()

    def close(self) -> None:
        self._module.is_closed = True
