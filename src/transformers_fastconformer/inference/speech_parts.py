"""Transcription of the parts of a recording in which something is said; silence between them is dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..audio.voice_activity import (
    SpeechPart,
    SpeechSegment,
    VoiceActivityOptions,
    detect_speech,
    plan_parts,
)
from ..frames import samples_from_encoder_frames
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from ..processing_outputs import FastConformerTranscription, timestamp_levels
from .clip_features import AudioSource, ClipFeatures, FrontEnd
from .multitask_plan import choose_front_end
from .options import TranscriptionOptions
from .recognition import recognize
from .strategy import ChosenStrategy, choose_strategy


class ClipSpeech(NamedTuple):
    """
    Speech that was found in a recording.

    Args:
        segments: Stretches in which something is said.
        parts: Parts of the recording that go through the encoder.
        duration_seconds: Length of the recording.
    """

    segments: list[SpeechSegment]
    parts: list[SpeechPart]
    duration_seconds: float

    @property
    def first_frames(self) -> list[int]:
        return [part.start_frame for part in self.parts]


def find_speech(
    processor: FastConformerProcessor, blocks: Iterable[np.ndarray], options: VoiceActivityOptions
) -> ClipSpeech:
    """Find speech in the samples of a recording, (samples,) a block, at `DETECTOR_SAMPLING_RATE`."""
    activity = detect_speech(blocks, options)
    parts = plan_parts(activity, options, processor.frame_seconds)
    return ClipSpeech(activity.segments, parts, activity.duration_seconds)


def extract_parts(
    front_end: FrontEnd,
    blocks: Iterable[np.ndarray],
    parts: Sequence[SpeechPart],
) -> Iterator[ClipFeatures]:
    """
    Features of each part, computed as for a clip of its own, while they are asked for.

    Args:
        front_end: What computes features.
        blocks: All samples of the recording, (samples,) a block, at the model's rate.
        parts: Parts in order, without overlap.

    Raises:
        ValueError: for a recording that has become shorter than it was.
    """
    source, processor = iter(blocks), front_end.processor
    position, held = 0, np.zeros(0, dtype=np.float32)  # `held` begins with sample `position` of the recording
    hop_samples = processor.feature_extractor.hop_length
    for part in parts:
        start, stop = (samples_from_encoder_frames(frame, hop_samples, processor.subsampling_factor) for frame in part)
        kept: list[np.ndarray] = []
        while True:
            kept.append(held[max(start - position, 0) : max(stop - position, 0)])
            if position + held.shape[0] >= stop or (block := next(source, None)) is None:
                break
            position += held.shape[0]
            held = block
        waveform = np.concatenate(kept)
        if not waveform.shape[0]:
            raise ValueError(
                f"The audio ends before sample {start} at the model's rate, where speech was found; expected a file "
                "that does not change while it is read."
            )
        yield front_end.extract(waveform)


def group_parts(
    parts: Sequence[SpeechPart], batch_size: int, batch_seconds: float, frame_seconds: float
) -> Iterator[list[SpeechPart]]:
    """
    Group neighbours that go through the encoder together, which are in memory at a time.

    Args:
        parts: Parts of a recording, in order.
        batch_size: Parts of a group, at most.
        batch_seconds: Seconds of a group, each part padded to the longest, at most; a longer part is alone.
        frame_seconds: Seconds from one encoder frame to the next.
    """
    group: list[SpeechPart] = []
    for part in parts:
        longest = max(stop - start for start, stop in [*group, part])
        is_full = len(group) == batch_size or (len(group) + 1) * longest * frame_seconds > batch_seconds
        if group and is_full:
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def choose_part_strategy(
    model: FastConformerRecognizer,
    processor: FastConformerProcessor,
    parts: Sequence[SpeechPart],
    options: TranscriptionOptions,
) -> ChosenStrategy:
    """Choose the strategy for all parts of a recording: that of the longest."""
    longest = max((stop - start for start, stop in parts), default=0)
    num_together = int(options.batch_seconds / max(longest * processor.frame_seconds, processor.frame_seconds))
    return choose_strategy(
        model,
        longest * processor.subsampling_factor,
        processor.frame_seconds,
        options,
        num_clips=max(min(options.batch_size, num_together), 1),
    )


def transcribe_speech(
    processor: FastConformerProcessor,
    audio: AudioSource,
    channel: str | int,
    speech: ClipSpeech,
    chosen: ChosenStrategy,
    options: TranscriptionOptions,
    on_frame: Callable[[int], None],
) -> FastConformerTranscription:
    """
    Transcribe what is said in a recording, which is read as a stream.

    Args:
        processor: The model's.
        audio: The recording.
        channel: As in [`AudioFile.blocks`].
        speech: Speech that `find_speech` found in it.
        chosen: Model and plan, see `choose_part_strategy`.
        options: How to transcribe.
        on_frame: Called with the encoder frame up to which the recording is done.
    """
    blocks = audio.blocks(processor.feature_extractor.sampling_rate, channel)
    features = extract_parts(choose_front_end(chosen.model, processor, options), blocks, speech.parts)
    transcriptions: list[FastConformerTranscription] = []
    for group in group_parts(speech.parts, options.batch_size, options.batch_seconds, processor.frame_seconds):

        def report(num_frames: list[int], group: Sequence[SpeechPart] = group) -> None:
            unfinished = (
                start + done for (start, stop), done in zip(group, num_frames, strict=True) if done < stop - start
            )
            on_frame(next(unfinished, group[-1].stop_frame))

        features_of_group = [next(features) for _ in group]
        transcriptions += recognize(
            processor, features_of_group, chosen, options, part_levels(options), on_frames=report
        )
    return join_parts(processor, transcriptions, speech, options)


def part_levels(options: TranscriptionOptions) -> list[str]:
    """Levels of times of the parts that `join_parts` needs."""
    return sorted({*timestamp_levels(options.timestamps or False), "word"})


def join_parts(
    processor: FastConformerProcessor,
    transcriptions: Sequence[FastConformerTranscription],
    speech: ClipSpeech,
    options: TranscriptionOptions,
) -> FastConformerTranscription:
    """Join the parts into one transcription of the recording, with times from its start."""
    confidence = options.decoding.confidence
    return processor.join_transcriptions(
        transcriptions,
        speech.first_frames,
        options.timestamps or False,
        None if confidence is None else confidence.aggregation,
    )
