"""Clips that a user asked for, and their transcripts, for what writes outputs."""

from __future__ import annotations

from transformers_fastconformer.cli.transcribe_inputs import AudioInput
from transformers_fastconformer.inference.reading import AudioClip
from transformers_fastconformer.inference.transcript import Transcript
from transformers_fastconformer.writers.record import TranscriptRecord


def clips(*names: str, manifest: str | None = None) -> list[AudioInput]:
    lines = [{"audio_filepath": name} if manifest else None for name in names]
    return [
        AudioInput(AudioClip(f"{name}.wav"), f"{name}.wav", name, line, manifest, row)
        for row, (name, line) in enumerate(zip(names, lines, strict=True))
    ]


def record(item: AudioInput) -> TranscriptRecord:
    return TranscriptRecord(Transcript(f"text of {item.name}", None, 1.0), item.file, manifest=item.manifest)
