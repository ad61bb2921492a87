"""A whole Canary with a model of times in its archive: words, segments and their times in NeMo and here."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from balance import balance_classes
from families import CANARY_SYMBOLS, balance_decoder, canary_overrides

from transformers_fastconformer import convert_nemo_checkpoint, export_nemo, load_model, transcribe_file

pytestmark = pytest.mark.nemo

RATE = 16000
PREFIX = "timestamps_asr_"


def bundle(canary: Path, times: Path, path: Path) -> Path:
    """The archive of a Canary with the members of another model next to its own."""
    with tarfile.open(path, "w") as written:
        for archive, is_times in ((canary, False), (times, True)):
            with tarfile.open(archive) as tar:
                for member in tar:
                    name = member.name.removeprefix("./")
                    if not member.isfile():
                        continue
                    content = tar.extractfile(member).read()
                    if is_times and name in ("model_config.yaml", "model_weights.ckpt"):
                        name = f"{PREFIX}{name}"
                    if not is_times and name == "model_config.yaml":
                        content = content.replace(
                            b"restore_timestamps_model: false", b"restore_timestamps_model: true"
                        )
                    info = tarfile.TarInfo(f"./{name}")
                    info.size = len(content)
                    written.addfile(info, io.BytesIO(content))
    return path


def test_words_and_segments_have_nemos_times(build_nemo_model: Callable[..., Any], tmp_path: Path) -> None:
    from nemo.collections.asr.models import EncDecMultiTaskModel

    soundfile = pytest.importorskip("soundfile")
    rng = np.random.default_rng(0)
    paths = []
    for number, seconds in enumerate((14, 12)):
        paths.append(str(tmp_path / f"{number}.wav"))
        soundfile.write(paths[-1], rng.normal(0, 0.1, seconds * RATE).astype(np.float32), RATE, subtype="FLOAT")
    times = build_nemo_model("ctc")
    balance_classes(times, soundfile.read(paths[0], dtype="float32")[0], None)
    times.save_to(str(tmp_path / "times.nemo"))
    canary = build_nemo_model(
        "ctc",
        **canary_overrides(has_projection=False, num_frames_layers=0, prompt_format="canary2", is_aggregate=False),
    )
    balance_decoder(canary)
    with torch.no_grad():  # only text is written
        bias = canary.log_softmax.mlp.layer0.bias
        special = [canary.tokenizer.token_to_id(symbol) for symbol in CANARY_SYMBOLS if symbol != "<|endoftext|>"]
        bias[[0, *special]] = -1e3
        pieces = canary.tokenizer.vocab
        bias[[number for number, piece in enumerate(pieces) if piece.startswith("\u2581")]] += 1.0
        bias[pieces.index("\u2581")] = -1e3  # NeMo's text would have two spaces, and a word without letters
    canary.save_to(str(tmp_path / "canary.nemo"))
    archive = bundle(tmp_path / "canary.nemo", tmp_path / "times.nemo", tmp_path / "bundled.nemo")
    folder = convert_nemo_checkpoint(archive, tmp_path / "ours").output_dir
    back = export_nemo(folder, tmp_path / "back.nemo").path
    model, processor = load_model(folder, device="cpu")
    found = [
        transcribe_file(model, processor, path, source_lang="en", timestamps=["word", "segment"]) for path in paths
    ]
    for source in (archive, back):
        nemo = EncDecMultiTaskModel.restore_from(str(source), map_location="cpu").eval()
        assert nemo.timestamps_asr_model is not None
        expected = nemo.transcribe(
            paths, batch_size=2, timestamps=True, source_lang="en", target_lang="en", num_workers=0, verbose=False
        )
        for transcript, hypothesis in zip(found, expected, strict=True):
            assert transcript.text == hypothesis.text
            assert transcript.timestamps["word"]
            for level in ("word", "segment"):
                ours, theirs = transcript.timestamps[level], hypothesis.timestamp[level]
                assert [item[level] for item in ours] == [item[level] for item in theirs]
                for side in ("start", "end"):
                    assert np.allclose([item[side] for item in ours], [item[side] for item in theirs], atol=1e-6)
