"""
The encoder beside NeMo's `ConformerEncoder` with the same weights, one row for every option.

The truth is NeMo on each clip alone: that clip with one masked mel frame behind it, as NeMo's feature extractor
returns it. Ours must give the same for the clip alone and in a padded batch, with both forms of attention.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nemo_encoders import OUR_BASE, build_nemo_encoder, copy_weights
from tolerances import FLOAT32_SHARE

from transformers_fastconformer import FastConformerConfig, FastConformerEncoder

pytestmark = pytest.mark.nemo

MEL_LENGTHS = (203, 1, 7, 118, 0, 64)


def _subsampling(kind: str, factor: int, **ours: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"subsampling": kind, "subsampling_factor": factor}, {
        "subsampling_type": kind,
        "subsampling_factor": factor,
        **ours,
    }


def _local(
    left: int, right: int, tokens: int = 0, spacing: int = 1, is_separate: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    return {
        "self_attention_model": "rel_pos_local_attn",
        "att_context_size": [left, right],
        "global_tokens": tokens,
        "global_tokens_spacing": spacing,
        "global_attn_separate": is_separate,
    }, {
        "position_embedding_type": "rel_pos_local_attn",
        "attention_context": [left, right],
        "num_global_tokens": tokens,
        "global_tokens_spacing": spacing,
        "global_attention_separate": is_separate,
    }


def _context(style: str, *contexts: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    nemo = {"att_context_style": style, "att_context_size": contexts[0] if len(contexts) == 1 else list(contexts)}
    ours = {"attention_context_style": style, "attention_context": contexts[0]}
    if len(contexts) > 1:
        ours["attention_contexts"] = list(contexts)
    return nemo, ours


def _reduction(kind: str, position: int, factor: int) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"reduction": kind, "reduction_position": position, "reduction_factor": factor}, {
        "reduction_type": kind,
        "reduction_position": position,
        "reduction_factor": factor,
    }


def _norm(nemo: str, ours: str, groups: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"conv_norm_type": nemo}, {"conv_norm_type": ours, "conv_norm_groups": groups}


def _both(*rows: tuple[dict[str, Any], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    nemo, ours = {}, {}
    for row in rows:
        nemo |= row[0]
        ours |= row[1]
    return nemo, ours


STREAMING = (
    {"causal_downsampling": True, "conv_context_size": "causal", "conv_norm_type": "layer_norm", "xscaling": False},
    {"causal_downsampling": True, "conv_context": [8, 0], "conv_norm_type": "layer_norm", "scale_input": False},
)

ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "stock": ({}, {}),
    "no biases": ({"use_bias": False}, {"attention_bias": False, "convolution_bias": False}),
    "no input scaling": ({"xscaling": False}, {"scale_input": False}),
    "output projection": ({"feat_out": 20}, {"encoder_output_size": 20}),
    "feed-forward x2": ({"ff_expansion_factor": 2}, {"intermediate_size": 64}),
    **{f"dw_striding x{factor}": _subsampling("dw_striding", factor) for factor in (2, 8, 16)},
    **{f"striding x{factor}": _subsampling("striding", factor) for factor in (2, 4, 8)},
    "dw_striding, one channel": ({"subsampling_conv_channels": 1}, {"subsampling_conv_channels": 1}),
    "striding, as many channels as wide": (
        {"subsampling": "striding", "subsampling_conv_channels": -1},
        {"subsampling_type": "striding", "subsampling_conv_channels": 32},
    ),
    "stacking x4": _subsampling("stacking", 4),
    "stacking x3": _subsampling("stacking", 3),
    "stacking_norm x8": _subsampling("stacking_norm", 8),
    "no subsampling": ({"subsampling": None}, {"subsampling_type": "none", "subsampling_factor": 1}),
    "causal dw_striding x8": _both(_subsampling("dw_striding", 8), ({"causal_downsampling": True},) * 2),
    "causal striding x4": _both(_subsampling("striding", 4), ({"causal_downsampling": True},) * 2),
    "causal dw_striding x8, 80 mels": _both(
        _subsampling("dw_striding", 8),
        ({"causal_downsampling": True, "feat_in": 80}, {"causal_downsampling": True, "num_mel_bins": 80}),
    ),
    "pooling behind the first block": _reduction("pooling", 0, 2),
    "pooling x4 behind the second block": _reduction("pooling", 1, 4),
    "pooling behind the last block": _reduction("pooling", 2, 2),
    "pooling at the end": _reduction("pooling", -1, 2),
    "pooling behind the output projection": _both(
        _reduction("pooling", -1, 2), ({"feat_out": 20}, {"encoder_output_size": 20})
    ),
    "striding reduction behind the first block": _reduction("striding", 0, 2),
    "striding reduction x4 at the end": _reduction("striding", -1, 4),
    "abs_pos": ({"self_attention_model": "abs_pos"}, {"position_embedding_type": "abs_pos"}),
    "abs_pos, reduction": _both(
        ({"self_attention_model": "abs_pos"}, {"position_embedding_type": "abs_pos"}), _reduction("pooling", 1, 2)
    ),
    "abs_pos, chunks": _both(
        ({"self_attention_model": "abs_pos"}, {"position_embedding_type": "abs_pos"}),
        _context("chunked_limited", [8, 3]),
    ),
    "tied biases": ({"untie_biases": False}, {"tie_position_biases": True}),
    "regular [-1, 0]": _context("regular", [-1, 0]),
    "regular [5, 3]": _context("regular", [5, 3]),
    "regular [0, -1]": _context("regular", [0, -1]),
    "chunked_limited [8, 3]": _context("chunked_limited", [8, 3]),
    "chunked_limited [-1, 2]": _context("chunked_limited", [-1, 2]),
    "chunked_limited [0, 0]": _context("chunked_limited", [0, 0]),
    "chunked_limited, several": _context("chunked_limited", [12, 3], [12, 2], [12, 0], [-1, -1]),
    "chunked_limited_with_rc": (
        {"att_context_style": "chunked_limited_with_rc", "att_context_size": [70, 13]},
        {"attention_context_style": "chunked_limited_with_rc", "attention_context": [-1, -1, -1]},
    ),
    "cache-aware streaming": _both(STREAMING, _context("chunked_limited", [12, 3])),
    **{f"local [{left}, {right}]": _local(left, right) for left, right in ((8, 8), (2, 2), (64, 64))},
    **{
        f"local [{left}, {right}]": _local(left, right)
        for left, right in ((8, 3), (8, 6), (8, 0), (3, 8), (6, 8), (0, 8), (5, 4))
    },
    "local, tied biases": _both(_local(8, 8), ({"untie_biases": False}, {"tie_position_biases": False})),
    "local, reduction": _both(_local(8, 8), _reduction("pooling", 0, 2)),
    "local, no biases": _both(
        _local(8, 8), ({"use_bias": False}, {"attention_bias": False, "convolution_bias": False})
    ),
    "local, 1 global token": _local(8, 8, 1),
    "local, 1 global token, separate": _local(8, 8, 1, 1, True),
    "local, 3 global tokens": _local(8, 8, 3),
    "local, 4 global tokens, spacing 3": _local(8, 8, 4, 3),
    "local, 4 global tokens, spacing 3, separate": _local(8, 8, 4, 3, True),
    "local, 5 global tokens, spacing 6, unequal sides": _local(8, 5, 5, 6),
    "local, no global token, separate": _local(8, 8, 0, 1, True),
    "fused batch norm": _norm("fused_batch_norm", "fused_batch_norm"),
    "layer norm": _norm("layer_norm", "layer_norm"),
    "group norm": _norm("group_norm8", "group_norm", 8),
    "instance norm": _norm("instance_norm", "instance_norm"),
    "group norm, stacking": _both(_norm("group_norm4", "group_norm", 4), _subsampling("stacking", 4)),
    "group norm, causal x8": _both(
        _norm("group_norm4", "group_norm", 4), _subsampling("dw_striding", 8), ({"causal_downsampling": True},) * 2
    ),
    "group norm, pooling": _both(_norm("group_norm4", "group_norm", 4), _reduction("pooling", 0, 2)),
    "group norm, striding reduction": _both(_norm("group_norm4", "group_norm", 4), _reduction("striding", 0, 2)),
    "group norm, no subsampling": _both(
        _norm("group_norm4", "group_norm", 4),
        ({"subsampling": None}, {"subsampling_type": "none", "subsampling_factor": 1}),
    ),
    "causal convolution": ({"conv_context_size": "causal"}, {"conv_context": [8, 0]}),
    "asymmetric convolution": ({"conv_context_size": [5, 3]}, {"conv_context": [5, 3]}),
    "dynamic chunked convolution": ({"conv_context_style": "dcc"}, {}),
    "kernel 31": ({"conv_kernel_size": 31}, {"conv_kernel_size": 31}),
    "unified": (
        {"att_context_style": "chunked_limited_with_rc", "conv_context_style": "dcc"},
        {"attention_context_style": "chunked_limited_with_rc", "attention_context": [-1, -1, -1]},
    ),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many small operations: more threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def conformer_encoder_class() -> Any:
    pytest.importorskip("nemo.collections.asr", reason="needs NeMo")
    from nemo.collections.asr.modules import ConformerEncoder
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(logging.ERROR)
    return ConformerEncoder


def make_clips(num_mel_bins: int, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, num_mel_bins, generator=generator) for length in MEL_LENGTHS]


@torch.no_grad()
def run_nemo(encoder: Any, clip: torch.Tensor) -> tuple[torch.Tensor, int] | None:
    """NeMo's valid frames and their number for a clip alone; None for what it cannot run."""
    features = torch.nn.functional.pad(clip, (0, 0, 0, 1)).T[None]  # (1, mels, mel frames)
    try:
        output, lengths = encoder(audio_signal=features, length=torch.tensor([len(clip)]))
    except (RuntimeError, ValueError):
        return None
    return output[0, :, : int(lengths[0])].T, int(lengths[0])


@torch.no_grad()
def run_ours(encoder: FastConformerEncoder, clips: list[torch.Tensor]) -> list[torch.Tensor]:
    """Our valid frames of each clip, from one padded batch whose padding is noise."""
    lengths = torch.tensor([len(clip) for clip in clips])
    features = torch.randn(len(clips), int(lengths.max()) + 1, clips[0].shape[1])
    for row, clip in zip(features, clips, strict=True):
        row[: len(clip)] = clip
    output = encoder(features, input_lengths=lengths)
    return [frames[:length] for frames, length in zip(output.last_hidden_state, output.encoder_lengths, strict=True)]


def largest_relative_error(ours: list[torch.Tensor], truth: list[tuple[torch.Tensor, int] | None]) -> float:
    error = 0.0
    for frames, reference in zip(ours, truth, strict=True):
        if reference is None:
            continue
        assert len(frames) == reference[1]
        if len(frames):
            scale = reference[0].abs().max()
            error = max(error, float((frames - reference[0]).abs().max() / scale))
    return error


def compare(nemo_encoder: Any, encoder: FastConformerEncoder) -> dict[str, float]:
    clips = make_clips(encoder.config.num_mel_bins)
    truth = [run_nemo(nemo_encoder, clip) for clip in clips]
    # NeMo cannot pool, or take statistics, where there are fewer encoder frames than that needs.
    assert all(reference is not None or len(clip) <= 7 for reference, clip in zip(truth, clips, strict=True))
    errors = {}
    for implementation in ("eager", "sdpa"):
        encoder.set_attn_implementation(implementation)
        alone = [frames for clip in clips for frames in run_ours(encoder, [clip])]
        assert all(frames.isfinite().all() for frames in alone)
        errors[f"{implementation} alone"] = largest_relative_error(alone, truth)
        errors[f"{implementation} batch"] = largest_relative_error(run_ours(encoder, clips), truth)
    return errors


def check(name: str, nemo_encoder: Any, encoder: FastConformerEncoder) -> None:
    errors = compare(nemo_encoder, encoder)
    print(f"\n{name}: " + ", ".join(f"{form} {error:.1e}" for form, error in errors.items()))
    assert max(errors.values()) <= FLOAT32_SHARE, errors


def build_both(encoder_class: Any, name: str) -> tuple[Any, FastConformerEncoder]:
    nemo_options, our_options = ROWS[name]
    nemo_encoder = build_nemo_encoder(encoder_class, nemo_options)
    return nemo_encoder, copy_weights(nemo_encoder, FastConformerConfig(**(OUR_BASE | our_options)))


@pytest.mark.parametrize("name", ROWS)
def test_option_equals_nemo(name: str, conformer_encoder_class: Any) -> None:
    check(name, *build_both(conformer_encoder_class, name))


@pytest.mark.parametrize("context", [[128, 128], [6, 6], [6, 3]])
def test_full_attention_turned_local_equals_change_attention_model(
    context: list[int], conformer_encoder_class: Any, tmp_path: Path
) -> None:
    nemo_encoder, encoder = build_both(conformer_encoder_class, "stock")
    encoder.save_pretrained(tmp_path)
    nemo_encoder.change_attention_model("rel_pos_local_attn", context)
    nemo_encoder.eval()  # the modules it makes are in training mode
    loaded = FastConformerEncoder.from_pretrained(
        tmp_path, position_embedding_type="rel_pos_local_attn", attention_context=context
    )
    check(f"loaded with {context}", nemo_encoder, loaded.eval())
    encoder.set_attention_context(context, position_embedding_type="rel_pos_local_attn")
    check(f"changed to {context}", nemo_encoder, encoder)
    nemo_encoder.change_attention_model("rel_pos", [-1, -1])
    nemo_encoder.eval()
    encoder.set_attention_context([-1, -1], position_embedding_type="rel_pos")
    check("changed back", nemo_encoder, encoder)


@pytest.mark.parametrize("context", [[12, 2], [12, 0], [-1, -1], [8, 1]])
def test_chosen_context_equals_set_default_att_context_size(context: list[int], conformer_encoder_class: Any) -> None:
    nemo_encoder, encoder = build_both(conformer_encoder_class, "chunked_limited, several")
    nemo_encoder.set_default_att_context_size(context)
    encoder.set_attention_context(context)
    check(f"context {context}", nemo_encoder, encoder)


@pytest.mark.parametrize("context", [[8, 4, 2], [0, 1, 0], [5, 7, 0], [3, 2, 9]])
def test_chosen_chunk_equals_nemo(context: list[int], conformer_encoder_class: Any) -> None:
    nemo_encoder, encoder = build_both(conformer_encoder_class, "unified")
    nemo_encoder.set_default_att_context_size(context)
    encoder.set_attention_context(context)
    check(f"context {context}", nemo_encoder, encoder)


@pytest.mark.parametrize(
    ("name", "nemo_training", "our_training"),
    [
        ("stock", {}, {}),
        (
            "stock",
            {"dropout_pre_encoder": 0.3, "dropout_emb": 0.1, "dropout_att": 0.4},
            {"dropout_pre_encoder": 0.3, "dropout_positions": 0.1, "attention_dropout": 0.4},
        ),
        ("stock", {"stochastic_depth_drop_prob": 0.6}, {"layerdrop": 0.6}),
        (
            "stock",
            {"stochastic_depth_drop_prob": 0.6, "stochastic_depth_mode": "uniform", "stochastic_depth_start_layer": 2},
            {"layerdrop": 0.6, "layerdrop_mode": "uniform", "layerdrop_start_layer": 2},
        ),
        ("chunked_limited, several", {}, {}),
        (
            "chunked_limited, several",
            {"att_context_probs": [0.1, 0.2, 0.3, 0.4]},
            {"attention_context_probabilities": [0.1, 0.2, 0.3, 0.4]},
        ),
        ("abs_pos", {"dropout_pre_encoder": 0.3}, {"dropout_pre_encoder": 0.3}),
    ],
)
def test_training_draws_and_computes_what_nemo_does(
    name: str, nemo_training: dict[str, Any], our_training: dict[str, Any], conformer_encoder_class: Any
) -> None:
    """From equal seeds: dropouts, skipped blocks, contexts, and the batch-norm statistics they leave."""
    quiet = dict.fromkeys(("dropout", "dropout_pre_encoder", "dropout_emb", "dropout_att"), 0.0)
    our_quiet = dict.fromkeys(
        ("dropout", "activation_dropout", "dropout_pre_encoder", "dropout_positions", "attention_dropout"), 0.0
    )
    nemo_options, our_options = ROWS[name]
    nemo_encoder = build_nemo_encoder(conformer_encoder_class, nemo_options | quiet | nemo_training).train()
    config = FastConformerConfig(**(OUR_BASE | our_options | our_quiet | our_training), attn_implementation="eager")
    encoder = copy_weights(nemo_encoder, config).train()
    features, lengths = torch.randn(3, 120, 16), torch.tensor([119, 64, 90])
    for seed in range(6):
        random.seed(seed)
        torch.manual_seed(seed)
        truth, truth_lengths = nemo_encoder(audio_signal=features.transpose(1, 2), length=lengths)
        random.seed(seed)
        torch.manual_seed(seed)
        output = encoder(features, input_lengths=lengths)
        assert torch.equal(output.encoder_lengths, truth_lengths)
        for frames, reference, length in zip(output.last_hidden_state, truth, truth_lengths, strict=True):
            reference = reference.T[:length]
            assert (frames[:length] - reference).abs().max() <= FLOAT32_SHARE * reference.abs().max()
    torch.testing.assert_close(
        encoder.layers[2].conv.norm.running_mean, nemo_encoder.layers[2].conv.batch_norm.running_mean
    )


@torch.no_grad()
def test_dropout_inside_blocks_sets_as_much_to_zero_as_in_nemo(conformer_encoder_class: Any) -> None:
    """Its draws cannot be equal, as the tensors lie in memory otherwise; their share and their places can."""
    quiet = {"dropout_pre_encoder": 0.0, "dropout": 0.3}
    nemo_encoder = build_nemo_encoder(conformer_encoder_class, quiet).train()
    config = FastConformerConfig(
        **OUR_BASE, dropout_pre_encoder=0.0, dropout=0.3, activation_dropout=0.3, attention_dropout=0.0
    )
    encoder = copy_weights(nemo_encoder, config).train()
    features, lengths = torch.randn(3, 400, 16), torch.tensor([400, 400, 400])
    shares: dict[str, list[float]] = {}
    for name, module in (("nemo", nemo_encoder), ("ours", encoder)):
        layer = module.layers[0]

        def count(_: Any, __: Any, output: torch.Tensor, name: str = name) -> None:
            shares.setdefault(name, []).append(float((output == 0).float().mean()))

        for dropout in (layer.feed_forward1.dropout, layer.feed_forward2.dropout, layer.dropout):
            dropout.register_forward_hook(count)
    nemo_encoder(audio_signal=features.transpose(1, 2), length=lengths)
    encoder(features, input_lengths=lengths)
    assert len(shares["ours"]) == len(shares["nemo"]) == 6
    assert shares["ours"] == pytest.approx(shares["nemo"], abs=0.02)
