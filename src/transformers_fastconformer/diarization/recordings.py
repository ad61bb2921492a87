"""Diarisation of recordings: files of any length, read as a stream, and samples in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..audio.clips import is_rate_and_samples
from ..audio.feature_stream import FeatureStream
from ..audio.files import AudioFile, find_file, load_waveform
from ..audio.parts import read_part
from ..checkpoint_sources import resolve_checkpoint
from ..configuration_diarization import FastConformerDiarizationConfig
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..frames import seconds_from_samples
from ..inference.loading import AUTO_DEVICE, DTYPES, checkpoint_of_name, choose_device
from ..inference.reading import AudioClip
from ..modeling.diarization import FastConformerForDiarization
from ..modeling.quantization import quantize_dynamic_int8
from ..modeling.speaker_cache import PRESETS, SpeakerStreamOptions
from ..nemo.locate import refuse_other_paths
from ..validation import require, require_choice
from .speaker_stream import SpeakerStreams
from .turns import SpeakerTurn, SpeakerTurnOptions, find_turns

#: The checkpoint that is used where none is named.
DEFAULT_DIARIZATION_MODEL = "nvidia/diar_streaming_sortformer_4spk-v2.1"
# Samples that are pushed at a time, so that features of hours are never in memory.
PUSHED_SECONDS = 10.0

Diarizer = tuple[FastConformerForDiarization, FastConformerFeatureExtractor]
SecondsDone = Callable[[float], None]


@dataclass(frozen=True)
class DiarizationOptions:
    """
    Options of diarisation.

    Args:
        latency: How far a step looks ahead: `"very_high"` (30.4 s), `"high"` (10 s), `"low"` (1.04 s) or `"very_low"`
            (0.32 s); the more, the surer. None (default): what the checkpoint was trained with. Only for checkpoints
            that go through recordings in chunks.
        turns: Rules that make turns of probabilities, or the name of a tuned set: `"dihard3"`, `"callhome"`,
            `"v1-dihard3"`, `"v1-callhome"`.
        is_whole: Let the model see the whole recording at once, whose memory grows with its length. None (default):
            only for checkpoints that know nothing else.

    Raises:
        ValueError: for a value that is not accepted.
    """

    latency: str | None = None
    turns: SpeakerTurnOptions | str = field(default_factory=SpeakerTurnOptions)
    is_whole: bool | None = None

    def __post_init__(self) -> None:
        require_choice("latency", self.latency, (None, *PRESETS))
        if isinstance(self.turns, str):
            object.__setattr__(self, "turns", SpeakerTurnOptions.named(self.turns))
        require(isinstance(self.turns, SpeakerTurnOptions), "turns", self.turns, "SpeakerTurnOptions or a name")
        require_choice("is_whole", self.is_whole, (None, True, False))
        if self.is_whole:
            require(self.latency is None, "latency", self.latency, "None with is_whole=True")


@dataclass(frozen=True, eq=False)
class Diarization:
    """
    Who speaks when in a recording.

    Args:
        turns: Turns of the speakers, by their start. Speakers are numbered by when they are first heard.
        duration_seconds: Length of the recording.
        probabilities: (frames, speakers) float32, that each speaker speaks.
        frame_seconds: Seconds of a frame.
    """

    turns: list[SpeakerTurn]
    duration_seconds: float
    probabilities: np.ndarray
    frame_seconds: float

    @property
    def speakers(self) -> list[int]:
        """Numbers of the speakers who have a turn."""
        return sorted({turn.speaker for turn in self.turns})


def load_diarizer(source: str | Path, device: str = AUTO_DEVICE, dtype: str = "auto") -> Diarizer:
    """
    Load the model and the feature extractor of a Sortformer checkpoint.

    Args:
        source: A folder, a `.nemo` file, or a Hub repository of either; a `.nemo` is converted once into a cache.
        device: As in [`load_model`].
        dtype: `"auto"` (default), `"float32"`, `"float16"`, `"bfloat16"`, or `"int8"`: products of the blocks in 8
            bits, on a CPU.

    Raises:
        ValueError: for a checkpoint that tells no speakers apart, and a device or dtype that is not available.
        FileNotFoundError, OSError: when the checkpoint cannot be had.
    """
    require_choice("dtype", dtype, DTYPES)
    device = choose_device(device, dtype == "int8")
    name = checkpoint_of_name(source)
    refuse_other_paths(name)
    resolved = resolve_checkpoint(name, FastConformerDiarizationConfig, {}) or name
    config_dict, _ = FastConformerDiarizationConfig.get_config_dict(resolved)
    kind, own = config_dict.get("model_type"), FastConformerDiarizationConfig.model_type
    require(kind == own, f"model_type of {source}", kind, f"{own!r}, a Sortformer, which tells speakers apart")
    floating = {"int8": "float32"}.get(dtype, dtype)
    model: Any = FastConformerForDiarization.from_pretrained(name, dtype=floating)
    model = model.eval().to(device)
    if dtype == "int8":
        quantize_dynamic_int8(model)
    return model, FastConformerFeatureExtractor.from_pretrained(name)


def diarize(
    audio: Any,
    model: str | Path | Diarizer = DEFAULT_DIARIZATION_MODEL,
    options: DiarizationOptions | None = None,
    *,
    channel: str | int = "mix",
    device: str = AUTO_DEVICE,
    dtype: str = "auto",
    on_progress: SecondsDone | None = None,
) -> Diarization:
    """
    Tell who speaks when in a recording.

    Args:
        audio: A path, an `http(s)` URL, bytes, an open file, samples at the rate of the model, or what the pipeline
            takes: `{"raw": ..., "sampling_rate": ...}`, `(rate, samples)`; or an [`AudioClip`], a part of a file.
        model: Name of a checkpoint, see `load_diarizer`, or what that returns.
        options: The options; None: the defaults.
        channel: `"mix"` (default) for the mean of the channels of a file, or the number of one.
        device, dtype: As in `load_diarizer`.
        on_progress: Called with the seconds of audio that are done, now and then.

    Returns:
        A [`Diarization`]. Memory does not grow with the length of a file, but for its probabilities (200 kB an hour
        and speaker).

    Raises:
        ValueError: for what is not audio, and for options that the checkpoint does not have.
        FileNotFoundError, OSError, ImportError: as `transcribe`.
    """
    options = DiarizationOptions() if options is None else options
    diarizer, extractor = model if isinstance(model, tuple) else load_diarizer(model, device, dtype)
    stream_options = _choose_way(diarizer, options)
    rate = extractor.sampling_rate
    if isinstance(audio, AudioClip):
        if not audio.is_whole:
            waveform = read_part(os.fspath(audio.source), rate, audio.channel, audio.start_seconds, audio.seconds)
            return _diarize_blocks([waveform], diarizer, extractor, stream_options, options, on_progress)
        audio, channel = audio.source, audio.channel
    if find_file(audio) is not None and not is_rate_and_samples(audio):
        with AudioFile(find_file(audio)) as file:
            blocks = file.blocks(rate, channel)
            return _diarize_blocks(blocks, diarizer, extractor, stream_options, options, on_progress)
    waveform = load_waveform(audio, rate)
    return _diarize_blocks([waveform], diarizer, extractor, stream_options, options, on_progress)


def _choose_way(model: FastConformerForDiarization, options: DiarizationOptions) -> SpeakerStreamOptions | None:
    """The way through a recording; None: whole."""
    is_streaming = model.config.is_streaming
    if not is_streaming:
        expected = "None for a checkpoint that hears whole recordings"
        require(options.latency is None, "latency", options.latency, expected)
        require(options.is_whole is not False, "is_whole", False, "None or True for a checkpoint that hears no chunks")
        return None
    return None if options.is_whole else SpeakerStreamOptions.of(model.config, options.latency)


def _diarize_blocks(
    blocks: Iterable[np.ndarray],
    model: FastConformerForDiarization,
    extractor: FastConformerFeatureExtractor,
    stream_options: SpeakerStreamOptions | None,
    options: DiarizationOptions,
    on_progress: SecondsDone | None,
) -> Diarization:
    rate = extractor.sampling_rate
    # Normalised features need the whole recording, as in NeMo; those of published checkpoints are not.
    is_whole = stream_options is None or extractor.normalize is not None
    frame_seconds = seconds_from_samples(extractor.hop_length * model.config.mel_frames_per_encoder_frame, rate)
    if is_whole:
        waveform = np.concatenate(list(blocks))
        num_samples = len(waveform)
        inputs: Any = extractor(waveform, sampling_rate=rate, return_tensors="pt", device=str(model.device))
        if stream_options is None:
            with torch.no_grad():
                output: Any = model(inputs["input_features"], input_lengths=inputs["input_lengths"])
            probabilities = output.probabilities[0, : int(output.encoder_lengths[0])].float().cpu()
        else:
            whole = inputs["input_features"][0, : int(inputs["input_lengths"][0])]
            probabilities = SpeakerStreams(model, stream_options).push({0: whole}, {0: True})[0]
    else:
        num_samples, parts = 0, []
        streams, features = SpeakerStreams(model, stream_options), FeatureStream(extractor.log_mel)
        for block in _cut(blocks, round(PUSHED_SECONDS * rate)):
            num_samples += len(block)
            parts.append(streams.push({0: features.push(block)}, {})[0])
            if on_progress is not None:
                on_progress(seconds_from_samples(num_samples, rate))
        parts.append(streams.push({0: features.finish()}, {0: True})[0])
        probabilities = torch.cat(parts)
    duration_seconds = seconds_from_samples(num_samples, rate)
    assert isinstance(options.turns, SpeakerTurnOptions)
    found = probabilities.numpy()
    turns = find_turns(found, frame_seconds, duration_seconds, options.turns)
    return Diarization(turns, duration_seconds, found, frame_seconds)


def _cut(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Blocks of at most so many samples."""
    for block in blocks:
        for start in range(0, len(block), size):
            yield block[start : start + size]
