"""Proof that a converted checkpoint computes the same as NeMo: both run side by side, compared stage by stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .converted_runner import ConvertedRunner
from .reference import NemoRunner
from .stage_comparison import VerificationReport, compare_outputs
from .stage_outputs import (
    load_stage_outputs,
)


def build_batches(clips: dict[str, np.ndarray], sampling_rate: int) -> dict[str, list[np.ndarray]]:
    """
    Build batches for a verification: every clip by itself, all in one padded batch, and silence with short clips.

    Args:
        clips: Samples by name, float32 at the model's rate.
        sampling_rate: That rate, in Hz.
    """
    generator = np.random.default_rng(0)
    noise = generator.normal(0.0, 0.05, 2 * sampling_rate).astype(np.float32)
    silence = np.zeros(sampling_rate, dtype=np.float32)
    some = next(iter(clips.values()))
    batches = {f"{name} alone": [clip] for name, clip in clips.items()}
    batches["all clips in one batch"] = list(clips.values())
    batches["odd lengths"] = [some[: len(some) // 2 + 1], noise[: sampling_rate + 1], noise[: sampling_rate // 3]]
    batches["silence and a short clip"] = [silence, noise[: sampling_rate // 10 + 7], some]
    # Two frames: a standard deviation over the frames needs two.
    batches["two frames"] = [noise[: sampling_rate // 50]]
    return batches


def verify_against_stored(
    expectations: str | Path, folder: str | Path, clips: dict[str, np.ndarray], attn_implementation: str = "sdpa"
) -> VerificationReport:
    """
    Compare with outputs of NeMo that were stored before, on the CPU in float32.

    Args:
        expectations: File of `save_stage_outputs`; the names of its batches are names of clips.
        folder: The converted checkpoint.
        clips: Samples by name.
        attn_implementation: Attention of this package, `"eager"` or `"sdpa"`.
    """
    reference, provenance = load_stage_outputs(expectations)
    converted = ConvertedRunner(folder, "cpu", attn_implementation)
    ours = [converted.run(batch.name, [clips[batch.name]], batch.joint_targets) for batch in reference]
    return VerificationReport(
        reference=f"stored outputs of NeMo {provenance['nemo']}",
        dtype="float32",
        device="cpu",
        batches=[batch.name for batch in reference],
        rows=compare_outputs(reference, ours, is_stored=True),
    )


def verify_conversion(
    checkpoint: str | Path,
    folder: str | Path,
    clips: dict[str, np.ndarray],
    device: str = "cpu",
    dtype: str = "float32",
    attn_implementation: str = "sdpa",
) -> VerificationReport:
    """
    Run NeMo and this package on the same audio and compare every stage.

    Args:
        checkpoint: The `.nemo` archive.
        folder: Folder of the converted checkpoint.
        clips: Samples by name, float32 at the model's rate.
        device: Device on which both run. On CUDA TF32 is switched off for the comparison.
        dtype: `"float32"`, or `"bfloat16"` or `"float16"`: then errors against float32 are compared, and tokens are
            not.
        attn_implementation: Attention of this package, `"eager"` or `"sdpa"`.

    Raises:
        ImportError: when NeMo is not installed; the message says how to install it.
    """
    torch_dtype = getattr(torch, dtype)
    is_float32 = torch_dtype == torch.float32
    nemo = NemoRunner(checkpoint, device)
    converted = ConvertedRunner(folder, device, attn_implementation)
    if not converted.heads:  # the encoder of a model with heads
        nemo.heads = []
    languages = getattr(converted.model.config, "prompt_languages", None)
    language = min(languages) if languages else None  # the choice does not matter
    batches = build_batches(clips, converted.feature_extractor.sampling_rate)
    allowed_tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        prompt_ids = converted.prompt_ids
        reference = [
            nemo.run(name, waveforms, language=language, prompt_ids=prompt_ids) for name, waveforms in batches.items()
        ]
        ours = [
            converted.run(
                outputs.name, batches[outputs.name], outputs.joint_targets, torch_dtype, is_float32, language
            )
            for outputs in reference
        ]
        own = None
        if not is_float32:
            for outputs in reference:
                outputs.hypotheses = {}
            own = [
                nemo.run(
                    outputs.name,
                    batches[outputs.name],
                    torch_dtype,
                    outputs.joint_targets,
                    language=language,
                    prompt_ids=prompt_ids,
                )
                for outputs in reference
            ]
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed_tf32
    import nemo as nemo_package

    return VerificationReport(
        reference=f"NeMo {nemo_package.__version__}",
        dtype=dtype,
        device=device,
        batches=list(batches),
        rows=compare_outputs(reference, ours, own, are_features_exact=not nemo.computes_features_alone),
    )
