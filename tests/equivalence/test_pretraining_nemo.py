"""Masks, masked features' tokens and losses of self-supervised models next to NeMo's, with the same random numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import NEST_SECTIONS, POST_CONV_SECTIONS

from transformers_fastconformer import FastConformerForPreTraining
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint

pytestmark = pytest.mark.nemo

BOOKS = {"num_books": 2, "num_classes": 64}


def with_options(sections: dict[str, Any], **masking: Any) -> dict[str, Any]:
    """Two codebooks, and other masks."""
    return {
        **sections,
        "num_books": 2,
        "quantizer": {**sections["quantizer"], **BOOKS},
        "decoder": {**sections["decoder"], "num_classes": 64, "num_decoders": 2, "use_bias": False},
        "loss": {**sections["loss"], "num_decoders": 2},
        "masking": {**sections["masking"], **masking},
    }


OVERLAPPING = {"allow_overlap": True, "mask_prob": 0.03}
# class, sections, restored again before it is compared
MODELS = {
    "denoising": ("EncDecDenoiseMaskedTokenPredModel", with_options(NEST_SECTIONS, **OVERLAPPING)),
    "blocks apart": ("EncDecMaskedTokenPredModel", with_options(NEST_SECTIONS, mask_prob=0.5)),
    "after the subsampling": ("EncDecMaskedTokenPredModel", with_options(POST_CONV_SECTIONS, **OVERLAPPING)),
    # NeMo 3.0 cannot run the denoising class so: it forgets to turn the clean features.
    "blocks apart after the subsampling": (
        "EncDecMaskedTokenPredModel",
        with_options(POST_CONV_SECTIONS, mask_prob=0.4),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_tokens(
    name: str, build_nemo_model: Callable[..., Any], speech_batches: dict[str, list[np.ndarray]], tmp_path: Path
) -> None:
    from nemo.core.classes.common import typecheck

    nemo_class, sections = MODELS[name]
    nemo = build_nemo_model("ctc", nemo_class=nemo_class, tokenizer="char", sections=sections)
    nemo.save_to(str(tmp_path / "model.nemo"))
    convert_nemo_checkpoint(tmp_path / "model.nemo", tmp_path / "converted")
    ours = FastConformerForPreTraining.from_pretrained(tmp_path / "converted").eval()
    assert ours.quantizer.codebooks.dtype == torch.float64
    assert torch.equal(ours.quantizer.codebooks, nemo.quantizer.codebooks)
    clip = max((clips[0] for clips in speech_batches.values()), key=len)
    lengths = torch.tensor([40000, 31000, 9000])
    waveforms = [torch.from_numpy(clip[start : start + count]) for start, count in enumerate(lengths.tolist())]
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    nemo.preprocessor.featurizer.dither, nemo.preprocessor.featurizer.pad_to = 0.0, 16
    features, mel_lengths = nemo.preprocessor(input_signal=batch, length=lengths)
    noisy = features + 0.3 * torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    noisy = noisy * (torch.arange(features.shape[2]) < mel_lengths[:, None])[:, None]
    is_after = ours.config.masks_after_subsampling
    is_denoising = "Denoise" in nemo_class
    given = {"processed_signal": features, "processed_signal_length": mel_lengths}
    if is_denoising:
        given |= {"processed_noisy_input_signal": noisy, "processed_noisy_input_signal_length": mel_lengths}
    heard = (noisy if is_denoising else features).transpose(1, 2)
    clean = features.transpose(1, 2) if is_denoising else None
    for seed in range(4):
        torch.manual_seed(seed)
        with typecheck.disable_checks():  # they do not know all arguments
            log_probs, frame_lengths, masks, tokens = nemo(**given, apply_mask=True)
        loss = nemo.loss(masks=masks, decoder_outputs=log_probs, targets=tokens, decoder_lengths=frame_lengths)
        torch.manual_seed(seed)
        of_nemo = masks[:, 0]  # of (batch, width, frames)
        hidden = ours.draw_hidden_frames(frame_lengths if is_after else mel_lengths, of_nemo.shape[1])
        assert torch.equal(hidden, of_nemo.bool()), seed
        assert hidden.any()
        found: Any = ours(heard, input_lengths=mel_lengths, clean_features=clean, hidden_frames=hidden)
        assert torch.equal(found.token_ids, tokens)
        expected = log_probs.transpose(2, 3)
        for clip, count in enumerate(frame_lengths.tolist()):
            difference = found.logits.log_softmax(dim=-1)[clip, :count] - expected[clip, :count]
            assert float(difference.abs().max()) <= 5e-6 * float(expected.abs().max())
        assert float(found.loss.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert len(set(tokens.flatten().tolist())) > 5
    torch.manual_seed(seed)
    drawn: Any = ours.train()(heard, input_lengths=mel_lengths, clean_features=clean)
    assert torch.equal(drawn.token_ids, tokens)
    drawn.loss.backward()
    moved = {key for key, parameter in ours.named_parameters() if parameter.grad is not None}
    assert not any(key.startswith(("quantizer", "masking")) for key in moved)
    assert "prediction_head.weight" in moved
