"""Files to results: loads a checkpoint with the head that is wanted and transcribes audio in batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from transformers import PreTrainedModel

from ..audio.files import AudioFile
from ..audio.voice_activity import DETECTOR_SAMPLING_RATE, SpeechSegment, VoiceActivityOptions, check_voice_activity
from ..decoding.confidence import ConfidenceOptions
from ..demonstration import CHECKPOINT_PATH
from ..frames import seconds_from_samples
from ..modeling.quantization import quantize_dynamic_int8
from ..nemo.hub import ARCHIVE_ON_HUB, is_hub_id
from ..processing_fastconformer import FastConformerProcessor, FastConformerTranscription
from .chunked import check_batch_size, check_decoding_options, plan_chunks, transcribe_features
from .clip_features import extract_clip, open_clip
from .hf_pipeline import HEADS, AutoModelForFastConformer, choose_head
from .speech_parts import choose_part_strategy, find_speech, transcribe_speech
from .strategy import STRATEGIES as STRATEGIES
from .strategy import check_strategy, choose_strategy

#: The checkpoint that is used where none is named.
DEFAULT_MODEL = "nvidia/parakeet-tdt-0.6b-v3"

#: What `load_model` calls the spoken-digit checkpoint that the package carries.
DEMONSTRATION_NAME = "demo"

#: The device that `choose_device` chooses by what is there.
AUTO_DEVICE = "auto"


@dataclass
class Transcript:
    """
    What was said in one clip.

    Args:
        text: The transcript.
        timestamps: Level (`"token"`, `"char"`, `"word"`, `"segment"`) to a list of items with `start_offset` and
            `end_offset` in encoder frames, `start` and `end` in seconds; None if no times were asked for.
        duration_seconds: Length of the clip.
        strategy: How it was transcribed: `"full"`, `"local"` or `"chunked"`, see `transcribe_file`.
        channel: Which channel of the file it is, `"mix"` for their mean.
        confidence: How sure decoding was of the clip, and
        word_confidences: of each word of the text, in order; None if that was not asked for.
        speech: Where in the clip something is said, in seconds, by voice activity detection; None if that was not
            asked for.
    """

    text: str
    timestamps: dict[str, list[dict[str, Any]]] | None
    duration_seconds: float
    strategy: str = "full"
    channel: int | str = "mix"
    confidence: float | None = None
    word_confidences: list[float] | None = None
    speech: list[SpeechSegment] | None = None


def load_model(
    source: str | Path, head: str = "auto", device: str = "cpu", dtype: str = "auto"
) -> tuple[PreTrainedModel, FastConformerProcessor]:
    """
    Model and processor of a checkpoint, ready to transcribe.

    Args:
        source: What `from_pretrained` takes: a folder or Hub repository in our format, or a `.nemo` file and a folder
            or repository that holds one, which is converted once into a cache; `"demo"` for the demonstration
            checkpoint.
        head: `"ctc"`, `"transducer"`, or `"auto"`: the transducer where there is one.
        device: Where the model goes; `"auto"`: see `choose_device`.
        dtype: `"auto"` (as stored), `"float32"`, `"float16"`, `"bfloat16"`, or `"int8"`: in float32, with the blocks
            of the encoder as `quantize_dynamic_int8` has them.

    Raises:
        ValueError: when the checkpoint lacks the head, and for 8 bits where there are none.
        FileNotFoundError: there is no such file or folder, and it is no name of a repository.
    """
    if head not in HEADS:
        raise ValueError(f"head={head!r} is not supported; expected one of {HEADS}.")
    is_int8 = dtype == "int8"
    device = choose_device(device, is_int8)
    source = CHECKPOINT_PATH if source == DEMONSTRATION_NAME else source
    name = str(source)
    if not (Path(name).exists() or is_hub_id(name) or ARCHIVE_ON_HUB.fullmatch(name)):
        raise FileNotFoundError(f"{name!r} does not exist; expected a folder, a .nemo archive or a Hub repository.")
    stored = AutoModelForFastConformer.from_pretrained(source, dtype="float32" if is_int8 else dtype)
    model: Any = choose_head(stored, head).eval().to(device)
    processor = FastConformerProcessor.from_pretrained(source)
    return quantize_dynamic_int8(model) if is_int8 else model, processor


def choose_device(device: str = AUTO_DEVICE, is_int8: bool = False) -> str:
    """
    Choose where a model runs.

    Args:
        device: The name of a device, which is checked, or `"auto"`: CUDA if this machine has it, else MPS, else the
            CPU.
        is_int8: Products of 8 bits are wanted, for which `"auto"` is the CPU.

    Raises:
        ValueError: as `check_device`.
    """
    if device != AUTO_DEVICE:
        return check_device(device)
    if is_int8:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> str:
    """
    The name of a device, if this machine has it.

    Raises:
        ValueError: for a name that torch does not know, and for a device that is not there.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            available.append("mps")
        raise ValueError(f"device={device!r} is not available; this machine has {', '.join(available)}.") from error
    return device


def transcribe_file(
    model: PreTrainedModel,
    processor: FastConformerProcessor,
    path: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    strategy: str = "auto",
    timestamps: bool | Sequence[str] = True,
    language: str | None = None,
    chunk_length_s: float | None = None,
    stride_length_s: float | Sequence[float] | None = None,
    max_symbols_per_step: int | None = None,
    batch_size: int = 8,
    channel: int | str = "mix",
    confidence: ConfidenceOptions | None = None,
    voice_activity: VoiceActivityOptions | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Transcript:
    """
    Transcribe one audio file of any length, whose samples are never in memory all at once.

    Args:
        model: A model with a head, as `load_model` returns it. It is left as it is, and others may use it meanwhile.
        processor: Its processor.
        path: A path, an `http(s)` URL, the bytes of a file, or an open file or pipe.
        strategy: `"full"`: the encoder sees the whole clip; `"local"`: it does, but each frame of a model with full
            attention sees 128 frames on both sides; `"chunked"`: it sees overlapping windows; `"auto"`: by length and
            memory, see `choose_strategy`. The result says which it was.
        timestamps: Levels of times to return, True for all, False for none.
        language: Code of the language, for models with language prompts.
        chunk_length_s: Seconds that the encoder sees at once, for `"chunked"`, 30 by default; given, `"auto"` is
            `"chunked"`.
        stride_length_s: How much of a chunk is context on each side, see `plan_chunks`.
        max_symbols_per_step: Most tokens on one frame, for transducers.
        batch_size: Chunks that the encoder sees at a time.
        channel: `"mix"` for the mean of the channels, or the number of one.
        confidence: Which confidences to work out; None: none.
        voice_activity: Find out first where something is said, and let the encoder see that alone, part by part, each
            as a clip of its own; `strategy` is how the parts are transcribed. None: the whole file is transcribed.
        on_progress: Called with the seconds of audio that are done, now and then and at the end.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: for audio that is none, and for options that the model does not have.
        ImportError: for `voice_activity`, when the extra `vad` is not installed; the message holds the command.
    """
    config: Any = model.config
    frame_seconds = processor.frame_seconds
    check_decoding_options(model, language, max_symbols_per_step)
    check_strategy(config, frame_seconds, strategy, chunk_length_s, stride_length_s)
    check_voice_activity(voice_activity)
    check_batch_size(batch_size)
    with AudioFile(path) as audio:
        if voice_activity is not None:
            speech = find_speech(processor, audio.blocks(DETECTOR_SAMPLING_RATE, channel), voice_activity)
            chosen = choose_part_strategy(
                model, processor, speech.parts, batch_size, strategy, chunk_length_s, stride_length_s
            )

            def report_frame(frame: int) -> None:
                if on_progress is not None:
                    on_progress(min(frame * frame_seconds, speech.duration_seconds))

            transcription = transcribe_speech(
                processor,
                audio,
                channel,
                speech,
                chosen,
                timestamps=timestamps,
                batch_size=batch_size,
                language=language,
                max_symbols_per_step=max_symbols_per_step,
                confidence=confidence,
                on_progress=report_frame,
            )
            if on_progress is not None:
                on_progress(speech.duration_seconds)
            return to_transcript(
                transcription, speech.duration_seconds, timestamps, chosen.name, channel, speech.segments
            )
        clip, num_samples = open_clip(processor.feature_extractor, audio, channel)
        duration_seconds = seconds_from_samples(num_samples, processor.feature_extractor.sampling_rate)
        chosen = choose_strategy(model, clip.mel_length, frame_seconds, strategy, chunk_length_s, stride_length_s)

        def report(num_frames: list[int]) -> None:
            if on_progress is not None:
                on_progress(min(num_frames[0] * frame_seconds, duration_seconds))

        output = transcribe_features(
            chosen.model,
            [clip],
            chosen.plan,
            batch_size=batch_size,
            language=language,
            max_symbols_per_step=max_symbols_per_step,
            confidence=confidence,
            on_progress=report,
        )
    if on_progress is not None:
        on_progress(duration_seconds)
    (transcript,) = to_transcripts(processor, output, [duration_seconds], timestamps, confidence, chosen.name, channel)
    return transcript


def to_transcripts(
    processor: FastConformerProcessor,
    output: Any,
    durations_seconds: Sequence[float],
    timestamps: bool | Sequence[str],
    confidence: ConfidenceOptions | None,
    strategy: str,
    channel: int | str = "mix",
) -> list[Transcript]:
    """What `transcribe_features` returns to texts, with the times and confidences asked for."""
    decoded: list[Any] = processor.batch_decode(
        output, timestamps=timestamps if timestamps else ["word"], confidence=confidence is not None
    )
    return [
        to_transcript(item, duration_seconds, timestamps, strategy, channel)
        for item, duration_seconds in zip(decoded, durations_seconds, strict=True)
    ]


def to_transcript(
    transcription: FastConformerTranscription,
    duration_seconds: float,
    timestamps: bool | Sequence[str],
    strategy: str,
    channel: int | str = "mix",
    speech: list[SpeechSegment] | None = None,
) -> Transcript:
    """What the processor makes of a clip, with what is known of the clip beside it."""
    return Transcript(
        text=transcription.text or "",
        timestamps=transcription.timestamps if timestamps else None,
        duration_seconds=duration_seconds,
        strategy=strategy,
        channel=channel,
        confidence=transcription.confidence,
        word_confidences=transcription.word_confidences,
        speech=speech,
    )


def transcribe_waveforms(
    model: PreTrainedModel,
    processor: FastConformerProcessor,
    waveforms: Sequence[np.ndarray],
    timestamps: bool | Sequence[str] = False,
    language: str | None = None,
    chunk_length_s: float | None = None,
    stride_length_s: float | Sequence[float] | None = None,
    max_symbols_per_step: int | None = None,
    batch_size: int | None = None,
    confidence: ConfidenceOptions | None = None,
) -> list[Transcript]:
    """
    Transcribe one batch of clips.

    Args:
        model: A model with a head, as `load_model` returns it.
        processor: Its processor.
        waveforms: Samples of each clip, float, at the rate of the processor's feature extractor.
        timestamps: Levels of times to return, or True for all.
        language: Code of the language, for models with language prompts.
        chunk_length_s: Seconds that the encoder sees at once; None: whole clips.
        stride_length_s: How much of a chunk is context on each side, see `plan_chunks`.
        max_symbols_per_step: Most tokens on one frame, for transducers.
        batch_size: Clips or chunks that the encoder sees at a time; None: as many as there are clips.
        confidence: Which confidences to work out; None: none.
    """
    config: Any = model.config
    plan = plan_chunks(config, processor.frame_seconds, chunk_length_s, stride_length_s)
    output = transcribe_features(
        model,
        [extract_clip(processor.feature_extractor, waveform) for waveform in waveforms],
        plan,
        batch_size=len(waveforms) if batch_size is None else batch_size,
        language=language,
        max_symbols_per_step=max_symbols_per_step,
        confidence=confidence,
    )
    durations_seconds = [
        seconds_from_samples(len(waveform), processor.feature_extractor.sampling_rate) for waveform in waveforms
    ]
    strategy = "full" if plan is None else "chunked"
    return to_transcripts(processor, output, durations_seconds, timestamps, confidence, strategy)


def split_batches(items: Sequence[Any], batch_size: int) -> Iterator[Sequence[Any]]:
    """Consecutive pieces of at most `batch_size` items."""
    check_batch_size(batch_size)
    for start in range(0, len(items), batch_size):
        yield items[start : start + batch_size]
