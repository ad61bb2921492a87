"""Files to results: loads a checkpoint with the head that is wanted and transcribes audio in batches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCTC, PreTrainedModel

from .auto import AutoModelForRNNT, AutoModelForTDT
from .configuration_fastconformer import FastConformerCTCConfig, FastConformerRNNTConfig, FastConformerTDTConfig
from .frames import seconds_from_samples
from .nemo.convert import convert_nemo_checkpoint
from .processing_fastconformer import FastConformerProcessor

HEADS = ("auto", "ctc", "transducer")


@dataclass
class Transcript:
    """
    What was said in one clip.

    Args:
        text: The transcript.
        timestamps: Level (`"token"`, `"char"`, `"word"`, `"segment"`) to a list of items with `start_offset` and
            `end_offset` in encoder frames, `start` and `end` in seconds; None if no times were asked for.
        duration_seconds: Length of the clip.
    """

    text: str
    timestamps: dict[str, list[dict[str, Any]]] | None
    duration_seconds: float


def load_model(
    source: str | Path, head: str = "auto", device: str = "cpu", dtype: str = "auto"
) -> tuple[PreTrainedModel, FastConformerProcessor]:
    """
    Model and processor of a checkpoint, ready to transcribe.

    Args:
        source: A converted folder or its Hub repository, a `.nemo` file, or a folder that holds one.
        head: `"ctc"`, `"transducer"`, or `"auto"`: the transducer where there is one.
        device: Where the model goes.
        dtype: `"auto"` (as stored), `"float32"`, `"float16"` or `"bfloat16"`.

    Raises:
        ValueError: when the checkpoint lacks the head.
    """
    if head not in HEADS:
        raise ValueError(f"head={head!r} is not supported; expected one of {HEADS}.")
    check_device(device)
    if is_nemo_source(source):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "converted"
            convert_nemo_checkpoint(source, folder)
            return _load_folder(folder, head, device, dtype)
    return _load_folder(source, head, device, dtype)


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


def is_nemo_source(source: str | Path) -> bool:
    """Whether a path is a `.nemo` file, or a folder with one and without a `config.json`."""
    path = Path(source)
    if path.is_dir():
        return not (path / "config.json").exists() and any(path.glob("*.nemo"))
    return path.suffix == ".nemo"


def _load_folder(
    source: str | Path, head: str, device: str, dtype: str
) -> tuple[PreTrainedModel, FastConformerProcessor]:
    config = AutoConfig.from_pretrained(source)
    if not isinstance(config, FastConformerCTCConfig | FastConformerRNNTConfig):
        raise ValueError(
            f"{source} holds a model of type {config.model_type!r}, which has no head to transcribe with; expected "
            "'fastconformer_ctc', 'fastconformer_rnnt' or 'fastconformer_tdt'."
        )
    is_transducer = isinstance(config, FastConformerRNNTConfig)
    if head == "transducer" and not is_transducer:
        raise ValueError(f"{source} is a CTC model without a transducer head; use head='ctc'.")
    if head == "ctc" or not is_transducer:
        auto_class: Any = AutoModelForCTC
    else:
        auto_class = AutoModelForTDT if isinstance(config, FastConformerTDTConfig) else AutoModelForRNNT
    model = auto_class.from_pretrained(source, config=config, dtype=dtype)
    processor = FastConformerProcessor.from_pretrained(source)
    return model.eval().to(device), processor


def transcribe_waveforms(
    model: PreTrainedModel,
    processor: FastConformerProcessor,
    waveforms: Sequence[np.ndarray],
    timestamps: bool | Sequence[str] = False,
) -> list[Transcript]:
    """
    Transcribe one batch of clips.

    Args:
        model: A model with a head, as `load_model` returns it.
        processor: Its processor.
        waveforms: Samples of each clip, float, at the rate of the processor's feature extractor.
        timestamps: Levels of times to return, or True for all.
    """
    extractor = processor.feature_extractor
    inputs = extractor(
        list(waveforms), sampling_rate=extractor.sampling_rate, return_tensors="pt", device=model.device
    )
    generate: Any = model.generate
    output = generate(**inputs, return_dict_in_generate=True)
    decoded: list[Any] = processor.batch_decode(output, timestamps=timestamps if timestamps else ["word"])
    return [
        Transcript(
            text=item["text"],
            timestamps=item["timestamps"] if timestamps else None,
            duration_seconds=seconds_from_samples(len(waveform), extractor.sampling_rate),
        )
        for item, waveform in zip(decoded, waveforms, strict=True)
    ]


def split_batches(items: Sequence[Any], batch_size: int) -> Iterator[Sequence[Any]]:
    """Consecutive pieces of at most `batch_size` items."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is not supported; expected 1 or more.")
    for start in range(0, len(items), batch_size):
        yield items[start : start + batch_size]
