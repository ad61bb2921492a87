"""The front door: audio in, transcript out, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from .file import check_options
from .loading import AUTO_DEVICE, DEFAULT_MODEL, load_model
from .many_files import Progress, transcribe_clips
from .options import TranscriptionOptions
from .reading import AudioClip
from .transcript import Transcript


def transcribe(
    audio: Any,
    model: str | Path | tuple[FastConformerRecognizer, FastConformerProcessor] = DEFAULT_MODEL,
    *,
    head: str = "auto",
    device: str = AUTO_DEVICE,
    dtype: str = "auto",
    options: TranscriptionOptions | None = None,
    on_progress: Progress | None = None,
    **keywords: Any,
) -> Any:
    r"""
    Transcribe audio of any length in one line.

    ```python
    transcribe("talk.mp3", model="nvidia/parakeet-tdt-0.6b-v3").text
    ```

    Args:
        audio: One recording: a path, an `http(s)` URL, the bytes of a file, an open file, an array or tensor (at the
            rate of the model), a mapping with `"array"` and `"sampling_rate"`, an audio decoder. A list or tuple of
            them: many.
        model (`str`, `Path` or what [`load_model`] returns, defaults to `"nvidia/parakeet-tdt-0.6b-v3"`): A checkpoint
            by name (a Hub repository, a folder, a `.nemo` file, `"demo"`), which is loaded in each call; for several
            calls load it once: `model = load_model(name)`.
        head, device, dtype: As in [`load_model`], for a checkpoint by name; `device="auto"` takes a GPU where there is
            one.
        options ([`TranscriptionOptions`], *optional*): How to transcribe.
        on_progress (*optional*): Called with the number of a recording and the seconds of it that are done.
        keywords: Fields of [`TranscriptionOptions`], [`DecodingOptions`] and [`ChunkOptions`] by name, such as
            `timestamps`, `language`, `confidence`, `strategy`, `chunk_length_s`, `voice_activity`, `batch_size`.

    Returns:
        A [`Transcript`], for a list or tuple a list of them in the same order.

    Raises:
        ValueError: for what is not audio, an unknown option, and one that the model does not have, by name.
        FileNotFoundError: there is no such file or checkpoint.
        OSError: the checkpoint cannot be had from the Hub.
        ImportError: an extra is needed and not installed; the message holds the command.
    """
    options = TranscriptionOptions.of(options, keywords)
    worker = model if isinstance(model, tuple) else load_model(model, head, device, dtype)
    check_options(*worker, options)
    is_many = isinstance(audio, list | tuple)
    clips = [AudioClip(item) for item in (audio if is_many else [audio])]
    transcripts: dict[int, Transcript] = {}
    for finished in transcribe_clips([worker], clips, options, on_progress=on_progress):
        if finished.error is not None:
            raise finished.error
        assert finished.transcript is not None
        transcripts[finished.place] = finished.transcript
    return [transcripts[place] for place in range(len(clips))] if is_many else transcripts[0]
