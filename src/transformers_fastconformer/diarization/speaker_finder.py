"""Transcripts of recordings and their speakers: each recording goes through a Sortformer too."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..inference.loading import AUTO_DEVICE
from ..inference.many_files import Finished, Progress, Worker
from ..inference.options import TranscriptionOptions
from ..inference.reading import CLIP_ERRORS, AudioClip, name_clip
from ..inference.transcript import Transcript
from ..validation import require
from .attribution import add_speakers
from .multi_talker import check_multi_talker, transcribe_speakers
from .recordings import DiarizationOptions, Diarizer, SecondsDone, diarize, load_diarizer


@dataclass(eq=False)
class SpeakerFinder:
    """
    Finder of the speakers of transcripts.

    Args:
        source: Name of a Sortformer checkpoint, or what [`load_diarizer`] returns.
        device: The device for a checkpoint by name.
        options: How to diarise; None: the defaults.

    Raises:
        ValueError: for another source or options.
    """

    source: str | Path | Diarizer
    device: str = AUTO_DEVICE
    options: DiarizationOptions | None = None
    _diarizer: Diarizer | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        is_known = isinstance(self.source, str | Path | tuple)
        require(is_known, "diarize", self.source, "the name of a Sortformer checkpoint, or what load_diarizer returns")
        is_known = isinstance(self.options, DiarizationOptions | None)
        require(is_known, "diarization", self.options, "DiarizationOptions or None")

    def is_like(self, other: SpeakerFinder | None) -> bool:
        """True where the other one finds the same speakers."""
        if other is None or (self.device, self.options) != (other.device, other.options):
            return False
        if isinstance(self.source, tuple) or isinstance(other.source, tuple):
            return self.source is other.source
        return self.source == other.source

    def load(self) -> None:
        """Load the model, so that what is wrong with it is told before anything is transcribed."""
        self._diarizer = self.source if isinstance(self.source, tuple) else load_diarizer(self.source, self.device)

    def _loaded(self) -> Diarizer:
        if self._diarizer is None:
            self.load()
        assert self._diarizer is not None
        return self._diarizer

    def add_to(self, clip: AudioClip, transcript: Transcript, on_progress: SecondsDone | None = None) -> Transcript:
        """
        The transcript of a clip with the speakers of its words, see [`add_speakers`].

        Args:
            clip: The recording, read once more.
            transcript: Its transcript, with times.
            on_progress: Called with the seconds of audio that are done, now and then.
        """
        turns = diarize(clip, self._loaded(), self.options, on_progress=on_progress).turns
        return add_speakers(transcript, turns)

    def transcribe_each(
        self, worker: Worker, clips: Sequence[AudioClip], options: TranscriptionOptions, on_progress: Progress
    ) -> Generator[Finished, None, None]:
        """
        Transcribe clips with a multi-talker model: each speaker's words come from a pass that follows the speaker.

        Args:
            worker: Model and processor.
            clips: Clips, which are transcribed in order.
            options: How to transcribe.
            on_progress: As in `transcribe_clips`.
        """
        check_multi_talker(worker, options)
        diarizer = self._loaded()
        for place, clip in enumerate(clips):
            try:
                spoken = transcribe_speakers(
                    clip, worker, diarizer, channel=clip.channel, diarization=self.options, options=options
                )
                transcript = spoken.join()
            except CLIP_ERRORS as error:
                yield Finished(place, None, name_clip(error, clip))
                continue
            on_progress(place, transcript.duration_seconds)
            yield Finished(place, replace(transcript, channel=clip.channel), None)

    def describe(self) -> dict[str, Any]:
        """The options that the speakers depend on, as plain values."""
        return {"diarize": str(self.source)}
