"""Every example runs as it stands, on the demonstration checkpoint and without a network, and is short."""

from __future__ import annotations

import ast
import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))
PACKAGE = "transformers_fastconformer"
TEXT = "three one four one five nine"
CLIP, MODEL, MANIFEST = "clip.wav", "--model", "clip.jsonl"
NEMO = str(CHECKPOINT_PATH)
# Name of the example: its arguments, and what it prints or, after `>`, writes to a file.
RUNS: dict[str, tuple[list[str], str]] = {
    "batch_folder": ([".", MODEL, NEMO, "--batch_size", "1"], f"clip.txt > {TEXT}"),
    "confidence": ([CLIP, MODEL, NEMO, "--below", "2"], "  three\n? "),
    "convert_nemo": ([NEMO, "folder"], "model.safetensors: "),
    "eight_bits": ([CLIP, MODEL, NEMO], f"s: {TEXT}\n8 bits, "),
    "encoder_features": ([CLIP, CLIP, MODEL, NEMO], "clip.wav: ("),
    "finetune": ([MANIFEST, MANIFEST, "folder", MODEL, "demo", "--max_steps", "2"], "written to folder."),
    "live_transcription": ([CLIP, MODEL, "demo", "--latency_ms", "800"], f"{TEXT}\n"),
    "pipeline_long_audio": ([CLIP, MODEL, NEMO, "--chunk_length_s", "2"], f"{TEXT}\n "),
    "subtitles": ([CLIP, "clip.srt", MODEL, NEMO], "clip.srt > 1\n00:00:00,"),
    "transcribe": ([CLIP, MODEL, "demo"], f"{CLIP}: {TEXT}"),
    "transcribe_file": ([CLIP, MODEL, NEMO], f"{TEXT}\n"),
    "word_times": ([CLIP, MODEL, NEMO], "  three\n"),
}


def test_there_is_a_run_for_every_example() -> None:
    assert sorted(RUNS) == [path.stem for path in EXAMPLES]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(CLIP_PATHS[0], tmp_path / CLIP)
    (tmp_path / MANIFEST).write_text(json.dumps({"audio_filepath": CLIP, "text": TEXT}) + "\n")
    monkeypatch.chdir(tmp_path)
    arguments, expected = RUNS[path.stem]
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    name, _, content = expected.partition(" > ")
    if content:
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(content)
    else:
        assert expected in printed


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_is_short_and_uses_public_names(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert 15 <= len(source.splitlines()) <= 40
    tree = ast.parse(source)
    assert f"python examples/{path.name} " in (ast.get_docstring(tree) or "")
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert PACKAGE in modules
    assert not [module for module in modules if str(module).startswith(f"{PACKAGE}.")]
