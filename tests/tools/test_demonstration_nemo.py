"""The scripts that made the demonstration files still run, and still make the same."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS, EXPECTATIONS_PATH
from transformers_fastconformer.inference.file import transcribe_waveforms
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.reference import load_stage_outputs
from transformers_fastconformer.nemo.verify import compare_outputs

pytestmark = pytest.mark.nemo

TOOLS = Path(__file__).resolve().parents[2] / "tools"
TEXTS = ["three one four one five nine", "two seven one eight zero six"]
TRAINING_MINUTES = 0.15


def import_tool(name: str) -> Any:
    pytest.importorskip("nemo.collections.asr", reason="needs NeMo")
    return importlib.import_module(name)


@pytest.fixture
def few_digits(speech_dir: Path, tmp_path: Path) -> Path:
    """A folder of speech with two recordings of every digit by each speaker, one of them to test on."""
    folder = tmp_path / "speech"
    (folder / "digits").mkdir(parents=True)
    for split, index in (("train", 5), ("test", 0)):
        lines = (speech_dir / "digits" / f"{split}.txt").read_text().split()
        chosen = [line for line in lines if Path(line).stem.endswith(f"_{index}")]
        assert len(chosen) == 50
        for line in chosen:
            (folder / line).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(speech_dir / line, folder / line)
        (folder / "digits" / f"{split}.txt").write_text("\n".join(chosen) + "\n")
    return folder


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_training_goes_on_from_the_demonstration_checkpoint(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = import_tool("train_digit_demonstration")
    monkeypatch.setattr(script, "VARIANTS", ["m1", "f1"])
    (strings_per_voice,) = script.read_synthesized_clips.__defaults__
    cache = tmp_path / "cache"
    script.read_synthesized_clips(cache, 4)
    (cache / "espeak-4.npz").rename(cache / f"espeak-{strings_per_voice}.npz")  # so that the script makes no more

    output = tmp_path / "digits.nemo"
    command = [sys.executable, str(TOOLS / "train_digit_demonstration.py"), "--output", str(output)]
    command += ["--speech_dir", str(few_digits), "--cache_dir", str(cache), "--minutes", str(TRAINING_MINUTES)]
    command += ["--initial_checkpoint", str(CHECKPOINT_PATH), "--learning_rate", "1e-5", "--seconds_per_batch", "6"]
    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "50 recorded clips" in result.stdout
    assert "test, strings of 4: TDT" in result.stdout

    before, after = tmp_path / "before", tmp_path / "after"
    convert_nemo_checkpoint(CHECKPOINT_PATH, before)
    conversion = convert_nemo_checkpoint(output, after)
    assert conversion.mapped.family == "hybrid_tdt_ctc"
    assert json.loads((before / "config.json").read_text()) == json.loads((after / "config.json").read_text())
    waveforms = [read_audio(path) for path in CLIP_PATHS]
    for head in ("transducer", "ctc"):
        old, _ = load_model(before, head)
        model, processor = load_model(after, head)
        moved = [
            name
            for (name, parameter), old_parameter in zip(model.named_parameters(), old.parameters(), strict=True)
            if not torch.equal(parameter, old_parameter)
        ]
        assert len(moved) > 0.9 * len(list(model.parameters()))  # it was trained
        assert [item.text for item in transcribe_waveforms(model, processor, waveforms)] == TEXTS  # a little


def test_expectations_are_what_nemo_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = import_tool("write_demonstration_expectations")
    path = tmp_path / "expectations.safetensors"
    monkeypatch.setattr(script, "EXPECTATIONS_PATH", path)
    monkeypatch.setattr(sys, "argv", ["write_demonstration_expectations.py"])
    stored_bytes = EXPECTATIONS_PATH.read_bytes()
    num_threads = torch.get_num_threads()
    try:
        script.main()
    finally:
        torch.set_num_threads(num_threads)
    assert EXPECTATIONS_PATH.read_bytes() == stored_bytes

    stored, stored_provenance = load_stage_outputs(EXPECTATIONS_PATH)
    fresh, provenance = load_stage_outputs(path)
    rows = compare_outputs(stored, fresh, is_stored=True)
    failures = [row for row in rows if not row.passed]
    assert not failures, failures
    assert [[clip.text for clip in outputs.hypotheses["tdt"]] for outputs in fresh] == [[text] for text in TEXTS]
    machine = ("nemo", "torch", "python")
    assert provenance.keys() == stored_provenance.keys()
    assert {name: value for name, value in provenance.items() if name not in machine} == {
        name: value for name, value in stored_provenance.items() if name not in machine
    }


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_clips_are_what_espeak_says(tmp_path: Path) -> None:
    script = import_tool("write_demonstration_expectations")
    waveforms = []
    for number, clip in enumerate(script.CLIPS):
        script.write_clip(tmp_path / f"{number}.wav", *clip)
        waveforms.append(read_audio(tmp_path / f"{number}.wav"))
        # Other versions of espeak-ng speak a little otherwise.
        assert len(waveforms[-1]) == pytest.approx(len(read_audio(CLIP_PATHS[number])), rel=0.1)
    model, processor = load_model(CHECKPOINT_PATH)
    assert [item.text for item in transcribe_waveforms(model, processor, waveforms)] == TEXTS
