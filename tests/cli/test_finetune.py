"""`fastconformer finetune` as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prompted_clips import build_prompted

from transformers_fastconformer.demonstration import CLIP_PATHS

pytest.importorskip("accelerate", reason="accelerate is not installed")
pytest.importorskip("peft", reason="peft is not installed")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = [
        {"audio_filepath": str(CLIP_PATHS[0]), "text": "three one four one five nine"},
        {"audio_filepath": str(CLIP_PATHS[1]), "text": "two six five", "offset": 0.0, "duration": 1.2},
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_run_and_its_report(run_command: Callable[..., Any], manifest: Path, tmp_path: Path) -> None:
    arguments = ["finetune", "--model", "demo", "--train_data", str(manifest), "--eval_data", str(manifest)]
    arguments += ["--output_dir", str(tmp_path / "out"), "--max_steps", "2", "--lora", "--lora_targets", "joint"]
    done = run_command(*arguments, "--lora_rank", "2")
    assert done.returncode == 0, done.stderr
    assert "training: 2 clips, 0.00 h" in done.stderr
    (line,) = [line for line in done.stderr.split("\n") if line.startswith("step 2: evaluation loss")]
    assert "character error rate" in line  # no line is broken in a log
    assert (tmp_path / "out" / "README.md").read_text().startswith("---\nlicense: cc-by-sa-4.0\n")
    assert "parameters (" in done.stderr
    assert done.stdout.startswith("Word error rate ")
    assert done.stdout.endswith(f"Wrote {tmp_path / 'out'}.\n")
    again = run_command(*arguments, "--lora_rank", "2")
    assert again.returncode == 2
    assert "holds a run that is finished" in again.stderr
    spoken = run_command("transcribe", str(CLIP_PATHS[0]), "--model", str(tmp_path / "out"))
    assert spoken.returncode == 0, spoken.stderr
    assert "one" in spoken.stdout


def test_a_model_with_prompts(run_command: Callable[..., Any], manifest: Path, tmp_path: Path) -> None:
    model, processor = build_prompted()
    model.save_pretrained(tmp_path / "canary")
    processor.save_pretrained(tmp_path / "canary")
    lines = [{"audio_filepath": str(CLIP_PATHS[0]), "text": "the dog", "target_lang": "de"}]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ["finetune", "--model", str(tmp_path / "canary"), "--train_data", str(manifest), "--max_steps", "2"]
    given += ["--eval_data", str(manifest), "--output_dir", str(tmp_path / "out")]
    done = run_command(*given, "--source_lang", "en", "--no_pnc", "--normalizer", "basic")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out" / "finetune.json").read_text())["prompt"]
    assert (told["source_lang"], told["pnc"]) == ("en", False)
    refused = run_command(*given[:-1], str(tmp_path / "other"), "--source_lang", "fr")
    assert refused.returncode == 2
    assert "source_lang='fr' is not supported by this model" in refused.stderr


def test_audio_that_cannot_be_read_is_named_and_the_code_is_1(
    run_command: Callable[..., Any], manifest: Path, tmp_path: Path
) -> None:
    with manifest.open("a") as file:
        file.write(json.dumps({"audio_filepath": "missing.wav", "text": "one"}) + "\n")
    given = ["finetune", "--model", "demo", "--train_data", str(manifest), "--output_dir", str(tmp_path / "out")]
    done = run_command(*given, "--max_steps", "1")
    assert done.returncode == 1
    assert "left out, audio that cannot be read: 1 clip: " in done.stderr
    assert "missing.wav" in done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--lora_rank", "2"], 2, "--lora_rank belongs to --lora."),
        (["--task", "translate"], 2, "task='translate' is not supported by a model without prompts"),
        (["--eval_split", "test"], 2, "--eval_split belongs to --eval_data."),
        (["--train_split", "test"], 2, "--train_split belongs to a data set of the Hub"),
        (["--max_steps", "0"], 2, "max_steps=0 is not supported"),
        (
            ["--freeze", "nothing", "--max_steps", "1"],
            2,
            "freeze='nothing' is not supported; expected some of encoder",
        ),
        (["--lora", "--lora_targets", "nothing"], 2, "targets='nothing' matches no layer of FastConformerForTDT"),
        (["--text_column", "sentence"], 1, "without a text: 2 clips"),
    ],
)
def test_what_is_refused(
    run_command: Callable[..., Any], manifest: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    given = ["finetune", "--model", "demo", "--train_data", str(manifest), "--output_dir", str(tmp_path / "out")]
    done = run_command(*given, *arguments)
    assert done.returncode == code
    assert message in done.stderr


def test_data_that_is_not_there(run_command: Callable[..., Any], manifest: Path, tmp_path: Path) -> None:
    given = ["finetune", "--model", "demo", "--output_dir", str(tmp_path / "out"), "--train_data"]
    for name in ("none.jsonl", "none.csv", "none/"):
        done = run_command(*given, str(tmp_path / name))
        assert done.returncode == 2
        assert f"error: --train_data '{tmp_path / name}" in done.stderr
        assert "does not exist; expected a manifest (.jsonl, .json, .csv), a folder of audio" in done.stderr
    (tmp_path / "other.jsonl").write_text(json.dumps({"audio_filepath": "missing.wav", "text": "one"}) + "\n")
    done = run_command(*given, str(tmp_path / "other.jsonl"))
    assert done.returncode == 1
    assert (
        "error: train_rows: No clip is left to train on; left out, audio that cannot be read: 1 clip: " in done.stderr
    )
    done = run_command(*given, str(manifest), "--eval_data", str(tmp_path / "other.jsonl"))
    assert done.returncode == 1
    assert "error: eval_rows: No clip is left" in done.stderr
    assert run_command(*given, str(manifest), "--eval_data", str(tmp_path / "none.jsonl")).returncode == 2
    (tmp_path / "bad.jsonl").write_text("{")
    assert run_command(*given, str(tmp_path / "bad.jsonl")).returncode == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_process_that_was_killed_goes_on_with_the_losses_of_one_that_was_not(manifest: Path, tmp_path: Path) -> None:
    """SIGKILL, as of a scheduler or for lack of memory, and the same command once more."""

    def start(output: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "transformers_fastconformer.cli.main", "finetune", "--model", "demo"]
        command += ["--train_data", str(manifest), "--eval_data", str(manifest), "--output_dir", str(output)]
        command += ["--max_steps", "40", "--eval_steps", "2"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def course_of(output: Path) -> list[dict[str, Any]]:
        checkpoints = (output / "checkpoints").glob("checkpoint-*/trainer_state.json")
        state = json.loads(max(checkpoints, key=lambda path: int(path.parent.name.split("-")[1])).read_text())
        names = ("step", "loss", "eval_loss", "eval_wer")
        return [{name: entry[name] for name in names if name in entry} for entry in state["log_history"]]

    killed = start(tmp_path / "killed")
    while killed.poll() is None and not list(tmp_path.glob("killed/checkpoints/checkpoint-*/trainer_state.json")):
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "README.md").exists()
    again = start(tmp_path / "killed")
    printed = again.communicate(timeout=300)[0]
    assert again.returncode == 0, printed
    assert "Going on after step " in printed
    unbroken = start(tmp_path / "unbroken")
    assert unbroken.communicate(timeout=300)[0]
    assert unbroken.returncode == 0
    assert course_of(tmp_path / "killed") == course_of(tmp_path / "unbroken")
