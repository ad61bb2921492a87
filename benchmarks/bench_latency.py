"""
How long is a step of a live stream, next to NeMo, transformers and the time to read the weights once?

The encoders of a published streaming shape (of transformers: `NemotronAsrStreaming`) with random weights take chunks
of noise of 80, 160, 560 and 1120 ms (look-aheads of 0, 1, 6 and 13 frames), for one stream and for several in one
batch. Each system is a process of its own; they take turns, and the times of all rounds count. `weights_ms` is the
time that the same process takes to read all weights of its encoder once, the least of several; `streams_served` is the
number of streams for which the 99th percentile of a step stays under the length of the chunk. Without numbers
`--streams` leaves the times of steps out, and their file as it is.

    python benchmarks/bench_latency.py --shape 114m --dtype float32
    python benchmarks/bench_latency.py --shape 0.6b --dtype int8 --streams --count_streams --lookaheads 1 6 13
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from common.csv_files import write_rows
from common.folders import RESULTS
from common.machine import name_machine, use_given_threads
from common.timing import take_turns

LOOKAHEADS = (0, 1, 6, 13)
LEFT_FRAMES = 70
FRAME_MS = 80
MEL_FRAMES = 8  # of an encoder frame
# What NeMo's front sees again of the chunk before.
NEMO_OVERLAP = 9
SHAPES: dict[str, dict[str, int]] = {
    "0.6b": {"mels": 128, "size": 1024, "layers": 24, "heads": 8},
    "114m": {"mels": 80, "size": 512, "layers": 17, "heads": 8},
    "tiny": {"mels": 16, "size": 32, "layers": 2, "heads": 4},
}
SYSTEMS = ("ours", "nemo", "transformers")
WARM_UP_STEPS = 3
MAX_STREAMS = 512
BRACKET_STEPS = 8

# The systems: a function that makes one of them gives its encoder and a step for so many streams


def build_ours(shape: str, dtype: str, device: str) -> tuple[Any, Callable[[int, int], Callable[[], Any]]]:
    from transformers_fastconformer import (
        FastConformerConfig,
        FastConformerEncoder,
        FastConformerEncoderCache,
        StreamingSchedule,
        quantize_dynamic_int8,
    )

    described = SHAPES[shape]
    config = FastConformerConfig(
        num_mel_bins=described["mels"],
        hidden_size=described["size"],
        num_hidden_layers=described["layers"],
        num_attention_heads=described["heads"],
        intermediate_size=4 * described["size"],
        attention_context=[LEFT_FRAMES, LOOKAHEADS[-1]],
        attention_contexts=[[LEFT_FRAMES, lookahead] for lookahead in LOOKAHEADS],
        attention_context_probabilities=[1 / len(LOOKAHEADS)] * len(LOOKAHEADS),
        attention_context_style="chunked_limited",
        causal_downsampling=True,
        conv_kernel_size=9,
        conv_context=[8, 0],
        conv_norm_type="layer_norm",
        attention_bias=False,
        convolution_bias=False,
        scale_input=False,
    )
    encoder = FastConformerEncoder(config).eval().to(device)
    if dtype == "int8":
        quantize_dynamic_int8(encoder)
    else:
        encoder.to(getattr(torch, dtype))

    def prepare(lookahead: int, num_streams: int) -> Callable[[], Any]:
        schedule = StreamingSchedule.of(config, [LEFT_FRAMES, lookahead])
        cache = FastConformerEncoderCache.for_model(encoder, schedule, num_streams)
        first = torch.randn(num_streams, schedule.first_mel_frames, config.num_mel_bins, device=device)
        encoder(first, cache=cache)
        chunk = torch.randn(num_streams, schedule.mel_frames, config.num_mel_bins, device=device)
        return lambda: encoder(chunk, cache=cache).last_hidden_state

    return encoder, prepare


def build_nemo(shape: str, dtype: str, device: str) -> tuple[Any, Callable[[int, int], Callable[[], Any]]]:
    from nemo.collections.asr.modules import ConformerEncoder

    described = SHAPES[shape]
    encoder = ConformerEncoder(
        feat_in=described["mels"],
        n_layers=described["layers"],
        d_model=described["size"],
        n_heads=described["heads"],
        use_bias=False,
        xscaling=False,
        subsampling="dw_striding",
        subsampling_factor=MEL_FRAMES,
        subsampling_conv_channels=256,
        causal_downsampling=True,
        att_context_size=[[LEFT_FRAMES, lookahead] for lookahead in reversed(LOOKAHEADS)],
        att_context_style="chunked_limited",
        conv_kernel_size=9,
        conv_context_size="causal",
        conv_norm_type="layer_norm",
        dropout_emb=0.0,
    )
    encoder = encoder.eval().to(device).to(getattr(torch, dtype))

    def prepare(lookahead: int, num_streams: int) -> Callable[[], Any]:
        encoder.set_default_att_context_size([LEFT_FRAMES, lookahead])
        encoder.setup_streaming_params()
        weight = next(encoder.parameters())
        state = list(encoder.get_initial_cache_state(batch_size=num_streams, dtype=weight.dtype, device=device))
        num_mels = MEL_FRAMES * (lookahead + 1) + NEMO_OVERLAP
        chunk = torch.randn(num_streams, described["mels"], num_mels, dtype=weight.dtype, device=device)
        lengths = torch.full((num_streams,), num_mels, dtype=torch.int64, device=device)

        def step() -> Any:
            output = encoder.cache_aware_stream_step(
                processed_signal=chunk,
                processed_signal_length=lengths,
                cache_last_channel=state[0],
                cache_last_time=state[1],
                cache_last_channel_len=state[2],
                keep_all_outputs=False,
                drop_extra_pre_encoded=2,
            )
            state[:] = output[2:5]
            return output[0]

        return step

    return encoder, prepare


def build_transformers(shape: str, dtype: str, device: str) -> tuple[Any, Callable[[int, int], Callable[[], Any]]]:
    from transformers.models.nemotron_asr_streaming.configuration_nemotron_asr_streaming import (
        NemotronAsrStreamingEncoderConfig,
    )
    from transformers.models.nemotron_asr_streaming.modeling_nemotron_asr_streaming import (
        NemotronAsrStreamingEncoder,
    )

    described = SHAPES[shape]
    config = NemotronAsrStreamingEncoderConfig(
        num_mel_bins=described["mels"],
        hidden_size=described["size"],
        num_hidden_layers=described["layers"],
        num_attention_heads=described["heads"],
        intermediate_size=4 * described["size"],
        sliding_window=LEFT_FRAMES + 1,
        attention_bias=False,
        convolution_bias=False,
        scale_input=False,
    )
    encoder = NemotronAsrStreamingEncoder(config).eval().to(device).to(getattr(torch, dtype))

    def prepare(lookahead: int, num_streams: int) -> Callable[[], Any]:
        weight = next(encoder.parameters())
        num_mels = MEL_FRAMES * (lookahead + 1)
        chunk = torch.randn(num_streams, num_mels, described["mels"], dtype=weight.dtype, device=device)
        state: dict[str, Any] = {}

        def step() -> Any:
            output = encoder(chunk, use_cache=True, num_lookahead_tokens=lookahead, **state)
            state.update(cache=output.cache, padding_cache=output.padding_cache)
            return output.last_hidden_state

        return step

    return encoder, prepare


BUILDERS = {"ours": build_ours, "nemo": build_nemo, "transformers": build_transformers}


# In the process of a system


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def time_steps(step: Callable[[], Any], num_steps: int, device: str) -> list[float]:
    """Milliseconds of each step."""
    times = []
    for _ in range(num_steps):
        start = time.perf_counter()
        step()
        synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    return times


def read_weights_ms(encoder: Any, device: str) -> float:
    """Milliseconds in which all weights of the encoder are read once, the least of several times."""
    from transformers_fastconformer.kernels.int8_linear import Int8Linear

    weights = [weight.detach().reshape(-1) for weight in encoder.parameters()]
    weights += [layer.weight.detach().reshape(-1) for layer in encoder.modules() if isinstance(layer, Int8Linear)]

    def read() -> None:
        for weight in weights:
            weight.sum()

    return min(time_steps(read, 5, device))


@torch.inference_mode()
def serve(options: argparse.Namespace) -> None:
    """Answer lines of JSON (`lookahead`, `streams`, `steps`), each with the times of its steps."""
    torch.manual_seed(0)
    encoder, prepare = BUILDERS[options.system](options.shape, options.dtype, options.device)
    print(json.dumps({"weights_ms": read_weights_ms(encoder, options.device)}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        step = prepare(asked["lookahead"], asked["streams"])
        time_steps(step, WARM_UP_STEPS, options.device)
        print(json.dumps(time_steps(step, asked["steps"], options.device)), flush=True)


# In the process that measures


class System:
    """A system in its own process."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        arguments = ["--system", name, "--shape", options.shape, "--dtype", options.dtype, "--device", options.device]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        answer = self._read()
        self.weights_ms = answer["weights_ms"]

    def _read(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(("{", "[")):  # libraries print too
                return json.loads(line)
        raise RuntimeError("the system has ended")

    def time(self, lookahead: int, streams: int, steps: int) -> list[float]:
        assert self.process.stdin is not None
        print(json.dumps({"lookahead": lookahead, "streams": streams, "steps": steps}), file=self.process.stdin)
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def percentile(times: list[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def describe(times: list[float], system: System, row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "ms_min": round(min(times), 2),
        "ms_median": round(statistics.median(times), 2),
        "ms_p99": round(percentile(times, 0.99), 2),
        "weights_ms": round(system.weights_ms, 2),
        "times_of_weights": round(min(times) / system.weights_ms, 2),
        "steps": len(times),
    }


def count_streams(system: System, lookahead: int, steps: int) -> tuple[int, float]:
    """
    Streams whose steps, together, stay under the length of the chunk by the 99th percentile, and that percentile.

    The median of a few steps brackets the number, by doubling and then by halves; from its lower end on, the number
    falls by an eighth until `steps` steps hold.
    """
    chunk_ms = (lookahead + 1) * FRAME_MS

    def is_fast(streams: int) -> bool:
        return statistics.median(system.time(lookahead, streams, BRACKET_STEPS)) <= chunk_ms

    low, high = 0, 1
    while high <= MAX_STREAMS and is_fast(high):
        low, high = high, 2 * high
    while high - low > max(low // 8, 1):
        middle = (low + high) // 2
        if is_fast(middle):
            low = middle
        else:
            high = middle
    while low:
        p99 = percentile(system.time(lookahead, low, steps), 0.99)
        if p99 <= chunk_ms:
            return low, p99
        low -= max(low // 8, 1)
    return 0, 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--shape", default="114m", choices=SHAPES)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16", "int8"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lookaheads", type=int, nargs="+", default=list(LOOKAHEADS))
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--steps", type=int, default=20, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count_streams", action="store_true", help="count the streams that the machine serves too")
    parser.add_argument("--count_steps", type=int, default=100, help="steps that must hold for the number of streams")
    options = parser.parse_args()
    use_given_threads()
    if options.system:
        serve(options)
        return
    names = [name for name in options.systems if name == "ours" or options.dtype != "int8"]
    systems = {name: System(name, options) for name in names}
    common = {"shape": options.shape, "dtype": options.dtype, "device": options.device}
    machine = {"threads": torch.get_num_threads(), "machine": name_machine(options.device), "torch": torch.__version__}
    name = f"{options.shape}_{options.dtype}_{options.device}.csv"
    rows: list[dict[str, Any]] = []
    for lookahead in options.lookaheads:
        for streams in options.streams:
            times: dict[str, list[float]] = {name: [] for name in systems}
            for _, system in take_turns(systems, options.rounds, is_alternating=True):
                times[system] += systems[system].time(lookahead, streams, options.steps)
            for system, found in times.items():
                row = {"system": system, **common, "chunk_ms": (lookahead + 1) * FRAME_MS, "streams": streams}
                rows.append({**describe(found, systems[system], row), **machine})
                print(json.dumps(rows[-1]), flush=True)
            write_rows(RESULTS / f"latency_{name}", rows)
    if options.count_streams:
        counted: list[dict[str, Any]] = []
        for lookahead in options.lookaheads:
            for name_of_system, system in systems.items():
                served, p99 = count_streams(system, lookahead, options.count_steps)
                row = {"system": name_of_system, **common, "chunk_ms": (lookahead + 1) * FRAME_MS}
                counted.append({**row, "streams_served": served, "ms_p99": round(p99, 2), **machine})
                print(json.dumps(counted[-1]), flush=True)
                write_rows(RESULTS / f"streams_served_{name}", counted)
    for system in systems.values():
        system.close()


if __name__ == "__main__":
    main()
