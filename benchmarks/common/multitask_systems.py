"""
The Canary-shaped models that benchmarks compare: NeMo's, transformers', ONNX Runtime's of NeMo's layers, and ours.

All get the same random weights of a published shape, which never end a text: each clip has as many tokens as are asked
for. Each system has a process of its own.
"""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from transformers_fastconformer import FastConformerForMultitask, FastConformerMultitaskConfig
from transformers_fastconformer.modeling.multitask_decoder import scaled_sinusoids
from transformers_fastconformer.nemo.weight_map import unmap_state_dict

# From the configurations of the published checkpoints; the tiny one is for tests.
SHAPES: dict[str, dict[str, int]] = {
    "180m-flash": {"hidden_size": 512, "num_hidden_layers": 17, "num_decoder_layers": 4, "vocab_size": 5248},
    "1b-v2": {"hidden_size": 1024, "num_hidden_layers": 32, "num_decoder_layers": 8, "vocab_size": 16384},
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_decoder_layers": 2, "vocab_size": 64},
}
DTYPES = ("float32", "bfloat16", "int8")
MOST_POSITIONS = 1024
PAD_ID, END_ID, START_ID = 2, 3, 4
PROMPT = [7, 4, 16, 62, 62, 5, 9, 11, 13]  # nine tokens, as in prompts of the format `canary2`
NEVER = -1e4  # what is added to the logit of a token that must not come
ONNX_PARTS = ("encoder.onnx", "decoder.onnx")
PAUSE_SECONDS = 0.05  # in which the threads of the system before go to sleep

Tokens = list[list[int]]


@dataclass(frozen=True)
class Passes:
    """A system: features and their lengths to states, and states to tokens."""

    encode: Callable[[torch.Tensor, torch.Tensor], Any]
    decode: Callable[[Any, int], Tokens]


# Weights


def make_config(shape: str) -> FastConformerMultitaskConfig:
    """Our configuration of a shape."""
    small = shape == "tiny"
    size = 32 if small else 1024
    return FastConformerMultitaskConfig(
        **SHAPES[shape],
        num_mel_bins=16 if small else 128,
        num_attention_heads=4 if small else 8,
        intermediate_size=4 * SHAPES[shape]["hidden_size"],
        subsampling_conv_channels=16 if small else 256,
        attention_bias=False,
        convolution_bias=False,
        scale_input=False,
        decoder_hidden_size=size,
        decoder_intermediate_size=4 * size,
        num_decoder_attention_heads=4 if small else 8,
        decoder_max_positions=MOST_POSITIONS,
        decoding_strategy="greedy",
        bos_token_id=START_ID,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
        decoder_start_token_id=PROMPT[0],
    )


def write_weights(shape: str, path: Path) -> None:
    """Draw the weights of a shape, from a seed."""
    torch.manual_seed(0)
    model = FastConformerForMultitask(make_config(shape)).eval()
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            if parameter.ndim == 2:
                # What layers add must outweigh the embedding of the last token, which the head is tied to.
                spread = 1.0 if name.startswith("embedding") else 4.0
                parameter.copy_(spread * torch.randn(parameter.shape) / math.sqrt(parameter.shape[1]))
        model.token_head.bias[[PAD_ID, END_ID]] = NEVER
    save_file(model.state_dict(), path)


def missing_instructions(dtype: str) -> str | None:
    """The reason why a type is not measured on this processor; None where it is."""
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    if dtype == "bfloat16" and not flags & {"avx512_bf16", "amx_bf16"}:
        return "this processor has no products of bfloat16 (avx512_bf16 or amx_bf16)"
    if dtype == "int8" and not flags & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        return "this processor has no products of int8 (avx512_vnni, avx_vnni or amx_int8)"
    return None


# Systems


def use_ours(shape: str, weights: Path, dtype: str) -> Passes:
    model = FastConformerForMultitask(make_config(shape)).eval()
    model.load_state_dict(load_file(weights))
    if dtype == "int8":
        from transformers_fastconformer import quantize_dynamic_int8

        quantize_dynamic_int8(model)
    else:
        model.to(getattr(torch, dtype))

    def encode(features: torch.Tensor, lengths: torch.Tensor) -> Any:
        return model.encode(features.to(model.dtype), input_lengths=lengths)

    def decode(encoded: Any, count: int) -> Tokens:
        found, _ = model.decode_frames(
            encoded.last_hidden_state,
            encoded.encoder_lengths,
            prompt_ids=PROMPT,
            padded_lengths=encoded.padded_lengths,
            max_new_tokens=count,
            with_log_probs=False,
        )
        return found.tokens.tolist()

    return Passes(encode, decode)


def build_nemo(shape: str, weights: Path) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    """NeMo's encoder, projection, decoder and head with our weights."""
    from nemo.collections.asr.modules import ConformerEncoder
    from nemo.collections.asr.modules.transformer import get_nemo_transformer
    from nemo.collections.asr.parts.submodules.token_classifier import TokenClassifier

    config = make_config(shape)
    encoder = ConformerEncoder(
        feat_in=config.num_mel_bins,
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        ff_expansion_factor=4,
        subsampling="dw_striding",
        subsampling_factor=8,
        subsampling_conv_channels=config.subsampling_conv_channels,
        conv_kernel_size=config.conv_kernel_size,
        use_bias=False,
        xscaling=False,
        dropout=0.0,
        dropout_pre_encoder=0.0,
        dropout_emb=0.0,
        dropout_att=0.0,
    )
    size = config.decoder_hidden_size
    projection = nn.Linear(config.hidden_size, size) if config.has_encoder_projection else nn.Identity()
    decoder = get_nemo_transformer(
        config_dict={
            "vocab_size": config.vocab_size,
            "hidden_size": size,
            "num_layers": config.num_decoder_layers,
            "inner_size": config.decoder_intermediate_size,
            "num_attention_heads": config.num_decoder_attention_heads,
            "max_sequence_length": MOST_POSITIONS,
            "num_token_types": 0,
            "learn_positional_encodings": False,
            "pre_ln": True,
        },
        encoder=False,
        pre_ln_final_layer_norm=True,
    )
    head = TokenClassifier(hidden_size=size, num_classes=config.vocab_size, num_layers=1, log_softmax=True)
    names = unmap_state_dict(load_file(weights), config)
    names["log_softmax.mlp.layer0.weight"] = names["transf_decoder._embedding.token_embedding.weight"]
    parts = {"encoder": encoder, "encoder_decoder_proj": projection, "transf_decoder": decoder, "log_softmax": head}
    missing = nn.ModuleDict(parts).load_state_dict(names, strict=False)
    assert not missing.unexpected_keys, missing.unexpected_keys
    assert all(name.endswith("pos_enc") for name in missing.missing_keys), missing.missing_keys
    return tuple(part.eval().requires_grad_(False) for part in parts.values())  # type: ignore[return-value]


def use_nemo(shape: str, weights: Path, dtype: str) -> Passes:
    from nemo.collections.asr.modules.transformer import GreedySequenceGenerator

    kind = getattr(torch, dtype)
    encoder, projection, decoder, head = (part.to(kind) for part in build_nemo(shape, weights))
    search = GreedySequenceGenerator(
        embedding=decoder.embedding, decoder=decoder.decoder, classifier=head, pad=PAD_ID, bos=START_ID, eos=END_ID,
        max_delta_length=-1,
    )  # fmt: skip

    def encode(features: torch.Tensor, lengths: torch.Tensor) -> Any:
        encoded, encoded_lengths = encoder(audio_signal=features.to(kind).transpose(1, 2), length=lengths)
        states = projection(encoded.transpose(1, 2))
        return states, (torch.arange(states.shape[1]) < encoded_lengths[:, None]).to(kind)

    def decode(encoded: Any, count: int) -> Tokens:
        search.max_seq_length = len(PROMPT) + count
        prompts = torch.tensor(PROMPT).repeat(len(encoded[0]), 1)
        found, *_ = search(decoder_input_ids=prompts, encoder_hidden_states=encoded[0], encoder_input_mask=encoded[1])
        return found[:, len(PROMPT) :].tolist()

    return Passes(encode, decode)


# Our names of the decoder's parts, and those of transformers' `CanaryForConditionalGeneration`.
THEIR_NAMES = (
    ("decoder.embedding.", "model.decoder.embed_tokens."),
    ("decoder.norm_embedding.", "model.decoder.embedding_layernorm."),
    ("decoder.", "model.decoder."),
    ("norm_self_attn.", "input_layernorm."),
    ("norm_cross_attn.", "post_attention_layernorm."),
    ("norm_feed_forward.", "final_layernorm."),
    ("cross_attn.", "encoder_attn."),
    ("feed_forward.linear", "mlp.fc"),
    ("token_head.", "proj_out."),
)


def use_transformers(shape: str, weights: Path, dtype: str) -> Passes:
    from transformers import CanaryConfig, CanaryForConditionalGeneration, ParakeetEncoder

    from transformers_fastconformer import FastConformerConfig, FastConformerModel
    from transformers_fastconformer.interop.writing import export_to_transformers

    config = make_config(shape)
    if config.has_encoder_projection:
        raise ImportError("transformers' class has no projection between encoder and decoder")
    tensors = load_file(weights)
    encoder_keys = FastConformerConfig().to_dict().keys() - {"model_type", "architectures"}
    encoder = FastConformerModel(FastConformerConfig(**{k: getattr(config, k) for k in encoder_keys})).eval()
    encoder.load_state_dict({name: value for name, value in tensors.items() if name.startswith("encoder.")})
    with tempfile.TemporaryDirectory() as folder:
        export_to_transformers(encoder, folder)
        del encoder
        theirs = ParakeetEncoder.from_pretrained(folder, dtype=torch.float32)
    sizes = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.decoder_hidden_size,
        "intermediate_size": config.decoder_intermediate_size,
        "num_hidden_layers": config.num_decoder_layers,
        "num_attention_heads": config.num_decoder_attention_heads,
        "num_key_value_heads": config.num_decoder_attention_heads,
        "head_dim": config.decoder_hidden_size // config.num_decoder_attention_heads,
        "max_position_embeddings": MOST_POSITIONS,
    }
    with torch.device("meta"):
        model: Any = CanaryForConditionalGeneration(
            CanaryConfig(
                vocab_size=config.vocab_size,
                decoder_config=sizes,
                encoder_config=theirs.config.to_dict(),
                decoder_start_token_id=PROMPT[0],
            )
        )
    model.to_empty(device="cpu")
    model.model.encoder = theirs
    renamed = {}
    for name, value in tensors.items():
        if name.startswith("encoder."):
            continue
        for ours, other in THEIR_NAMES:
            if ours in name and not (ours == "decoder." and name.startswith("model.")):
                name = name.replace(ours, other, 1)
        renamed[name] = value
    left = model.load_state_dict(renamed, strict=False)
    assert not left.unexpected_keys, left.unexpected_keys
    missing = [name for name in left.missing_keys if not name.startswith(("model.encoder.", "proj_out.weight"))]
    assert all("pos_emb" in name for name in missing), missing
    position = model.model.decoder.pos_emb
    # In theirs all sines come before all cosines, and weights are fitted to it; here it is fitted to the weights.
    table = scaled_sinusoids(MOST_POSITIONS, config.decoder_hidden_size)
    position.positional_embedding = table * math.sqrt(config.decoder_hidden_size)
    model.tie_weights()
    model.eval().to(getattr(torch, dtype))

    def encode(features: torch.Tensor, lengths: torch.Tensor) -> Any:
        mask = torch.arange(features.shape[1]) < lengths[:, None]
        return theirs(features.to(model.dtype), attention_mask=mask, output_attention_mask=True)

    def decode(encoded: Any, count: int) -> Tokens:
        prompts = torch.tensor(PROMPT).repeat(len(encoded.last_hidden_state), 1)
        found = model.generate(
            encoder_outputs=encoded,
            decoder_input_ids=prompts,
            min_new_tokens=count,
            max_new_tokens=count,
            do_sample=False,
            num_beams=1,
        )
        return found[:, len(PROMPT) :].tolist()

    return Passes(encode, decode)


class DecoderStep(nn.Module):
    """NeMo's decoder for new tokens and the states of those before, as NeMo's export has them (`decoder_mems`)."""

    def __init__(self, decoder: Any, head: Any) -> None:
        super().__init__()
        self.embedding, self.decoder, self.head = decoder.embedding, decoder.decoder, head

    def forward(self, tokens: torch.Tensor, frames: torch.Tensor, mask: torch.Tensor, past: torch.Tensor) -> Any:
        places = torch.arange(past.shape[2] + tokens.shape[1])
        new = places[past.shape[2] :]
        states = self.embedding.token_embedding(tokens) + self.embedding.position_embedding(new)
        states = self.embedding.layer_norm(states)
        future = (places > new[:, None]).to(states.dtype)[None, None] * NEVER
        unheard = (1.0 - mask)[:, None, None] * NEVER
        kept = []
        for index, layer in enumerate(self.decoder.layers):
            memory = torch.cat([past[index], states], dim=1)
            kept.append(memory)
            states, _ = layer(states, future, memory, frames, unheard)
        states = self.decoder.final_layer_norm(states)
        return self.head.mlp(states[:, -1]), torch.stack(kept)


def export_onnx(shape: str, weights: Path, dtype: str) -> Path:
    """
    The folder of NeMo's encoder and of a step of its decoder in ONNX, next to the weights; made where it is missing.

    NeMo exports the encoder, and itself no step of the decoder.
    """
    folder = weights.with_name(f"{weights.stem}_{dtype}_onnx")
    if folder.exists():
        return folder
    source = export_onnx(shape, weights, "float32") if dtype == "int8" else None
    unfinished = Path(tempfile.mkdtemp(dir=weights.parent))
    if source is None:
        write_onnx(shape, weights, unfinished)
    else:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        for part in ONNX_PARTS:
            quantize_dynamic(
                source / part,
                unfinished / part,
                op_types_to_quantize=["MatMul"],
                weight_type=QuantType.QInt8,
                per_channel=True,
                use_external_data_format=True,
            )
    return unfinished.rename(folder)


def write_onnx(shape: str, weights: Path, folder: Path) -> None:
    """Write the encoder and a step of the decoder in float32."""
    config = make_config(shape)
    encoder, _, decoder, head = build_nemo(shape, weights)
    head.mlp.log_softmax = False
    size, layers = config.decoder_hidden_size, config.num_decoder_layers
    encoder.export(str(folder / "encoder.onnx"))
    torch.onnx.export(
        DecoderStep(decoder, head).eval(),
        (
            torch.zeros(2, 3, dtype=torch.int64),
            torch.zeros(2, 7, size),
            torch.ones(2, 7),
            torch.zeros(layers, 2, 4, size),
        ),
        str(folder / "decoder.onnx"),
        input_names=["tokens", "frames", "mask", "past"],
        output_names=["logits", "kept"],
        dynamic_axes={
            "tokens": {0: "clips", 1: "new"},
            "frames": {0: "clips", 1: "frames"},
            "mask": {0: "clips", 1: "frames"},
            "past": {1: "clips", 2: "tokens"},
            "logits": {0: "clips"},
            "kept": {1: "clips", 2: "all"},
        },
        dynamo=False,
    )


def use_onnxruntime(shape: str, weights: Path, dtype: str) -> Passes:
    import onnxruntime

    config = make_config(shape)
    size, layers = config.decoder_hidden_size, config.num_decoder_layers
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    folder = export_onnx(shape, weights, dtype)
    sessions = {
        part: onnxruntime.InferenceSession(folder / part, options, providers=["CPUExecutionProvider"])
        for part in ONNX_PARTS
    }
    projection = nn.Linear(config.hidden_size, size) if config.has_encoder_projection else nn.Identity()
    if config.has_encoder_projection:
        tensors = load_file(weights)
        projection.load_state_dict({name: tensors[f"encoder_proj.{name}"] for name in ("weight", "bias")})

    def encode(features: torch.Tensor, lengths: torch.Tensor) -> Any:
        feed = {"audio_signal": features.transpose(1, 2).contiguous().numpy(), "length": lengths.numpy()}
        encoded, encoded_lengths = sessions["encoder.onnx"].run(None, feed)
        states = projection(torch.from_numpy(encoded).transpose(1, 2)).contiguous()
        return states.numpy(), (np.arange(states.shape[1]) < encoded_lengths[:, None]).astype(np.float32)

    def decode(encoded: Any, count: int) -> Tokens:
        clips = len(encoded[0])
        tokens, past = np.tile(np.array(PROMPT), (clips, 1)), np.zeros((layers, clips, 0, size), np.float32)
        found = []
        for _ in range(count):
            feed = {"tokens": tokens, "frames": encoded[0], "mask": encoded[1], "past": past}
            logits, past = sessions["decoder.onnx"].run(None, feed)
            tokens = logits.argmax(axis=-1)[:, None]
            found.append(tokens[:, 0].tolist())
        return [list(row) for row in zip(*found, strict=True)]

    return Passes(encode, decode)


SYSTEMS: dict[str, Callable[[str, Path, str], Passes]] = {
    "ours": use_ours,
    "nemo": use_nemo,
    "transformers": use_transformers,
    "onnxruntime": use_onnxruntime,
}


# Processes


def serve(connection: Any, name: str, shape: str, weights: Path, threads: int) -> None:
    """
    Answer requests of features, lengths and a number of tokens with two times in seconds and the tokens.

    The process first sends None, or the reason why the system is not available.
    """
    torch.set_num_threads(threads)
    system, dtype = name.rsplit("_", 1)
    try:
        passes = SYSTEMS[system](shape, weights, dtype)
    except ImportError as error:
        connection.send(str(error))
        return
    connection.send(None)
    while True:
        try:
            features, lengths, count = connection.recv()
        except EOFError:
            return
        with torch.no_grad():
            start = time.perf_counter()
            encoded = passes.encode(torch.from_numpy(features), torch.from_numpy(lengths))
            middle = time.perf_counter()
            tokens = passes.decode(encoded, count)
            end = time.perf_counter()
        connection.send((middle - start, end - middle, tokens))


class MultitaskWorker:
    """A system in a process of its own; `missing` has the reason if it is not available."""

    def __init__(self, name: str, shape: str, weights: Path, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        arguments = (other, name, shape, weights, threads)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        other.close()
        self.missing: str | None = self.connection.recv()

    def run(self, features: torch.Tensor, lengths: torch.Tensor, count: int) -> tuple[float, float, Tokens]:
        """Seconds of the encoder, seconds of decoding, and tokens."""
        time.sleep(PAUSE_SECONDS)
        self.connection.send((features.numpy(), lengths.numpy(), count))
        return self.connection.recv()

    def close(self) -> None:
        self.connection.close()
        self.process.join()
