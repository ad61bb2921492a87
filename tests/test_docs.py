"""Every example of the README and the docs runs as it stands: Python blocks in order, `fastconformer` lines too."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from transformers_fastconformer.demonstration import CLIP_PATHS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Lines that need what the default test run lacks: the network, or NeMo.
NOT_RUN_HERE = ("nvidia/", "--verify", "pip install")


def blocks_of(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run examples in, with the clip that they speak of."""
    shutil.copy(CLIP_PATHS[0], tmp_path / "clip.wav")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "python")], ids=lambda page: page.stem)
def test_python_examples_run(page: Path, working_folder: Path) -> None:
    script = working_folder / "examples.py"
    script.write_text("\n".join(blocks_of(page, "python")), encoding="utf-8")
    # A process of its own, as for a reader: nothing is imported before.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, str(script)], cwd=working_folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_command_lines_run(page: Path, working_folder: Path) -> None:
    lines = [line for code in blocks_of(page, "bash") for line in code.splitlines() if line.strip()]
    for line in lines:
        if any(word in line for word in NOT_RUN_HERE):
            continue
        words = shlex.split(line, comments=True)
        assert words[0] in ("fastconformer", "python"), f"{page.name}: what is {line!r}?"
        if words[0] == "python":
            assert (ROOT / words[1]).exists() or words[1] == "-m", line
            continue
        result = subprocess.run(
            [sys.executable, "-m", "transformers_fastconformer.cli.main", *words[1:]], capture_output=True, text=True
        )
        assert result.returncode == 0, f"{line}: {result.stderr[-2000:]}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"
