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

from ..audio import files, voice_activity
from ..checkpoints.store import cache_folder
from ..demonstration import CLIP_PATHS
from ..inference.file import transcribe_waveforms
from ..inference.loading import DEMONSTRATION_NAME, choose_device, load_model
from ..kernels.int8_linear import Int8Weight, has_int8_products
from ..kernels.layers import HAS_BFLOAT16_PRODUCTS
from ..nemo.reference import INSTALL_NEMO
from ..version import __version__

DISTRIBUTION = "transformers-fastconformer"
# What a user may want besides what is always needed, and how to have it.
EXTRAS = {"audio": files.INSTALL_COMMAND, "vad": voice_activity.INSTALL_COMMAND, "nemo": INSTALL_NEMO}
HUB_SECONDS = 3.0
# Looking up a name has a time limit of its own, which may be longer.
MAX_HUB_SECONDS = 5.0
MEASURED_SECONDS = 0.3
MIN_PASSES = 2
# A product as in the feed-forward module of a 0.6B encoder, over 20 s of audio.
PRODUCT_ROWS, PRODUCT_INPUTS, PRODUCT_OUTPUTS = 256, 1024, 4096


@dataclass(frozen=True)
class Package:
    """
    A package that is needed or that an extra brings.

    Args:
        name: As pip knows it.
        required: Which versions will do.
        version: The one that is installed; None: none is.
        is_right: True if it will do.
        extra: What needs it; None: everything.
        install_command: How to have it.
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
        name: As `--device` takes it.
        description: What it is.
    """

    name: str
    description: str


@dataclass(frozen=True)
class Cpu:
    """
    The CPU, as far as it matters here.

    Args:
        num_cores: Cores that the system tells of.
        num_threads: Threads that torch uses.
        vectors: What torch's kernels are built for, such as `"AVX512"`.
        has_bfloat16_products: The CPU multiplies in bfloat16 itself, faster than in float32.
        has_int8_products: `--dtype int8` works.
    """

    num_cores: int
    num_threads: int
    vectors: str
    has_bfloat16_products: bool
    has_int8_products: bool


@dataclass(frozen=True)
class Cache:
    """
    Where converted checkpoints are kept.

    Args:
        folder: The folder, which need not be there yet.
        num_bytes: Size of what is in it.
        free_bytes: Room on its disk.
    """

    folder: str
    num_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Hub:
    """
    The Hugging Face Hub, seen from here.

    Args:
        address: Where it is.
        is_offline: It is not asked, as `HF_HUB_OFFLINE` or the like says.
        is_reachable: It has answered.
        reason: Why it has not; empty otherwise.
    """

    address: str
    is_offline: bool
    is_reachable: bool
    reason: str


@dataclass(frozen=True)
class Speed:
    """
    What this machine does in a second.

    Args:
        device: Where that was measured.
        matrix_gflops: Type of numbers to 10⁹ operations a second in a product of matrices; 8 bits are on the CPU.
        real_time_factor: Seconds of audio that the demonstration checkpoint transcribes in a second; None: it failed.
        error: Why; empty otherwise.
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
        """What keeps the package from working, each with what to do."""
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
        """Extra to the command that installs it, where something of it is missing."""
        names = dict.fromkeys(package.extra for package in self.packages if not package.is_right)
        return {name: EXTRAS[name] for name in names if name is not None}


def collect_facts() -> Facts:
    """Look at everything, which takes a few seconds."""
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
    """What this package needs, first what is always needed; empty if it is not installed but only lies in a folder."""
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
    """What the CPU can do."""
    return Cpu(
        num_cores=os.cpu_count() or 1,
        num_threads=torch.get_num_threads(),
        vectors=torch.backends.cpu.get_cpu_capability(),
        has_bfloat16_products=HAS_BFLOAT16_PRODUCTS,
        has_int8_products=has_int8_products(),
    )


def look_at_cache() -> Cache:
    """The cache of converted checkpoints."""
    folder = cache_folder()
    num_bytes = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return Cache(str(folder), num_bytes, shutil.disk_usage(existing).free)


def ask_hub(max_seconds: float = MAX_HUB_SECONDS) -> Hub:
    """Ask the Hub for a sign of life, in a thread that is left behind if nothing comes in time."""
    address = constants.ENDPOINT
    if is_offline_mode():
        return Hub(address, is_offline=True, is_reachable=False, reason="HF_HUB_OFFLINE is set")
    reasons = [f"no answer within {max_seconds:g} s"]

    def ask() -> None:
        try:
            get_session().head(address, timeout=HUB_SECONDS)
            reasons[0] = ""
        except Exception as error:  # those of the HTTP library, which differs between versions
            reasons[0] = str(error) or type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(max_seconds)
    reason = reasons[0]
    return Hub(address, is_offline=False, is_reachable=not reason, reason=reason)


def measure_speed() -> Speed:
    """Rates of matrix products on the device that `--device auto` takes, and the demonstration checkpoint on it."""
    device = choose_device()
    dtypes = ("float32", "bfloat16", "float16") if device == "cuda" else ("float32", "bfloat16")
    rates = {dtype: measure_products(device, getattr(torch, dtype)) for dtype in dtypes}
    if has_int8_products():
        rates["int8"] = measure_int8_products()
    try:
        return Speed(device, rates, measure_real_time_factor(device), "")
    except Exception as error:  # whatever it is, it is what the doctor is asked for
        return Speed(device, rates, None, str(error) or type(error).__name__)


def measure_products(device: str, dtype: torch.dtype) -> float:
    """10⁹ operations a second in a product of matrices."""
    states = torch.randn(PRODUCT_ROWS, PRODUCT_INPUTS, device=device).to(dtype)
    weight = torch.randn(PRODUCT_OUTPUTS, PRODUCT_INPUTS, device=device).to(dtype)
    return _gflops(_best_seconds(lambda: functional.linear(states, weight), device))


def measure_int8_products() -> float:
    """The same with 8 bits on the CPU, rounding of the activations included."""
    states = torch.randn(PRODUCT_ROWS, PRODUCT_INPUTS)
    weight = Int8Weight(torch.randn(PRODUCT_OUTPUTS, PRODUCT_INPUTS))
    return _gflops(_best_seconds(lambda: weight.multiply(states, None), "cpu"))


def _gflops(seconds: float) -> float:
    return 2 * PRODUCT_ROWS * PRODUCT_INPUTS * PRODUCT_OUTPUTS / seconds / 1e9


def measure_real_time_factor(device: str) -> float:
    """Seconds of audio that the demonstration checkpoint transcribes in a second."""
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
    """The shortest of some calls, after one that is not counted."""
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
