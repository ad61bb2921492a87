"""
How long do transducer losses take, and how much memory, from the inputs of the joint network to their gradients?

One step is forward and backward from projected frames and predictions: the joint network (relu, one linear layer), the
loss, and the gradients of frames, predictions, weight and bias. Each system runs in a process of its own, which
measures its first step (seconds, and resident memory above the inputs at most) and then further ones; the rounds take
turns. `products` are the three matrix products of the joint network over all nodes, in slices as `ours_lean` has them.
torchaudio has RNN-T only. On a CUDA device `ours_lean` is the same plain form and `ours_triton` the one that is taken
there by itself, with packed rows and kernels in Triton; the peak is that of the allocator of torch.

    python benchmarks/bench_loss.py
    python benchmarks/bench_loss.py --device cuda

transformers and torchaudio take part where they are installed; `--path` adds a folder with packages, such as that of
`pip install --no-deps --target FOLDER torchaudio`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from common.csv_files import write_rows
from common.folders import RESULTS
from common.machine import GIB, MIB, name_machine, reset_peak
from common.processes import run_limited
from common.timing import minimum_and_median, seconds_of, take_turns
from transformers_fastconformer.kernels.triton_choice import SWITCH
from transformers_fastconformer.losses import JointNetwork, fused_rnnt_loss, fused_tdt_loss, rnnt_loss, tdt_loss
from transformers_fastconformer.losses.joint_slices import count_rows

BATCH, FRAMES, LABELS, SIZE = 4, 250, 60, 640
DURATIONS = [0, 1, 2, 3, 4]
ON_CUDA_ONLY = "ours_triton"
SYSTEMS = {
    "tdt": ["products", ON_CUDA_ONLY, "ours_lean", "ours_full", "transformers"],
    "rnnt": ["products", ON_CUDA_ONLY, "ours_lean", "ours_full", "torchaudio"],
}
COLUMNS = (
    *("loss", "vocabulary", "batch", "frames", "labels", "system", "seconds_min", "seconds_median", "steps"),
    *("peak_mib", "loss_value", "time_over_ours", "note", "torch", "threads", "machine"),
)


class Case:
    """Inputs of a step, the same in every process."""

    def __init__(self, loss: str, vocabulary: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.loss, self.blank_id = loss, vocabulary
        outputs = vocabulary + 1 + (len(DURATIONS) if loss == "tdt" else 0)
        shapes = ((BATCH, FRAMES, SIZE), (BATCH, LABELS + 1, SIZE), (outputs, SIZE), (outputs,))
        self.inputs = [torch.randn(*shape, generator=generator) for shape in shapes]
        self.inputs[2] /= SIZE**0.5
        self.inputs = [tensor.to(device).requires_grad_() for tensor in self.inputs]
        self.targets = torch.randint(0, vocabulary, (BATCH, LABELS), generator=generator).to(device)
        self.lengths = tuple(torch.full((BATCH,), count, device=device) for count in (FRAMES, LABELS))

    def step(self, loss_of: Callable[[Case], Tensor]) -> float:
        """Forward and backward; the value of the loss."""
        for tensor in self.inputs:
            tensor.grad = None
        loss = loss_of(self)
        loss.backward()
        return float(loss.detach())

    def logits(self) -> Tensor:
        frames, predictions, weight, bias = self.inputs
        return functional.linear(torch.relu(frames[:, :, None] + predictions[:, None]), weight, bias)


def ours_lean(case: Case) -> Tensor:
    network = JointNetwork(*case.inputs)
    if case.loss == "rnnt":
        return fused_rnnt_loss(network, case.targets, *case.lengths, case.blank_id)
    return fused_tdt_loss(network, case.targets, *case.lengths, case.blank_id, DURATIONS)


def ours_full(case: Case) -> Tensor:
    if case.loss == "rnnt":
        return rnnt_loss(case.logits(), case.targets, *case.lengths, case.blank_id)
    return tdt_loss(case.logits(), case.targets, *case.lengths, case.blank_id, DURATIONS)


def transformers(case: Case) -> Tensor:
    from transformers.loss.loss_tdt import tdt_loss as their_loss

    tokens, durations = case.logits().split([case.blank_id + 1, len(DURATIONS)], dim=-1)
    arguments = (case.targets, *case.lengths, case.blank_id, DURATIONS)
    return their_loss(tokens, durations, *arguments, reduction="mean_batch")


def torchaudio(case: Case) -> Tensor:
    from torchaudio.functional import rnnt_loss as their_loss

    integers = (tensor.int() for tensor in (case.targets, *case.lengths))
    return their_loss(case.logits(), *integers, blank=case.blank_id, reduction="mean")


def multiply(case: Case) -> None:
    """The matrix products of forward and backward over all nodes, slice by slice."""
    weight = case.inputs[2].detach()
    rows = count_rows(JointNetwork(*case.inputs))
    hidden, outputs = weight.new_ones(rows, SIZE), weight.new_ones(len(weight), rows)
    weight_gradient, hidden_gradient = torch.zeros_like(weight), torch.empty_like(hidden)
    for _ in range(-(-BATCH * FRAMES * (LABELS + 1) // rows)):
        torch.mm(weight, hidden.t(), out=outputs)
        torch.mm(outputs, hidden, out=weight_gradient)
        torch.mm(outputs.t(), weight, out=hidden_gradient)
    if weight.is_cuda:
        torch.cuda.synchronize()


LOSSES: dict[str, Callable[[Case], Tensor]] = {
    ON_CUDA_ONLY: ours_lean,
    "ours_lean": ours_lean,
    "ours_full": ours_full,
    "transformers": transformers,
    "torchaudio": torchaudio,
}


def read_cuda_peak() -> int:
    return torch.cuda.max_memory_allocated()


def work(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one system in this process."""
    torch.set_num_threads(options.threads)
    os.environ[SWITCH] = "1" if options.worker == ON_CUDA_ONLY else "0"
    case = Case(options.loss, options.vocabulary, options.device)
    if options.worker == "products":
        return {"seconds": [seconds_of(lambda: multiply(case)) for _ in range(options.steps)]}
    loss_of = LOSSES[options.worker]
    try:
        if not options.worker.startswith("ours"):
            __import__(options.worker)
    except (ImportError, OSError) as error:  # not installed, or built for another torch
        return {"missing": str(error)}
    values: list[float] = []
    if options.device == "cuda":
        case.step(loss_of)  # kernels are compiled
        for tensor in case.inputs:
            tensor.grad = None
        torch.cuda.reset_peak_memory_stats()
    before, read_peak = reset_peak() if options.device == "cpu" else (torch.cuda.memory_allocated(), read_cuda_peak)
    seconds = [seconds_of(lambda: values.append(case.step(loss_of)))]
    peak = read_peak() - before
    seconds += [seconds_of(lambda: values.append(case.step(loss_of))) for _ in range(options.steps - 1)]
    return {"seconds": seconds, "peak_mib": peak / MIB, "value": values[0]}


def measure(options: argparse.Namespace, loss: str, vocabulary: int) -> list[dict[str, Any]]:
    """The rows of one loss and vocabulary; every system has a process in every round."""
    seconds: dict[str, list[float]] = {}
    answers: dict[str, dict[str, Any]] = {}
    systems = [system for system in SYSTEMS[loss] if not options.systems or system in options.systems]
    if options.device == "cpu" and ON_CUDA_ONLY in systems:
        systems.remove(ON_CUDA_ONLY)
    for _, system in take_turns(systems, options.rounds, is_alternating=True):
        command = [sys.executable, str(Path(__file__)), "--worker", system, "--loss", loss]
        command += ["--vocabulary", str(vocabulary), "--threads", str(options.threads), "--steps", str(options.steps)]
        command += ["--device", options.device]
        for path in options.path:
            command += ["--path", str(path)]
        answer = run_limited(command, int(options.memory_gib * GIB), options.most_seconds)
        answers[system] = answer | {
            "peak_mib": max(answer.get("peak_mib", 0), answers.get(system, {}).get("peak_mib", 0))
        }
        seconds.setdefault(system, []).extend(answer.get("seconds", []))
    rows = []
    for system in systems:
        answer = answers[system]
        row: dict[str, Any] = {"loss": loss, "vocabulary": vocabulary, "batch": BATCH, "frames": FRAMES}
        row |= {"labels": LABELS, "system": system, "note": answer.get("error", answer.get("missing", ""))}
        row |= {"torch": torch.__version__, "threads": options.threads, "machine": name_machine(options.device)}
        if seconds[system]:
            best, median = minimum_and_median(seconds[system])
            digits = 2 if options.device == "cpu" else 5
            row |= {
                "seconds_min": f"{best:.{digits}f}",
                "seconds_median": f"{median:.{digits}f}",
                "steps": len(seconds[system]),
            }
            if seconds.get("ours_lean"):
                row["time_over_ours"] = f"{best / min(seconds['ours_lean']):.2f}"
        if answer["peak_mib"]:
            row |= {"peak_mib": f"{answer['peak_mib']:.0f}", "loss_value": f"{answer['value']:.4f}"}
        rows.append(row)
        print(", ".join(f"{name} {row.get(name, '')}" for name in COLUMNS[:-3]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", default=["tdt", "rnnt"], choices=("tdt", "rnnt"))
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[1024, 8192])
    parser.add_argument("--systems", nargs="*", default=[], help="only these")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each system")
    parser.add_argument("--steps", type=int, default=2, help="in one process")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-gib", type=float, default=12.0, help="at which a process is ended")
    parser.add_argument("--most-seconds", type=float, default=600.0, help="after which a process is ended")
    parser.add_argument("--path", nargs="*", type=Path, default=[], help="folders with further packages")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, help="by default the results of the device")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--loss", help=argparse.SUPPRESS)
    parser.add_argument("--vocabulary", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.extend(str(path) for path in options.path)
    if options.worker:
        print(json.dumps(work(options)))
        return
    output = options.output or RESULTS / f"loss_float32_{options.device}.csv"
    rows: list[dict[str, Any]] = []
    for vocabulary in options.vocabularies:
        for loss in options.losses:
            rows += measure(options, loss, vocabulary)
            write_rows(output, rows, COLUMNS)


if __name__ == "__main__":
    main()
