"""
Every example of the README and the docs runs as it stands, Python blocks in order and `fastconformer` lines too.

Links, messages and the names of the API reference are those that there are.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

import transformers_fastconformer
from transformers_fastconformer.cli import doctor_facts
from transformers_fastconformer.cli.main import main
from transformers_fastconformer.demonstration import CLIP_PATHS, CONVERSATION_PATH

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Lines that need what the default test run lacks: the network, or NeMo.
PUBLISHED = "nvidia/"
NOT_RUN_HERE = (PUBLISHED, "--verify", "pip install")
COMMANDS = ("fastconformer", "python", "sphinx-build", "nox")


def blocks_of(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run examples in, with the clip and the list of names that they speak of."""
    shutil.copy(CLIP_PATHS[0], tmp_path / "clip.wav")
    shutil.copy(CONVERSATION_PATH, tmp_path / "conversation.wav")
    (tmp_path / "names.txt").write_text("seven\neight nine\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Pages that load published checkpoints run in `integration/test_hub_processes.py`, next to a Hub server.
PYTHON_PAGES = [page for page in PAGES if (code := "".join(blocks_of(page, "python"))) and PUBLISHED not in code]
# Torch's exporter takes many seconds.
EXPORT_PAGE = "export"


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page.stem == EXPORT_PAGE else ()) for page in PYTHON_PAGES],
    ids=lambda page: page.stem,
)
def test_python_examples_run(page: Path, working_folder: Path) -> None:
    script = working_folder / "examples.py"
    script.write_text("\n".join(blocks_of(page, "python")), encoding="utf-8")
    runpy.run_path(str(script), run_name="__main__")


# `cli/test_demo.py` has what the page of the installation runs.
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page.stem in ("install", EXPORT_PAGE) else ()) for page in PAGES],
    ids=lambda page: page.stem,
)
def test_command_lines_run(
    page: Path, working_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_facts, "MEASURED_SECONDS", 0.01)
    lines = [line for code in blocks_of(page, "bash") for line in code.splitlines() if line.strip()]
    for line in lines:
        if any(word in line for word in NOT_RUN_HERE):
            continue
        words = shlex.split(line, comments=True)
        assert words[0] in COMMANDS, f"{page.name}: what is {line!r}?"
        if words[0] != "fastconformer":
            assert words[0] != "python" or (ROOT / words[1]).exists() or words[1] == "-m", line
            continue
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as finished:
            main()
        assert not finished.value.code, f"{line}: {capsys.readouterr().err[-2000:]}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def test_examples_import_from_the_top_level() -> None:
    package = transformers_fastconformer.__name__
    for page in PAGES:
        deep = re.findall(rf"(?:from|import) {package}\.\S+", "\n".join(blocks_of(page, "python")))
        assert not deep, f"{page.name}: {deep}"


def test_reference_has_all_public_names() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    names = re.findall(r"^\.\. (?:autoclass|autofunction|py:class):: (\w+)(?:\(.*\))?$", text, re.MULTILINE)
    assert sorted(names) == sorted(set(transformers_fastconformer.__all__) - {"__version__"})


def texts_of_the_code() -> set[str]:
    """All texts in the sources, with `…` for what is put in."""
    texts = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                texts.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    return texts


def test_messages_are_those_of_the_code() -> None:
    texts = texts_of_the_code()
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^- `([^`]+)`\\$", page, re.MULTILINE)
    assert len(messages) > 80
    for message in messages:
        pieces = [piece for piece in message.split("…") if re.search(r"\w", piece)]
        pattern = re.compile(".*".join(re.escape(piece) for piece in pieces), re.DOTALL)
        assert any(pattern.search(text) for text in texts), message
