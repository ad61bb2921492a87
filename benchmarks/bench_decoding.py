"""
How fast is greedy transducer decoding, beside NeMo, transformers, nano-parakeet and ONNX Runtime?

All get the same weights (0.6B shapes) and the same encoder outputs, and must return the same tokens. The blank's bias
is chosen so that 3 to 4 tokens come a second, as in speech. Each implementation has a process of its own, so that
idle threads of one that go on turning do not cost another, and reads weights and encoder outputs from the same files.
Every round runs each once, one after another, so that what else the machine does hits all of them; the minimum and the
median of the rounds are written.

    python benchmarks/bench_decoding.py --dtype float32 --output benchmarks/results/decoding_float32_cpu.csv

NeMo, transformers and onnxruntime are used where installed; nano-parakeet where its wheel is on the path
(`pip install --no-deps nano-parakeet`).
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from transformers_fastconformer import (
    FastConformerForRNNT,
    FastConformerForTDT,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)

ENCODER_SIZE, DECODER_SIZE, JOINT_SIZE, NUM_LAYERS = 1024, 640, 640, 2
DURATIONS = [0, 1, 2, 3, 4]
FRAMES_PER_SECOND = 12.5
TOKENS_PER_SECOND = 3.5
MAX_SYMBOLS = 10
# Before each turn, for the threads of the one before to go to sleep.
PAUSE_SECONDS = 0.05

Tokens = list[list[int]]
Decode = Callable[[torch.Tensor, torch.Tensor], Tokens]
COLUMNS = (
    *("family", "vocabulary", "dtype", "batch", "seconds", "implementation", "clips_ms_min", "clips_ms_median"),
    *(
        "ms_per_clip",
        "ms_per_token",
        "tokens",
        "rounds",
        "same_tokens",
        "ratio_to_ours",
        "torch",
        "threads",
        "machine",
    ),
)
CLIP_BY_CLIP = ("onnxruntime", "nano")


def build_model(family: str, vocabulary: int) -> Any:
    """Our model with an encoder of next to nothing."""
    shape = {
        "num_mel_bins": 8,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "subsampling_conv_channels": 4,
        "encoder_output_size": ENCODER_SIZE,
        "vocab_size": vocabulary + 1,
        "decoder_hidden_size": DECODER_SIZE,
        "num_decoder_layers": NUM_LAYERS,
        "joint_hidden_size": JOINT_SIZE,
        "max_symbols_per_step": MAX_SYMBOLS,
    }
    if family == "tdt":
        return FastConformerForTDT(FastConformerTDTConfig(**shape, durations=DURATIONS)).eval()
    return FastConformerForRNNT(FastConformerRNNTConfig(**shape)).eval()


def draw_weights(model: Any, family: str, vocabulary: int, seed: int = 0) -> None:
    """Heads that speak at a likely rate."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in (model.decoder, model.joint):
            for name, parameter in module.named_parameters():
                # A prediction network with small weights settles in a state that repeats one token.
                gain = 2.0 if "lstm" in name or "embedding" in name else 1.0
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(0.05 * noise if parameter.ndim < 2 else gain * noise / math.sqrt(parameter.shape[1]))
        model.decoder.embedding.weight[vocabulary] = 0.0
        head = model.joint.head
        if family == "tdt":
            head.bias[vocabulary + 1] -= 1.5  # a token rarely shares its frame with the next
        _find_blank_bias(model, vocabulary, generator)


def _find_blank_bias(model: Any, vocabulary: int, generator: torch.Generator) -> None:
    frames = make_frames(4, 30.0, generator)
    lengths = torch.full((4,), frames.shape[1])
    low, high = 0.0, 40.0
    for _ in range(12):
        model.joint.head.bias[vocabulary] = middle = (low + high) / 2
        found, _ = model.decode_frames(frames, lengths)
        if float(found.token_lengths.float().mean()) / 30.0 > TOKENS_PER_SECOND:
            low = middle
        else:
            high = middle


def make_frames(batch: int, seconds: float, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(batch, round(seconds * FRAMES_PER_SECOND), ENCODER_SIZE, generator=generator)


def use_ours(model: Any) -> Decode:
    def decode(frames: torch.Tensor, lengths: torch.Tensor) -> Tokens:
        found, _ = model.decode_frames(frames.to(model.dtype), lengths)
        rows = zip(found.tokens.tolist(), found.token_lengths.tolist(), strict=True)
        return [row[:count] for row, count in rows]

    return decode


def weights_for(model: Any, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Our decoder and joint parameters under the names of another implementation."""
    own = {**{f"decoder.{n}": p for n, p in model.decoder.named_parameters()}}
    own.update({f"joint.{n}": p for n, p in model.joint.named_parameters()})
    renamed = {}
    for name, parameter in own.items():
        for ours, theirs in names.items():
            if name.startswith(ours):
                renamed[theirs + name.removeprefix(ours)] = parameter.detach().clone()
    assert len(renamed) == len(own), sorted(own)
    return renamed


def use_nemo(model: Any, family: str, vocabulary: int, dtype: torch.dtype) -> Decode:
    from nemo.collections.asr.modules.rnnt import RNNTDecoder, RNNTJoint
    from nemo.collections.asr.parts.submodules.rnnt_greedy_decoding import (
        GreedyBatchedRNNTInfer,
        GreedyBatchedTDTInfer,
    )

    decoder = RNNTDecoder(
        prednet={"pred_hidden": DECODER_SIZE, "pred_rnn_layers": NUM_LAYERS, "dropout": 0.2}, vocab_size=vocabulary
    )
    joint = RNNTJoint(
        jointnet={
            "joint_hidden": JOINT_SIZE,
            "activation": "relu",
            "encoder_hidden": ENCODER_SIZE,
            "pred_hidden": DECODER_SIZE,
            "dropout": 0.2,
        },
        num_classes=vocabulary,
        num_extra_outputs=len(DURATIONS) if family == "tdt" else 0,
        vocabulary=[str(number) for number in range(vocabulary)],
    )
    names = {
        "decoder.embedding": "decoder.prediction.embed",
        "decoder.lstm": "decoder.prediction.dec_rnn.lstm",
        "joint.encoder_proj": "joint.enc",
        "joint.decoder_proj": "joint.pred",
        "joint.head": "joint.joint_net.2",
    }
    nn.ModuleDict({"decoder": decoder, "joint": joint}).load_state_dict(weights_for(model, names), strict=True)
    decoder.eval().to(dtype)
    joint.eval().to(dtype)
    shared = {"decoder_model": decoder, "joint_model": joint, "blank_index": vocabulary}
    if family == "tdt":
        greedy = GreedyBatchedTDTInfer(**shared, durations=DURATIONS, max_symbols_per_step=MAX_SYMBOLS)
    else:
        greedy = GreedyBatchedRNNTInfer(**shared, max_symbols_per_step=MAX_SYMBOLS)

    def decode(frames: torch.Tensor, lengths: torch.Tensor) -> Tokens:
        with torch.inference_mode():
            (found,) = greedy(encoder_output=frames.to(dtype).transpose(1, 2), encoded_lengths=lengths)
        return [[int(token) for token in hypothesis.y_sequence] for hypothesis in found]

    return decode


def use_transformers(model: Any, family: str, vocabulary: int, dtype: torch.dtype) -> Decode:
    from transformers import (
        GenerationConfig,
        ParakeetEncoderConfig,
        ParakeetForRNNT,
        ParakeetForTDT,
        ParakeetRNNTConfig,
        ParakeetTDTConfig,
    )
    from transformers.models.parakeet.modeling_parakeet import ParakeetEncoderModelOutput

    class GivenEncoder(nn.Module):
        """Returns what it is given."""

        main_input_name = "input_features"

        def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
            return ParakeetEncoderModelOutput(last_hidden_state=input_features, attention_mask=attention_mask)

        def _get_subsampling_output_length(self, lengths: torch.Tensor) -> torch.Tensor:
            return lengths

    encoder_config = ParakeetEncoderConfig(hidden_size=ENCODER_SIZE, num_hidden_layers=1, intermediate_size=8)
    shared = {
        "vocab_size": vocabulary + 1,
        "decoder_hidden_size": DECODER_SIZE,
        "num_decoder_layers": NUM_LAYERS,
        "encoder_config": encoder_config,
        "blank_token_id": vocabulary,
        "decoder_start_token_id": vocabulary,
        "pad_token_id": vocabulary,
        "max_symbols_per_step": MAX_SYMBOLS,
    }
    if family == "tdt":
        theirs: Any = ParakeetForTDT(ParakeetTDTConfig(**shared, durations=DURATIONS))
    else:
        theirs = ParakeetForRNNT(ParakeetRNNTConfig(**shared))
    theirs.encoder = GivenEncoder()
    names = {
        "decoder.embedding": "decoder.embedding",
        "decoder.lstm": "decoder.lstm",
        "joint.encoder_proj": "encoder_projector",
        "joint.decoder_proj": "decoder.decoder_projector",
        "joint.head": "joint.head",
    }
    theirs.load_state_dict(weights_for(model, names), strict=True)
    theirs.eval().to(dtype)
    # The duration classes stand behind the tokens and must not be taken for some.
    duration_classes = list(range(vocabulary + 1, theirs.joint.head.out_features))
    theirs.generation_config = GenerationConfig(
        decoder_start_token_id=vocabulary, pad_token_id=vocabulary, suppress_tokens=duration_classes or None
    )

    def decode(frames: torch.Tensor, lengths: torch.Tensor) -> Tokens:
        mask = torch.arange(frames.shape[1]) < lengths[:, None]
        with torch.inference_mode():
            found = theirs.generate(input_features=frames.to(dtype), attention_mask=mask)
        # In a batch it goes on with clips that have ended; what comes beyond a clip's last frame is dropped here.
        began_at = found.durations.cumsum(dim=1) - found.durations
        is_token = (found.sequences != vocabulary) & (began_at < lengths[:, None])
        return [row[kept].tolist() for row, kept in zip(found.sequences, is_token, strict=True)]

    return decode


def use_nano_parakeet(model: Any, vocabulary: int) -> Decode:
    from nano_parakeet.model import RNNTDecoder, TDTJoint, tdt_greedy_decode

    decoder, joint = RNNTDecoder(vocabulary), TDTJoint(vocab_size=vocabulary, n_durations=len(DURATIONS))
    names = {
        "decoder.embedding": "decoder.embed",
        "decoder.lstm": "decoder.lstm",
        "joint.encoder_proj": "joint.enc",
        "joint.decoder_proj": "joint.pred",
        "joint.head": "joint.joint_net.2",
    }
    nn.ModuleDict({"decoder": decoder, "joint": joint}).load_state_dict(weights_for(model, names), strict=True)
    decoder.eval()
    joint.eval()

    def decode(frames: torch.Tensor, lengths: torch.Tensor) -> Tokens:
        return [
            tdt_greedy_decode(clip, int(length), decoder, joint, vocabulary, DURATIONS, MAX_SYMBOLS)
            for clip, length in zip(frames, lengths, strict=True)
        ]

    return decode


class OneStep(nn.Module):
    """Prediction and joint network for one frame and one token, as NeMo exports them to ONNX."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.joint = model.decoder, model.joint

    def forward(self, frame: torch.Tensor, token: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor) -> Any:
        output, state = self.decoder.lstm(self.decoder.embedding(token), (hidden, cell))
        logits = self.joint(self.joint.encoder_proj(frame), self.joint.decoder_proj(output[:, 0]))
        return logits, state[0], state[1]


def use_onnxruntime(model: Any, family: str, vocabulary: int, threads: int) -> Decode:
    """Clip by clip, as there is no batched loop over this graph in use."""
    import onnxruntime

    state = torch.zeros(NUM_LAYERS, 1, DECODER_SIZE)
    buffer = io.BytesIO()
    torch.onnx.export(
        OneStep(model).eval(),
        (torch.zeros(1, ENCODER_SIZE), torch.zeros(1, 1, dtype=torch.int64), state, state),
        buffer,
        input_names=["frame", "token", "hidden", "cell"],
        output_names=["logits", "next_hidden", "next_cell"],
        dynamo=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    outputs = ["logits", "next_hidden", "next_cell"]
    zeros = np.zeros((NUM_LAYERS, 1, DECODER_SIZE), dtype=np.float32)

    def decode_clip(frames: np.ndarray) -> list[int]:
        tokens: list[int] = []
        hidden, cell, last, now, symbols = zeros, zeros, vocabulary, 0, 0
        while now < len(frames):
            feed = {"frame": frames[now : now + 1], "token": np.array([[last]]), "hidden": hidden, "cell": cell}
            logits, new_hidden, new_cell = session.run(outputs, feed)
            token = int(logits[0, : vocabulary + 1].argmax())
            jump = int(logits[0, vocabulary + 1 :].argmax()) if family == "tdt" else int(token == vocabulary)
            if token != vocabulary:
                tokens.append(token)
                hidden, cell, last, symbols = new_hidden, new_cell, token, symbols + 1
            if jump == 0 and (token == vocabulary or symbols >= MAX_SYMBOLS):
                jump = 1
            if jump:
                now, symbols = now + jump, 0
        return tokens

    def decode(frames: torch.Tensor, lengths: torch.Tensor) -> Tokens:
        return [decode_clip(clip[:length].numpy()) for clip, length in zip(frames, lengths.tolist(), strict=True)]

    return decode


def build_implementation(name: str, family: str, vocabulary: int, threads: int, weights: Path) -> Decode:
    """
    Args:
        name: Implementation and dtype, as `list_implementations` has them.
        weights: File with our parameters.
    """
    system, dtype_name = name.rsplit("_", 1)
    dtype = getattr(torch, dtype_name)
    model = build_model(family, vocabulary)
    model.load_state_dict(load_file(weights))
    if system == "ours":
        return use_ours(model.to(dtype))
    if system == "nemo":
        return use_nemo(model, family, vocabulary, dtype)
    if system == "transformers":
        return use_transformers(model, family, vocabulary, dtype)
    if system == "onnxruntime":
        return use_onnxruntime(model, family, vocabulary, threads)
    assert system == "nano_parakeet", name
    return use_nano_parakeet(model, vocabulary)


def list_implementations(family: str, dtype: str, only: list[str]) -> list[str]:
    names = ["nemo_float32", "transformers_float32", "onnxruntime_float32"]
    if family == "tdt":
        names.append("nano_parakeet_float32")
    if dtype != "float32":
        names.append(f"nemo_{dtype}")
    return [*(name for name in names if not only or name.split("_")[0] in only), f"ours_{dtype}"]


def serve(connection: Any, name: str, family: str, vocabulary: int, threads: int, weights: Path) -> None:
    """
    Decode whenever asked.

    Sent first is None, or why the implementation cannot be had. Then a path gets encoder outputs and lengths read and
    is answered None; None gets them decoded and is answered milliseconds and tokens.
    """
    torch.set_num_threads(threads)
    try:
        decode = build_implementation(name, family, vocabulary, threads, weights)
    except ImportError as error:
        connection.send(str(error))
        return
    connection.send(None)
    given: dict[str, torch.Tensor] = {}
    while True:
        try:
            path = connection.recv()
        except EOFError:
            return
        if path is not None:
            given = load_file(path)
            connection.send(None)
            continue
        start = time.perf_counter()
        tokens = decode(given["frames"], given["lengths"])
        connection.send((1000.0 * (time.perf_counter() - start), tokens))


class Worker:
    """An implementation in a process of its own; `missing` says why there is none."""

    def __init__(self, name: str, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, name, *arguments), daemon=True)
        self.process.start()
        other.close()
        self.missing: str | None = self.connection.recv()

    def read(self, path: Path) -> None:
        self.connection.send(path)
        self.connection.recv()

    def decode(self) -> tuple[float, Tokens]:
        """Milliseconds and tokens of what was read last."""
        time.sleep(PAUSE_SECONDS)
        self.connection.send(None)
        milliseconds, tokens = self.connection.recv()
        return milliseconds, tokens

    def close(self) -> None:
        self.connection.close()
        self.process.join()


def run_case(
    workers: dict[str, Worker], rounds: int, most_seconds: float
) -> tuple[dict[str, list[float]], dict[str, Tokens]]:
    """Milliseconds of each round; an implementation that has used up `most_seconds` stops after two rounds."""
    milliseconds: dict[str, list[float]] = {name: [] for name in workers}
    tokens: dict[str, Tokens] = {}
    for _ in range(rounds):
        for name, worker in workers.items():
            spent = milliseconds[name]
            if len(spent) >= 2 and sum(spent) > 1000.0 * most_seconds:
                continue
            latest, tokens[name] = worker.decode()
            spent.append(latest)
    return milliseconds, tokens


def read_rate(family: str, vocabulary: int, dtype: torch.dtype) -> str:
    """What a step at batch 1 reads, and the rate at which one call that only reads gets through memory."""
    read = DECODER_SIZE * (4 * DECODER_SIZE + (NUM_LAYERS - 1) * 8 * DECODER_SIZE + JOINT_SIZE)
    head = JOINT_SIZE * (vocabulary + 1 + (len(DURATIONS) if family == "tdt" else 0))
    size = torch.tensor([], dtype=dtype).element_size()
    large = torch.ones(64 << 20)
    best = min(_seconds(large.sum) for _ in range(5))
    return (
        f"{family} {vocabulary} {dtype}: {read * size / 1e6:.1f} MB a token and {head * size / 1e6:.1f} MB a look of "
        f"the joint; memory read at {large.numel() * 4 / best / 1e9:.1f} GB/s"
    )


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--families", nargs="+", default=["tdt", "rnnt"])
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[1024, 8192])
    parser.add_argument("--cases", nargs="+", default=["1x10", "1x30", "1x60", "8x10", "8x30", "32x30", "128x30"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--most-seconds", type=float, default=8.0, help="for one implementation and case")
    parser.add_argument("--most-clip-by-clip", type=int, default=8, help="largest batch for those without batches")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", default=[], help="implementations to compare with")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    writer = None
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        writer = csv.DictWriter(arguments.output.open("w", newline="", buffering=1), COLUMNS, lineterminator="\n")
        writer.writeheader()
    with tempfile.TemporaryDirectory() as folder:
        for family in arguments.families:
            for vocabulary in arguments.vocabularies:
                for rows in compare(arguments, family, vocabulary, Path(folder)):
                    if writer is not None:
                        writer.writerows(rows)


def compare(
    arguments: argparse.Namespace, family: str, vocabulary: int, folder: Path
) -> Iterator[list[dict[str, Any]]]:
    """The lines of each case."""
    model = build_model(family, vocabulary)
    draw_weights(model, family, vocabulary)
    weights, case_file = folder / "weights.safetensors", folder / "case.safetensors"
    save_file(model.state_dict(), weights)
    print(read_rate(family, vocabulary, getattr(torch, arguments.dtype)))
    workers = {
        name: Worker(name, family, vocabulary, arguments.threads, weights)
        for name in list_implementations(family, arguments.dtype, arguments.only)
    }
    for name, worker in workers.items():
        if worker.missing is not None:
            print(f"{name}: left out, {worker.missing}", file=sys.stderr)
    workers = {name: worker for name, worker in workers.items() if worker.missing is None}
    for case in arguments.cases:
        batch, seconds = (int(part) for part in case.split("x"))
        generator = torch.Generator().manual_seed(batch * 1000 + seconds)
        frames = make_frames(batch, seconds, generator)
        lengths = torch.randint(round(0.8 * frames.shape[1]), frames.shape[1] + 1, (batch,), generator=generator)
        lengths[0] = frames.shape[1]
        save_file({"frames": frames, "lengths": lengths}, case_file)
        # With more clips the time of those that go clip by clip grows with them, and nothing else is to be learnt.
        fitting = {
            name: worker
            for name, worker in workers.items()
            if batch <= arguments.most_clip_by_clip or not name.startswith(CLIP_BY_CLIP)
        }
        for worker in fitting.values():
            worker.read(case_file)
        milliseconds, tokens = run_case(fitting, arguments.rounds, arguments.most_seconds)
        yield describe(arguments, family, vocabulary, batch, seconds, milliseconds, tokens)
    for worker in workers.values():
        worker.close()


def describe(
    arguments: argparse.Namespace,
    family: str,
    vocabulary: int,
    batch: int,
    seconds: int,
    milliseconds: dict[str, list[float]],
    tokens: dict[str, Tokens],
) -> list[dict[str, Any]]:
    ours = f"ours_{arguments.dtype}"
    reference = tokens.get("nemo_float32", tokens[ours])
    rows = []
    for name, spent in milliseconds.items():
        count = sum(map(len, tokens[name]))
        same = sum(found == expected for found, expected in zip(tokens[name], reference, strict=True))
        ratio = min(spent) / min(milliseconds[ours])
        values = (
            family, vocabulary, name.split("_")[-1], batch, seconds, name, f"{min(spent):.2f}",
            f"{statistics.median(spent):.2f}", f"{min(spent) / batch:.3f}", f"{min(spent) / max(count, 1):.4f}", count,
            len(spent), f"{same}/{batch}", f"{ratio:.2f}", torch.__version__, arguments.threads,
            platform.machine(),
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
        print(
            f"{family} {vocabulary} {batch} x {seconds} s {name:24s} {min(spent):9.1f} ms (median "
            f"{statistics.median(spent):9.1f}) {count} tokens, same {same}/{batch}, {ratio:.2f} x ours",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
