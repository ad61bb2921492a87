"""The page, without a browser and in one whose microphone plays a clip."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from browser import browsing, find_browser
from diarizers import build_diarizer, make_extractor
from served import CLIP, Served, serving

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.server.page import read_page

SPOKEN = "three one four one five nine"


def test_the_page_loads_nothing_from_elsewhere(served: Served) -> None:
    page = read_page()
    assert not re.search(r"(?:src|href)=|https?://|url\(|@import", page.replace("src: source", ""))
    answer = httpx.get(f"{served.address}/")  # without a key, which it asks for
    assert answer.text == page
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy


def test_every_field_has_a_label() -> None:
    page = read_page()
    assert '<html lang="en">' in page
    for field in re.findall(r"<(?:select|input) [^>]*>", page):
        assert 'aria-hidden="true"' in field or re.search(rf"<label[^>]*>[^<]*{re.escape(field)}", page), field


@pytest.mark.slow  # a browser
@pytest.mark.skipif(find_browser() is None, reason="needs Chromium")
def test_speakers_in_a_browser(tmp_path: Path) -> None:
    for part in (build_diarizer(), make_extractor()):
        part.save_pretrained(tmp_path / "speakers")
    served_page = serving(diarize=str(tmp_path / "speakers"))
    with served_page as served, browsing(f"{served.address}/", Path(CLIP), tmp_path / "profile") as tab:
        tab.wait_for("document.querySelectorAll('#model option').length === 2")
        tab.wait_for("!document.querySelector('#speakers-field').hidden")
        tab.choose_files("#files", Path(CLIP))
        tab.wait_for("document.querySelectorAll('section .word').length === 6")
        assert tab.run("document.querySelectorAll('section .turn').length") >= 1
        assert tab.run("document.querySelector('section .turn b').innerText").startswith("Speaker ")
        assert tab.run("subtitles([{word: 'a', start: 1, end: 2, speaker: 'speaker_1'}], 'vtt')").endswith(
            "\n<v speaker_1>a\n"
        )
        tab.run("document.querySelector('#speakers').value = ''")
        tab.choose_files("#files", Path(CLIP))
        tab.wait_for("document.querySelectorAll('section .word').length === 12")
        assert tab.run("document.querySelector('section .text').innerText") == SPOKEN


@pytest.mark.slow  # a browser
@pytest.mark.skipif(find_browser() is None, reason="needs Chromium")
def test_files_and_the_microphone_in_a_browser(tmp_path: Path) -> None:
    spoken = tmp_path / "spoken.wav"
    samples = read_audio(CLIP, 48000)
    soundfile.write(spoken, np.concatenate([np.zeros(24000), samples, np.zeros(96000)]), 48000)
    with serving() as served, browsing(f"{served.address}/", spoken, tmp_path / "profile") as tab:
        tab.wait_for("document.querySelectorAll('#model option').length === 2")
        tab.choose_files("#files", Path(CLIP))
        tab.wait_for("document.querySelectorAll('section .word').length === 6")
        assert tab.run("document.querySelector('section .text').innerText") == SPOKEN
        tab.run("document.querySelectorAll('section .word')[2].click()")
        assert tab.run("document.querySelector('section .lit').innerText") == "four"
        assert tab.run("subtitles([{word: 'a<b', start: 1, end: 2.5}], 'vtt')") == (
            "WEBVTT\n\n00:00:01.000 --> 00:00:02.500\na&lt;b\n"
        )
        tab.run("document.querySelector('#record').click()")
        tab.wait_for("document.querySelector('section .tentative').innerText.length > 0")  # words that may change
        tab.wait_for("document.querySelector('section .text').innerText.includes('nine')")
        tab.run("document.querySelector('#record').click()")
        tab.wait_for("document.querySelector('section .row:not([hidden]) button')")
        assert tab.run("document.querySelector('section .text').innerText") == SPOKEN
        tab.wait_for("document.querySelector('section audio')")
        for url in tab.requested:
            assert url.startswith((served.address, "blob:", "data:")), url  # data: icons of the player
