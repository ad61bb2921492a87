"""From samples and files to text with times: shared by threads, through the command, and in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint

SAMPLING_RATE = 16000
NUM_THREADS = 8
TEXTS = ("three one four one five nine", "two seven one eight zero six")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speech-chain") / "digits"
    convert_nemo_checkpoint(CHECKPOINT_PATH, path)
    return path


def run_chain(model: Any, processor: Any, waveforms: list[np.ndarray]) -> dict[str, Any]:
    """Everything that the chain gives: tensors, texts and word times."""
    inputs = processor(waveforms, sampling_rate=SAMPLING_RATE, return_tensors="pt")
    output = model.generate(**inputs, return_dict_in_generate=True)
    decoded = processor.batch_decode(output, timestamps="word")
    tensors = {name: value for name, value in output.items() if torch.is_tensor(value)}
    return {
        **{f"input {name}": value for name, value in inputs.items()},
        **tensors,
        "texts": [item.text for item in decoded],
        "words": [item.timestamps["word"] for item in decoded],
    }


def assert_identical(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = torch.equal(found[name], value) if torch.is_tensor(value) else found[name] == value
        assert same, name


@pytest.mark.parametrize("head", ["transducer", pytest.param("ctc", marks=pytest.mark.slow)])
def test_eight_threads_share_a_model(folder: Path, head: str) -> None:
    model, processor = load_model(folder, head)
    first, second = (read_audio(path) for path in CLIP_PATHS)
    # Every thread has work of its own: other clips, other lengths, other sizes of batch.
    work = [
        [first],
        [second],
        [first, second],
        [second, first, second],
        [first[: len(first) // 2]],
        [second[: len(second) // 2], first],
        [first[4000:], second[8000:]],
        [second[:300], second],
    ]
    assert len(work) == NUM_THREADS
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order, whoever computes them
    try:
        expected = [run_chain(model, processor, waveforms) for waveforms in work]
        assert expected[2]["texts"] == list(TEXTS)
        assert len(expected[2]["words"][0]) == 6
        barrier = Barrier(NUM_THREADS)

        def run_thrice(number: int) -> list[dict[str, Any]]:
            torch.set_num_threads(1)
            barrier.wait()
            return [run_chain(model, processor, work[number]) for _ in range(3)]

        with ThreadPoolExecutor(NUM_THREADS) as executor:
            found = list(executor.map(run_thrice, range(NUM_THREADS)))
    finally:
        torch.set_num_threads(before)
    for results, truth in zip(found, expected, strict=True):
        for result in results:
            assert_identical(result, truth)


@pytest.fixture
def audio_files(tmp_path: Path) -> dict[str, Path]:
    """A clip of the demonstration as it comes from the world."""
    soundfile = pytest.importorskip("soundfile")
    soxr = pytest.importorskip("soxr")
    waveform = read_audio(CLIP_PATHS[0])
    quiet = np.random.default_rng(0).normal(0, 1e-4, len(waveform)).astype(np.float32)
    contents = {
        "stereo.wav": (np.stack([waveform, waveform + quiet], axis=1), SAMPLING_RATE),
        "one-side.flac": (np.stack([waveform, quiet], axis=1), SAMPLING_RATE),
        "telephone.wav": (soxr.resample(waveform, SAMPLING_RATE, 8000), 8000),
        "studio.wav": (soxr.resample(waveform, SAMPLING_RATE, 44100), 44100),
        "podcast.mp3": (waveform, SAMPLING_RATE),
    }
    if "MP3" not in soundfile.available_formats():
        del contents["podcast.mp3"]
    for name, (samples, sampling_rate) in contents.items():
        soundfile.write(tmp_path / name, samples, sampling_rate)
    return {name: tmp_path / name for name in contents}


def transcribe(*arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    from transformers_fastconformer.cli.main import main

    monkeypatch.setattr(sys, "argv", ["fastconformer", "transcribe", *arguments])
    code: object = None
    try:
        main()
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    assert not code, printed.err
    return printed.out


@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_files_of_every_kind_are_transcribed(
    head: str,
    folder: Path,
    audio_files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*arguments: str) -> str:
        paths = [str(path) for path in audio_files.values()]
        options = ["--model", str(folder), "--head", head, "--batch_size", "2"]
        return transcribe(*paths, *options, *arguments, capsys=capsys, monkeypatch=monkeypatch)

    assert run().splitlines() == [f"{path}: {TEXTS[0]}" for path in audio_files.values()]

    seconds = len(read_audio(CLIP_PATHS[0])) / SAMPLING_RATE
    starts = []
    for line, path in zip(run("--format", "json").splitlines(), audio_files.values(), strict=True):
        item = json.loads(line)
        assert (item["file"], item["text"]) == (str(path), TEXTS[0])
        # MP3 comes in whole blocks.
        assert item["duration_seconds"] == pytest.approx(seconds, abs=0.1 if path.suffix == ".mp3" else 1e-3)
        words = item["timestamps"]["word"]
        assert " ".join(word["word"] for word in words) == TEXTS[0]
        starts.append([word["start"] for word in words])
    # Within two encoder frames, however the clip came.
    np.testing.assert_allclose(starts, np.broadcast_to(starts[0], np.shape(starts)), atol=0.1601)


FRESH_PROCESS = """
import json, sys
import transformers_fastconformer
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCTC, AutoProcessor, AutoTokenizer
from transformers_fastconformer import AutoModelForTDT
from transformers_fastconformer.audio.files import read_audio

folder, clip = sys.argv[1:]
classes = (AutoConfig, AutoModel, AutoModelForCTC, AutoModelForTDT, AutoFeatureExtractor, AutoTokenizer, AutoProcessor)
loaded = {auto_class.__name__: auto_class.from_pretrained(folder) for auto_class in classes}
processor = loaded["AutoProcessor"]
inputs = processor(read_audio(clip), sampling_rate=16000, return_tensors="pt")
texts = {name: processor.batch_decode(loaded[name].eval().generate(**inputs))[0]
         for name in ("AutoModelForCTC", "AutoModelForTDT")}
parts = {"feature_extractor": processor.feature_extractor, "tokenizer": processor.tokenizer}
described = {name: [type(item).__module__, type(item).__name__] for name, item in {**loaded, **parts}.items()}
print(json.dumps({"classes": described, "texts": texts, "nemo": "nemo" in sys.modules}))
"""
CLASSES = {
    "AutoConfig": "FastConformerTDTConfig",
    "AutoModel": "FastConformerModel",
    "AutoModelForCTC": "ParakeetTDTForCTC",
    "AutoModelForTDT": "FastConformerForTDT",  # it keeps the CTC head of a hybrid too
    "AutoFeatureExtractor": "FastConformerFeatureExtractor",
    "AutoTokenizer": "FastConformerTokenizer",
    "AutoProcessor": "FastConformerProcessor",
    "feature_extractor": "FastConformerFeatureExtractor",
    "tokenizer": "FastConformerTokenizer",
}


@pytest.mark.slow  # in this process `test_hub_nemo.py` has the classes, and a fresh one runs the README's examples
def test_auto_classes_in_a_fresh_process(folder: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(folder), str(CLIP_PATHS[0])], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert {name: class_name for name, (_, class_name) in found["classes"].items()} == CLASSES
    assert all(module.startswith("transformers_fastconformer.") for module, _ in found["classes"].values())
    assert found["texts"] == {"AutoModelForCTC": TEXTS[0], "AutoModelForTDT": TEXTS[0]}
    assert found["nemo"] is False
