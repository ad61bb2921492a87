"""Speakers of the words of live streams: a Sortformer that hears the samples next to a streaming engine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from ..audio.feature_stream import FeatureStream
from ..frames import seconds_from_samples
from ..modeling.speaker_cache import SpeakerStreamOptions
from ..streaming.text import StreamWord
from ..streaming.updates import StreamUpdate
from ..validation import require
from .attribution import assign_speakers, name_speaker
from .recordings import DiarizationOptions, Diarizer
from .speaker_stream import SpeakerStreams
from .turns import SpeakerTurn, SpeakerTurnOptions, find_turns

# A word waits for so many seconds after it: the turn that is nearest to a word between two may begin after it.
WAIT_SECONDS = 0.5
# What is kept before the first word that waits, in which the turns around it lie.
KEPT_SECONDS = 10.0


def require_live(diarizer: Diarizer, options: DiarizationOptions) -> None:
    """Raise a `ValueError` for a Sortformer, or options, that cannot hear live recordings."""
    model, extractor = diarizer
    require(model.config.is_streaming, "is_streaming", False, "True: a checkpoint that hears recordings in chunks")
    require(not options.is_whole, "is_whole", options.is_whole, "None or False for live streams")
    normalize = extractor.normalize
    require(normalize is None, "normalize", normalize, "None: statistics of a live recording are not known")


class SpokenWord(NamedTuple):
    """
    A word of a stream and who said it.

    Args:
        word: The word, with its times.
        speaker: Such as `"speaker_0"`; None: nobody was heard in the ten seconds around it.
    """

    word: StreamWord
    speaker: str | None


@dataclass
class _LiveRecording:
    """A stream: its features, the words that wait, and the probabilities from `first_frame` on."""

    features: FeatureStream
    words: list[StreamWord] = field(default_factory=list)
    recent: list[np.ndarray] = field(default_factory=list)
    first_frame: int = 0
    all_probabilities: list[np.ndarray] = field(default_factory=list)
    speaker: int | None = None  # of the last word that was given
    is_finished: bool = False


class LiveSpeakers:
    r"""
    Speakers of live streams, whose words a [`StreamingEngine`] writes.

    ```python
    speakers = LiveSpeakers(load_diarizer("nvidia/diar_streaming_sortformer_4spk-v2.1"))
    speakers.open(stream_id)
    updates = engine.step({stream_id: samples})
    for word, speaker in speakers.step({stream_id: samples}, updates)[stream_id]:
        print(speaker, word.text)
    ```

    A word comes once the frames up to half a second after it are final, and is not changed then. The Sortformer looks
    ahead for as long as its latency says; the text does not wait for it.

    Args:
        diarizer: The model and its feature extractor, as [`load_diarizer`] returns them; a streaming checkpoint, whose
            features are not normalised.
        options: Latency and rules of turns; None: the checkpoint's own latency, and the defaults.

    Raises:
        ValueError: for a checkpoint that hears only whole recordings.
    """

    def __init__(self, diarizer: Diarizer, options: DiarizationOptions | None = None) -> None:
        options = DiarizationOptions() if options is None else options
        model, self._extractor = diarizer
        require_live(diarizer, options)
        stream_options = SpeakerStreamOptions.of(model.config, options.latency)
        assert isinstance(options.turns, SpeakerTurnOptions)
        self._turns = options.turns
        self._streams = SpeakerStreams(model, stream_options)
        self._recordings: dict[int, _LiveRecording] = {}
        hop, factor = self._extractor.hop_length, model.config.mel_frames_per_encoder_frame
        self.frame_seconds = seconds_from_samples(hop * factor, self._extractor.sampling_rate)
        self.latency_ms = (
            1000 * self.frame_seconds * (stream_options.chunk_frames + stream_options.right_context_frames)
        )

    def open(self, stream_id: int, sampling_rate: int | None = None, channels: str | int | None = None) -> None:
        """
        Begin a stream.

        Args:
            stream_id: Its id, such as that of the engine.
            sampling_rate: Rate of its samples in Hz; None: that of the checkpoint.
            channels: As in [`StreamOptions`].

        Raises:
            ValueError: for a stream that is open, and a rate or channel that is not accepted.
        """
        if stream_id in self._recordings:
            raise ValueError(f"stream_id={stream_id!r} is open; expected another one.")
        self._recordings[stream_id] = _LiveRecording(self._extractor.open_stream(sampling_rate, channels))

    def step(self, samples: Mapping[int, Any], updates: Mapping[int, StreamUpdate]) -> dict[int, list[SpokenWord]]:
        """
        Go on with some streams.

        Args:
            samples: The samples that the engine has taken, by stream, as in [`StreamingEngine.step`]; None: no more.
            updates: What it said. A stream whose update has an error of its samples did not move, and does not here;
                one whose update is final ends, and all its words come.

        Returns:
            Words whose speakers are known now, in order, for each stream of `updates`.

        Raises:
            ValueError: for a stream that is not open or has ended, and for what is not samples.
        """
        features: dict[int, torch.Tensor] = {}
        for stream_id, update in updates.items():
            recording = self._find(stream_id)
            if recording.is_finished:
                raise ValueError(f"stream_id={stream_id!r} has ended; expected a stream that has not.")
            if update.error is not None and not update.is_final:
                continue
            new = samples.get(stream_id)
            if update.is_final:
                features[stream_id] = recording.features.finish(new)
            else:
                features[stream_id] = recording.features.push(() if new is None else new)
        are_last = {stream_id: updates[stream_id].is_final for stream_id in features}
        found = self._streams.push(features, are_last)
        words: dict[int, list[SpokenWord]] = {}
        for stream_id, update in updates.items():
            recording = self._recordings[stream_id]
            if stream_id in found and len(found[stream_id]):
                probabilities = found[stream_id].numpy()
                recording.recent.append(probabilities)
                recording.all_probabilities.append(probabilities)
            recording.words += update.words
            recording.is_finished = update.is_final
            words[stream_id] = self._decide(recording)
        return words

    def turns(self, stream_id: int) -> list[SpeakerTurn]:
        """All turns of a stream up to now, by their start."""
        recording = self._find(stream_id)
        if not recording.all_probabilities:
            return []
        heard = recording.features.seconds_heard
        return find_turns(np.concatenate(recording.all_probabilities), self.frame_seconds, heard, self._turns)

    def close(self, stream_id: int) -> None:
        """Forget a stream, whether it has ended or not."""
        recording = self._find(stream_id)
        if not recording.is_finished:
            nothing = torch.zeros(0, self._extractor.output_size, dtype=torch.float32, device="cpu")
            self._streams.push({stream_id: nothing}, {stream_id: True})
        del self._recordings[stream_id]

    def _find(self, stream_id: int) -> _LiveRecording:
        if stream_id not in self._recordings:
            raise ValueError(f"stream_id={stream_id!r} is not open; expected one of {sorted(self._recordings)}.")
        return self._recordings[stream_id]

    def _decide(self, recording: _LiveRecording) -> list[SpokenWord]:
        """The words that need not wait any longer."""
        num_frames = recording.first_frame + sum(len(part) for part in recording.recent)
        known = math.inf if recording.is_finished else num_frames * self.frame_seconds - WAIT_SECONDS
        count = 0
        while count < len(recording.words) and recording.words[count].end <= known:
            count += 1
        ready, recording.words = recording.words[:count], recording.words[count:]
        speakers: list[int | None] = [None] * count
        if ready and recording.recent:
            start = recording.first_frame * self.frame_seconds
            recent = np.concatenate(recording.recent)
            recording.recent = [recent]
            turns = [
                turn._replace(start=turn.start + start, end=turn.end + start)
                for turn in find_turns(recent, self.frame_seconds, len(recent) * self.frame_seconds, self._turns)
            ]
            timed = [{"start": word.start, "end": word.end} for word in ready]
            speakers = assign_speakers(timed, turns, recording.speaker)
            recording.speaker = speakers[-1]
        self._forget(recording, num_frames)
        names = [None if speaker is None else name_speaker(speaker) for speaker in speakers]
        return [SpokenWord(word, name) for word, name in zip(ready, names, strict=True)]

    def _forget(self, recording: _LiveRecording, num_frames: int) -> None:
        """Drop probabilities that no word will need, some seconds at a time."""
        next_start = recording.words[0].start if recording.words else math.inf
        needed = min(next_start, num_frames * self.frame_seconds) - KEPT_SECONDS
        spare = math.floor(needed / self.frame_seconds) - recording.first_frame
        if spare * self.frame_seconds >= KEPT_SECONDS:
            recording.recent = [np.concatenate(recording.recent)[spare:]]
            recording.first_frame += spare
