"""
How fast is a prompted attention decoder (Canary), next to NeMo, transformers and ONNX Runtime?

All get the same random weights of a published shape and the same features, and write the same number of tokens for
each clip: the end of the text is out of reach. The time from features to tokens is measured, and that of decoding in
it. Each system has a process of its own. Every round runs each once, so that other load of the machine affects all of
them; with `--one_at_a_time` each is loaded, measured in all rounds and closed, which takes the memory of one.

    python benchmarks/bench_multitask.py --shape 180m-flash --dtypes float32 bfloat16 int8 --output <file>.csv
    python benchmarks/bench_multitask.py --shape 1b-v2 --one_at_a_time

NeMo, transformers and onnxruntime are used where installed. A type that the processor does not compute with is left
out with the reason, as is a shape that a system does not have.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from common.csv_files import write_rows
from common.machine import name_machine
from common.multitask_systems import (
    DTYPES,
    SHAPES,
    MultitaskWorker,
    Tokens,
    make_config,
    missing_instructions,
    write_weights,
)
from common.timing import minimum_and_median, take_turns

MEL_FRAMES_PER_SECOND = 100
COLUMNS = (
    *("shape", "dtype", "batch", "seconds", "tokens_per_clip", "system", "encode_ms_min", "decode_ms_min"),
    *("decode_ms_median", "ms_per_token", "whole_ms_min", "rounds", "same_tokens", "decode_ratio", "whole_ratio"),
    *("torch", "threads", "machine"),
)
# Of one system and case: encoder seconds, decoding seconds, tokens, for each round.
Measured = list[tuple[float, float, Tokens]]


def list_systems(dtypes: Iterable[str], only: list[str]) -> list[str]:
    """Systems and types, ours first, without those that this processor does not compute with."""
    names = []
    for dtype in dtypes:
        reason = missing_instructions(dtype)
        if reason is not None:
            print(f"{dtype}: left out, {reason}", file=sys.stderr)
            continue
        systems = ["ours", "nemo", "transformers", "onnxruntime"]
        if dtype == "int8":
            systems = ["ours", "onnxruntime"]  # the others have no int8 on a CPU
        elif dtype == "bfloat16":
            systems.remove("onnxruntime")  # its operators on a CPU have no bfloat16
        names += [f"{system}_{dtype}" for system in systems if system == "ours" or not only or system in only]
    return names


def make_inputs(shape: str, batch: int, seconds: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of normal noise (clips, mel frames, mels), and lengths from 80 to 100 % of the longest."""
    generator = torch.Generator().manual_seed(batch)
    frames = round(seconds * MEL_FRAMES_PER_SECOND)
    lengths = torch.randint(round(0.8 * frames), frames + 1, (batch,), generator=generator)
    lengths[0] = frames
    features = torch.randn(batch, frames, make_config(shape).num_mel_bins, generator=generator)
    features[torch.arange(frames) >= lengths[:, None]] = 0.0
    return features, lengths


def start(name: str, shape: str, weights: Path, threads: int) -> MultitaskWorker | None:
    """A worker that is ready, or None after a line that says why it is missing."""
    worker = MultitaskWorker(name, shape, weights, threads)
    if worker.missing is None:
        return worker
    print(f"{name}: left out, {worker.missing}", file=sys.stderr)
    return None


def measure(
    arguments: argparse.Namespace, names: list[str], weights: Path
) -> Iterator[dict[str, dict[str, Measured]]]:
    """What each system took for each case, of those that are done so far."""
    groups = [[name] for name in names] if arguments.one_at_a_time else [names]
    found: dict[str, dict[str, Measured]] = {case: {} for case in arguments.cases}
    for group in groups:
        workers = {name: start(name, arguments.shape, weights, arguments.threads) for name in group}
        ready = {name: worker for name, worker in workers.items() if worker is not None}
        for case in arguments.cases:
            batch, seconds = case.split("x")
            features, lengths = make_inputs(arguments.shape, int(batch), float(seconds))
            for name in ready:
                found[case][name] = []
            for _, name in take_turns(ready, arguments.rounds):
                found[case][name].append(ready[name].run(features, lengths, arguments.tokens))
        for worker in ready.values():
            worker.close()
        yield found


def describe(arguments: argparse.Namespace, case: str, found: dict[str, Measured]) -> list[dict[str, Any]]:
    """The rows of a case."""
    batch, seconds = case.split("x")
    reference = next(iter(found.values()))[-1][2]
    rows = []
    for name, rounds in found.items():
        system, dtype = name.rsplit("_", 1)
        encode_ms, _ = minimum_and_median([1000.0 * encoder for encoder, _, _ in rounds])
        decode_ms, decode_median = minimum_and_median([1000.0 * decoder for _, decoder, _ in rounds])
        whole_ms, _ = minimum_and_median([1000.0 * (encoder + decoder) for encoder, decoder, _ in rounds])
        ours = found.get(f"ours_{dtype}", rounds)
        our_decode = min(1000.0 * decoder for _, decoder, _ in ours)
        our_whole = min(1000.0 * (encoder + decoder) for encoder, decoder, _ in ours)
        same = sum(a == b for a, b in zip(rounds[-1][2], reference, strict=True))
        values = (
            arguments.shape, dtype, batch, seconds, arguments.tokens, system, f"{encode_ms:.1f}", f"{decode_ms:.1f}",
            f"{decode_median:.1f}", f"{decode_ms / arguments.tokens:.3f}", f"{whole_ms:.1f}", len(rounds),
            f"{same}/{batch}", f"{decode_ms / our_decode:.2f}", f"{whole_ms / our_whole:.2f}", torch.__version__,
            arguments.threads, name_machine(),
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def line_of(row: dict[str, Any]) -> str:
    """A row for readers."""
    name = f"{row['system']}_{row['dtype']}"
    return (
        f"{row['shape']} {row['batch']}x{row['seconds']} s {name:22s} encoder {row['encode_ms_min']:>9s} ms, decoding "
        f"{row['decode_ms_min']:>9s} ms ({row['ms_per_token']} a token, {row['decode_ratio']} x ours), whole "
        f"{row['whole_ms_min']:>9s} ms ({row['whole_ratio']} x ours), same tokens {row['same_tokens']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="180m-flash", choices=tuple(SHAPES))
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=DTYPES)
    parser.add_argument("--cases", nargs="+", default=["1x10", "8x10"], help="clips x seconds")
    parser.add_argument("--tokens", type=int, default=64, help="of each clip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", default=[], help="systems to compare with")
    parser.add_argument("--one_at_a_time", action="store_true", help="hold the memory of one system only")
    parser.add_argument("--folder", type=Path, help="where weights are kept for the next run")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = list_systems(arguments.dtypes, arguments.only)
    if not names:
        sys.exit("nothing to measure on this processor")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / f"multitask-{arguments.shape}.safetensors"
        if not weights.exists():
            write_weights(arguments.shape, weights)
        printed: set[tuple[Any, ...]] = set()
        for found in measure(arguments, names, weights):
            rows = [row for case in arguments.cases if found[case] for row in describe(arguments, case, found[case])]
            for row in rows:
                place = tuple(row[name] for name in ("batch", "seconds", "system", "dtype"))
                if place not in printed:
                    print(line_of(row), flush=True)
                printed.add(place)
            if arguments.output is not None:
                write_rows(arguments.output, rows, COLUMNS)


if __name__ == "__main__":
    main()
