"""The player page of the docs: its subtitles are read by a parser that is not ours, its waveform is an image."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import subtitle_player


def test_the_page_has_audio_waveform_and_subtitles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile, webvtt = pytest.importorskip("soundfile"), pytest.importorskip("webvtt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["subtitle_player.py"])
    subtitle_player.main()
    folder = tmp_path / "player"
    captions = webvtt.read(folder / "audio.vtt")
    assert [caption.text for caption in captions] == ["three one four one five nine", "two seven one eight zero six"]
    assert captions[-1].end_in_seconds < soundfile.info(folder / "audio.wav").duration
    assert ElementTree.parse(folder / "waveform.svg").getroot().get("width") == "960"
    page = (folder / "index.html").read_text()
    assert all(f'src="{name}"' in page for name in ("audio.wav", "audio.vtt", "waveform.svg"))
    assert "two seven one" in capsys.readouterr().out
