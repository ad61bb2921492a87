"""Facts about this machine and what is installed on it, collected for `fastconformer doctor`; nothing is printed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import threading
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants
from huggingface_hub.utils import get_session
from packaging.requirements import Requirement
from torch.nn import functional
from transformers.utils.hub import is_offline_mode

from ..audio import microphone, resampling, voice_activity
from ..checkpoints.store import cache_folder
from ..cluster.packages import INSTALL_COMMAND as INSTALL_RAY
from ..demonstration import CLIP_PATHS
from ..inference.file import transcribe_waveforms
from ..inference.loading import DEMONSTRATION_NAME, choose_device, load_model
from ..kernels.int8_linear import Int8Weight, has_int8_products
from ..kernels.layers import HAS_BFLOAT16_PRODUCTS
from ..nemo.reference import INSTALL_NEMO
from ..server.options import INSTALL_COMMAND as INSTALL_SERVER
from ..training import packages
from ..version import __version__

DISTRIBUTION = "transformers-fastconformer"
# Extras that a user may want, and the commands that install them.
EXTRAS = {
    "audio": resampling.INSTALL_COMMAND,
    "vad": voice_activity.INSTALL_COMMAND,
    "microphone": microphone.INSTALL_COMMAND,
    "server": INSTALL_SERVER,
    "ray": INSTALL_RAY,
    "train": packages.INSTALL_COMMAND,
    "nemo": INSTALL_NEMO,
}
HUB_SECONDS = 3.0
# Looking up a host name has a time limit of its own, which may be longer.
MAX_HUB_SECONDS = 5.0
MEASURED_SECONDS = 0.3
MIN_PASSES = 2
# A product as in the feed-forward module of a 0.6B encoder, over 20 s of audio.
PRODUCT_ROWS, PRODUCT_INPUTS, PRODUCT_OUTPUTS = 256, 1024, 4096


@dataclass(frozen=True)
class Package:
    """
    A package that is always needed, or that an extra installs.

    Args:
        name: Name of the package for pip.
        required: Versions that are accepted.
        version: Version that is installed; None: the package is not installed.
        is_right: True if that version is accepted.
        extra: Extra that needs it; None: it is always needed.
        install_command: Command that installs it.
    """

    name: str
    required: str
    version: str | None
    is_right: bool
    extra: str | None
    install_command: str


@dataclass(frozen=True)
class Device:
    """
    A device that a model can run on.

    Args:
        name: Name for `--device`.
        description: Name of the hardware.
    """

    name: str
    description: str


@dataclass(frozen=True)
class Cpu:
    """
    Facts about the CPU on which speed depends.

    Args:
        num_cores: Cores that the system reports.
        num_threads: Threads that torch uses.
        vectors: Instructions that torch's kernels are built for, such as `"AVX512"`.
        has_bfloat16_products: True if the CPU itself multiplies in bfloat16, faster than in float32.
        has_int8_products: True if the CPU itself multiplies in 8 bits, so that `--dtype int8` is fast.
    """

    num_cores: int
    num_threads: int
    vectors: str
    has_bfloat16_products: bool
    has_int8_products: bool


@dataclass(frozen=True)
class Cache:
    """
    The cache of converted checkpoints.

    Args:
        folder: Its folder, which need not exist yet.
        num_bytes: Size of all files in it.
        free_bytes: Free space on its disk.
    """

    folder: str
    num_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Hub:
    """
    State of the Hugging Face Hub, seen from this machine.

    Args:
        address: Its URL.
        is_offline: True if it is not asked, because of `HF_HUB_OFFLINE` or a similar setting.
        is_reachable: True if it has answered.
        reason: Reason why it has not; empty otherwise.
    """

    address: str
    is_offline: bool
    is_reachable: bool
    reason: str


@dataclass(frozen=True)
class Speed:
    """
    Measured speed of this machine.

    Args:
        device: Device that was measured.
        matrix_gflops: 10⁹ operations a second in a product of matrices, by the type of numbers; 8 bits on the CPU.
        real_time_factor: Seconds of audio that the demonstration checkpoint transcribes in a second; None: it failed.
        error: Reason of the failure; empty otherwise.
    """

    device: str
    matrix_gflops: dict[str, float]
    real_time_factor: float | None
    error: str


@dataclass(frozen=True)
class Facts:
    """All that the doctor finds."""

    version: str
    python: str
    system: str
    packages: list[Package]
    devices: list[Device]
    cpu: Cpu
    cache: Cache
    hub: Hub
    speed: Speed

    @property
    def problems(self) -> list[str]:
        """Problems that keep the package from working, each with a remedy."""
        found = [
            f"{package.name} {package.version or 'is not installed'}; expected {package.required or 'any version'}: "
            f"{package.install_command}"
            for package in self.packages
            if package.extra is None and not package.is_right
        ]
        if self.speed.error:
            found.append(f"the demonstration checkpoint does not run: {self.speed.error}")
        return found

    @property
    def missing_extras(self) -> dict[str, str]:
        """Extras of which something is missing, with the commands that install them."""
        names = dict.fromkeys(package.extra for package in self.packages if not package.is_right)
        return {name: EXTRAS[name] for name in names if name is not None}


def collect_facts() -> Facts:
    """Collect all facts, which takes a few seconds."""
    return Facts(
        version=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages=find_packages(),
        devices=find_devices(),
        cpu=look_at_cpu(),
        cache=look_at_cache(),
        hub=ask_hub(),
        speed=measure_speed(),
    )


def find_packages() -> list[Package]:
    """List the packages that this one needs, first those always needed; empty if this package is not installed."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for extra in (None, *EXTRAS):
        for requirement in map(Requirement, lines):
            is_always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            is_of_extra = requirement.marker is not None and requirement.marker.evaluate({"extra": extra or ""})
            if is_always if extra is None else is_of_extra and not is_always:
                found.append(_look_up(requirement, extra))
    return found


def _look_up(requirement: Requirement, extra: str | None) -> Package:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    return Package(
        name=requirement.name,
        required=str(requirement.specifier),
        version=version,
        is_right=version is not None and requirement.specifier.contains(version, prereleases=True),
        extra=extra,
        install_command=f"pip install '{requirement.name}{requirement.specifier}'" if extra is None else EXTRAS[extra],
    )


def find_devices() -> list[Device]:
    """The devices of this machine, the one that `--device auto` takes first."""
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(Device(f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    if torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU"))
    return [*found, Device("cpu", platform.processor() or platform.machine())]


def look_at_cpu() -> Cpu:
    """Find the facts about the CPU."""
    return Cpu(
        num_cores=os.cpu_count() or 1,
        num_threads=torch.get_num_threads(),
        vectors=torch.backends.cpu.get_cpu_capability(),
        has_bfloat16_products=HAS_BFLOAT16_PRODUCTS,
        has_int8_products=has_int8_products(),
    )


def look_at_cache() -> Cache:
    """Find the facts about the cache of converted checkpoints."""
    folder = cache_folder()
    num_bytes = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return Cache(str(folder), num_bytes, shutil.disk_usage(existing).free)


def ask_hub(max_seconds: float = MAX_HUB_SECONDS) -> Hub:
    """Ask the Hub for an answer, in a thread that is given up if it does not come in time."""
    address = constants.ENDPOINT
    if is_offline_mode():
        return Hub(address, is_offline=True, is_reachable=False, reason="HF_HUB_OFFLINE is set")
    reasons = [f"no answer within {max_seconds:g} s"]

    def ask() -> None:
        try:
            get_session().head(address, timeout=HUB_SECONDS)
            reasons[0] = ""
        except Exception as error:  # errors come from the HTTP library, which differs between versions
            reasons[0] = str(error) or type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(max_seconds)
    reason = reasons[0]
    return Hub(address, is_offline=False, is_reachable=not reason, reason=reason)


def measure_speed() -> Speed:
    """Measure matrix products and the demonstration checkpoint on the device that `--device auto` takes."""
    device = choose_device()
    dtypes = ("float32", "bfloat16", "float16") if device == "cuda" else ("float32", "bfloat16")
    rates = {dtype: measure_products(device, getattr(torch, dtype)) for dtype in dtypes}
    rates["int8"] = measure_int8_products()
    try:
        return Speed(device, rates, measure_real_time_factor(device), "")
    except Exception as error:  # every error is a finding
        return Speed(device, rates, None, str(error) or type(error).__name__)


def measure_products(device: str, dtype: torch.dtype) -> float:
    """Measure a product of matrices, in 10⁹ operations a second."""
    states = torch.randn(PRODUCT_ROWS, PRODUCT_INPUTS, dtype=torch.float32, device=device).to(dtype)
    weight = torch.randn(PRODUCT_OUTPUTS, PRODUCT_INPUTS, dtype=torch.float32, device=device).to(dtype)
    return _gflops(_best_seconds(lambda: functional.linear(states, weight), device))


def measure_int8_products() -> float:
    """Measure a product of matrices with 8 bits on the CPU, including the rounding of the activations."""
    states = torch.randn(PRODUCT_ROWS, PRODUCT_INPUTS, dtype=torch.float32, device="cpu")
    weight = Int8Weight(torch.randn(PRODUCT_OUTPUTS, PRODUCT_INPUTS, dtype=torch.float32, device="cpu"))
    return _gflops(_best_seconds(lambda: weight.multiply(states, None), "cpu"))


def _gflops(seconds: float) -> float:
    return 2 * PRODUCT_ROWS * PRODUCT_INPUTS * PRODUCT_OUTPUTS / seconds / 1e9


def measure_real_time_factor(device: str) -> float:
    """Measure the seconds of audio that the demonstration checkpoint transcribes in a second."""
    model, processor = load_model(DEMONSTRATION_NAME, device=device)
    rate = processor.feature_extractor.sampling_rate
    waveforms = [_read_wave(path, rate) for path in CLIP_PATHS]
    seconds = _best_seconds(lambda: transcribe_waveforms(model, processor, waveforms), device)
    return sum(waveform.shape[0] for waveform in waveforms) / rate / seconds


def _read_wave(path: Path, sampling_rate: int) -> np.ndarray:
    """Samples of a clip of the demonstration, without the extra `audio`."""
    with wave.open(str(path)) as clip:
        assert (clip.getframerate(), clip.getnchannels(), clip.getsampwidth()) == (sampling_rate, 1, 2)
        samples = np.frombuffer(clip.readframes(clip.getnframes()), dtype="<i2")
    return samples.astype(np.float32) / 2**15


def _best_seconds(call: Callable[[], Any], device: str) -> float:
    """Seconds of the fastest of some calls, after one that is not counted."""
    best, end = float("inf"), float("inf")
    num_passes = -1
    with torch.inference_mode():
        while num_passes < MIN_PASSES or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            if device != "cpu":
                getattr(torch, device).synchronize()
            now = time.perf_counter()
            if num_passes >= 0:
                best = min(best, now - start)
            else:
                end = now + MEASURED_SECONDS
            num_passes += 1
    return best
