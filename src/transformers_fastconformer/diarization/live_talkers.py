"""Live multi-talker transcription: a stream of a streaming engine for each speaker, told by a live Sortformer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..audio.feature_stream import FeatureStream
from ..frames import seconds_from_samples
from ..modeling.speaker_cache import SpeakerStreamOptions
from ..modeling.speaker_kernel import follow_speaker
from ..streaming.engine import StreamingEngine
from ..streaming.live_stream import StreamFailedError
from ..streaming.options import StreamOptions
from ..streaming.updates import StreamUpdate
from ..validation import require, require_count
from .live_speakers import require_live
from .recordings import DiarizationOptions, Diarizer
from .speaker_stream import SpeakerStreams


@dataclass
class _LiveTalk:
    """A recording: its features for the Sortformer, and the streams of its speakers."""

    features: FeatureStream
    streams: dict[int, int] = field(default_factory=dict)  # by the number of the speaker, ids of the engine


class LiveTalkers:
    r"""
    Live transcripts of each speaker of some recordings, by a multi-talker model in a [`StreamingEngine`].

    ```python
    talkers = LiveTalkers(engine, load_diarizer("nvidia/diar_streaming_sortformer_4spk-v2.1"))
    recording = talkers.open()
    for speaker, update in talkers.step({recording: samples})[recording].items():
        print(speaker, update.committed)
    ```

    A recording has a stream of the engine for each speaker that the Sortformer tells apart, from its start on. Text
    comes once the Sortformer has said who speaks, later than without it by its latency.

    Args:
        engine: An engine with a multi-talker model and a cache; it may have other streams too.
        diarizer: The model and its feature extractor, as [`load_diarizer`] returns them; a streaming checkpoint, whose
            features are not normalised.
        options: Latency of the Sortformer; None: the checkpoint's own.
        num_speakers: Speakers that are followed, those who are heard first; None (default): all that the Sortformer
            tells apart. Each takes the time of a stream.

    Raises:
        ValueError: for an engine whose model follows no speaker, a Sortformer that hears only whole recordings, frames
            of other lengths, and more speakers than it tells apart.
    """

    def __init__(
        self,
        engine: StreamingEngine,
        diarizer: Diarizer,
        options: DiarizationOptions | None = None,
        num_speakers: int | None = None,
    ) -> None:
        options = DiarizationOptions() if options is None else options
        model, self._extractor = diarizer
        require_live(diarizer, options)
        follows = engine.encoder.follows_speakers
        require(follows, "engine", type(engine.model).__name__, "a multi-talker model that streams with a cache")
        rate = self._extractor.sampling_rate
        frame_seconds = seconds_from_samples(
            self._extractor.hop_length * model.config.mel_frames_per_encoder_frame, rate
        )
        expected = engine.processor.frame_seconds
        is_alike = abs(frame_seconds - expected) < 1e-9
        require(is_alike, "frame_seconds of the diarizer", frame_seconds, f"the engine's, {expected}")
        most = model.config.num_speakers
        if num_speakers is not None:
            require_count("num_speakers", num_speakers)
            require(num_speakers <= most, "num_speakers", num_speakers, f"at most {most}, as the Sortformer has")
        self._engine = engine
        self.num_speakers = most if num_speakers is None else int(num_speakers)
        stream_options = SpeakerStreamOptions.of(model.config, options.latency)
        self._speakers = SpeakerStreams(model, stream_options)
        self._talks: dict[int, _LiveTalk] = {}
        self._ids = itertools.count()
        #: Milliseconds from a sound to its text at most, apart from the time that computing takes.
        self.latency_ms = engine.latency_ms + 1000 * frame_seconds * (
            stream_options.chunk_frames + stream_options.right_context_frames
        )

    @property
    def open_recordings(self) -> list[int]:
        """Ids of the recordings that are open."""
        return list(self._talks)

    def open(self, sampling_rate: int | None = None, channels: str | int | None = None) -> int:
        """
        Begin a recording.

        Args:
            sampling_rate: Rate of its samples in Hz; None: that of the model.
            channels: As in [`StreamOptions`].

        Returns:
            Its id.

        Raises:
            StreamRefusedError: when the engine has no place for a stream for each speaker; none is opened then.
            ValueError: for a rate or channel that is not accepted.
        """
        talk = _LiveTalk(self._extractor.open_stream(sampling_rate, channels))
        options = StreamOptions(sampling_rate=sampling_rate, channels=channels, follows_speaker=True)
        try:
            for speaker in range(self.num_speakers):
                talk.streams[speaker] = self._engine.open(options)
        except BaseException:
            for stream_id in talk.streams.values():
                self._engine.close(stream_id)
            raise
        recording = next(self._ids)
        self._talks[recording] = talk
        return recording

    def step(self, samples: Mapping[int, Any]) -> dict[int, dict[int, StreamUpdate]]:
        """
        Go on with some recordings.

        Args:
            samples: Of each recording, by its id, the next samples, as in [`StreamingEngine.step`].

        Returns:
            Of each recording an update for each speaker, by number. What is wrong with the samples or the state of one
            recording is the `error` of its updates; others go on.

        Raises:
            ValueError: for an id that is not open; then no recording has moved.
        """
        talks = {recording: self._find(recording) for recording in samples}
        features: dict[int, torch.Tensor] = {}
        for recording, talk in talks.items():
            try:
                features[recording] = talk.features.push(samples[recording])
            except ValueError:  # the engine refuses them too, and says so
                continue
        self._tell(features, {})
        given = {
            stream_id: samples[recording] for recording, talk in talks.items() for stream_id in talk.streams.values()
        }
        updates = self._engine.step(given)
        return {
            recording: {speaker: updates[stream_id] for speaker, stream_id in talk.streams.items()}
            for recording, talk in talks.items()
        }

    def finish(self, recording: int, samples: Any = None) -> dict[int, StreamUpdate]:
        """
        End a recording: the rest of all its speakers is decoded, and it is closed.

        Args:
            recording: The recording.
            samples: Its last samples; None: there are no more.

        Returns:
            The last update of each speaker.

        Raises:
            ValueError: for what is not samples; the recording is open and has not moved.
            StreamFailedError: for a recording that can only be closed.
        """
        talk = self._find(recording)
        self._tell({recording: talk.features.finish(samples)}, {recording: True})
        updates = {speaker: self._engine.finish(stream_id, samples) for speaker, stream_id in talk.streams.items()}
        del self._talks[recording]
        return updates

    def close(self, recording: int) -> None:
        """Drop a recording; what it has not given yet is lost."""
        talk = self._find(recording)
        nothing = torch.zeros(0, self._extractor.output_size, dtype=torch.float32, device="cpu")
        self._speakers.push({recording: nothing}, {recording: True})
        for stream_id in talk.streams.values():
            if stream_id in self._engine.open_streams:
                self._engine.close(stream_id)
        del self._talks[recording]

    def _find(self, recording: int) -> _LiveTalk:
        if recording not in self._talks:
            raise ValueError(f"recording={recording!r} is not open; expected one of {self.open_recordings}.")
        return self._talks[recording]

    def _tell(self, features: Mapping[int, torch.Tensor], are_last: Mapping[int, bool]) -> None:
        """Let the Sortformer hear the recordings, and tell their streams who speaks."""
        for recording, found in self._speakers.push(features, are_last).items():
            # Of samples that are not finite, whose streams fail.
            probabilities = torch.from_numpy(np.nan_to_num(found.numpy()))
            for speaker, stream_id in self._talks[recording].streams.items():
                with suppress(StreamFailedError):  # which the next update says
                    self._engine.follow(stream_id, follow_speaker(probabilities, speaker))
