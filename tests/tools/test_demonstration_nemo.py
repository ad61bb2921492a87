"""The scripts that made the demonstration files still run, and still make the same."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.demonstration import (
    CHECKPOINT_PATH,
    CLIP_PATHS,
    EXPECTATIONS_PATH,
    STREAMING_CHECKPOINT_PATH,
    STREAMING_EXPECTATIONS_PATH,
)
from transformers_fastconformer.inference.file import transcribe_waveforms
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.stage_comparison import compare_outputs
from transformers_fastconformer.nemo.stage_outputs import load_stage_outputs

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
@pytest.mark.parametrize(
    ("name", "checkpoint", "family", "line"),
    [
        ("train_digit_demonstration", CHECKPOINT_PATH, "hybrid_tdt_ctc", "test, strings of 4: TDT"),
        (
            "train_streaming_demonstration",
            STREAMING_CHECKPOINT_PATH,
            "hybrid_rnnt_ctc",
            "test, strings of 4, RNN-T / CTC: 1120 ms",
        ),
    ],
)
def test_training_goes_on_from_a_demonstration_checkpoint(
    name: str,
    checkpoint: Path,
    family: str,
    line: str,
    few_digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = import_tool("digit_data")
    monkeypatch.setattr(data, "VARIANTS", ["m1", "f1"])
    (strings_per_voice,) = data.read_synthesized_clips.__defaults__
    cache = tmp_path / "cache"
    data.read_synthesized_clips(cache, 4)
    (cache / "espeak-4.npz").rename(cache / f"espeak-{strings_per_voice}.npz")  # so that the script makes no more

    output = tmp_path / "digits.nemo"
    command = [sys.executable, str(TOOLS / f"{name}.py"), "--output", str(output)]
    command += ["--speech_dir", str(few_digits), "--cache_dir", str(cache), "--minutes", str(TRAINING_MINUTES)]
    command += ["--initial_checkpoint", str(checkpoint), "--learning_rate", "1e-5", "--seconds_per_batch", "6"]
    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "50 recorded clips" in result.stdout
    assert line in result.stdout

    before, after = tmp_path / "before", tmp_path / "after"
    convert_nemo_checkpoint(checkpoint, before)
    conversion = convert_nemo_checkpoint(output, after)
    assert conversion.mapped.family == family
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


def test_a_stopped_training_goes_on(few_digits: Path, tmp_path: Path) -> None:
    training, data = import_tool("digit_training"), import_tool("digit_data")
    script = import_tool("train_streaming_demonstration")
    clips = data.read_digit_clips(few_digits, "train")
    options = training.TrainingOptions(
        output=tmp_path / "digits.nemo",
        minutes=0.05,
        save_minutes=5.0,
        learning_rate=1e-3,
        warm_up_steps=1,
        seconds_per_batch=6.0,
        seed=1,
        resume=False,
        initial_checkpoint=STREAMING_CHECKPOINT_PATH,
    )

    def train(options: Any) -> dict[str, Any]:
        model = training.build_model(script.make_streaming_configuration(tmp_path / "tokenizer"))
        model.loss = script.VectorisedRNNTLoss(len(model.tokenizer.vocab))
        model.joint.log_softmax = False
        training.train(model, options, clips, clips, script.AUGMENTATION, lambda: "")
        return torch.load(training.state_path(options.output), weights_only=True)

    stopped = train(options)
    resumed = train(replace(options, minutes=0.1, resume=True, initial_checkpoint=None))
    assert 0 < stopped["step"] < resumed["step"]
    assert 3.0 <= stopped["seconds"] < resumed["seconds"]
    assert resumed["stage"] == stopped["stage"] == training.LAST_STAGE
    before, after = (run["optimizer"]["state"] for run in (stopped, resumed))
    assert all(after[number]["step"] > state["step"] for number, state in before.items())


def test_a_speaker_who_was_heard_is_not_called_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = import_tool("train_streaming_demonstration")
    command = ["train_streaming_demonstration.py", "--output", "digits.nemo", "--without_speaker", "theo"]
    monkeypatch.setattr(sys, "argv", command)
    assert script.parse_arguments().without_speaker == "theo"
    monkeypatch.setattr(sys, "argv", [*command, "--from_demonstration"])
    with pytest.raises(SystemExit):
        script.parse_arguments()
    assert "heard every speaker" in capsys.readouterr().err


def test_expectations_are_what_nemo_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = import_tool("write_demonstration_expectations")
    path, streaming_path = tmp_path / "expectations.safetensors", tmp_path / "streaming.safetensors"
    monkeypatch.setattr(script, "EXPECTATIONS_PATH", path)
    monkeypatch.setattr(script, "STREAMING_EXPECTATIONS_PATH", streaming_path)
    monkeypatch.setattr(sys, "argv", ["write_demonstration_expectations.py"])
    stored_bytes = EXPECTATIONS_PATH.read_bytes(), STREAMING_EXPECTATIONS_PATH.read_bytes()
    num_threads = torch.get_num_threads()
    try:
        script.main()
    finally:
        torch.set_num_threads(num_threads)
    assert (EXPECTATIONS_PATH.read_bytes(), STREAMING_EXPECTATIONS_PATH.read_bytes()) == stored_bytes

    for stored_path, fresh_path, head in (
        (EXPECTATIONS_PATH, path, "tdt"),
        (STREAMING_EXPECTATIONS_PATH, streaming_path, "rnnt"),
    ):
        stored, stored_provenance = load_stage_outputs(stored_path)
        fresh, provenance = load_stage_outputs(fresh_path)
        rows = compare_outputs(stored, fresh, is_stored=True)
        failures = [row for row in rows if not row.passed]
        assert not failures, failures
        texts = [clip.text for outputs in fresh for clip in outputs.hypotheses[head]]
        assert texts == TEXTS * (len(fresh) // len(TEXTS))
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
