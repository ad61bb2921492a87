"""
The greedy decoders that benchmarks compare: NeMo's, transformers', nano-parakeet's, ONNX Runtime, and ours.

All get the same random weights of a published shape and the same encoder outputs.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
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
# Pause before each turn, in which the threads of the system before go to sleep.
PAUSE_SECONDS = 0.05

Tokens = list[list[int]]
Decode = Callable[[torch.Tensor, torch.Tensor], Tokens]

# Weights and inputs


def build_model(family: str, vocabulary: int) -> Any:
    """Build our model with the smallest possible encoder."""
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
    """Draw weights of heads that emit tokens about as often as in speech."""
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


# Systems


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


def make_nemo_networks(model: Any, family: str, vocabulary: int, dtype: torch.dtype) -> tuple[Any, Any]:
    """NeMo's prediction and joint network with our weights."""
    from nemo.collections.asr.modules.rnnt import RNNTDecoder, RNNTJoint

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
    return decoder, joint


def use_nemo(model: Any, family: str, vocabulary: int, dtype: torch.dtype) -> Decode:
    from nemo.collections.asr.parts.submodules.rnnt_greedy_decoding import (
        GreedyBatchedRNNTInfer,
        GreedyBatchedTDTInfer,
    )

    decoder, joint = make_nemo_networks(model, family, vocabulary, dtype)
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
    # The duration classes stand after the tokens and must not be taken for some.
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
    """Decode clip by clip, since this graph is not used with a batched loop."""
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
    Build a decoder that benchmarks compare.

    Args:
        name: Implementation and dtype, such as `nemo_float32`.
        family: `"rnnt"` or `"tdt"`.
        vocabulary: Number of tokens without the blank.
        threads: Threads of ONNX Runtime.
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


# Processes


def serve(connection: Any, name: str, family: str, vocabulary: int, threads: int, weights: Path) -> None:
    """
    Decode whenever asked.

    The process first sends None, or the reason why the implementation is not available. A path makes it read encoder
    outputs and lengths and answer None; None makes it decode them and answer milliseconds and tokens.
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
    """An implementation in a process of its own; `missing` has the reason if it is not available."""

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
        """Decode what was read last; returns milliseconds and tokens."""
        time.sleep(PAUSE_SECONDS)
        self.connection.send(None)
        milliseconds, tokens = self.connection.recv()
        return milliseconds, tokens

    def close(self) -> None:
        self.connection.close()
        self.process.join()
