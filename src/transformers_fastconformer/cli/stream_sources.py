"""Sources of live audio: a file, the standard input or another pipe, a microphone."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import numpy as np

from ..audio.clips import take_channels
from ..audio.decoders import Decoded
from ..audio.downloads import is_url, local_path
from ..audio.files import AudioFile
from ..audio.microphone import Microphone
from ..audio.pipes import PcmFormat, decode_pipe
from ..audio.resampling import make_resampler
from ..inference.many_files import AudioClip
from .exit_codes import InputError
from .stream_queue import Piece, PieceQueue
from .transcribe_inputs import STANDARD_INPUT, STANDARD_INPUT_LABEL, AudioInput

MICROPHONE = "microphone"
# Audio of a piece: what comes at the speed of the clock is cut finely, so that no word waits for a piece.
LIVE_PIECE_SECONDS = 0.04
PIECE_SECONDS = 0.4
# Audio that waits while the model works. A file and a pipe wait themselves when it is full, a microphone cannot.
QUEUE_SECONDS = 2.0
MICROPHONE_QUEUE_SECONDS = 60.0


class Clock:
    """The time, in seconds."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class PcmOptions:
    """
    Options that say what samples without a header are.

    Args:
        encoding: Value of `--encoding`; None: the pipe has a header.
        sampling_rate: Value of `--sampling_rate`; None: that of the model.
        num_channels: Value of `--num_channels`; None: one.
    """

    encoding: str | None = None
    sampling_rate: int | None = None
    num_channels: int | None = None

    def refuse(self, names: Iterable[str], owners: str) -> None:
        """Raise a `ValueError` for options that were given and belong to other sources."""
        for name in names:
            if getattr(self, name) is not None:
                raise ValueError(f"--{name} belongs to {owners}.")


class Source(ABC):
    """
    Audio that comes piece by piece.

    Attributes:
        item: The audio as the outputs know it.
        is_live: True if it comes at the speed of the clock, and so can be late.
        is_recording: True if it cannot be had again: what came of it is kept, whatever ends it.
    """

    item: AudioInput
    is_live = False
    is_recording = False

    @abstractmethod
    def prepare(self, sampling_rate: int) -> tuple[PieceQueue, int]:
        """
        Make the queue of the pieces.

        Args:
            sampling_rate: Rate of the model, in Hz.

        Returns:
            The queue, and the rate at which samples will come.
        """

    @abstractmethod
    def start(self) -> None:
        """Begin to fill the queue."""

    @abstractmethod
    def stop(self) -> None:
        """End the queue, if it has not ended, and give everything back."""


class _ReadSource(Source):
    """
    A source that a thread reads.

    Args:
        item: The audio as the outputs know it.
        is_live: Pieces come at the speed of the clock.
        clock: The clock.
    """

    def __init__(self, item: AudioInput, is_live: bool, clock: Clock) -> None:
        self.item = item
        self.is_live = is_live
        self._clock = clock
        self._queue = PieceQueue(1)
        self._sampling_rate = 0
        self._thread = threading.Thread(target=self._work, name="fastconformer-audio", daemon=True)

    @abstractmethod
    def blocks(self, sampling_rate: int) -> Iterator[np.ndarray]:
        """Samples at a rate, (samples,) float32."""

    def prepare(self, sampling_rate: int) -> tuple[PieceQueue, int]:
        self._sampling_rate = sampling_rate
        self._queue = PieceQueue(round(QUEUE_SECONDS * sampling_rate))
        return self._queue, sampling_rate

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._queue.end()

    def _work(self) -> None:
        try:
            self._fill()
        except ValueError as error:
            self._queue.end(InputError(str(error)))
        except Exception as error:
            self._queue.end(error)
        else:
            self._queue.end()
        finally:
            self.close()

    def close(self) -> None:
        """Give back what the thread has read from."""

    def _fill(self) -> None:
        num_samples = round((LIVE_PIECE_SECONDS if self.is_live else PIECE_SECONDS) * self._sampling_rate)
        start_seconds: float | None = None
        num_given = 0
        for block in self.blocks(self._sampling_rate):
            start_seconds = self._clock.now() if start_seconds is None else start_seconds
            for place in range(0, block.shape[0], num_samples):
                samples = block[place : place + num_samples]
                num_given += samples.shape[0]
                spoken = start_seconds + num_given / self._sampling_rate if self.is_live else None
                if spoken is not None:
                    self._clock.wait(max(spoken - self._clock.now(), 0.0))
                if not self._queue.put(Piece(samples, spoken)):
                    return


class FileSource(_ReadSource):
    """
    A file, read in blocks.

    Args:
        path: A path or an address.
        channel: Channel that is taken.
        is_live: It is fed at the speed of the clock.
        clock: The clock.

    Raises:
        InputError: for what cannot be opened.
    """

    def __init__(self, path: str, channel: str | int, is_live: bool, clock: Clock) -> None:
        name = PurePosixPath(unquote(urlsplit(path).path)).stem if is_url(path) else Path(path).stem
        super().__init__(AudioInput(AudioClip(path, channel), path, name or "audio"), is_live, clock)
        self._channel = channel
        try:
            self._file = AudioFile(path)
        except (ValueError, OSError) as error:
            raise InputError(str(error)) from error

    def blocks(self, sampling_rate: int) -> Iterator[np.ndarray]:
        return self._file.blocks(sampling_rate, self._channel)

    def close(self) -> None:
        self._file.close()


class PipeSource(_ReadSource):
    """
    A pipe, whose samples are given as they come.

    Args:
        file: The open pipe.
        item: The audio as the outputs know it.
        name: What to call it in messages.
        pcm: What samples without a header are.
        is_live: It is fed at the speed of the clock, or more slowly.
        clock: The clock.
    """

    is_recording = True

    def __init__(
        self, file: BinaryIO, item: AudioInput, name: str, pcm: PcmOptions, is_live: bool, clock: Clock
    ) -> None:
        super().__init__(item, is_live, clock)
        # Without Python's buffer, which waits until it is full, and whose lock a thread could hold at the end.
        self._file = file
        self._read: Callable[[int], bytes] = getattr(file, "raw", file).read
        self._name = name
        self._pcm = pcm

    def blocks(self, sampling_rate: int) -> Iterator[np.ndarray]:
        pcm, raw = self._pcm, None
        if pcm.encoding is not None:
            raw = PcmFormat(pcm.encoding, pcm.sampling_rate or sampling_rate, pcm.num_channels or 1)
        return _at_rate(decode_pipe(self._read, self._name, raw), sampling_rate, self.item.clip.channel, self._name)

    def close(self) -> None:
        if self._file is not getattr(sys.stdin, "buffer", None):
            self._file.close()


def _at_rate(decoded: Iterator[Decoded], sampling_rate: int, channel: str | int, name: str) -> Iterator[np.ndarray]:
    """Samples of a pipe, mono and at a rate."""
    rate, resample = 0, None
    nothing = np.zeros(0, dtype=np.float32)
    for found in decoded:
        if found.sampling_rate != rate:
            if resample is not None:
                yield resample(nothing, True)
            rate, resample = found.sampling_rate, make_resampler(found.sampling_rate, sampling_rate)
        assert resample is not None
        yield resample(take_channels(found.samples, channel, name), False)
    if resample is not None:
        yield resample(nothing, True)


class MicrophoneSource(Source):
    """
    A microphone.

    Args:
        device: Value of `--input_device`.
        channel: Channel that is taken.
        pcm: Rate and channels that are asked for.
        started: Time at which the recording begins, for the record of the outputs.
        clock: The clock.
    """

    is_live = True
    is_recording = True

    def __init__(self, device: str | None, channel: str | int, pcm: PcmOptions, started: str, clock: Clock) -> None:
        self.item = AudioInput(AudioClip(MICROPHONE, channel), MICROPHONE, MICROPHONE, recorded_at=started)
        self._clock = clock
        self._channel = channel
        self._wanted_rate = pcm.sampling_rate
        num_channels = pcm.num_channels or (1 if isinstance(channel, str) else channel + 1)
        if isinstance(channel, int) and channel >= num_channels:
            raise ValueError(f"--channel {channel} is not recorded; expected less than --num_channels {num_channels}.")
        number = int(device) if device is not None and device.isdecimal() else device
        self.microphone = Microphone(number, num_channels)
        self._queue = PieceQueue(1)
        self._rate = 0

    def prepare(self, sampling_rate: int) -> tuple[PieceQueue, int]:
        self._rate = self.microphone.choose_rate(self._wanted_rate or sampling_rate)
        if self._wanted_rate not in (None, self._rate):
            raise ValueError(
                f"--sampling_rate {self._wanted_rate} is not supported by {self.microphone.name}; expected its own, "
                f"{self._rate}."
            )
        self._queue = PieceQueue(round(MICROPHONE_QUEUE_SECONDS * self._rate))
        return self._queue, self._rate

    def start(self) -> None:
        self.microphone.start(self._rate, self._channel, self._hear, self._end)

    def _hear(self, samples: np.ndarray, has_gap: bool) -> None:
        if has_gap:
            self._queue.num_gaps += 1
        self._queue.offer(Piece(samples, self._clock.now()))

    def _end(self) -> None:
        self._queue.end(InputError(f"{self.microphone.name} has ended the recording; expected it to stay connected."))

    def stop(self) -> None:
        self.microphone.stop()
        self._queue.end()


def find_source(
    argument: str,
    channel: str | int,
    pcm: PcmOptions,
    input_device: str | None,
    is_realtime: bool,
    clock: Clock,
) -> Source:
    """
    The source that an argument stands for.

    Args:
        argument: `"microphone"`, `"-"`, or a path or an address.
        channel: Channel that is taken.
        pcm: What samples without a header are.
        input_device: Number or name of the microphone.
        is_realtime: Files and pipes are fed at the speed of the clock.
        clock: The clock.

    Raises:
        InputError: for a file that cannot be opened.
        ValueError: for options of other sources, and values that are not accepted.
        ImportError, NoMicrophoneError: as for [`Microphone`].
    """
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    if argument == MICROPHONE:
        pcm.refuse(["encoding"], "-, the standard input")
        if is_realtime:
            raise ValueError("--realtime belongs to files and -; a microphone is live.")
        return MicrophoneSource(input_device, channel, pcm, started, clock)
    if input_device is not None:
        raise ValueError(f"--input_device belongs to {MICROPHONE}.")
    path = local_path(argument)
    is_standard_input = path == STANDARD_INPUT
    if not is_standard_input and not _is_pipe(path):
        pcm.refuse(("encoding",), "-, the standard input")
        pcm.refuse(("sampling_rate", "num_channels"), f"-, the standard input, or {MICROPHONE}")
        return FileSource(path, channel, is_realtime, clock)
    if pcm.encoding is None:
        pcm.refuse(("sampling_rate", "num_channels"), "samples without a header (--encoding)")
    else:
        PcmFormat(pcm.encoding, pcm.sampling_rate or 16000, pcm.num_channels or 1)  # raises for wrong values
    if is_standard_input and sys.stdin is None:
        raise InputError(f"{STANDARD_INPUT_LABEL} is closed; expected audio.")
    if is_standard_input and sys.stdin.isatty():
        raise ValueError(f"{STANDARD_INPUT_LABEL} is a terminal; expected audio through a pipe, or {MICROPHONE}.")
    file: BinaryIO = sys.stdin.buffer if is_standard_input else open(path, "rb")  # noqa: SIM115  (read to its end)
    item = AudioInput(AudioClip(path, channel), path, "stdin" if is_standard_input else Path(path).stem)
    item = replace(item, is_stream=True, recorded_at=started)
    name = STANDARD_INPUT_LABEL if is_standard_input else repr(path)
    return PipeSource(file, item, name, pcm, is_realtime, clock)


def _is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):  # told when it is opened
        return False
