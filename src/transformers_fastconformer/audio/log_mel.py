"""
Log-mel features of waveforms: window, Fourier transform, mel filters, logarithm and normalisation.

Functions of tensors, for whole clips and for clips that come block by block. On a CPU the numbers are those of NeMo
3.0.0's `AudioToMelSpectrogramPreprocessor` at inference, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .. import frames
from ..validation import require
from .feature_normalization import FeatureStatistics, normalize_and_pad, scale_to_unit_deviation
from .log_mel_settings import FILTERBANK_DTYPES, WINDOW_FUNCTIONS, LogMelSettings
from .mel_filterbank import mel_filterbank

# Bounds the memory of the transform for long audio: 41 s at a time at the usual hop.
FRAMES_AT_ONCE = 4096
# Mels of a clip that are normalised at a time where that takes several copies of a long clip.
MELS_AT_ONCE = 8
# Columns at least of the product with the filters where the frames of a clip come a few at a time: libraries of linear
# algebra round products of few columns otherwise (MKL: of fewer than 12).
MIN_COLUMNS = 32


@dataclass(frozen=True)
class FeatureStreamState:
    """
    State of a clip whose samples come in blocks.

    Args:
        waiting: (1, samples), samples after pre-emphasis, the zeros in front included, that later frames need.
        last_sample: (1, 1), the last sample as it came; (1, 0) at the start.
        num_samples: Samples that have come.
    """

    waiting: torch.Tensor
    last_sample: torch.Tensor
    num_samples: int


class LogMel:
    """
    Waveforms to log-mel features, with window and filters made once for each device.

    Args:
        settings: How to compute.
        mel_filters: (feature_size, n_fft // 2 + 1), float32, in place of the computed filters.
        window_values: (win_length,), float32, in place of the computed window.
    """

    def __init__(
        self,
        settings: LogMelSettings,
        mel_filters: np.ndarray | None = None,
        window_values: np.ndarray | None = None,
    ) -> None:
        self.settings = settings
        self.mel_filters = mel_filters
        self.window_values = window_values
        self._constants: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def mel_length(self, num_samples: int) -> int:
        """Valid mel frames of a clip."""
        settings = self.settings
        return frames.mel_lengths_from_samples(num_samples, settings.hop_length, settings.n_fft, settings.exact_pad)

    # Whole clips

    @torch.no_grad()
    def extract(self, waveforms: torch.Tensor, audio_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Features of a padded batch and their lengths, unchecked.

        Samples beyond a clip's length must be zero where there is no pre-emphasis; with it they are ignored.

        Args:
            waveforms: (batch, samples), float32, at least one sample.
            audio_lengths: (batch,), integers, on the device of `waveforms`; 0 is allowed.

        Returns:
            features (batch, mel frames, mels) float32, and valid mel frames (batch,) int64.
        """
        settings = self.settings
        window, mel_filters = self._constants_on(waveforms.device)
        mel_lengths = frames.mel_lengths_from_samples(
            audio_lengths.to(torch.int64), settings.hop_length, settings.n_fft, settings.exact_pad
        )
        with torch.amp.autocast(waveforms.device.type, enabled=False):
            if settings.peak_scaling is not None:
                waveforms = _scale_by_peak(waveforms, audio_lengths, settings.peak_scaling)
            padded = _emphasize_and_pad(waveforms, audio_lengths, settings)
            num_frames = _num_frames(padded, settings)
            mels = padded.new_empty(padded.shape[0], mel_filters.shape[1], num_frames)
            for first, end in _stretches(num_frames, is_last=True):
                magnitudes = _magnitudes(_samples_of(padded, first, end, settings), window, settings)
                torch.matmul(mel_filters, magnitudes, out=mels[:, :, first:end])
            features = _take_logarithm(mels, settings)  # (batch, mels, mel frames)
            return normalize_and_pad(features, mel_lengths, settings), mel_lengths

    # Clips in blocks

    @torch.no_grad()
    def extract_block(
        self, samples: torch.Tensor, state: FeatureStreamState | None = None, is_last: bool = False
    ) -> tuple[torch.Tensor, FeatureStreamState]:
        """
        Log-mel features of a clip whose samples come in blocks, before normalisation.

        All frames together are those that `extract` has for the whole clip at that stage, to the last bit and with
        the masked frame after them: the transform goes over the same stretches.

        Args:
            samples: (samples,) float32, the next ones of the clip; there may be none.
            state: What the call for the block before returned; None at the start of the clip.
            is_last: The clip ends here.

        Returns:
            (mels, mel frames) that are ready, which may be none, and the state for the block that follows. After the
            last one `mel_length(state.num_samples)` frames of the clip count.

        Raises:
            ValueError: for samples of another form, and with `peak_scaling`, which needs the whole clip.
        """
        if samples.ndim != 1 or samples.dtype != torch.float32:
            raise ValueError(
                f"samples has shape {tuple(samples.shape)} and type {samples.dtype}; expected (samples,), "
                "torch.float32."
            )
        settings = self.settings
        expected = "None, or the whole clip at once: its largest sample is not known before its end"
        require(settings.peak_scaling is None, "peak_scaling", settings.peak_scaling, expected)
        padding_samples = settings.padding_samples
        if state is None:
            state = FeatureStreamState(samples.new_zeros(1, padding_samples), samples.new_zeros(1, 0), 0)
        # The sample before goes in again: it is what pre-emphasis takes a share of.
        known_samples = state.last_sample.shape[1]
        block = torch.cat([state.last_sample, samples[None]], dim=1)
        num_samples = state.num_samples + samples.shape[0]
        parts = [state.waiting, _emphasize(block, settings.preemphasis)[:, known_samples:]]
        if is_last:
            parts.append(samples.new_zeros(1, padding_samples))
        waiting = torch.cat(parts, dim=1)
        if is_last:
            if settings.preemphasis is not None:
                kept_samples = waiting.shape[1] - padding_samples - settings.cut_samples
                waiting[:, max(kept_samples, 0) :] = 0.0
            waiting = torch.nn.functional.pad(waiting, (0, max(settings.n_fft - waiting.shape[1], 0)))
        window, mel_filters = self._constants_on(waiting.device)
        log_mels = [samples.new_empty(settings.output_size, 0)]
        done_frames = 0
        with torch.amp.autocast(waiting.device.type, enabled=False):
            for first, end in _stretches(_num_frames(waiting, settings), is_last):
                magnitudes = _magnitudes(_samples_of(waiting, first, end, settings), window, settings)
                mels = torch.matmul(mel_filters, magnitudes)  # (1, mels, mel frames)
                log_mels.append(_take_logarithm(mels, settings)[0])
                done_frames = end
        waiting = waiting[:, done_frames * settings.hop_length :].clone()  # not a view: it would keep what is done
        return torch.cat(log_mels, dim=1), FeatureStreamState(waiting, block[:, -1:].clone(), num_samples)

    def finish_clip(self, log_mels: torch.Tensor, mel_length: int) -> torch.Tensor:
        """
        Features of a clip as `extract` has them, made of what all its blocks gave.

        Args:
            log_mels: (mels, mel frames).
            mel_length: Mel frames that count.

        Returns:
            (mel frames, mels), with masked frames after those that count.
        """
        settings = self.settings
        mel_lengths = torch.tensor([mel_length], dtype=torch.int64, device=log_mels.device)
        if settings.normalize == "all_features":
            return normalize_and_pad(log_mels[None], mel_lengths, settings)[0]
        num_frames = frames.padded_mel_frames(log_mels.shape[1], settings.pad_to)
        features = log_mels.new_empty(num_frames, log_mels.shape[0])
        for first in range(0, log_mels.shape[0], MELS_AT_ONCE):
            chosen = slice(first, first + MELS_AT_ONCE)
            features[:, chosen] = normalize_and_pad(log_mels[None, chosen], mel_lengths, settings)[0]
        return features

    def normalize_block(self, log_mels: torch.Tensor, statistics: FeatureStatistics | None) -> torch.Tensor:
        """
        Features of a block, by the statistics of the whole clip.

        They differ from those of `finish_clip` by rounding: sums are in float64 here.

        Args:
            log_mels: (mels, mel frames).
            statistics: Of the clip; None where there is no normalisation.

        Returns:
            (mel frames, mels)
        """
        if self.settings.normalize is None:
            return log_mels.transpose(0, 1).contiguous()
        assert statistics is not None
        means, squares, count = statistics.means, statistics.squares, statistics.num_frames
        if self.settings.normalize == "all_features":
            mean = means.mean()
            squares = (squares + (means - mean).square() * count).sum()
            means, count = mean, count * log_mels.shape[0]
        deviations = (squares / (count - 1)).sqrt() if count > 1 else torch.zeros_like(squares)
        centred = log_mels - means.float().reshape(-1, 1)
        return scale_to_unit_deviation(centred, deviations.float().reshape(-1, 1)).transpose(0, 1).contiguous()

    # Frames of streams

    @torch.no_grad()
    def extract_windows(self, windows: torch.Tensor) -> torch.Tensor:
        """
        Log-mel features of windows of samples, which may be those of many clips, before normalisation.

        On a CPU they are those that `extract` has for the same samples of a clip, to the last bit, however few there
        are; only for a clip of fewer than `MIN_COLUMNS` frames `extract` itself may round otherwise.

        Args:
            windows: (mel frames, n_fft) float32, samples after pre-emphasis.

        Returns:
            (mel frames, output_size)
        """
        settings, num_frames = self.settings, windows.shape[0]
        window, mel_filters = self._constants_on(windows.device)
        with torch.amp.autocast(windows.device.type, enabled=False):
            left = (settings.n_fft - settings.win_length) // 2
            window = torch.nn.functional.pad(window, (left, settings.n_fft - settings.win_length - left))
            spectrum = torch.fft.rfft(windows * window, dim=-1)
            magnitudes = spectrum.new_zeros(
                spectrum.shape[1], max(num_frames, MIN_COLUMNS), dtype=torch.float32
            )  # (bins, columns)
            magnitudes[:, :num_frames] = _magnitudes_of(spectrum, settings).transpose(0, 1)
            mels = torch.matmul(mel_filters, magnitudes)[:, :, :num_frames]
            return _take_logarithm(mels, settings)[0].transpose(0, 1).contiguous()

    # Window and filters

    def _constants_on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Window (win_length,) and filters (1, mels, bins), in float32; kept for every device."""
        constants = self._constants.get(device)
        if constants is None:
            window, mel_filters = self._make_constants()
            constants = window.to(device), mel_filters.to(device)
            self._constants[device] = constants  # one assignment: threads may both compute it, none sees half of it
        return constants

    def _make_constants(self) -> tuple[torch.Tensor, torch.Tensor]:
        settings = self.settings
        if self.window_values is None:
            make_window = WINDOW_FUNCTIONS[settings.window]
            window = make_window(settings.win_length, periodic=False, dtype=torch.float32, device="cpu")
        else:
            window = torch.from_numpy(self.window_values)
        filters = self.mel_filters
        if filters is None:
            filters = mel_filterbank(
                settings.sampling_rate,
                settings.n_fft,
                settings.feature_size,
                settings.min_frequency,
                settings.max_frequency,
                settings.mel_norm,
            )
        stored_dtype = FILTERBANK_DTYPES[settings.filterbank_dtype]
        mel_filters = torch.from_numpy(filters)[None]
        return window.to(stored_dtype).to(torch.float32), mel_filters.to(stored_dtype).to(torch.float32)


# Waveforms


def _scale_by_peak(waveforms: torch.Tensor, audio_lengths: torch.Tensor, floor: float) -> torch.Tensor:
    """
    Clips of (batch, samples), each times 1 / (its largest sample + `floor`).

    NeMo 3.0.0 (`SortformerEncLabelModel.process_signal`) takes the largest sample, with its sign, of all that is given
    together; here it is that of each clip, as NeMo has it for the clip alone.
    """
    is_beyond = torch.arange(waveforms.shape[1], device=waveforms.device) >= audio_lengths[:, None]
    peaks = waveforms.masked_fill(is_beyond, -torch.inf).amax(dim=1)  # (batch,)
    peaks = peaks.masked_fill(audio_lengths == 0, 0.0)
    return (1 / (peaks + floor))[:, None] * waveforms


def _emphasize(waveforms: torch.Tensor, preemphasis: float | None) -> torch.Tensor:
    """Pre-emphasis of (batch, samples); the first sample has none before it."""
    if preemphasis is None:
        return waveforms
    emphasized = torch.empty_like(waveforms)
    emphasized[:, :1] = waveforms[:, :1]
    # Two roundings, as in NeMo: the product, then the difference.
    torch.sub(waveforms[:, 1:], waveforms[:, :-1] * preemphasis, out=emphasized[:, 1:])
    return emphasized


def _emphasize_and_pad(waveforms: torch.Tensor, audio_lengths: torch.Tensor, settings: LogMelSettings) -> torch.Tensor:
    """Pre-emphasis, with NeMo's zeroing of what lies beyond the length, and the zeros on both sides."""
    padding_samples = settings.padding_samples
    missing_samples = max(settings.n_fft - 2 * padding_samples - waveforms.shape[1], 0)
    emphasized = _emphasize(waveforms, settings.preemphasis)
    if settings.preemphasis is not None:
        kept_lengths = audio_lengths - settings.cut_samples
        positions = torch.arange(waveforms.shape[1], dtype=torch.int32, device=waveforms.device)
        emphasized.masked_fill_(positions >= kept_lengths[:, None].to(torch.int32), 0.0)
    return torch.nn.functional.pad(emphasized, (padding_samples, padding_samples + missing_samples))


# Mels


def _num_frames(padded: torch.Tensor, settings: LogMelSettings) -> int:
    """Frames of padded samples, (batch, samples)."""
    return (padded.shape[1] - settings.n_fft) // settings.hop_length + 1


def _stretches(num_frames: int, is_last: bool) -> Iterator[tuple[int, int]]:
    """First mel frame, and the one after the last, of the stretches that are transformed at a time.

    The last one has up to twice as many frames as the others, not few: a product of few columns may be rounded
    otherwise. So what is at hand is not all given while there is more to come.
    """
    first = 0
    while num_frames - first >= 2 * FRAMES_AT_ONCE:
        yield first, first + FRAMES_AT_ONCE
        first += FRAMES_AT_ONCE
    if is_last and first < num_frames:
        yield first, num_frames


def _samples_of(padded: torch.Tensor, first: int, end: int, settings: LogMelSettings) -> torch.Tensor:
    """Samples that the mel frames `first` to `end - 1` are made of."""
    return padded[:, first * settings.hop_length : (end - 1) * settings.hop_length + settings.n_fft]


def _magnitudes(waveforms: torch.Tensor, window: torch.Tensor, settings: LogMelSettings) -> torch.Tensor:
    """(batch, samples) to (batch, bins, mel frames)."""
    spectrum = torch.stft(
        waveforms,
        n_fft=settings.n_fft,
        hop_length=settings.hop_length,
        win_length=settings.win_length,
        window=window,
        center=False,
        return_complex=True,
    )
    return _magnitudes_of(spectrum, settings)


def _magnitudes_of(spectrum: torch.Tensor, settings: LogMelSettings) -> torch.Tensor:
    """Magnitudes of complex values, or a power of them."""
    # The root is taken and squared again, because that is how NeMo rounds.
    magnitudes = torch.view_as_real(spectrum).square_().sum(dim=-1).sqrt_()
    return magnitudes if settings.mag_power == 1.0 else magnitudes.pow_(settings.mag_power)


def _take_logarithm(mels: torch.Tensor, settings: LogMelSettings) -> torch.Tensor:
    """Logarithm of (batch, mels, mel frames), in place, and frames spliced."""
    if settings.log:
        guard = settings.log_zero_guard_value
        if isinstance(guard, str):
            guard = getattr(torch.finfo(torch.float32), guard)
        mels = (mels.add_(guard) if settings.log_zero_guard_type == "add" else mels.clamp_(min=guard)).log_()
    # NeMo 3.0.0 (`splice_frames`) means to put later frames next to each frame but repeats the same one.
    return mels.repeat(1, settings.frame_splicing, 1) if settings.frame_splicing > 1 else mels
