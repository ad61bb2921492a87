"""Training as NeMo's: masks, losses between the blocks, shares and options of losses, batch norm, and ten steps."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from families import canary_overrides
from transformers import AutoModelForSpeechSeq2Seq

from common.training_pairs import Batch, build_pair
from transformers_fastconformer import FastConformerConfig, read_audio
from transformers_fastconformer.checkpoints.model_classes import ARCHITECTURES
from transformers_fastconformer.modeling.spec_augment import spec_augment
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint

pytestmark = pytest.mark.nemo

QUIET_ENCODER: dict[str, Any] = {"dropout": 0.0, "dropout_pre_encoder": 0.0, "dropout_emb": 0.0, "dropout_att": 0.0}
QUIET: dict[str, Any] = {"encoder": QUIET_ENCODER}
QUIET_TRANSDUCER: dict[str, Any] = {
    **QUIET,
    "decoder": {"prednet": {"dropout": 0.0}},
    "joint": {"jointnet": {"dropout": 0.0}},
}
AUGMENTATION = "nemo.collections.asr.modules.SpectrogramAugmentation"
LENGTHS = torch.tensor([200, 140, 61])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            {"freq_masks": 2, "time_masks": 10, "freq_width": 27, "time_width": 0.05},
            {"mask_feature_count": 2, "mask_time_count": 10, "mask_feature_width": 27, "mask_time_width": 0.05},
        ),
        ({"time_masks": 3, "time_width": 100}, {"mask_time_count": 3, "mask_time_width": 100}),
        ({"freq_masks": 1, "mask_value": -4.0}, {"mask_feature_count": 1, "mask_value": -4.0}),
    ],
)
def test_masks_are_those_of_equal_seeds(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    from nemo.collections.asr.modules import SpectrogramAugmentation

    augmentation, config = SpectrogramAugmentation(**theirs), FastConformerConfig(**ours)
    features = torch.randn(3, 200, 80)
    for seed in range(10):
        torch.manual_seed(seed)
        expected = augmentation(input_spec=features.transpose(1, 2).clone(), length=LENGTHS).transpose(1, 2)
        torch.manual_seed(seed)
        assert torch.equal(spec_augment(config, features, LENGTHS), expected)


def test_rectangles_have_the_same_distribution() -> None:
    from nemo.collections.asr.modules import SpectrogramAugmentation

    augmentation = SpectrogramAugmentation(rect_masks=2, rect_time=12, rect_freq=30, rng=random.Random(0))
    config = FastConformerConfig(mask_rectangle_count=2, mask_rectangle_frames=12, mask_rectangle_features=30)
    lengths = torch.full((400,), 60)
    theirs = (augmentation(input_spec=torch.ones(400, 80, 60), length=lengths) == 0).transpose(1, 2).float()
    ours = (spec_augment(config, torch.ones(400, 60, 80), lengths) == 0).float()
    assert float(ours.mean()) == pytest.approx(float(theirs.mean()), rel=0.1)
    for axis in (0, 1):
        assert (ours.mean(0).mean(axis) - theirs.mean(0).mean(axis)).abs().max() < 0.03


class Both:
    """NeMo's model and ours of its archive, in training."""

    def __init__(self, nemo: Any, folder: Path, archive: Path) -> None:
        nemo.save_to(str(archive))
        mapped = convert_nemo_checkpoint(archive, folder).mapped
        self.nemo = nemo.train()
        self.nemo._trainer = SimpleNamespace(global_step=0, log_every_n_steps=10**9)
        self.nemo._optimizer = torch.optim.SGD(nemo.parameters(), lr=0.1)
        self.nemo.preprocessor.featurizer.dither = 0.0
        self.ours = ARCHITECTURES[mapped.architecture].from_pretrained(folder).train()
        self.ours.config.omega = 0.0
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(1, 20, (3, 4), generator=generator)
        self.token_lengths = torch.tensor([4, 2, 1])
        self.waveforms = 0.1 * torch.randn(3, 16000, generator=generator)
        self.sample_lengths = torch.tensor([16000, 9000, 5000])

    def step_nemo(self, seed: int) -> tuple[float, dict[str, Any]]:
        logged: dict[str, Any] = {}
        self.nemo.log_dict = logged.update
        random.seed(seed)
        torch.manual_seed(seed)
        result = self.nemo.training_step((self.waveforms, self.sample_lengths, self.tokens, self.token_lengths), 0)
        return float(result["loss"]), logged | result.get("log", {})

    def step_ours(self, seed: int) -> Any:
        features, lengths = self.nemo.preprocessor(input_signal=self.waveforms, length=self.sample_lengths)
        labels = self.tokens.masked_fill(torch.arange(4) >= self.token_lengths[:, None], -100)
        random.seed(seed)
        torch.manual_seed(seed)
        return self.ours(features.transpose(1, 2), input_lengths=lengths, labels=labels)


@pytest.mark.parametrize("kind", ["ctc", "hybrid_rnnt_ctc"])
@pytest.mark.parametrize("output_size", [-1, 24])
def test_losses_between_blocks_with_masks_and_contexts(
    kind: str, output_size: int, build_nemo_model: Callable[..., Any], tmp_path: Path
) -> None:
    """All that draws at random, from one seed, and what is left of the batch in the statistics of batch norm."""
    overrides: dict[str, Any] = {**(QUIET if kind == "ctc" else QUIET_TRANSDUCER)}
    overrides["encoder"] = {
        **QUIET_ENCODER,
        "n_layers": 3,
        "feat_out": output_size,
        "stochastic_depth_drop_prob": 0.3,
        "att_context_size": [[8, 3], [8, 1], [-1, -1]],
        "att_context_probs": [0.25, 0.5, 0.25],
    }
    overrides["spec_augment"] = {"_target_": AUGMENTATION, "freq_masks": 2, "time_masks": 2, "time_width": 0.2}
    overrides["interctc"] = {"loss_weights": [0.3, 0.1], "apply_at_layers": [1, 0]}
    if kind != "ctc":
        overrides["loss"] = {"loss_name": "pytorch"}
        overrides["aux_ctc"] = {"ctc_loss_weight": 0.4, "ctc_reduction": "mean_volume"}
        overrides["rnnt_reduction"] = "mean_volume"
    both = Both(build_nemo_model(kind, **overrides), tmp_path / "ours", tmp_path / "model.nemo")
    totals = set()
    for seed in range(5):
        expected, logged = both.step_nemo(seed)
        output = both.step_ours(seed)
        assert float(output.loss) == pytest.approx(expected, rel=1e-5)
        totals.add(round(expected, 4))
        for layer, found in zip((1, 0), output.intermediate_ctc_losses, strict=True):
            assert float(found) == pytest.approx(float(logged[f"inter_ctc_loss_l{layer}"]), rel=1e-5)
        if kind != "ctc":
            assert float(output.transducer_loss) == pytest.approx(float(logged["train_rnnt_loss"]), rel=1e-5)
            assert float(output.ctc_loss) == pytest.approx(float(logged["train_ctc_loss"]), rel=1e-5)
    assert len(totals) == 5
    for ours, theirs in zip(both.ours.encoder.layers, both.nemo.encoder.layers, strict=True):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            theirs_buffer = getattr(theirs.conv.batch_norm, name)
            torch.testing.assert_close(getattr(ours.conv.norm, name), theirs_buffer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean_batch", "mean", "mean_volume", "sum"])
def test_reductions_and_fastemit_of_the_archive(
    reduction: str, build_nemo_model: Callable[..., Any], tmp_path: Path
) -> None:
    """With NeMo's loss of a CPU, in loops compiled by Numba."""
    model = build_nemo_model(
        "rnnt",
        **QUIET_TRANSDUCER,
        rnnt_reduction=reduction,
        loss={"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.1, "clamp": -1.0}},
    )
    both = Both(model, tmp_path / "ours", tmp_path / "model.nemo")
    assert both.ours.config.fastemit_lambda == 0.1
    expected, _ = both.step_nemo(0)
    assert float(both.step_ours(0).loss) == pytest.approx(expected, rel=1e-5)


def test_dropouts_of_prediction_and_joint_network_are_in_their_places(
    build_nemo_model: Callable[..., Any], tmp_path: Path
) -> None:
    """With a dropout that is a function of the place, both compute the same."""
    model = build_nemo_model("rnnt", decoder={"prednet": {"dropout": 0.25}}, loss={"loss_name": "pytorch"})
    both = Both(model, tmp_path / "ours", tmp_path / "model.nemo")
    counts = []
    for part in (both.nemo, both.ours):
        dropouts = [module for module in part.modules() if isinstance(module, torch.nn.Dropout) and module.p > 0]
        counts.append(sorted(round(module.p, 3) for module in dropouts))
        for module in dropouts:
            module.forward = _drop_by_place(module.p)  # type: ignore[method-assign]
    start = torch.full((3, 1), both.ours.config.blank_token_id)
    theirs, _, _ = both.nemo.decoder(targets=both.tokens, target_length=both.token_lengths)
    ours, _ = both.ours.decoder(torch.cat([start, both.tokens], dim=1))
    torch.testing.assert_close(ours, theirs.transpose(1, 2), rtol=1e-5, atol=1e-6)
    frames = torch.randn(3, 7, 32)
    joint = both.nemo.joint(encoder_outputs=frames.transpose(1, 2), decoder_outputs=theirs)
    found = both.ours.compute_joint_logits(frames, both.tokens)
    torch.testing.assert_close(found.log_softmax(-1), joint, rtol=1e-4, atol=1e-4)
    # In a block NeMo has one for the sums and one in each feed-forward module; those of attention are functions here.
    assert counts[1].count(0.2) == counts[0].count(0.2) == 1
    assert counts[1].count(0.25) == counts[0].count(0.25) == 1


def _drop_by_place(probability: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def drop(states: torch.Tensor) -> torch.Tensor:
        # By the last axis, which both have in common.
        keep = (torch.arange(states.shape[-1]) * 7919 % 101) / 101.0 >= probability
        return states * keep / (1.0 - probability)

    return drop


@pytest.mark.parametrize("case", ["tdt-ctc", "ctc", "rnnt"])
def test_ten_steps_have_the_same_losses(case: str, speech_dir: Path, tmp_path: Path) -> None:
    pair = build_pair(case, tmp_path)
    clips = sorted((speech_dir / "digits").glob("*/*.flac"))[::37]
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    generator = np.random.default_rng(0)
    for _ in range(10):
        chosen = [clips[place] for place in generator.choice(len(clips), 3, replace=False)]
        tokens = [pair.processor.tokenizer.encode(words[int(clip.name[0])]) for clip in chosen]
        losses = pair.step(Batch([read_audio(clip)[:12000] for clip in chosen], tokens))
        assert {step.loss for step in losses} >= {"loss"}
        assert max(step.relative_difference for step in losses) <= 1e-3


CANARY_DROPOUTS = {"ffn_dropout": 0.2, "attn_score_dropout": 0.15, "attn_layer_dropout": 0.1}


def test_dropouts_of_canary_are_those_of_equal_seeds(build_nemo_model: Callable[..., Any], tmp_path: Path) -> None:
    """Both draw in the same order for tensors of the same shape; SpecAugment and the encoder's front before them."""
    overrides = {**canary_overrides(), "encoder": QUIET_ENCODER | {"dropout_pre_encoder": 0.1}}
    sections = overrides["sections"]
    sections["transf_encoder"] |= CANARY_DROPOUTS
    sections["transf_decoder"]["config_dict"] |= CANARY_DROPOUTS | {"embedding_dropout": 0.3}
    sections["head"]["dropout"] = 0.25
    sections["spec_augment"] = {"_target_": AUGMENTATION, "freq_masks": 1, "freq_width": 5, "time_masks": 2}
    nemo = build_nemo_model("ctc", **overrides)
    nemo.save_to(str(tmp_path / "a.nemo"))
    convert_nemo_checkpoint(tmp_path / "a.nemo", tmp_path / "ours")
    ours = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "ours", attn_implementation="eager").train()
    assert ours.config.token_head_dropout == 0.25
    features, lengths = torch.randn(3, 16, 200), torch.tensor([200, 140, 61])
    tokens = torch.randint(0, ours.config.num_tokens, (3, 9))
    nemo.train()
    for seed in range(3):
        torch.manual_seed(seed)
        expected, _, frames, _ = nemo.forward(
            processed_signal=features,
            processed_signal_length=lengths,
            transcript=tokens,
            transcript_length=torch.tensor([9, 9, 9]),
        )
        torch.manual_seed(seed)
        output = ours(features.transpose(1, 2), input_lengths=lengths, decoder_input_ids=tokens)
        for clip, count in enumerate(output.encoder_lengths.tolist()):
            torch.testing.assert_close(
                output.encoder_last_hidden_state[clip, :count], frames[clip, :count], rtol=1e-4, atol=1e-4
            )
        torch.testing.assert_close(output.logits.log_softmax(-1), expected, rtol=1e-4, atol=1e-4)
