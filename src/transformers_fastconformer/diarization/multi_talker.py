"""Multi-talker transcription: a pass of the model for each speaker, told by speaker activities whom to follow."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..audio.files import AudioFile, find_file, load_waveform
from ..audio.parts import read_part
from ..frames import seconds_from_samples
from ..inference.clip_features import AudioSource, FollowedClip
from ..inference.file import SampleSource, check_options
from ..inference.loading import AUTO_DEVICE
from ..inference.multitask_plan import choose_front_end
from ..inference.options import TranscriptionOptions
from ..inference.reading import AudioClip
from ..inference.recognition import recognize
from ..inference.strategy import choose_strategy
from ..inference.transcribe import choose_worker
from ..inference.transcript import Transcript, to_transcripts
from ..modeling.recognizer import FastConformerRecognizer
from ..modeling.speaker_kernel import follow_speaker
from ..processing_fastconformer import FastConformerProcessor
from ..processing_outputs import TIMESTAMP_LEVELS, timestamp_levels
from ..validation import require
from .attribution import KEY, join_words, name_speaker
from .recordings import Diarization, DiarizationOptions, Diarizer, diarize

# Words of one speaker that are so far apart are two stretches, between which others may have the floor.
STRETCH_PAUSE_SECONDS = 1.0
# A speaker who is never surer heard than this has no pass of the model.
MIN_PROBABILITY = 0.5

Worker = tuple[FastConformerRecognizer, FastConformerProcessor]
# Of a word in a joined transcript: when its stretch starts, and whose it is.
Place = tuple[float, int]


@dataclass(frozen=True)
class SpeakerTranscripts:
    """
    Transcripts of one recording, one for each speaker.

    Args:
        by_speaker: The transcript of each speaker by number, in order of the numbers. Times count from the start of
            the recording.
        duration_seconds: Length of the recording.
        levels: Levels of times that were asked for.
    """

    by_speaker: dict[int, Transcript]
    duration_seconds: float
    levels: tuple[str, ...]

    def join(self) -> Transcript:
        """
        One transcript of all speakers, with the stretches of each in one piece, in order of their starts.

        Returns:
            A transcript whose words, segments, characters and tokens have a `"speaker"`, such as `"speaker_0"`; its
            segments are stretches of one speaker, those of several may overlap.

        Raises:
            ValueError: for transcripts without times of words.
        """
        require("word" in self.levels, "levels", self.levels, "'word' among them, by which transcripts are joined")
        rows: dict[str, list[tuple[Place, dict[str, Any]]]] = {level: [] for level in {*self.levels, "segment"}}
        confidences: list[tuple[Place, float]] = []
        events: list[dict[str, Any]] = []
        for speaker, transcript in self.by_speaker.items():
            name = {KEY: name_speaker(speaker)}
            timestamps = transcript.timestamps or {}
            words = [{**word, **name} for word in timestamps["word"]]
            stretches = join_words(words, timestamps.get("segment", []), STRETCH_PAUSE_SECONDS)
            starts = [stretch["start"] for stretch in stretches]
            items = {**timestamps, "segment": stretches}
            for level, found in rows.items():
                found += [(_find_place(item, starts, speaker), {**item, **name}) for item in items[level]]
            places = [_find_place(word, starts, speaker) for word in words]
            # The words of the text and those with times are counted by different rules.
            if transcript.word_confidences is not None and len(transcript.word_confidences) == len(words):
                confidences += zip(places, transcript.word_confidences, strict=True)
            events += [{**event, **name} for event in transcript.events or []]
        timestamps = {level: _in_order(found) for level, found in rows.items()}
        has_confidences = bool(confidences) and len(confidences) == len(timestamps["word"])
        languages = {transcript.language for transcript in self.by_speaker.values()}
        some = next(iter(self.by_speaker.values()), Transcript("", None, self.duration_seconds))
        return replace(
            some,
            text=" ".join(item["segment"] for item in timestamps["segment"]),
            timestamps={level: timestamps[level] for level in TIMESTAMP_LEVELS if level in timestamps},
            confidence=None,
            word_confidences=_in_order(confidences) if has_confidences else None,
            token_ids=None,
            token_confidences=None,
            events=None if some.events is None else sorted(events, key=lambda event: event["start"]),
            language=languages.pop() if len(languages) == 1 else None,
        )


def _find_place(item: Mapping[str, Any], starts: Sequence[float], speaker: int) -> Place:
    """Place of an item in a joined transcript: the start of the stretch of its speaker that it belongs to."""
    stretch = bisect_right(starts, item["start"]) - 1
    return (starts[max(stretch, 0)] if starts else item["start"], speaker)


def _in_order(rows: Sequence[tuple[Place, Any]]) -> list[Any]:
    return [item for _, item in sorted(rows, key=lambda row: row[0])]


def transcribe_speakers(
    audio: Any,
    model: str | Path | Worker,
    speakers: Diarization | str | Path | Diarizer | np.ndarray | torch.Tensor,
    *,
    channel: int | str = "mix",
    device: str = AUTO_DEVICE,
    dtype: str = "auto",
    diarization: DiarizationOptions | None = None,
    options: TranscriptionOptions | None = None,
    **keywords: Any,
) -> SpeakerTranscripts:
    """
    Transcribe each speaker of a recording by a pass of a multi-talker model that follows only this speaker.

    ```python
    found = transcribe_speakers(
        "meeting.wav",
        "nvidia/multitalker-parakeet-streaming-0.6b-v1",
        "nvidia/diar_streaming_sortformer_4spk-v2.1",
    )
    found.by_speaker[0].text
    ```

    Args:
        audio: As in [`diarize`]: a path, URL, bytes, an open file, samples, or an [`AudioClip`].
        model: A multi-talker checkpoint by name, or what [`load_model`] returns of one.
        speakers: Who speaks when: the name of a Sortformer, what [`load_diarizer`] returns, a [`Diarization`] of the
            recording, or activities, (encoder frames, speakers), between 0 and 1.
        channel: `"mix"` (default) for the mean of the channels of a file, or the number of one.
        device, dtype: For checkpoints by name, as in [`load_model`].
        diarization: How the Sortformer goes through the recording.
        options: How to transcribe; None: the defaults of [`TranscriptionOptions`].
        keywords: Fields of [`TranscriptionOptions`] by name, also those of its `decoding` and `chunking`.

    Returns:
        [`SpeakerTranscripts`]: a transcript for each speaker who is heard. Words of several speakers may overlap.

    Raises:
        ValueError: for a model that follows no speaker, activities that do not fit the recording, options that the
            model does not have, and `voice_activity`.
        FileNotFoundError, OSError, ImportError: as `transcribe`.
    """
    options = TranscriptionOptions.of(options, keywords)
    worker = choose_worker(model, "auto", device, dtype)
    check_multi_talker(worker, options)
    source = _hold(audio, channel, worker[1].feature_extractor.sampling_rate)
    if isinstance(speakers, np.ndarray | torch.Tensor):
        activities = torch.as_tensor(speakers, dtype=torch.float32, device="cpu")
        require(activities.ndim == 2, "the shape of speakers", tuple(activities.shape), "(encoder frames, speakers)")
    else:
        if not isinstance(speakers, Diarization):
            diarizer: Any = Path(speakers) if isinstance(speakers, os.PathLike) else speakers
            speakers = diarize(source, diarizer, diarization, channel=channel, device=device, dtype=dtype)
        frame_seconds = worker[1].frame_seconds
        is_alike = abs(speakers.frame_seconds - frame_seconds) < 1e-9
        require(is_alike, "frame_seconds of the speakers", speakers.frame_seconds, f"the model's, {frame_seconds}")
        activities = torch.from_numpy(speakers.probabilities)
    with _open(source, worker[1].feature_extractor.sampling_rate) as opened:
        return _transcribe(worker, opened, activities, channel, options)


def check_multi_talker(worker: Worker, options: TranscriptionOptions) -> None:
    """
    Check that a model can transcribe speakers one by one.

    Raises:
        ValueError: for a model that follows no speaker, and for options that it does not have.
    """
    model, processor = worker
    follows = model.follows_speakers
    require(follows, "model", type(model).__name__, "a multi-talker model, which can be told whom to follow")
    activity = options.voice_activity
    require(activity is None, "voice_activity", activity, "None, as speaker activities say who speaks when")
    check_options(model, processor, options)


def _hold(audio: Any, channel: int | str, sampling_rate: int) -> Any:
    """A path, or samples: what can be read twice."""
    if isinstance(audio, AudioClip):
        if not audio.is_whole:
            source = os.fspath(audio.source)
            return read_part(source, sampling_rate, audio.channel, audio.start_seconds, audio.seconds)
        audio = audio.source
    file = find_file(audio)
    if isinstance(file, str | os.PathLike | bytes | bytearray | memoryview):
        return file
    if file is None:
        return load_waveform(audio, sampling_rate)
    with AudioFile(file) as opened:
        return np.concatenate(list(opened.blocks(sampling_rate, channel)))


@contextmanager
def _open(source: Any, sampling_rate: int) -> Iterator[AudioSource]:
    if isinstance(source, np.ndarray):
        yield SampleSource(source, sampling_rate)
    else:
        with AudioFile(source) as file:
            yield file


def _transcribe(
    worker: Worker,
    source: AudioSource,
    activities: torch.Tensor,
    channel: int | str,
    options: TranscriptionOptions,
) -> SpeakerTranscripts:
    model, processor = worker
    channel = "mix" if isinstance(source, SampleSource) else channel
    clip, num_samples = choose_front_end(model, processor, options).open(source, channel)
    duration_seconds = seconds_from_samples(num_samples, processor.feature_extractor.sampling_rate)
    levels = tuple(timestamp_levels(options.timestamps))
    activities = _fit(model.config, clip.mel_length, activities)
    is_heard = (activities > MIN_PROBABILITY).any(dim=0)
    heard = [speaker for speaker, is_one in enumerate(is_heard.tolist()) if is_one]
    if not heard:
        return SpeakerTranscripts({}, duration_seconds, levels)
    clips = [FollowedClip(clip, follow_speaker(activities, speaker)) for speaker in heard]
    chosen = choose_strategy(model, clip.mel_length, processor.frame_seconds, options, len(clips))
    transcriptions = recognize(processor, clips, chosen, options, options.timestamps or ["word"], len(clips))
    transcripts = to_transcripts(transcriptions, [duration_seconds] * len(clips), options, chosen)
    for transcript in transcripts:
        transcript.channel = channel
    return SpeakerTranscripts(dict(zip(heard, transcripts, strict=True)), duration_seconds, levels)


def _fit(config: Any, mel_length: int, activities: torch.Tensor) -> torch.Tensor:
    """
    Activities in the encoder frames of a clip.

    A Sortformer counts the frames of the same audio in the same way, but for the rounding of the last one.
    """
    num_frames = max(config.count_encoder_frames(mel_length), 1)
    difference = activities.shape[0] - num_frames
    expected = f"{num_frames}, the encoder frames of the recording, or one more or fewer"
    require(abs(difference) <= 1 or num_frames == 1, "the frames of speakers", activities.shape[0], expected)
    is_share = bool(((activities >= 0) & (activities <= 1)).all())
    require(is_share, "speakers", "other values", "activities between 0 and 1")
    return torch.nn.functional.pad(activities, (0, 0, 0, max(-difference, 0)))[:num_frames]
