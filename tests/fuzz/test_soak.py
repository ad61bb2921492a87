"""Eight threads on shared models: every result is the one that a single thread gets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import fuzz_audio
import numpy as np
import pytest
import torch
import transformers
from models import build_model

from transformers_fastconformer import FastConformerProcessor, ParakeetTDTForTDT
from transformers_fastconformer.decoding.confidence import ConfidenceOptions
from transformers_fastconformer.inference.loading import choose_head
from transformers_fastconformer.inference.transcribe import transcribe

pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

NUM_THREADS = 8
SECONDS = (0.0001, 0.13, 0.5, 0.77, 1.6, 3.1)
Call = Callable[[], Any]


def make_clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(max(int(seconds * 16000), 1))).astype(np.float32) for seconds in SECONDS]


def make_calls() -> list[Call]:
    """Calls of every door on shared models, each with a result that tells wrong from right."""
    fuzz_audio.prepare_model()
    ctc, processor = fuzz_audio.MODEL[0]
    hybrid: ParakeetTDTForTDT = build_model("tdt_hybrid")
    other = FastConformerProcessor(processor.feature_extractor, processor.tokenizer, 8)
    workers = [(ctc, processor), (hybrid, other), (choose_head(hybrid, "ctc"), other)]
    pipe = transformers.pipeline("automatic-speech-recognition", model=ctc, processor=processor)
    wav = fuzz_audio.write_with_soundfile("WAV", "PCM_16", 44100, 2)
    calls: list[Call] = [lambda: fuzz_audio.load_waveform(wav).tobytes()]

    def add(worker: Any, clip: np.ndarray, **options: Any) -> None:
        calls.append(lambda: asdict(transcribe(clip, worker, **options)))

    for clip in make_clips():
        for worker in workers:
            add(worker, clip)
            add(worker, clip, strategy="chunked", chunk_length_s=0.8, timestamps="word", batch_size=2)
            add(worker, clip, confidence=ConfidenceOptions(), timestamps=False)
        calls.append(lambda clip=clip: pipe(clip, return_timestamps="char"))
        calls.append(lambda clip=clip: features_of(processor, clip))
    features = torch.randn(3, 90, 8, generator=torch.Generator().manual_seed(0))
    for model, _ in workers:
        calls.append(lambda model=model: generated_by(model, features))
    return calls


def features_of(processor: Any, clip: np.ndarray) -> bytes:
    return processor(clip, sampling_rate=16000, return_tensors="np")["input_features"].tobytes()


def generated_by(model: Any, features: torch.Tensor) -> list[Any]:
    output = model.generate(features, input_lengths=torch.tensor([90, 40, 1]), return_dict_in_generate=True)
    return [output.sequences.tolist(), output.sequence_lengths.tolist()]


def soak(num_calls: int) -> None:
    """Make calls from all threads at once, each thread in an order of its own."""
    calls = make_calls()
    threads_before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = [call() for call in calls]
        wrong: list[str] = []
        start = threading.Barrier(NUM_THREADS)

        def work(number: int) -> None:
            order = np.random.default_rng(number).integers(len(calls), size=-(-num_calls // NUM_THREADS))
            start.wait()
            for place in order:
                try:
                    result = calls[place]()
                except Exception as error:
                    wrong.append(f"call {place}: {error!r}")
                    continue
                if result != expected[place]:
                    wrong.append(f"call {place} gave another result")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(NUM_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(threads_before)
    assert not wrong, wrong[:5]


def test_a_few_calls() -> None:
    soak(32)


@pytest.mark.slow
@pytest.mark.long
def test_thousands_of_calls() -> None:
    soak(5000)
