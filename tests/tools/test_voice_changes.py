"""Changes of a voice in training: resonances move and the pitch stays, tone is smooth, a room fades."""

from __future__ import annotations

import numpy as np
import pytest

from voice_changes import add_room, change_formants, change_tone

RATE = 16000


def vowel(resonance_hz: float, pitch_hz: float = 125.0) -> np.ndarray:
    """A second of a buzz through one resonance, (samples,) float32."""
    clock = np.arange(RATE) / RATE
    harmonics = np.arange(pitch_hz, 7000.0, pitch_hz)
    levels = 1 / (1 + ((harmonics - resonance_hz) / 150.0) ** 2)
    return (levels[:, None] * np.sin(2 * np.pi * harmonics[:, None] * clock)).mean(axis=0).astype(np.float32)


def spectrum_of(waveform: np.ndarray) -> np.ndarray:
    return np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))


@pytest.mark.parametrize("factor", [0.85, 1.15])
def test_resonances_move_and_the_pitch_stays(factor: float) -> None:
    changed = change_formants(vowel(1500.0), factor)
    assert changed.shape == (RATE,)
    assert changed.dtype == np.float32
    spectrum, before = spectrum_of(changed), spectrum_of(vowel(1500.0))
    hertz = np.arange(len(spectrum))  # of a second
    moved = (hertz * spectrum**2).sum() / (spectrum**2).sum() / ((hertz * before**2).sum() / (before**2).sum())
    assert (moved - 1) / (factor - 1) == pytest.approx(1.0, abs=0.5)
    of_harmonics = spectrum[125 * np.arange(4, 24)].sum()
    between = spectrum[125 * np.arange(4, 24) + 62].sum()
    assert between < 0.05 * of_harmonics


def test_a_factor_of_one_changes_nothing() -> None:
    for samples in (1, 127, 4000):
        waveform = vowel(1500.0)[:samples]
        np.testing.assert_allclose(change_formants(waveform, 1.0), waveform, atol=1e-6)


def test_tone_changes_by_no_more_than_it_may() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    changed = change_tone(np.random.default_rng(1), noise, 6.0)
    gain_db = 20 * np.log10(np.abs(np.fft.rfft(changed))[1:-1] / np.abs(np.fft.rfft(noise))[1:-1])
    assert np.abs(gain_db).max() < 6.01
    assert np.ptp(gain_db) > 3.0
    assert np.abs(np.diff(gain_db)[60:]).max() < 0.2


def test_a_room_begins_with_the_sound_itself() -> None:
    click = np.zeros(RATE, np.float32)
    click[100] = 1.0
    heard = add_room(np.random.default_rng(0), click, RATE)
    assert heard.shape == click.shape
    assert np.abs(heard[:100]).max() < 1e-6
    assert heard[100] == pytest.approx(1.0)
    assert 1e-3 < np.abs(heard[101:4101]).max() < 0.6
    assert np.abs(heard[4101:]).max() < 1e-6
