"""Exported graphs run by ONNX Runtime next to the model they were made from, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..modeling.masking import lengths_to_mask
from .graphs import GraphPart
from .streaming_graphs import cut_windows, encode_windows, is_streaming, start_caches

# Largest difference to the model, as a share of the largest magnitude of the stage.
TOLERANCE = 1e-4
# Clips, mel frames: other sizes than those that the graph was made with, one frame of the encoder among them.
CHECKED_SIZES = ((1, 1), (1, 7), (3, 150), (1, 1200))
CHECKED_STEPS = 3
CHECKED_STREAMS = 3
CHECKED_STREAM_FRAMES = 1200
# Axis of the frames of each output of an encoder; None for one without.
FRAME_AXES = {"outputs": 2, "encoded_lengths": None, "logprobs": 1}
SEED = 20


class RuntimeGraph:
    """
    A graph in ONNX Runtime.

    Args:
        part: The part of a model that it was made from.
        path: Its file.
    """

    def __init__(self, part: GraphPart, path: Path) -> None:
        import onnxruntime

        self.part = part
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._known = {entry.name for entry in self._session.get_inputs()}

    def run(self, *arguments: torch.Tensor) -> list[torch.Tensor]:
        """The outputs for the arguments of the part; the graph may have no input for some of them."""
        pairs = zip(self.part.input_names, arguments, strict=True)
        inputs = {name: np.ascontiguousarray(value.numpy()) for name, value in pairs if name in self._known}
        return [torch.from_numpy(output) for output in self._session.run(list(self.part.output_names), inputs)]


def check_stages(model: Any, parts: dict[str, GraphPart], folder: Path) -> dict[str, float]:
    """
    Run graphs on random input and compare what they give with the model.

    Args:
        model: The model that they were made from.
        parts: The parts by the names of their files.
        folder: Their folder.

    Returns:
        The largest relative difference of each output, by the names of file and output.

    Raises:
        RuntimeError: for a difference above `TOLERANCE`.
    """
    differences: dict[str, float] = {}
    for file_name, part in parts.items():
        graph = RuntimeGraph(part, folder / file_name)
        if is_streaming(part):
            differences |= _check_stream(model, file_name, graph)
        for arguments in list_inputs(model, part):
            if _is_encoder(part) and not is_streaming(part):
                expected, lengths = _run_encoder(model, part, *arguments)
            else:
                expected, lengths = _run_as_built(part, arguments), None
            for name, ours, theirs in zip(part.output_names, expected, graph.run(*arguments), strict=True):
                stage = f"{file_name} {name}"
                difference = _compare(ours, theirs, lengths, None if lengths is None else FRAME_AXES[name])
                if not difference <= TOLERANCE:
                    sizes = [tuple(argument.shape) for argument in arguments]
                    raise RuntimeError(
                        f"{stage}: the graph differs from the model by {difference:.1e} of the largest magnitude for "
                        f"inputs of {sizes}; expected at most {TOLERANCE:.0e}. Nothing was written."
                    )
                differences[stage] = max(differences.get(stage, 0.0), difference)
    return differences


def list_inputs(model: Any, part: GraphPart) -> list[tuple[torch.Tensor, ...]]:
    """Random arguments of a part, of several sizes."""
    generator = torch.Generator(device="cpu").manual_seed(SEED)
    if is_streaming(part):
        return [_window_inputs(part, num_streams, generator) for num_streams in (1, CHECKED_STREAMS)]
    return _encoder_inputs(model, generator) if _is_encoder(part) else _step_inputs(model, part, generator)


def _window_inputs(part: GraphPart, num_streams: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Arguments of a step of streams whose caches are full."""
    shapes = [(num_streams, *example.shape[1:]) for example in part.examples]
    window, _, channels, times, _ = (
        torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu") for shape in shapes
    )
    length = torch.full((num_streams,), window.shape[2], dtype=torch.int64, device="cpu")
    known = torch.full((num_streams,), channels.shape[2], dtype=torch.int64, device="cpu")
    return window, length, channels, times, known


def _check_stream(model: Any, file_name: str, graph: RuntimeGraph) -> dict[str, float]:
    """Steps of fresh streams one after the other, next to the model with a cache of its own."""
    part = graph.part
    generator = torch.Generator(device="cpu").manual_seed(SEED)
    shape = (CHECKED_STREAMS, CHECKED_STREAM_FRAMES, model.config.num_mel_bins)
    windows = cut_windows(model, torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu"))
    frames = encode_windows(model, windows)
    with torch.no_grad():
        is_ctc = part.output_names[0] == "logprobs"
        expected = model.ctc_head(frames).log_softmax(dim=-1) if is_ctc else frames
    found = run_windows(graph, windows)
    stage = f"{file_name} {part.output_names[0]} of {len(windows)} steps"
    difference = _compare(expected, found if is_ctc else found.transpose(1, 2), None, None)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"{stage}: the graph differs from the model's own stream by {difference:.1e} of the largest magnitude; "
            f"expected at most {TOLERANCE:.0e}. Nothing was written."
        )
    return {stage: difference}


def run_windows(graph: RuntimeGraph, windows: list[torch.Tensor]) -> torch.Tensor:
    """The first output of all steps of streams, joined along the frames."""
    num_streams, _, num_frames = windows[0].shape
    caches = start_caches(graph.part, num_streams)
    length = torch.full((num_streams,), num_frames, dtype=torch.int64, device="cpu")
    steps = []
    for window in windows:
        output, _, *caches = graph.run(window, length, *caches)
        steps.append(output)
    return torch.cat(steps, dim=1 if graph.part.output_names[0] == "logprobs" else 2)


def _is_encoder(part: GraphPart) -> bool:
    return "audio_signal" in part.input_names


def _encoder_inputs(model: Any, generator: torch.Generator) -> list[tuple[torch.Tensor, ...]]:
    inputs: list[tuple[torch.Tensor, ...]] = []
    for num_clips, num_frames in CHECKED_SIZES:
        shape = (num_clips, model.config.num_mel_bins, num_frames)
        features = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        lengths = [max(num_frames - 50 * clip, 1) for clip in range(num_clips)]
        inputs.append((features, torch.tensor(lengths, dtype=torch.int64, device="cpu")))
    return inputs


def _step_inputs(model: Any, part: GraphPart, generator: torch.Generator) -> list[tuple[torch.Tensor, ...]]:
    """Arguments of a step of decoding for one clip and more; the first token is the blank."""
    inputs: list[tuple[torch.Tensor, ...]] = []
    for num_clips in range(1, 1 + CHECKED_STEPS):
        arguments = []
        for example, axes in zip(part.examples, part.dynamic_axes, strict=True):
            shape = [num_clips if axis in axes else size for axis, size in enumerate(example.shape)]
            if example.is_floating_point():
                argument = torch.randn(shape, generator=generator, dtype=example.dtype, device="cpu")
            elif example.ndim == 2:  # tokens
                size = model.config.vocab_size
                argument = torch.randint(0, size, shape, generator=generator, dtype=example.dtype, device="cpu")
                argument[0] = model.config.blank_token_id
            else:
                argument = torch.ones(shape, dtype=example.dtype, device="cpu")
            arguments.append(argument)
        inputs.append(tuple(arguments))
    return inputs


@torch.no_grad()
def _run_encoder(
    model: Any, part: GraphPart, features: torch.Tensor, lengths: torch.Tensor
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Outputs of the model as users run it, not of the modules that the graph was made of, and their lengths."""
    encoded = model.encode(features.transpose(1, 2), input_lengths=lengths)
    frames = encoded.last_hidden_state
    if "logprobs" in part.output_names:
        return (model.ctc_head(frames).log_softmax(dim=-1),), encoded.encoder_lengths
    return (frames.transpose(1, 2), encoded.encoder_lengths), encoded.encoder_lengths


@torch.no_grad()
def _run_as_built(part: GraphPart, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    outputs = part.module(*arguments)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _compare(ours: torch.Tensor, theirs: torch.Tensor, lengths: torch.Tensor | None, axis: int | None) -> float:
    """
    The largest difference as a share of the largest magnitude; infinite for other shapes and other integers.

    Args:
        ours, theirs: The outputs.
        lengths: Frames of each clip that count; None for all.
        axis: That of the frames; None where there are none.
    """
    if ours.shape != theirs.shape:
        return float("inf")
    if not ours.is_floating_point():
        return 0.0 if bool((ours.to(torch.int64) == theirs.to(torch.int64)).all()) else float("inf")
    if lengths is not None and axis is not None:
        padding = ~lengths_to_mask(lengths, ours.shape[axis])
        padding = padding[:, None] if axis == 2 else padding[..., None]
        ours, theirs = ours.masked_fill(padding, 0.0), theirs.masked_fill(padding, 0.0)
    return float((ours - theirs).abs().max() / ours.abs().max())
