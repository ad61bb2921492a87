"""Changes of a recording that make another speaker, another microphone or another room of it, for training."""

from __future__ import annotations

import numpy as np

FFT_SIZE = 512
HOP_SAMPLES = 128
# Of the cepstrum at 16 kHz: below it the shape of the vocal tract, above it the pitch of a voice of up to 400 Hz.
ENVELOPE_COEFFICIENTS = 36
LARGEST_LOG_GAIN = 3.0
WINDOW = np.hanning(FFT_SIZE + 1)[:-1].astype(np.float32)


def change_formants(waveform: np.ndarray, factor: float) -> np.ndarray:
    """
    Move the resonances of a voice and leave its pitch and tempo: a shorter or a longer vocal tract.

    Args:
        waveform: (samples,) float32 at 16 kHz.
        factor: Times the frequencies of the resonances; above 1: a shorter vocal tract.

    Returns:
        As many samples.
    """
    padded = np.pad(waveform, (FFT_SIZE, FFT_SIZE + -len(waveform) % HOP_SAMPLES))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SIZE)[::HOP_SAMPLES]
    spectrum = np.fft.rfft(frames * WINDOW)  # (frames, bins)
    cepstrum = np.fft.irfft(np.log(np.abs(spectrum) + 1e-6))
    cepstrum[:, ENVELOPE_COEFFICIENTS : FFT_SIZE - ENVELOPE_COEFFICIENTS + 1] = 0
    envelope = np.fft.rfft(cepstrum).real
    bins = spectrum.shape[1]
    positions = np.minimum(np.arange(bins) / factor, bins - 1)
    below = np.minimum(positions.astype(np.int64), bins - 2)
    share = positions - below
    moved = envelope[:, below] * (1 - share) + envelope[:, below + 1] * share
    gain = np.exp(np.clip(moved - envelope, -LARGEST_LOG_GAIN, LARGEST_LOG_GAIN))
    frames = np.fft.irfft(spectrum * gain) * WINDOW
    result, weight = np.zeros(len(padded)), np.full(len(padded), 1e-9)
    for index, frame in enumerate(frames):
        start = index * HOP_SAMPLES
        result[start : start + FFT_SIZE] += frame
        weight[start : start + FFT_SIZE] += WINDOW**2
    return (result / weight)[FFT_SIZE : FFT_SIZE + len(waveform)].astype(np.float32)


def change_tone(generator: np.random.Generator, waveform: np.ndarray, largest_db: float) -> np.ndarray:
    """Raise and lower parts of the spectrum smoothly, by as many dB as `largest_db`: another microphone."""
    spectrum = np.fft.rfft(waveform)
    octaves = np.linspace(0.0, 1.0, 7)
    # From 60 Hz to 8 kHz, about an octave from each gain to the next.
    position = np.log2(np.maximum(np.linspace(0.0, 8000.0, len(spectrum)), 60.0) / 60.0) / np.log2(8000.0 / 60.0)
    gain_db = np.interp(position, octaves, generator.uniform(-largest_db, largest_db, len(octaves)))
    return np.fft.irfft(spectrum * 10 ** (gain_db / 20), len(waveform)).astype(np.float32)


def add_room(generator: np.random.Generator, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Echo of a room drawn at random: noise that fades by 60 dB within 0.03 to 0.25 s."""
    tail = int(generator.uniform(0.03, 0.25) * sampling_rate)
    echo = generator.standard_normal(tail) * np.exp(-6.9 * np.arange(tail) / tail) * generator.uniform(0.02, 0.12)
    echo[0] = 1.0
    size = len(waveform) + tail
    return np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(echo, size), size)[: len(waveform)]
