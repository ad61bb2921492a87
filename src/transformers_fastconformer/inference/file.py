"""Transcription of one recording: a file of any length, read as a stream, or samples in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from ..audio.clips import is_rate_and_samples
from ..audio.files import AudioFile, load_waveform
from ..audio.voice_activity import DETECTOR_SAMPLING_RATE, check_voice_activity
from ..frames import seconds_from_samples
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from ..tokenization_decoding import compile_decoding
from ..validation import require
from .clip_features import AudioSource
from .multitask_plan import choose_front_end, is_multitask, plan_multitask
from .options import TranscriptionOptions
from .pause_cuts import plan_cuts
from .recognition import recognize
from .speech_parts import choose_part_strategy, find_speech, transcribe_speech
from .strategy import check_strategy, choose_strategy
from .text_language import check_text_language
from .transcript import Transcript, to_transcripts

SecondsDone = Callable[[float], None]


class SampleSource:
    """
    Samples in memory, read like a file.

    Args:
        audio: Samples in a form of `load_waveform`, not a file.
        sampling_rate: Rate of samples that come without a rate, in Hz.
        name: Name of the samples in messages.
    """

    def __init__(self, audio: Any, sampling_rate: int, name: str = "audio") -> None:
        if audio is None:
            raise ValueError(f"{name} is None; expected a path, a URL, bytes, samples or a mapping that holds them.")
        has_rate = isinstance(audio, Mapping) or hasattr(audio, "get_all_samples") or is_rate_and_samples(audio)
        self._audio = audio if has_rate else {"raw": audio, "sampling_rate": sampling_rate}
        self.name = name

    def blocks(self, sampling_rate: int, channels: str | int = "mix") -> Iterator[np.ndarray]:
        """All samples in one block, (samples,), mono and at the given rate."""
        if channels != "mix":
            raise ValueError(f"channel={channels!r} of {self.name} is not supported; expected 'mix' for samples.")
        yield load_waveform(self._audio, sampling_rate, self.name)


def check_options(
    model: FastConformerRecognizer, processor: FastConformerProcessor, options: TranscriptionOptions
) -> None:
    """
    Check that a model can do what is asked for, before anything is read.

    Raises:
        ValueError: for options that the model does not have, and for a processor whose times would be those of
            another model.
        ImportError: for `voice_activity`, when the extra `vad` is not installed; the message holds the command.
    """
    config: Any = model.config
    mel_frames = config.mel_frames_per_encoder_frame
    require(
        processor.subsampling_factor == mel_frames,
        "processor.subsampling_factor",
        processor.subsampling_factor,
        f"{mel_frames}, the mel frames of an encoder frame of this model (config.mel_frames_per_encoder_frame)",
    )
    options.decoding.require_one_text()
    boosting = options.decoding.boosting
    is_shared = not isinstance(boosting, tuple)
    require(is_shared, "boosting", boosting, "phrases for all recordings; a list for each is for generate")
    compiled = compile_decoding(options.decoding, processor.tokenizer, model.is_told_language)
    model.check_decoding(compiled)
    compiled.make_scorer(1, processor.tokenizer.blank_token_id)  # raises for those of another checkpoint
    if is_multitask(model):
        plan_cuts(options.chunking, processor.frame_seconds, mel_frames)
        plan_multitask(model, processor, options)
    else:
        check_strategy(config, processor.frame_seconds, options.chunking)
    check_voice_activity(options.voice_activity)
    if options.detect_language:
        check_text_language()


def transcribe_file(
    model: FastConformerRecognizer,
    processor: FastConformerProcessor,
    path: str | os.PathLike[str] | bytes | BinaryIO,
    options: TranscriptionOptions | None = None,
    *,
    channel: int | str = "mix",
    on_progress: SecondsDone | None = None,
    **keywords: Any,
) -> Transcript:
    """
    Transcribe one audio file of any length, whose samples are never in memory all at once.

    Args:
        model: A model with a head, as [`load_model`] returns it. It is not changed, and others may use it meanwhile.
        processor: The model's processor.
        path: A path, an `http(s)` URL, the bytes of a file, or an open file or pipe.
        options: How to transcribe; None: the defaults of [`TranscriptionOptions`].
        channel: `"mix"` (default) for the mean of the channels, or the number of one, from 0.
        on_progress: Called with the seconds of audio that are done, now and then and at the end.
        keywords: Fields of [`TranscriptionOptions`] by name, also those of its `decoding` and `chunking`.

    Returns:
        The [`Transcript`]; its `strategy` says which strategy was used.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: for what is not audio, a URL that cannot be downloaded, a channel that the file does not have, an
            unknown option, and options that the model does not have.
        ImportError: when an extra is needed and not installed: `audio` for files, `vad` for `voice_activity`; the
            message holds the command.
    """
    options = TranscriptionOptions.of(options, keywords)
    check_options(model, processor, options)
    with AudioFile(path) as audio:
        return transcribe_source(model, processor, audio, options, channel, on_progress)


def transcribe_source(
    model: FastConformerRecognizer,
    processor: FastConformerProcessor,
    audio: AudioSource,
    options: TranscriptionOptions,
    channel: int | str = "mix",
    on_progress: SecondsDone | None = None,
) -> Transcript:
    """Transcribe audio that is open, with options that are checked, otherwise like `transcribe_file`."""
    transcribe = _transcribe_whole if options.voice_activity is None else _transcribe_speech
    transcript = transcribe(model, processor, audio, options, channel, on_progress or _ignore)
    transcript.channel = channel
    if on_progress is not None:
        on_progress(transcript.duration_seconds)
    return transcript


def _ignore(seconds: float) -> None:
    """Do nothing: the caller did not ask for progress."""


def _transcribe_whole(
    model: FastConformerRecognizer,
    processor: FastConformerProcessor,
    audio: AudioSource,
    options: TranscriptionOptions,
    channel: int | str,
    on_progress: SecondsDone,
) -> Transcript:
    clip, num_samples = choose_front_end(model, processor, options).open(audio, channel)
    duration_seconds = seconds_from_samples(num_samples, processor.feature_extractor.sampling_rate)
    chosen = choose_strategy(model, clip.mel_length, processor.frame_seconds, options)

    def report(num_frames: list[int]) -> None:
        on_progress(min(num_frames[0] * processor.frame_seconds, duration_seconds))

    transcriptions = recognize(processor, [clip], chosen, options, options.timestamps or ["word"], on_frames=report)
    (transcript,) = to_transcripts(transcriptions, [duration_seconds], options, chosen)
    return transcript


def _transcribe_speech(
    model: FastConformerRecognizer,
    processor: FastConformerProcessor,
    audio: AudioSource,
    options: TranscriptionOptions,
    channel: int | str,
    on_progress: SecondsDone,
) -> Transcript:
    assert options.voice_activity is not None
    speech = find_speech(processor, audio.blocks(DETECTOR_SAMPLING_RATE, channel), options.voice_activity)
    chosen = choose_part_strategy(model, processor, speech.parts, options)

    def report(frame: int) -> None:
        on_progress(min(frame * processor.frame_seconds, speech.duration_seconds))

    transcription = transcribe_speech(processor, audio, channel, speech, chosen, options, report)
    return Transcript.of(transcription, speech.duration_seconds, options, chosen, speech.segments)


def transcribe_waveforms(
    model: FastConformerRecognizer,
    processor: FastConformerProcessor,
    waveforms: Sequence[np.ndarray],
    options: TranscriptionOptions | None = None,
    **keywords: Any,
) -> list[Transcript]:
    """
    Transcribe one batch of clips.

    Args:
        model: A model with a head, as [`load_model`] returns it.
        processor: The model's processor.
        waveforms: Samples of each clip, at the rate of the processor's feature extractor, see `load_waveform`.
        options: How to transcribe; None: the defaults of [`TranscriptionOptions`], but the encoder sees all clips at
            a time.
        keywords: Fields of [`TranscriptionOptions`] by name, also those of its `decoding` and `chunking`.

    Returns:
        A [`Transcript`] for each clip, in order.

    Raises:
        ValueError: for clips that are not audio, an unknown option, and options that the model does not have.
        ImportError: for `voice_activity`, when the extra `vad` is not installed; the message holds the command.
    """
    if options is None:
        keywords.setdefault("batch_size", max(len(waveforms), 1))
    options = TranscriptionOptions.of(options, keywords)
    check_options(model, processor, options)
    sampling_rate = processor.feature_extractor.sampling_rate
    if options.voice_activity is not None:
        sources = [SampleSource(waveform, sampling_rate) for waveform in waveforms]
        return [transcribe_source(model, processor, source, options) for source in sources]
    mono = [load_waveform(waveform, sampling_rate, f"Clip {place}") for place, waveform in enumerate(waveforms)]
    front_end = choose_front_end(model, processor, options)
    clips = [front_end.extract(waveform) for waveform in mono]
    mel_length = max((clip.mel_length for clip in clips), default=0)
    num_clips = min(options.batch_size, max(len(clips), 1))
    chosen = choose_strategy(model, mel_length, processor.frame_seconds, options, num_clips)
    transcriptions = recognize(processor, clips, chosen, options, options.timestamps or ["word"])
    durations_seconds = [seconds_from_samples(len(waveform), sampling_rate) for waveform in mono]
    return to_transcripts(transcriptions, durations_seconds, options, chosen)
