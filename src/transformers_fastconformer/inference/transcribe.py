"""Transcription in one line: audio in, transcript out."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..audio.clips import is_rate_and_samples
from ..audio.files import find_file
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from .file import check_options
from .loading import AUTO_DEVICE, DEFAULT_MODEL, choose_head, load_model
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
            rate of the model), a mapping with `"array"` and `"sampling_rate"`, or an audio decoder; or a list, tuple
            or generator of them for many recordings.
        model (`str`, `Path` or what [`load_model`] returns, defaults to `"nvidia/parakeet-tdt-0.6b-v3"`): A checkpoint
            by name (a Hub repository, a folder, a `.nemo` file, `"demo"`, `"demo-streaming"`), which is loaded in each
            call; for several calls load it once: `model = load_model(name)`.
        head (`str`, defaults to `"auto"`): Head of a checkpoint by name: `"ctc"`, `"transducer"`, or `"auto"`: the
            transducer if there is one.
        device (`str`, defaults to `"auto"`): Device for a checkpoint by name, such as `"cpu"` or `"cuda:1"`;
            `"auto"`: a GPU if this machine has one.
        dtype (`str`, defaults to `"auto"`): Type for a checkpoint by name: `"float32"`, `"float16"`, `"bfloat16"`,
            `"int8"`, or `"auto"`: as stored.
        options ([`TranscriptionOptions`], *optional*): How to transcribe.
        on_progress (*optional*): Called with the number of a recording, from 0, and the seconds of it that are done.
        keywords: Fields of [`TranscriptionOptions`], [`DecodingOptions`] and [`ChunkOptions`] by name, such as
            `timestamps`, `language`, `confidence`, `strategy`, `chunk_length_s`, `voice_activity`, `batch_size`.

    Returns:
        A [`Transcript`], for many recordings a list of them in the same order.

    Raises:
        ValueError: for what is not audio, a URL that cannot be downloaded, an unknown option, an option that the model
            does not have, and a head, device or dtype that is not available; the message says which.
        FileNotFoundError: when a file or the checkpoint does not exist.
        OSError: when the checkpoint cannot be had from the Hub.
        RuntimeError: when a recording cannot be transcribed for another reason, such as too little GPU memory.
        ImportError: when an extra is needed and not installed; the message holds the command.
    """
    options = TranscriptionOptions.of(options, keywords)
    worker = choose_worker(model, head, device, dtype)
    check_options(*worker, options)
    is_many = isinstance(audio, list | tuple | Generator) and not is_rate_and_samples(audio)
    clips = [
        AudioClip(item, label=None if find_file(item) is not None or not is_many else f"Clip {number}")
        for number, item in enumerate(audio if is_many else [audio])
    ]
    transcripts: dict[int, Transcript] = {}
    for finished in transcribe_clips([worker], clips, options, on_progress=on_progress):
        if finished.error is not None:
            raise finished.error
        assert finished.transcript is not None
        transcripts[finished.place] = finished.transcript
    return [transcripts[place] for place in range(len(clips))] if is_many else transcripts[0]


def choose_worker(
    model: Any, head: str, device: str, dtype: str
) -> tuple[FastConformerRecognizer, FastConformerProcessor]:
    """A checkpoint by name, loaded, or a model that is loaded already, with the head that is wanted."""
    if isinstance(model, str | os.PathLike):
        return load_model(model if isinstance(model, str) else Path(model), head, device, dtype)
    is_pair = isinstance(model, tuple) and len(model) == 2
    if not (is_pair and isinstance(model[0], PreTrainedModel) and isinstance(model[1], FastConformerProcessor)):
        raise ValueError(
            f"model is a {type(model).__name__}; expected the name of a checkpoint, or the model and the processor "
            "that load_model returns."
        )
    for name, value in (("device", device), ("dtype", dtype)):
        if value != "auto":
            raise ValueError(f"{name}={value!r} is not supported with a model that is loaded; expected 'auto'.")
    return choose_head(model[0], head), model[1]
