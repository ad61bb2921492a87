"""The head of self-supervised pre-training: tokens, predictions and losses, training, saving and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import ENCODER_SHAPE
from transformers import AutoModel, AutoModelForPreTraining

from transformers_fastconformer import FastConformerForCTC, FastConformerForPreTraining, FastConformerPreTrainingConfig

AFTER = {"masks_after_subsampling": True, "frames_per_token": 1}


def build(**options: Any) -> FastConformerForPreTraining:
    torch.manual_seed(0)
    shape = {**ENCODER_SHAPE, "num_codebooks": 2, "codebook_size": 12}
    masks = {"mask_block_frames": 16, "mask_threshold": 0.6, "mask_probability": 0.05}
    model = FastConformerForPreTraining(FastConformerPreTrainingConfig(**{**shape, **masks, **options}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(3, 85, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", [{}, AFTER], ids=["mel frames", "encoder frames"])
def test_a_clip_depends_on_no_neighbour(options: dict[str, Any], features: torch.Tensor) -> None:
    model = build(**options)
    lengths = torch.tensor([85, 33, 61])
    for row, length in zip(features, lengths.tolist(), strict=True):
        row[length:] = float("nan")
    together: Any = model(features, input_lengths=lengths)
    assert together.loss is None
    assert together.logits.shape == (3, 11, 2, 12)
    for clip, length in enumerate(lengths.tolist()):
        alone: Any = model(features[clip : clip + 1, :length])
        count = int(together.encoder_lengths[clip])
        assert int(alone.encoder_lengths[0]) == count
        assert torch.equal(together.token_ids[clip, :count], alone.token_ids[0, :count])
        torch.testing.assert_close(together.logits[clip, :count], alone.logits[0, :count])
    clean = torch.nn.functional.pad(features[0], (0, 0, 0, 3))
    frames = model.encoder.subsample(clean[None], torch.tensor([85]))[0] if options else clean[None]
    assert torch.equal(model.quantizer(frames)[0], together.token_ids[0])


def test_the_loss_is_of_hidden_frames(features: torch.Tensor) -> None:
    model = build()
    hidden = torch.zeros(3, 85, dtype=torch.bool)
    hidden[0, 16:30] = hidden[2, 64:69] = True  # 8 of 8 and 6 of 8 mel frames; 5 of 8
    output: Any = model(features, hidden_frames=hidden)
    assert output.is_predicted.nonzero().tolist() == [[0, 2], [0, 3], [2, 8]]
    log_probs = output.logits.log_softmax(dim=-1)
    expected = [
        -log_probs[clip, frame, book, output.token_ids[clip, frame, book]]
        for clip, frame in ((0, 2), (0, 3), (2, 8))
        for book in range(2)
    ]
    torch.testing.assert_close(output.loss, torch.stack(expected).mean())
    plain: Any = model(features)
    assert torch.equal(output.token_ids, plain.token_ids)
    assert not torch.equal(output.logits[0], plain.logits[0])
    noisy: Any = model(features + 1.0, clean_features=features, hidden_frames=hidden)
    assert torch.equal(noisy.token_ids, plain.token_ids)
    nothing: Any = model(features, hidden_frames=torch.zeros(3, 85))
    assert float(nothing.loss) == 0.0


@pytest.mark.parametrize("options", [{}, AFTER, {"mask_overlap": False, "mask_probability": 0.5}])
def test_training_hides_frames_and_learns(options: dict[str, Any], features: torch.Tensor) -> None:
    model = build(**options).train()
    if options == AFTER:
        model.config.mask_block_frames, model.config.mask_probability = 2, 0.4
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    quantizer = {name: tensor.clone() for name, tensor in model.quantizer.state_dict().items()}
    losses = []
    for _ in range(12):
        torch.manual_seed(1)
        output: Any = model(features)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(output.loss.detach()))
    assert losses[-1] < losses[0]
    assert all(torch.equal(tensor, quantizer[name]) for name, tensor in model.quantizer.state_dict().items())


def test_saved_and_loaded(features: torch.Tensor, tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    again = AutoModelForPreTraining.from_pretrained(tmp_path).eval()
    assert type(again) is FastConformerForPreTraining
    assert again.quantizer.codebooks.dtype == torch.float64
    expected: Any = model(features)
    found: Any = again(features)
    assert torch.equal(found.token_ids, expected.token_ids)
    assert torch.equal(found.logits, expected.logits)
    encoder, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(encoder).__name__ == "FastConformerModel"
    assert not report["missing_keys"] | report["unexpected_keys"]
    recogniser = FastConformerForCTC.from_pretrained(tmp_path, vocab_size=9)  # a fine-tuning begins so
    assert torch.equal(recogniser.encoder.layers[1].norm_out.weight, model.encoder.layers[1].norm_out.weight)


def test_fresh_models_have_a_quantiser_of_their_own(features: torch.Tensor) -> None:
    config = build().config
    first, second = FastConformerForPreTraining(config), FastConformerForPreTraining(config)
    assert not torch.equal(first.quantizer.codebooks, second.quantizer.codebooks)
    assert float(first.quantizer.projection.std()) > 0
    assert float(first.masking.embedding.std()) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_frames": torch.zeros(3, 80)}, r"the shape of hidden_frames=\(3, 80\) .* expected \(3, 85\) or"),
        ({"clean_features": torch.zeros(3, 84, 8)}, r"expected that of input_features, \(3, 85, 8\)"),
        ({"input_features": torch.zeros(3, 85, 9)}, r"expected \(batch, mel frames, 8\)"),
        ({"input_features": torch.zeros(3, 0, 8)}, r"expected \(batch, mel frames, 8\)"),
        ({"input_lengths": torch.tensor([85, 86, 1])}, "input_lengths"),
    ],
)
def test_what_is_refused(features: torch.Tensor, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()(**{"input_features": features, **arguments})
    with pytest.raises(ValueError, match="output_attentions=True is not supported; expected False with masks after"):
        build(**AFTER)(features, output_attentions=True)
