"""`fastconformer cache`, run as a user does, and what the other commands put there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transformers_fastconformer.checkpoints.store import CACHE_VARIABLE
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.nemo import sources as sources_module
from transformers_fastconformer.nemo.sources import resolve_nemo_checkpoint


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this test."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_transcribe_converts_once(run_command: Callable[..., Any], cache: Path, monkeypatch) -> None:
    first = run_command("transcribe", str(CLIP_PATHS[0]), "--model", str(CHECKPOINT_PATH))
    assert first.returncode == 0, first.stderr
    monkeypatch.setattr(sources_module, "convert_archive", None)
    second = run_command("transcribe", str(CLIP_PATHS[0]), "--model", str(CHECKPOINT_PATH))
    assert (second.returncode, second.stdout) == (0, first.stdout)
    listed = run_command("cache", "list", "--json")
    (entry,) = map(json.loads, listed.stdout.splitlines())
    assert entry["sources"] == [str(CHECKPOINT_PATH)]
    assert Path(entry["folder"]).parent.parent == cache


def test_list_and_clear(run_command: Callable[..., Any], cache: Path, tmp_path: Path) -> None:
    assert run_command("cache", "path").stdout == f"{cache}\n"
    assert f"Nothing is in {cache}" in run_command("cache", "list").stdout
    folder = Path(str(resolve_nemo_checkpoint(CHECKPOINT_PATH)))
    listed = run_command("cache", "list").stdout
    words = ("ParakeetTDTForTDT", "3.8 MB", "just now", folder.name[:12], f"1 checkpoint, 3.8 MB, in {cache}")
    assert [word for word in words if word not in listed] == []
    refused = run_command("cache", "clear", "org/absent")
    assert refused.returncode == 2
    assert "org/absent is not in the cache; there are" in refused.stderr
    assert folder.is_dir()
    cleared = run_command("cache", "clear", str(CHECKPOINT_PATH))
    assert f"Removed {CHECKPOINT_PATH} (3.8 MB)." in cleared.stdout
    assert "1 checkpoint, 3.8 MB freed." in cleared.stdout
    assert not folder.exists()
    assert CHECKPOINT_PATH.is_file()
    assert "0 checkpoints, 0 bytes freed." in run_command("cache", "clear").stdout


def test_another_cache_dir(run_command: Callable[..., Any], tmp_path: Path) -> None:
    resolve_nemo_checkpoint(CHECKPOINT_PATH, options={"cache_dir": tmp_path / "other"})
    option = ("--cache_dir", str(tmp_path / "other"))
    assert run_command("cache", "list", "--json").stdout == ""
    assert len(run_command("cache", "list", "--json", *option).stdout.splitlines()) == 1
    assert run_command("cache", "path", *option).stdout == f"{tmp_path}/other/transformers_fastconformer\n"
    assert "1 checkpoint, " in run_command("cache", "clear", *option).stdout
    assert run_command("cache", "list", "--json", *option).stdout == ""


def test_entries_of_other_versions_are_told(run_command: Callable[..., Any], cache: Path) -> None:
    folder = Path(str(resolve_nemo_checkpoint(CHECKPOINT_PATH)))
    (cache / "v0").mkdir()
    folder.rename(cache / "v0" / folder.name)
    listed = " ".join(run_command("cache", "list").stdout.replace("│", " ").split())
    assert "of another version" in listed
    run_command("cache", "clear")
    assert not (cache / "v0" / folder.name).exists()
