"""
The numerical contract, stage by stage, on real speech: every head family with fully perturbed weights, and the
demonstration checkpoints. NeMo 3.0 runs beside us on the same clips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from balance import balance_classes

from transformers_fastconformer.demonstration import CHECKPOINT_PATH, STREAMING_CHECKPOINT_PATH
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.converted_runner import ConvertedRunner
from transformers_fastconformer.nemo.reference import NemoRunner
from transformers_fastconformer.nemo.stage_comparison import compare_outputs
from transformers_fastconformer.nemo.stage_outputs import StageOutputs

pytestmark = pytest.mark.nemo


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "ctc": ("ctc", {}),
    "ctc, characters": ("ctc", {"tokenizer": "char"}),
    "rnnt, 1 LSTM layer": ("rnnt", {}),
    "rnnt, 2 LSTM layers, narrow joint": (
        "rnnt",
        {
            "decoder": {"prednet": {"pred_hidden": 40, "pred_rnn_layers": 2}},
            "joint": {"jointnet": {"joint_hidden": 28, "activation": "tanh", "dropout": 0.0}},
        },
    ),
    "rnnt, characters": ("rnnt", {"tokenizer": "char"}),
    "tdt": ("tdt", {}),
    "tdt, durations 0 2 4 8": ("tdt", {"durations": [0, 2, 4, 8]}),
    "tdt, 2 LSTM layers, no biases": (
        "tdt",
        {"encoder": {"use_bias": False, "xscaling": False}, "decoder": {"prednet": {"pred_rnn_layers": 2}}},
    ),
    "hybrid tdt-ctc": ("hybrid_tdt_ctc", {"tokenizer": "unigram"}),
    "hybrid rnnt-ctc": ("hybrid_rnnt_ctc", {}),
}


def _check(
    nemo: NemoRunner, folder: Path, batches: dict[str, list[np.ndarray]], context: list[int] | None = None
) -> list[StageOutputs]:
    """Every stage on every batch; the plain form of attention on the padded and the adversarial ones."""
    reference = [nemo.run(name, waveforms) for name, waveforms in batches.items()]
    padded = [outputs for outputs in reference if len(batches[outputs.name]) > 1 or outputs.name == "two frames"]
    for attn_implementation, expected in (("sdpa", reference), ("eager", padded)):
        converted = ConvertedRunner(folder, attn_implementation=attn_implementation)
        if context is not None:
            converted.model.set_attention_context(context)
        assert list(converted.heads) == nemo.heads
        ours = [converted.run(outputs.name, batches[outputs.name], outputs.joint_targets) for outputs in expected]
        rows = compare_outputs(expected, ours)
        failures = [row for row in rows if not row.passed]
        assert not failures, failures
        stages = {row.stage for row in rows}
        assert {"features", "subsampling", "block 0", "block 1", "encoder"} <= stages
    return reference


@pytest.mark.parametrize("family", FAMILIES)
def test_family_equals_nemo(
    family: str,
    build_nemo_model: Callable[..., Any],
    speech_batches: dict[str, list[np.ndarray]],
    tmp_path: Path,
) -> None:
    kind, overrides = FAMILIES[family]
    model = build_nemo_model(kind, **overrides)
    balance_classes(model, max((clips[0] for clips in speech_batches.values()), key=len))
    archive, folder = tmp_path / "model.nemo", tmp_path / "converted"
    model.save_to(str(archive))
    convert_nemo_checkpoint(archive, folder)
    nemo = NemoRunner(archive)
    reference = _check(nemo, folder, speech_batches)
    for head in nemo.heads:
        tokens = [token for outputs in reference for clip in outputs.hypotheses[head] for token in clip.tokens]
        assert len(tokens) > 500, f"{head} emitted {len(tokens)} tokens; the comparison would be empty"
        assert len(set(tokens)) > 4, f"{head} emitted only {set(tokens)}"
    if nemo.heads[0] != "ctc":
        # In half a second of each: NeMo's `greedy` is slow.
        short = {name: [clips[0][:8000]] for name, clips in speech_batches.items() if len(clips) == 1}
        for max_symbols in (1, 2, 10):
            num_tokens, num_full_frames = _check_greedy(nemo, folder, short, max_symbols)
            assert num_tokens >= 10, f"compared only {num_tokens} tokens"
            assert num_full_frames > 0 or max_symbols == 10


def _check_greedy(
    nemo: NemoRunner, folder: Path, clips: dict[str, list[np.ndarray]], max_symbols: int | None = None
) -> tuple[int, int]:
    """
    NeMo's `greedy`, one clip after the other, against ours.

    Returns:
        How many tokens were compared, and how many frames have as many tokens as they may.
    """
    head = nemo.heads[0]
    config = nemo.model.cfg.decoding
    converted = ConvertedRunner(folder)
    converted.model.config.decoding_strategy = "greedy"
    if max_symbols is not None:
        converted.model.config.max_symbols_per_step = config.greedy.max_symbols = max_symbols
    num_tokens, num_full_frames = 0, 0
    for name, waveforms in clips.items():
        theirs = nemo.run(name, waveforms, strategy="greedy")
        ours = converted.run(name, waveforms, theirs.joint_targets)
        for expected, found in zip(theirs.hypotheses[head], ours.hypotheses[head], strict=True):
            assert found == expected
            num_tokens += len(found.tokens)
            limit = converted.model.config.max_symbols_per_step
            num_full_frames += sum(count >= limit for count in Counter(found.frame_indices).values())
    return num_tokens, num_full_frames


def test_demonstration_checkpoint_equals_nemo(speech_batches: dict[str, list[np.ndarray]], tmp_path: Path) -> None:
    folder = tmp_path / "converted"
    convert_nemo_checkpoint(CHECKPOINT_PATH, folder)
    nemo = NemoRunner(CHECKPOINT_PATH)
    reference = _check(nemo, folder, speech_batches)
    assert sum(len(clip.tokens) for outputs in reference for clip in outputs.hypotheses["tdt"]) > 50
    alone = {name: clips for name, clips in speech_batches.items() if len(clips) == 1}
    num_tokens, _ = _check_greedy(nemo, folder, alone)
    assert num_tokens > 50


@pytest.mark.parametrize("context", [[56, 13], [56, 6], [56, 1], [56, 0]], ids=str)
def test_streaming_demonstration_checkpoint_equals_nemo(
    context: list[int], speech_batches: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    """In each look-ahead, with the masks of a whole file."""
    folder = tmp_path / "converted"
    convert_nemo_checkpoint(STREAMING_CHECKPOINT_PATH, folder)
    nemo = NemoRunner(STREAMING_CHECKPOINT_PATH)
    nemo.model.encoder.set_default_att_context_size(context)
    reference = _check(nemo, folder, speech_batches, context)
    for head in nemo.heads:
        assert sum(len(clip.tokens) for outputs in reference for clip in outputs.hypotheses[head]) > 50
