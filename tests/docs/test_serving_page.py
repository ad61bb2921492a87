"""The clients of the page on serving run as they stand, against a server of their own."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from served import CLIP, serving

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
ADDRESS = "127.0.0.1:8000"


def test_clients_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```(py|sh)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert {language for language, _ in blocks} == {"py", "sh"}
    for name in ("talk.mp3", "talk.wav"):
        shutil.copy(CLIP, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with serving() as served:
        for language, code in blocks:
            code = code.replace(ADDRESS, f"127.0.0.1:{served.port}")
            if language == "py":
                (tmp_path / "client.py").write_text(code, encoding="utf-8")
                runpy.run_path(str(tmp_path / "client.py"), run_name="__main__")
                assert "nine" in capsys.readouterr().out  # the last word of the clip
                continue
            for line in code.splitlines():
                if shutil.which("curl") is not None:
                    answer = subprocess.run([*shlex.split(line), "-s"], capture_output=True, text=True, timeout=30)
                    assert "nine" in answer.stdout
