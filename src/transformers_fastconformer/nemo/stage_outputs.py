"""Outputs of a checkpoint, stage by stage, in one form for NeMo's run and ours; in memory and in a file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file


@dataclass
class ClipHypothesis:
    """
    The result of one head for one clip.

    Args:
        tokens: Token ids.
        batch_tokens: Token ids of the same clip decoded in its batch.
        frame_indices: Encoder frame of each token.
        durations: TDT's durations; None for other heads.
        text: The transcript.
        timestamps: `char`, `word` and `segment`: lists of (text, first frame, last frame, start and end in seconds).
            None where NeMo does not give times, that is with aggregate tokenizers.
    """

    tokens: list[int]
    batch_tokens: list[int]
    frame_indices: list[int]
    durations: list[int] | None
    text: str
    timestamps: dict[str, list[tuple[str, int, int, float, float]]] | None


@dataclass
class StageOutputs:
    """
    Outputs of one batch of clips from one checkpoint.

    Args:
        name: Name of the batch in the table.
        tensors: By stage, a float32 tensor for each clip, (frames, ...), with only its real frames.
        hypotheses: By head (`ctc`, `rnnt`, `tdt`, `multitask`), a hypothesis for each clip.
        joint_targets: Tokens that the joint network or the prompted decoder was evaluated for, a list for each clip.
    """

    name: str
    tensors: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    hypotheses: dict[str, list[ClipHypothesis]] = field(default_factory=dict)
    joint_targets: list[list[int]] = field(default_factory=list)

    def keep(self, stage: str, batch: torch.Tensor, lengths: torch.Tensor) -> None:
        """Store the real frames of (batch, frames, ...)."""
        self.tensors[stage] = [clip[:count].float().cpu() for clip, count in zip(batch, lengths.tolist(), strict=True)]


def save_stage_outputs(path: str | Path, batches: list[StageOutputs], provenance: dict[str, str]) -> None:
    """Write batches into one safetensors file: tensors as they are, the rest as JSON in its metadata."""
    tensors = {
        f"{number}/{stage}/{clip}": tensor.clone(memory_format=torch.contiguous_format)
        for number, outputs in enumerate(batches)
        for stage, clips in outputs.tensors.items()
        for clip, tensor in enumerate(clips)
    }
    rest = [
        {
            "name": outputs.name,
            "stages": {stage: len(clips) for stage, clips in outputs.tensors.items()},
            "hypotheses": {head: [asdict(clip) for clip in clips] for head, clips in outputs.hypotheses.items()},
            "joint_targets": outputs.joint_targets,
        }
        for outputs in batches
    ]
    save_file(tensors, path, metadata={"batches": json.dumps(rest), "provenance": json.dumps(provenance)})


def load_stage_outputs(path: str | Path) -> tuple[list[StageOutputs], dict[str, str]]:
    """Read the batches and the provenance that `save_stage_outputs` wrote."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        batches = []
        for number, rest in enumerate(json.loads(metadata["batches"])):
            tensors = {
                stage: [file.get_tensor(f"{number}/{stage}/{clip}") for clip in range(count)]
                for stage, count in rest["stages"].items()
            }
            hypotheses = {
                head: [_hypothesis_from_json(clip) for clip in clips] for head, clips in rest["hypotheses"].items()
            }
            batches.append(StageOutputs(rest["name"], tensors, hypotheses, rest["joint_targets"]))
    return batches, json.loads(metadata["provenance"])


def _hypothesis_from_json(values: dict[str, Any]) -> ClipHypothesis:
    if values["timestamps"] is None:
        return ClipHypothesis(**values)
    timestamps = {level: [tuple(item) for item in items] for level, items in values["timestamps"].items()}
    return ClipHypothesis(**{**values, "timestamps": timestamps})


# Name of what a multi-talker model writes while it follows a speaker, next to those of the heads.
PROBABILITIES = "speaker probabilities"
FOLLOWED = "a followed speaker"


def made_up_activities(num_clips: int, num_frames: int) -> torch.Tensor:
    """Activities of a speaker and of others for the verification of a multi-talker model: (clips, frames, 2)."""
    generator = torch.Generator().manual_seed(0)
    activities = torch.rand(num_clips, num_frames, 2, generator=generator, dtype=torch.float32, device="cpu")
    activities[..., 1] = (activities[..., 1] > 0.5).float()
    return activities


def pad_waveforms(waveforms: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad clips with zeros to (batch, samples); also returns the number of samples of each, (batch,)."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms], dtype=torch.int64, device="cpu")
    padded = torch.zeros(len(waveforms), int(lengths.max()), dtype=torch.float32, device="cpu")
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(waveform)
    return padded, lengths


@contextlib.contextmanager
def capture_outputs(modules: dict[str, torch.nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """Collect the outputs of modules while the `with` block runs; of a tuple the first item."""
    captured: dict[str, torch.Tensor] = {}

    def hook_for(name: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            captured[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [module.register_forward_hook(hook_for(name)) for name, module in modules.items()]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def stage_modules(encoder: torch.nn.Module, front: str) -> dict[str, torch.nn.Module]:
    """The modules whose outputs are stages: the front of the encoder and every block."""
    modules = {"subsampling": getattr(encoder, front)}
    for index, layer in enumerate(encoder.layers):  # type: ignore[arg-type]
        modules[f"block {index}"] = layer
    return modules


def keep_encoder_stages(
    outputs: StageOutputs, captured: dict[str, torch.Tensor], encoded: torch.Tensor, lengths: torch.Tensor
) -> None:
    """Store the stages up to the encoder's output; where blocks reduce in time, only those with its frames."""
    for stage, batch in captured.items():
        if batch.shape[1] == encoded.shape[1]:
            outputs.keep(stage, batch, lengths)
    outputs.keep("encoder", encoded, lengths)
