"""
Is this package as fast as it was at another revision, and are its numbers the same?

    python benchmarks/bench_revisions.py --before REVISION [--dtype float32] [--rounds 7]

Two processes, one with the files as they are and one with those of the revision, which git writes to a temporary
folder, get the same jobs in turns: the encoder at the shape of parakeet-tdt-0.6b (fewer blocks with `--layers`) and
greedy decoding with TDT and RNN-T at that shape. Random weights from a seed. The minimum of the rounds, the ratio of
the two, and `same_bits` for results that are equal to the last bit, go into `results/revisions_<dtype>_cpu.csv`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.csv_files import write_rows
from common.folders import RESULTS, ROOT
from common.machine import name_machine
from common.revisions import write_sources
from common.timing import take_turns

ENCODER = {
    "num_mel_bins": 128,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 8,
    "subsampling_conv_channels": 256,
    "attention_bias": False,
    "convolution_bias": False,
    "scale_input": False,
}
HEAD = {"vocab_size": 1025, "decoder_hidden_size": 640, "num_decoder_layers": 2, "joint_hidden_size": 640}
# Seconds of each clip.
ENCODER_CLIPS = {"1x10": (10.0,), "1x30": (30.0,), "8 uneven": (3.0, 5.0, 6.0, 8.0, 10.0, 12.0, 12.0, 15.0)}
DECODER_CLIPS = {"1x30": (30.0,), "8x10": (10.0,) * 8, "32x10": (10.0,) * 32}
BLANK_BIAS = 20.0  # 3 tokens a second with TDT, 16 with RNN-T


def build_jobs(dtype_name: str, num_layers: int) -> dict[str, Callable[[], Any]]:
    """Build the jobs that are timed, by name; each returns the tensors that are compared."""
    import torch

    from transformers_fastconformer import (
        FastConformerEncoder,
        FastConformerForRNNT,
        FastConformerForTDT,
        FastConformerRNNTConfig,
        FastConformerTDTConfig,
        quantize_dynamic_int8,
    )

    dtype = torch.bfloat16 if dtype_name == "bfloat16" else torch.float32
    torch.manual_seed(0)
    config = FastConformerTDTConfig(**ENCODER, **HEAD, num_hidden_layers=num_layers, durations=[0, 1, 2, 3, 4])
    encoder = FastConformerEncoder(config).eval().to(dtype)
    if dtype_name == "int8":
        quantize_dynamic_int8(encoder)
    jobs: dict[str, Callable[[], Any]] = {}
    for name, seconds in ENCODER_CLIPS.items():
        lengths = torch.tensor([round(100 * second) for second in seconds])
        features = torch.randn(len(seconds), int(lengths.max()), 128).to(dtype)

        def encode(features: Any = features, lengths: Any = lengths) -> Any:
            with torch.inference_mode():
                return [encoder(features, input_lengths=lengths).last_hidden_state]

        jobs[f"encoder {name}"] = encode
    small = {**ENCODER, "num_hidden_layers": 1}
    for family, model_class, head_config in (
        ("TDT", FastConformerForTDT, FastConformerTDTConfig(**small, **HEAD, durations=[0, 1, 2, 3, 4])),
        ("RNN-T", FastConformerForRNNT, FastConformerRNNTConfig(**small, **HEAD)),
    ):
        model = model_class(head_config).eval().to(dtype)
        with torch.no_grad():
            for parameter in (*model.decoder.parameters(), *model.joint.parameters()):
                parameter.normal_(std=0.1)
            model.joint.head.bias[head_config.blank_token_id] += BLANK_BIAS
        for name, seconds in DECODER_CLIPS.items():
            frames = torch.randn(len(seconds), round(12.5 * max(seconds)), 1024).to(dtype)
            lengths = torch.tensor([round(12.5 * second) for second in seconds])

            def decode(model: Any = model, frames: Any = frames, lengths: Any = lengths) -> Any:
                found, _ = model.decode_frames(frames, lengths)
                return [found.tokens, found.frame_indices, found.log_probs]

            jobs[f"decoding {family} {name}"] = decode
    return jobs


def digest(tensors: Any) -> str:
    """Digest of the bits of all values, including those in the padding."""
    import torch

    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def serve(dtype_name: str, num_layers: int, threads: int) -> None:
    """Run the jobs that are named on the standard input, one a line, and answer with seconds and digest."""
    import torch

    torch.set_num_threads(threads)
    jobs = build_jobs(dtype_name, num_layers)
    print(json.dumps(list(jobs)), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        result = jobs[line.strip()]()
        seconds = time.perf_counter() - start
        print(json.dumps([seconds, digest(result)]), flush=True)


class Side:
    """A process with one state of the package."""

    def __init__(self, source: Path, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--serve", "--dtype", options.dtype, "--layers", str(options.layers)]
        self.process = subprocess.Popen(
            [*command, "--threads", str(options.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": str(options.threads)},
        )
        self.jobs: list[str] = self.read()

    def read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with code {self.process.wait()}")
        return json.loads(line)

    def run(self, job: str) -> tuple[float, str]:
        assert self.process.stdin is not None
        self.process.stdin.write(job + "\n")
        self.process.stdin.flush()
        return tuple(self.read())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        sources = {"before": write_sources(options.before, Path(folder)), "now": ROOT / "src"}
        sides = {name: Side(path, options) for name, path in sources.items()}
        rows = []
        for job in sides["now"].jobs:
            seconds: dict[str, list[float]] = {"before": [], "now": []}
            digests: dict[str, str] = {}
            for number, name in take_turns(sides, options.rounds + 1, is_alternating=True):
                elapsed, digests[name] = sides[name].run(job)
                if number:  # the first round warms up
                    seconds[name].append(elapsed)
            before, now = min(seconds["before"]), min(seconds["now"])
            rows.append(
                {
                    "job": job,
                    "dtype": options.dtype,
                    "layers": options.layers,
                    "threads": options.threads,
                    "before": options.before,
                    "ms_before": round(1000 * before, 2),
                    "ms_now": round(1000 * now, 2),
                    "now / before": round(now / before, 3),
                    "same_bits": digests["before"] == digests["now"],
                    "rounds": options.rounds,
                    "machine": name_machine(),
                }
            )
            print({name: rows[-1][name] for name in ("job", "ms_before", "ms_now", "now / before", "same_bits")})
        for side in sides.values():
            side.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="REVISION", help="the revision to compare with")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "int8"), default="float32")
    parser.add_argument("--layers", type=int, default=24, help="blocks of the encoder")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.dtype, options.layers, options.threads)
        return
    if options.before is None:
        parser.error("--before is needed")
    write_rows(RESULTS / f"revisions_{options.dtype}_cpu.csv", compare(options))


if __name__ == "__main__":
    main()
