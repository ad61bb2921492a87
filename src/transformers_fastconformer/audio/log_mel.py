"""
Log-mel features of waveforms: window, Fourier transform, mel filters, logarithm and normalisation.

Functions of tensors, for whole clips and for clips that come block by block. On a CPU the numbers are those of NeMo
3.0.0's `AudioToMelSpectrogramPreprocessor` at inference, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import frames
from ..validation import is_number, require, require_choice, require_count

WINDOW_FUNCTIONS = {
    "hann": torch.hann_window,
    "hamming": torch.hamming_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
}
NORMALIZATIONS = ("per_feature", "all_features", None)
LOG_ZERO_GUARD_TYPES = ("add", "clamp")
LOG_ZERO_GUARD_NAMES = ("eps", "tiny")
MEL_NORMS = ("slaney", None)
FILTERBANK_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MAX_FLOAT32 = torch.finfo(torch.float32).max
# Keeps a constant feature from a division by zero. NeMo 3.0.0: CONSTANT in parts/preprocessing/features.py.
STANDARD_DEVIATION_FLOOR = 1e-5
# Bounds the memory of the transform for long audio: 41 s at a time at the usual hop.
FRAMES_AT_ONCE = 4096
# Mels of a clip that are normalised at a time where that takes several copies of a long clip.
MELS_AT_ONCE = 8
# Columns at least of the product with the filters where the frames of a clip come a few at a time: libraries of linear
# algebra round products of few columns otherwise (MKL: of fewer than 12).
MIN_COLUMNS = 32


@dataclass(frozen=True, kw_only=True)
class LogMelSettings:
    """
    Settings of the features, checked; [`FastConformerFeatureExtractor`] says what each of them means.

    Raises:
        ValueError: for a value that is not accepted.
    """

    feature_size: int
    sampling_rate: int
    hop_length: int
    win_length: int
    n_fft: int
    preemphasis: float | None
    window: str
    normalize: str | None
    mag_power: float
    log: bool
    log_zero_guard_type: str
    log_zero_guard_value: float | str
    pad_to: int
    padding_value: float
    exact_pad: bool
    frame_splicing: int
    min_frequency: float
    max_frequency: float | None
    mel_norm: str | None
    filterbank_dtype: str
    peak_scaling: float | None

    def __post_init__(self) -> None:
        for name in ("feature_size", "sampling_rate", "hop_length", "win_length", "n_fft", "frame_splicing"):
            require_count(name, getattr(self, name))
        require(self.n_fft >= self.win_length, "n_fft", self.n_fft, f"at least win_length={self.win_length}")
        require_count("pad_to", self.pad_to, 0)
        for name in ("log", "exact_pad"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "True or False")
        for name in ("mag_power", "padding_value", "min_frequency"):
            require(_is_float32(getattr(self, name)), name, getattr(self, name), "a number of float32")
        for name in ("preemphasis", "max_frequency"):
            value = getattr(self, name)
            require(value is None or _is_float32(value), name, value, "a number of float32, or None")
        for name, accepted in (
            ("window", WINDOW_FUNCTIONS),
            ("normalize", NORMALIZATIONS),
            ("log_zero_guard_type", LOG_ZERO_GUARD_TYPES),
            ("mel_norm", MEL_NORMS),
            ("filterbank_dtype", FILTERBANK_DTYPES),
        ):
            require_choice(name, getattr(self, name), accepted)
        scaling = self.peak_scaling
        is_scaling = scaling is None or (_is_float32(scaling) and scaling > 0)
        require(is_scaling, "peak_scaling", scaling, "a number above 0 or None")
        guard = self.log_zero_guard_value
        is_guard = guard in LOG_ZERO_GUARD_NAMES if isinstance(guard, str) else _is_float32(guard)
        require(is_guard, "log_zero_guard_value", guard, f"a number or one of {LOG_ZERO_GUARD_NAMES}")
        lowest, highest = self.min_frequency, self.max_frequency
        require(lowest >= 0, "min_frequency", lowest, "0 Hz or more")
        if highest is None:
            nyquist = self.sampling_rate / 2
            require(lowest < nyquist, "min_frequency", lowest, f"0 to below {nyquist} Hz")
        else:
            require(lowest < highest, "max_frequency", highest, f"more than min_frequency={lowest}")
        if self.exact_pad:
            hop_length = self.hop_length
            require(hop_length % 2 == 0, "hop_length", hop_length, "an even number where exact_pad is set")
            require(hop_length <= self.n_fft, "hop_length", hop_length, "at most n_fft where exact_pad is set")

    @property
    def output_size(self) -> int:
        """Features of a frame that come out: `feature_size`, times `frame_splicing`."""
        return self.feature_size * self.frame_splicing

    @property
    def padding_samples(self) -> int:
        """Zeros on either side of a clip."""
        return frames.stft_padding_samples(self.n_fft, self.hop_length, self.exact_pad)

    @property
    def cut_samples(self) -> int:
        """Samples at the end of a clip that pre-emphasis loses.

        With `exact_pad` NeMo 3.0.0 counts the length from the start of the padding, which cuts off the last samples.
        """
        return self.padding_samples if self.exact_pad else 0


def _is_float32(value: Any) -> bool:
    return is_number(value) and abs(value) <= MAX_FLOAT32


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


@dataclass(frozen=True)
class FeatureStatistics:
    """
    Number, means and sums of squared deviations of the frames of a clip, for each mel and in float64.

    Blocks are joined by the pairwise rule of Chan, Golub and LeVeque (1979), which does not lose digits however long
    the clip is.

    Args:
        num_frames: Frames that count.
        means, squares: (mels,).
    """

    num_frames: int
    means: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def of(cls, log_mels: torch.Tensor) -> FeatureStatistics:
        """Statistics of (mels, mel frames), all of which count."""
        values = log_mels.double()
        num_frames = values.shape[1]
        means = values.sum(dim=1) / max(num_frames, 1)
        return cls(num_frames, means, (values - means[:, None]).square_().sum(dim=1))

    def join(self, following: FeatureStatistics) -> FeatureStatistics:
        """Statistics of both blocks together."""
        num_frames = self.num_frames + following.num_frames
        share = following.num_frames / max(num_frames, 1)
        gap = following.means - self.means
        return FeatureStatistics(
            num_frames,
            self.means + gap * share,
            self.squares + following.squares + gap.square() * (self.num_frames * share),
        )


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
            return _normalize_and_pad(features, mel_lengths, settings), mel_lengths

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
            return _normalize_and_pad(log_mels[None], mel_lengths, settings)[0]
        num_frames = frames.padded_mel_frames(log_mels.shape[1], settings.pad_to)
        features = log_mels.new_empty(num_frames, log_mels.shape[0])
        for first in range(0, log_mels.shape[0], MELS_AT_ONCE):
            chosen = slice(first, first + MELS_AT_ONCE)
            features[:, chosen] = _normalize_and_pad(log_mels[None, chosen], mel_lengths, settings)[0]
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
        return _scale(centred, deviations.float().reshape(-1, 1)).transpose(0, 1).contiguous()

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


def mel_filterbank(
    sampling_rate: int,
    n_fft: int,
    num_mels: int,
    min_frequency: float = 0.0,
    max_frequency: float | None = None,
    mel_norm: str | None = "slaney",
) -> np.ndarray:
    """
    Triangular filters, equally wide on Slaney's mel scale; float32, shape (num_mels, n_fft // 2 + 1).

    The scale (Slaney, 1998, "Auditory Toolbox") is linear to 1000 Hz at 66.67 Hz a mel, then logarithmic, a factor of
    6.4 in 27 mels. `mel_norm="slaney"` gives every filter the same area. Bit-equal to `librosa.filters.mel`, whose
    values NeMo stores; that fixes where float64 is rounded to float32: after the triangles and again after the norm.
    """
    hertz_per_mel = 200.0 / 3
    knee_hertz = 1000.0
    knee_mels = knee_hertz / hertz_per_mel
    log_step = np.log(6.4) / 27.0

    def mels_from_hertz(hertz: float) -> float:
        if hertz < knee_hertz:
            return hertz / hertz_per_mel
        return float(knee_mels + np.log(hertz / knee_hertz) / log_step)

    highest = sampling_rate / 2 if max_frequency is None else max_frequency
    edge_mels = np.linspace(mels_from_hertz(float(min_frequency)), mels_from_hertz(float(highest)), num_mels + 2)
    edge_hertz = np.where(
        edge_mels >= knee_mels, knee_hertz * np.exp(log_step * (edge_mels - knee_mels)), hertz_per_mel * edge_mels
    )
    bin_hertz = np.fft.rfftfreq(n_fft, d=1.0 / sampling_rate)
    widths = np.diff(edge_hertz)[:, None]
    distances = edge_hertz[:, None] - bin_hertz[None, :]  # (num_mels + 2, bins)
    rising = -distances[:-2] / widths[:-1]
    falling = distances[2:] / widths[1:]
    filters = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)  # (num_mels, bins)
    if mel_norm == "slaney":
        filters = (filters * (2.0 / (edge_hertz[2:] - edge_hertz[:-2]))[:, None]).astype(np.float32)
    return filters


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


# Normalisation


def _normalize_and_pad(features: torch.Tensor, mel_lengths: torch.Tensor, settings: LogMelSettings) -> torch.Tensor:
    """Normalisation, masked frames and their number: (batch, mels, mel frames) to (batch, mel frames, mels)."""
    is_valid = torch.arange(features.shape[2], device=features.device) < mel_lengths[:, None]
    if settings.normalize == "per_feature":
        features = _normalize_per_feature(features, is_valid, mel_lengths)
    elif settings.normalize == "all_features":
        features = _normalize_all_features(features, mel_lengths.tolist())
    features = features.masked_fill(~is_valid[:, None, :], settings.padding_value)
    missing_frames = frames.padded_mel_frames(features.shape[2], settings.pad_to) - features.shape[2]
    if missing_frames:
        features = torch.nn.functional.pad(features, (0, missing_frames), value=settings.padding_value)
    return features.transpose(1, 2).contiguous()  # (batch, mel frames, mels)


def _normalize_per_feature(features: torch.Tensor, is_valid: torch.Tensor, mel_lengths: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit deviation of each mel over the valid frames; a single frame becomes 0, as NeMo has it."""
    is_masked = ~is_valid[:, None, :]
    counts = mel_lengths[:, None].to(torch.float32)
    means = features.masked_fill(is_masked, 0.0).sum(dim=2) / counts  # (batch, mels)
    centred = (features - means[:, :, None]).masked_fill_(is_masked, 0.0)
    deviations = torch.sqrt(centred.square().sum(dim=2) / (counts - 1.0))
    return _scale(centred, deviations.masked_fill(deviations.isnan(), 0.0)[:, :, None])


def _normalize_all_features(features: torch.Tensor, mel_lengths: list[int]) -> torch.Tensor:
    """Zero mean and unit deviation over all valid values of each clip."""
    normalized = torch.zeros_like(features)
    for clip, values, mel_length in zip(normalized, features, mel_lengths, strict=True):
        valid = values[:, :mel_length]
        if valid.numel() == 1:
            continue  # no deviation: a single value becomes 0, as in per_feature
        if valid.numel() > 1:
            clip[:, :mel_length] = _scale(valid - valid.mean(), valid.std())
    return normalized


def _scale(centred: torch.Tensor, deviations: torch.Tensor) -> torch.Tensor:
    """Features around 0 to those of unit deviation, in place."""
    return centred.div_(deviations + STANDARD_DEVIATION_FLOOR)
