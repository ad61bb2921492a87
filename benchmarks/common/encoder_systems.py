"""
Encoders that benchmarks compare: NeMo's, transformers', ONNX Runtime on NeMo's export, and ours, with equal weights.

Weights of a shape are random. Processes that run this module write them once into a folder, in the form that each
system reads.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.encoder_shapes import (
    LOCAL_CONTEXT,
    MAX_CEILING_FRAMES,
    MEL_FRAMES_PER_SECOND,
    nemo_options,
    our_config,
    our_options,
)
from common.nemo_shapes import perturb
from common.processes import module_command
from transformers_fastconformer import (
    FastConformerFeatureExtractor,
    FastConformerForTDT,
    FastConformerModel,
    FastConformerTDTConfig,
    quantize_dynamic_int8,
)
from transformers_fastconformer.nemo.weight_map import unmap_state_dict

DTYPES = ("float32", "bfloat16", "float16", "int8")
ATTENTION_KINDS = ("full", "local")
# Sizes of the heads of a whole chain.
VOCABULARY, TOKENS_PER_SECOND = 1024, 3.5

Encode = Callable[[Any], torch.Tensor | None]


@dataclass
class System:
    """
    An encoder that is ready.

    Args:
        prepare: Brings features (batch, mel frames, mels) and lengths (batch,) into its form; this is not timed.
        encode: The function that is timed; returns (batch, frames, hidden_size), or None if nothing is compared.
        weights: Its weights, which are read once before memory is measured.
        note: Returns a note about its last call.
    """

    prepare: Callable[[torch.Tensor, torch.Tensor], Any]
    encode: Encode
    weights: Sequence[torch.Tensor] = ()
    note: Callable[[], str] = str


# Files


def can_export() -> bool:
    """Tell whether the packages that export and quantize are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("nemo", "onnx", "onnxruntime"))


def folder_of(shape: str, folder: Path) -> Path:
    return folder / f"encoder-{shape}"


def write_weights(shape: str, folder: Path) -> None:
    """Write our folder and that of transformers."""
    from transformers_fastconformer.interop.writing import export_to_transformers

    model = FastConformerModel(our_config(shape)).eval()
    perturb(model)
    model.save_pretrained(folder / "ours")
    export_to_transformers(model, folder / "transformers")


def write_onnx(shape: str, folder: Path) -> None:
    """Write NeMo's own export, with its tensors in one file next to it."""
    import onnx

    encoder = load_nemo(shape, folder, torch.float32, "full")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        encoder.export(f"{temporary}/encoder.onnx")
        del encoder
        target = folder / "onnx"
        target.mkdir()
        onnx.save_model(
            onnx.load(f"{temporary}/encoder.onnx"),
            str(target / "encoder.onnx"),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location="encoder.data",
        )


def write_onnx_int8(shape: str, folder: Path) -> None:
    """
    Write the export in dynamic int8 by ONNX Runtime's own tool, with the fastest of its options.

    Convolutions are slower there in int8 than in float32, and unsigned weights slower than signed ones; a scale for
    each channel takes no extra time and is more exact.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = folder / "onnx_int8"
    target.mkdir()
    quantize_dynamic(
        folder / "onnx" / "encoder.onnx",
        target / "encoder.onnx",
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


WRITERS: dict[str, Callable[[str, Path], None]] = {
    "weights": write_weights,
    "onnx": write_onnx,
    "onnx_int8": write_onnx_int8,
}
# The folder that shows that a writer is done.
WRITTEN = {"weights": "transformers", "onnx": "onnx", "onnx_int8": "onnx_int8"}


def find_files(shape: str, folder: Path, dtypes: Sequence[str] = ()) -> Path:
    """
    Find the folder with a shape's weights; missing forms are written, each by a process of its own.

    Args:
        shape: See `nemo_options`.
        folder: Folder of all shapes.
        dtypes: Types for which ONNX Runtime needs a file.
    """
    steps = ["weights"]
    if dtypes:
        steps.append("onnx")
    if "int8" in dtypes:
        steps.append("onnx_int8")
    target = folder_of(shape, folder)
    target.mkdir(parents=True, exist_ok=True)
    for step in steps:
        if (target / WRITTEN[step]).exists():
            continue
        part = Path(tempfile.mkdtemp(dir=target))
        try:
            # Existing files are seen through links; new ones are moved when they are whole.
            for done in (path for path in target.iterdir() if path.name in ("ours", *WRITTEN.values())):
                (part / done.name).symlink_to(done.resolve())
            subprocess.run([*module_command("common.encoder_systems"), step, shape, str(part)], check=True)
            for made in part.iterdir():
                if not made.is_symlink():
                    made.rename(target / made.name)
        finally:
            shutil.rmtree(part)
    return target


# Systems


def load_nemo(shape: str, folder: Path, dtype: torch.dtype, attention: str) -> Any:
    from nemo.collections.asr.modules import ConformerEncoder
    from safetensors.torch import load_file

    options = nemo_options(shape)
    if attention == "local":
        options |= {"self_attention_model": "rel_pos_local_attn", "att_context_size": LOCAL_CONTEXT}
    encoder = ConformerEncoder(**options)
    names = unmap_state_dict(load_file(folder / "ours" / "model.safetensors"), our_config(shape))
    tensors = {name.removeprefix("encoder."): tensor for name, tensor in names.items()}
    encoder.load_state_dict(tensors, strict=True)
    return encoder.eval().to(dtype)


def build_nemo(shape: str, folder: Path, dtype: str, attention: str, device: str) -> System:
    kind = getattr(torch, dtype)
    encoder = load_nemo(shape, folder, kind, attention).to(device)
    encoder.freeze()

    def prepare(features: torch.Tensor, lengths: torch.Tensor) -> Any:
        return features.to(device, kind).transpose(1, 2).contiguous(), lengths.to(device)

    def encode(inputs: Any) -> torch.Tensor:
        outputs, _ = encoder(audio_signal=inputs[0], length=inputs[1])
        return outputs.transpose(1, 2)

    return System(prepare, encode, list(encoder.state_dict().values()))


def build_transformers(shape: str, folder: Path, dtype: str, attention: str, device: str) -> System:
    from transformers import ParakeetEncoder

    kind = getattr(torch, dtype)
    encoder = ParakeetEncoder.from_pretrained(folder / "transformers", dtype=kind, attn_implementation="sdpa")
    encoder.eval().to(device)

    def prepare(features: torch.Tensor, lengths: torch.Tensor) -> Any:
        mask = torch.arange(features.shape[1]) < lengths[:, None]
        return features.to(device, kind), None if bool(mask.all()) else mask.to(device)

    def encode(inputs: Any) -> torch.Tensor:
        return encoder(inputs[0], attention_mask=inputs[1]).last_hidden_state

    return System(prepare, encode, list(encoder.state_dict().values()))


def load_ours(shape: str, folder: Path, dtype: str, attention: str, device: str) -> Any:
    kind = torch.float32 if dtype == "int8" else getattr(torch, dtype)
    model = FastConformerModel.from_pretrained(folder / "ours", dtype=kind).eval().to(device)
    if dtype == "int8":
        quantize_dynamic_int8(model)
    if attention == "local":
        model.set_attention_context(LOCAL_CONTEXT, position_embedding_type="rel_pos_local_attn")
    return model


def build_ours(shape: str, folder: Path, dtype: str, attention: str, device: str) -> System:
    model = load_ours(shape, folder, dtype, attention, device)
    kind = model.dtype

    def prepare(features: torch.Tensor, lengths: torch.Tensor) -> Any:
        is_even = bool((lengths == features.shape[1]).all())
        return features.to(device, kind), None if is_even else lengths.to(device)

    def encode(inputs: Any) -> torch.Tensor:
        return model(inputs[0], input_lengths=inputs[1]).last_hidden_state

    return System(prepare, encode, list(model.state_dict().values()))


def build_chain(shape: str, folder: Path, dtype: str, attention: str, device: str) -> System:
    """Build the whole chain from samples in the host's memory to tokens of a TDT model, as many as in speech."""
    kind = getattr(torch, dtype)
    config = FastConformerTDTConfig(
        **our_options(shape), vocab_size=VOCABULARY + 1, durations=[0, 1, 2, 3, 4], decoder_hidden_size=640,
        num_decoder_layers=2, joint_hidden_size=640,
    )  # fmt: skip
    model = FastConformerForTDT(config)
    perturb(model.decoder)
    perturb(model.joint)
    with torch.no_grad():
        model.joint.head.bias[VOCABULARY + 1] -= 1.5  # a token rarely shares its frame with the next
    model.encoder.load_state_dict(FastConformerModel.from_pretrained(folder / "ours").encoder.state_dict())
    model.eval().to(device, kind)
    extractor = FastConformerFeatureExtractor(feature_size=config.num_mel_bins)
    tokens_per_second = 0.0

    def prepare(features: torch.Tensor, lengths: torch.Tensor) -> Any:
        samples = lengths * extractor.hop_length
        generator = torch.Generator().manual_seed(0)
        waveforms = 0.1 * torch.randn(len(samples), int(samples.max()), generator=generator)
        waveforms *= torch.rand(len(samples), -(-waveforms.shape[1] // 1600), generator=generator).repeat_interleave(
            1600, dim=1
        )[:, : waveforms.shape[1]]  # louder and softer ten times a second
        inputs = waveforms.pin_memory() if device == "cuda" else waveforms, samples
        find_blank_bias(model, extract([clip[:4] for clip in inputs]))
        return inputs

    def extract(inputs: Any) -> Any:
        waveforms, samples = inputs
        return extractor(waveforms, audio_lengths=samples, sampling_rate=16000, return_tensors="pt", device=device)

    def encode(inputs: Any) -> None:
        nonlocal tokens_per_second
        features = extract(inputs)
        tokens = model.generate(features.input_features, input_lengths=features.input_lengths).cpu()
        seconds = int(inputs[1].sum()) / 16000
        tokens_per_second = int((tokens != model.config.pad_token_id).sum()) / seconds

    return System(
        prepare, encode, list(model.state_dict().values()), lambda: f"{tokens_per_second:.2f} tokens a second"
    )


def find_blank_bias(model: Any, features: Any) -> None:
    """Set the bias of the blank so that tokens come as often as in speech."""
    encoded = model.encode(features.input_features, input_lengths=features.input_lengths)
    low, high = -40.0, 40.0
    for _ in range(14):
        middle = (low + high) / 2
        model.joint.head.bias[VOCABULARY] = middle
        found, _ = model.decode_frames(encoded.last_hidden_state, encoded.encoder_lengths)
        seconds = int(features.input_lengths.sum()) / MEL_FRAMES_PER_SECOND
        if float(found.token_lengths.sum()) / seconds > TOKENS_PER_SECOND:
            low = middle
        else:
            high = middle


def build_onnxruntime(shape: str, folder: Path, dtype: str, attention: str, device: str) -> System:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise ImportError(f"this onnxruntime has no {provider}")
    path = folder / ("onnx_int8" if dtype == "int8" else "onnx") / "encoder.onnx"
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])

    def prepare(features: torch.Tensor, lengths: torch.Tensor) -> Any:
        return {"audio_signal": features.transpose(1, 2).contiguous().numpy(), "length": lengths.numpy()}

    def encode(inputs: Any) -> torch.Tensor:
        (outputs,) = session.run(["outputs"], inputs)
        return torch.from_numpy(outputs).transpose(1, 2)

    return System(prepare, encode)


def build_ceiling(shape: str, folder: Path, dtype: str, attention: str, device: str) -> System:
    """
    Build the ceiling, not an encoder: the two matrix products of a feed-forward module for the frames of the batch.

    They are `torch.nn.functional.linear`; in int8, which it does not have, `torch._int_mm`. The weights are the same
    in every call, so that they may stay in a cache; those of an encoder cannot.
    """
    config = our_config(shape)
    size, wide = config.hidden_size, config.intermediate_size
    generator = torch.Generator().manual_seed(0)

    def make(rows: int, columns: int) -> torch.Tensor:
        if dtype == "int8":
            return torch.randint(-127, 128, (rows, columns), dtype=torch.int8, generator=generator).to(device)
        return torch.randn(rows, columns, generator=generator).to(device, getattr(torch, dtype))

    weights = make(wide, size), make(size, wide)

    def prepare(features: torch.Tensor, lengths: torch.Tensor) -> Any:
        frames = min(sum(config.count_encoder_frames(length) for length in lengths.tolist()), MAX_CEILING_FRAMES)
        return make(frames, size), make(frames, wide)

    def encode(inputs: Any) -> None:
        for frames, weight in zip(inputs, weights, strict=True):
            if dtype == "int8":
                torch._int_mm(frames, weight.T)
            else:
                nn.functional.linear(frames, weight)

    return System(prepare, encode)


@dataclass(frozen=True)
class Family:
    """Builder of a system, and the cases that it supports."""

    build: Callable[[str, Path, str, str, str], System]
    dtypes: tuple[str, ...]
    kinds: tuple[str, ...] = ("full",)


FLOATS = ("float32", "bfloat16", "float16")
FAMILIES: dict[str, Family] = {
    "ours": Family(build_ours, (*FLOATS, "int8"), ATTENTION_KINDS),
    "nemo": Family(build_nemo, FLOATS, ATTENTION_KINDS),
    "transformers": Family(build_transformers, FLOATS),
    "onnxruntime": Family(build_onnxruntime, ("float32", "int8")),
    "chain": Family(build_chain, FLOATS, ("chain",)),
    "ceiling": Family(build_ceiling, (*FLOATS, "int8"), ATTENTION_KINDS),
}


def split_system(name: str) -> tuple[str, str]:
    """Split a name such as `ours_float32` into family and dtype."""
    family, _, dtype = name.partition("_")
    if family not in FAMILIES or dtype not in FAMILIES[family].dtypes:
        accepted = [f"{known}_{kind}" for known, entry in FAMILIES.items() for kind in entry.dtypes]
        raise ValueError(f"system {name!r} is not known; expected one of {accepted}.")
    return family, dtype


def build_system(name: str, shape: str, folder: Path, kind: str, device: str) -> System:
    """
    Build a system that is ready to encode.

    Args:
        name: Family and dtype, such as `ours_float32`.
        shape: See `nemo_options`.
        folder: Folder that `find_files` returned.
        kind: One of the family's.
        device: `cpu` or `cuda`.
    """
    family, dtype = split_system(name)
    if kind not in FAMILIES[family].kinds:
        raise ValueError(f"kind={kind!r} is not supported by {name}; expected one of {FAMILIES[family].kinds}.")
    return FAMILIES[family].build(shape, folder, dtype, kind, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=tuple(WRITERS))
    parser.add_argument("shape")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    WRITERS[arguments.step](arguments.shape, arguments.folder)


if __name__ == "__main__":
    main()
