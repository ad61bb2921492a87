"""
Where does the time of only the encoder go, part by part?

    python benchmarks/profile_encoder.py [--dtype float32 bfloat16 int8] [--seconds 10 30] [--folder /tmp/encoders]

Random weights of the shape of parakeet-tdt-0.6b, one clip. torch's profiler tells the time of every operation by
itself; the part of the encoder that called it, and its name, say what it was for. Of the passes the fastest one
counts. `python` is what is in no operation: the interpreter, and the profiler, which costs something itself, so that
the result has the time without it too. It is written to `results/profile_encoder_cpu.csv`, in which rows of other
dtypes and lengths stay. A dtype that this CPU does not multiply in is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from common.csv_files import read_rows, write_rows
from common.encoder_shapes import PUBLISHED, make_features, shape_name
from common.encoder_systems import find_files, load_ours
from common.folders import RESULTS
from common.machine import name_machine
from common.timing import seconds_of
from transformers_fastconformer.kernels.int8_linear import Int8Weight
from transformers_fastconformer.kernels.layers import has_fused_product
from transformers_fastconformer.modeling.attention import FastConformerAttention
from transformers_fastconformer.modeling.block import FastConformerConvolution, FastConformerFeedForward
from transformers_fastconformer.modeling.subsampling import FastConformerConvSubsampling

DTYPES = ("float32", "bfloat16", "int8")
# What marks an operation's place: the method of a class, and the name of the part that it is.
PARTS: tuple[tuple[type, str, str], ...] = (
    (FastConformerConvSubsampling, "forward", "subsampling"),
    (FastConformerFeedForward, "forward", "feed forward"),
    (FastConformerAttention, "forward", "attention"),
    (FastConformerConvolution, "forward", "convolution"),
    (Int8Weight, "multiply_all", "8 bits"),
)
PREFIX = "part: "
# Operations by what they are for, wherever they are called.
PRODUCTS = ("linear_pointwise", "qlinear_pointwise", "addmm", "linear", "mkl_linear", "mm")
KINDS: dict[str, tuple[str, ...]] = {
    "norms": ("native_layer_norm", "native_batch_norm"),
    "activations": ("silu", "silu_", "glu", "glu.out", "relu", "relu_", "clamp_min_"),
    "copies and conversions": (
        *("copy_", "clone", "contiguous", "cat", "_to_copy", "to", "constant_pad_nd", "pad", "fill_", "zero_"),
        *("new_zeros", "zeros", "empty", "empty_like", "empty_strided", "new_empty", "mkldnn_reorder"),
    ),
    "sums, scales and masks": (
        *("add", "add_", "mul", "mul_", "div", "div_", "masked_fill", "masked_fill_", "sum", "any", "bitwise_not"),
    ),
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
COLUMNS = ("shape", "layers", "dtype", "audio_seconds", "part", "milliseconds", "percent", "calls")
ALL_COLUMNS = (*COLUMNS, "milliseconds_unprofiled", "passes", "torch", "threads", "machine")


def find_part(parts: list[str], name: str, parent: str) -> str:
    """
    Tell what an operation is for.

    Args:
        parts: Parts of the encoder that it was called in, the innermost first.
        name: Its own, without the library's.
        parent: That of the operation that called it.
    """
    place = next((part for part in parts if part != "8 bits"), "block")
    if place == "subsampling":
        return "subsampling: linear layer" if name in PRODUCTS else "subsampling: convolutions"
    if name in PRODUCTS:
        return f"products: {place}"
    if "8 bits" in parts:
        return "8 bits: rounding and scaling"
    if place == "attention":
        if name in ("bmm", "baddbmm"):
            return "attention: position term" if parent == "matmul" else "attention: scores and values"
        if "scaled_dot_product" in name:
            return "attention: scores, softmax and values"
        if "softmax" in name:
            return "attention: softmax"
    if "convolution" in name:
        return "depthwise convolutions"
    kind = KIND_OF.get(name, "others")
    return f"attention: {kind}" if place == "attention" and kind != "norms" else kind


def strip_name(name: str) -> str:
    """The operation's name without its library and without what tells vendors' forms of it apart."""
    name = name.rpartition("::")[2]
    return name.removeprefix("_mkldnn_").removeprefix("_").removesuffix("_for_cpu") if "linear" in name else name


@contextlib.contextmanager
def mark_parts() -> Iterator[None]:
    """Let the profiler see the parts of the encoder; on classes, as hooks on modules would lead to the plain way."""

    def mark(method: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            with record_function(PREFIX + part):
                return method(*arguments, **options)

        return call

    with contextlib.ExitStack() as stack:
        for owner, name, part in PARTS:
            stack.enter_context(mock.patch.object(owner, name, mark(getattr(owner, name), part)))
        yield


def profile_pass(encode: Callable[[], Any]) -> dict[str, tuple[float, int]]:
    """Milliseconds and calls of one pass, part by part; `python` is what is in no operation."""
    with profile(activities=[ProfilerActivity.CPU]) as recorder, record_function(PREFIX + "all"):
        encode()
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in recorder.events():
        parents = []
        parent = event.cpu_parent
        while parent is not None:
            parents.append(parent.name)
            parent = parent.cpu_parent
        parts = [name.removeprefix(PREFIX) for name in parents if name.startswith(PREFIX)]
        if event.name.startswith(PREFIX):
            part = "python"
        elif parts:
            part = find_part(parts[:-1], strip_name(event.name), strip_name(parents[0]))
        else:
            continue  # the profiler's own
        totals[part][0] += event.self_cpu_time_total / 1000.0
        totals[part][1] += 1
    return {part: (milliseconds, int(calls)) for part, (milliseconds, calls) in totals.items()}


def measure(shape: str, dtype: str, folder: Path, seconds: list[float], passes: int) -> list[dict[str, Any]]:
    """The rows of one dtype."""
    encoder = load_ours(shape, find_files(shape, folder), dtype, "full", "cpu").encoder
    rows = []
    for length in seconds:
        features, _ = make_features(encoder.config, (length,))
        features = features.to(encoder.dtype)

        def encode(features: torch.Tensor = features) -> Any:
            with torch.inference_mode():
                return encoder(features).last_hidden_state

        unprofiled = 1000.0 * min(seconds_of(encode) for _ in range(passes + 1))
        with mark_parts():
            found = [profile_pass(encode) for _ in range(passes)]
        totals = [sum(milliseconds for milliseconds, _ in parts.values()) for parts in found]
        total = min(totals)
        parts = {"all": (total, 0), **found[totals.index(total)]}
        for part, (milliseconds, calls) in sorted(parts.items(), key=lambda entry: -entry[1][0]):
            row: dict[str, Any] = {"shape": shape, "layers": encoder.config.num_hidden_layers, "dtype": dtype}
            row |= {"audio_seconds": f"{length:g}", "part": part, "milliseconds": f"{milliseconds:.2f}"}
            row |= {"percent": f"{100.0 * milliseconds / total:.2f}", "calls": calls, "passes": passes}
            row["milliseconds_unprofiled"] = f"{unprofiled:.2f}"
            row |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": name_machine()}
            rows.append(row)
            print(f"{dtype:9s} {length:5g} s  {part:40s} {milliseconds:9.2f} ms {row['percent']:>7s} %  {calls}")
        print(f"{dtype:9s} {length:5g} s  without the profiler {unprofiled:.2f} ms", flush=True)
    return rows


def place_of(row: dict[str, Any]) -> tuple[str, int, float]:
    """What a row is of, apart from its part."""
    return row["shape"], DTYPES.index(row["dtype"]), float(row["audio_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--seconds", nargs="+", type=float, default=[10.0, 30.0])
    parser.add_argument("--shape", default="0.6b", choices=(*PUBLISHED, "tiny"))
    parser.add_argument("--layers", type=int, help="another number of layers")
    parser.add_argument("--folder", type=Path, help="where weights are kept for the next run")
    parser.add_argument("--passes", type=int, default=5)
    options = parser.parse_args()
    shape = shape_name(options.shape, options.layers)
    path = RESULTS / "profile_encoder_cpu.csv"
    rows: list[dict[str, Any]] = []
    for dtype in options.dtype:
        if dtype != "int8" and not has_fused_product(getattr(torch, dtype)):
            print(f"{dtype}: left out, as this CPU has no such products", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as temporary:
            rows += measure(shape, dtype, options.folder or Path(temporary), options.seconds, options.passes)
    measured = {place_of(row) for row in rows}
    kept = [row for row in read_rows(path) if place_of(row) not in measured]
    write_rows(path, sorted([*kept, *rows], key=place_of), ALL_COLUMNS)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
