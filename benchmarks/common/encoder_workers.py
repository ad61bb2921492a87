"""
One encoder in a process of its own, which sleeps while others work.

Between its turns a worker is stopped by a signal, so that threads which spin while they wait take no time from
others. The parent sends a line of JSON and gets one back.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from common.encoder_shapes import make_features, our_config
from common.encoder_systems import build_system
from common.machine import read_memory, reset_peak, resident_bytes, trim_memory
from common.processes import POLL_SECONDS, module_command

PAGE_BYTES = 4096
PR_SET_PDEATHSIG = 1  # of Linux
MAX_PASSES = 10  # of one turn


# In the worker


def serve(options: argparse.Namespace) -> None:
    """Answer the parent's lines until the last one."""
    with contextlib.suppress(OSError, AttributeError):
        # A stopped worker would outlive a parent that is killed.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # All output of libraries goes to the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker: Service | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if worker is None:
                worker = Service(options)
                answer = worker.load()
            else:
                answer = worker.run(**request)
        except ImportError as error:
            answer = {"missing": str(error)}
        except Exception as error:  # one failure must not end a run of hours
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
            worker.release() if worker is not None else None
        print(json.dumps(answer), file=answers, flush=True)


class Service:
    """A system and its last inputs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        if options.threads:
            torch.set_num_threads(options.threads)
        self.is_cuda = options.device == "cuda"
        self.clip_seconds: list[float] = []
        self.inputs: Any = None

    def load(self) -> dict[str, Any]:
        options = self.options
        self.config = our_config(options.shape)
        # As users load: parameters made in inference mode would not tell when they change.
        self.system = build_system(options.system, options.shape, options.folder, options.kind, options.device)
        for weight in self.system.weights:
            # Weights may be mapped from a file and not be there before they are read: one byte of each page.
            if not self.is_cuda and weight.numel():
                weight.reshape(-1).view(torch.uint8)[::PAGE_BYTES].sum()
        weights_bytes = sum(weight.numel() * weight.element_size() for weight in self.system.weights)
        return {"weights_bytes": weights_bytes, "torch": torch.__version__, "threads": torch.get_num_threads()}

    def release(self) -> None:
        """Release the memory of the last inputs."""
        self.clip_seconds, self.inputs = [], None
        if self.is_cuda:
            torch.cuda.empty_cache()

    def run(self, clip_seconds: list[float], turn_seconds: float = 0.0, save: str | None = None) -> dict[str, Any]:
        """
        Run passes over one batch.

        Args:
            clip_seconds: Length of each clip.
            turn_seconds: Time for passes; there is at least one.
            save: File for the encoder frames of all clips, one after the other, in float32.
        """
        with torch.inference_mode():
            if clip_seconds != self.clip_seconds:
                self.release()
                features, lengths = make_features(self.config, clip_seconds)
                self.inputs, self.clip_seconds = self.system.prepare(features, lengths), clip_seconds
                self.frames = [self.config.count_encoder_frames(length) for length in lengths.tolist()]
                del features
            resident_before, read_peak = self._reset_peak()
            milliseconds: list[float] = []
            while True:
                self._synchronize()
                start = time.perf_counter()
                output = self.system.encode(self.inputs)
                self._synchronize()
                milliseconds.append(1000.0 * (time.perf_counter() - start))
                spent = sum(milliseconds) + min(milliseconds)
                if len(milliseconds) >= MAX_PASSES or spent > 1000.0 * turn_seconds:
                    break
                output = None
            answer = {"milliseconds": milliseconds, "peak_bytes": read_peak(), "resident_before": resident_before}
            answer["note"] = self.system.note()
            if save is not None and output is not None:
                rows = [clip[:count].float().cpu() for clip, count in zip(output, self.frames, strict=True)]
                save_file({"frames": torch.cat(rows)}, save)
                del rows
            output = None
            if self.is_cuda:
                torch.cuda.empty_cache()
            else:
                trim_memory()
            answer["resident_after"] = self._resident()
        return answer

    def _synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def _resident(self) -> int:
        return torch.cuda.memory_allocated() if self.is_cuda else resident_bytes()

    def _reset_peak(self) -> tuple[int, Callable[[], int]]:
        """Memory that is taken now, and a function that reads the peak from now on."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            return self._resident(), torch.cuda.max_memory_allocated
        return reset_peak()


# In the parent


class WorkerError(RuntimeError):
    """Failure of a worker; the message says why, in words short enough for a table."""


class MissingSystemError(WorkerError):
    """A package that the system needs is not installed."""


@dataclass
class Worker:
    """
    The parent's side of a worker.

    Args:
        system: Name of the system, see `build_system`.
        shape: See `build_system`.
        folder: See `build_system`.
        kind: See `build_system`.
        device: See `build_system`.
        threads: Threads of the worker; 0: as many as torch takes.
    """

    system: str
    shape: str
    folder: Path
    kind: str = "full"
    device: str = "cpu"
    threads: int = 0
    process: Any = field(default=None, repr=False)
    about: dict[str, Any] = field(default_factory=dict, repr=False)
    last_used: float = 0.0

    def start(self) -> None:
        """Start the process and load the system."""
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        command = [*module_command("common.encoder_workers"), "--system", self.system, "--shape", self.shape]
        command += ["--folder", str(self.folder), "--kind", self.kind, "--device", self.device]
        command += ["--threads", str(self.threads)]
        environment = dict(os.environ)
        if self.threads:
            environment |= {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )
        self.about = self._ask({})

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def resident_bytes(self) -> int:
        return read_memory(self.process.pid, "VmRSS") if self.is_running else 0

    def run(self, clip_seconds: Sequence[float], max_bytes: int | None = None, **options: Any) -> dict[str, Any]:
        """
        Wake the worker for a `Service.run`, after which it sleeps again; it is started if it does not run.

        Args:
            clip_seconds: Length of each clip.
            max_bytes: End the process when it takes this much more memory than before.
            options: Options of `Service.run`.

        Raises:
            WorkerError: when it fails, runs out of memory or takes more than allowed.
        """
        if not self.is_running:
            self.start()
        os.kill(self.process.pid, signal.SIGCONT)
        answer = self._ask({"clip_seconds": list(clip_seconds), **options}, max_bytes)
        os.kill(self.process.pid, signal.SIGSTOP)
        self.last_used = time.monotonic()
        return answer

    def _ask(self, request: dict[str, Any], max_bytes: int | None = None) -> dict[str, Any]:
        limit = None if max_bytes is None else self.resident_bytes + max_bytes
        answer: dict[str, Any] = {}
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            with selectors.DefaultSelector() as selector:
                selector.register(self.process.stdout, selectors.EVENT_READ)
                while not selector.select(None if limit is None else POLL_SECONDS):
                    if limit is not None and self.resident_bytes > limit:
                        self.stop()
                        raise WorkerError("over")
            answer = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            code = self.process.wait()
            self.log.seek(0)
            last_words = self.log.read()[-2000:]
            self.stop()
            raise WorkerError("out of memory" if code == -signal.SIGKILL else f"ended: {last_words}") from None
        if "missing" in answer:
            self.stop()
            raise MissingSystemError(answer["missing"])
        if "error" in answer:
            os.kill(self.process.pid, signal.SIGSTOP)
            is_memory = any(words in answer["error"].lower() for words in ("out of memory", "allocate", "bad_alloc"))
            raise WorkerError("out of memory" if is_memory else answer["error"])
        return answer

    def stop(self) -> None:
        """End the process."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.log.close()
        self.process = None


class WorkerPool:
    """Workers that are kept for their next turn; when memory is short, the one used longest ago is ended."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.workers: dict[tuple[str, str], Worker] = {}

    def find(self, worker: Worker, expected_bytes: int) -> Worker:
        """Find the worker of that system and kind; if it does not run, make room for it."""
        worker = self.workers.setdefault((worker.system, worker.kind), worker)
        if not worker.is_running:
            others = [other for other in self.workers.values() if other.is_running]
            taken = sum(other.resident_bytes for other in others)
            for other in sorted(others, key=lambda other: other.last_used):
                if taken + expected_bytes <= self.max_bytes:
                    break
                taken -= other.resident_bytes
                other.stop()
        return worker

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", required=True)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kind", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, default=0)
    serve(parser.parse_args())


if __name__ == "__main__":
    main()
