"""The CTC heads: greedy texts against loops, the loss against every path, labels and options."""

from __future__ import annotations

import pytest
import torch
from ctc_loss_loop import ctc_loss_of_clip
from decoding_loop import decode_ctc_clip
from models import BLANK, CTC_HEADS, build_model, make_features

LENGTHS = [90, 41, 8, 0, 66]


@pytest.mark.parametrize("kind", CTC_HEADS)
def test_a_batch_gives_each_clip_its_own_tokens(kind):
    model, features = build_model(kind), make_features(LENGTHS)
    found = model.generate(features, input_lengths=torch.tensor(LENGTHS), return_dict_in_generate=True)
    assert found.decoder_type == "ctc"
    assert found.durations is None
    assert found.encoder_lengths.tolist() == [12, 6, 1, 0, 9]
    for clip, length in enumerate(LENGTHS):
        count = int(found.sequence_lengths[clip])
        assert (found.sequences[clip, count:] == model.config.pad_token_id).all()
        if length == 0:
            assert count == 0
            continue
        with torch.no_grad():
            logits = model(features[clip : clip + 1, :length]).logits[0]
        expected = decode_ctc_clip(logits.log_softmax(dim=-1).tolist(), BLANK)
        assert found.sequences[clip, :count].tolist() == [emission.token for emission in expected]
        assert found.frame_indices[clip, :count].tolist() == [emission.frame for emission in expected]
        log_probs = found.log_probs[clip, :count].tolist()
        assert log_probs == pytest.approx([emission.log_prob for emission in expected], abs=1e-4)
    assert found.sequence_lengths.sum() > 10


@pytest.mark.parametrize("kind", CTC_HEADS)
def test_generate_returns_the_tokens_alone_unless_asked(kind):
    model, features = build_model(kind), make_features(LENGTHS)
    lengths = torch.tensor(LENGTHS)
    sequences = model.generate(features, input_lengths=lengths)
    assert torch.equal(
        sequences, model.generate(features, input_lengths=lengths, return_dict_in_generate=True).sequences
    )
    mask = torch.arange(features.shape[1]) < lengths[:, None]
    assert torch.equal(sequences, model.generate(features, attention_mask=mask))
    assert not sequences.requires_grad


@pytest.mark.parametrize("option", [{"foo": 1}, {"beam_size": 4}])
@pytest.mark.parametrize("kind", CTC_HEADS)
def test_unknown_options_are_refused(kind, option):
    (name,) = option
    with pytest.raises(ValueError, match=f"{name}: not an option of decoding; expected some of language"):
        build_model(kind).generate(make_features([20]), **option)


@pytest.mark.parametrize("kind", CTC_HEADS)
def test_the_padding_is_blank(kind):
    """The best classes of all frames of a batch are those of its clips, and the loss does not see the padding."""
    model, features, lengths = build_model(kind), make_features(LENGTHS), torch.tensor(LENGTHS)
    with torch.no_grad():
        found = model(features, input_lengths=lengths)
        expected = model.ctc_head(model.encode(features, None, lengths).last_hidden_state)
    padding = torch.arange(found.logits.shape[1]) >= found.encoder_lengths[:, None]
    assert padding.any()
    assert (found.logits.argmax(dim=-1)[padding] == BLANK).all()
    assert found.logits.log_softmax(dim=-1)[padding][:, BLANK].eq(0.0).all()
    assert torch.equal(found.logits[~padding], expected[~padding])


LABELS = [[1, 2, 2], [3], []]


@pytest.mark.parametrize("padding", [-100, BLANK, 7])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", CTC_HEADS)
def test_the_loss_is_that_of_every_path(kind, reduction, padding):
    model = build_model(kind, ctc_loss_reduction=reduction, pad_token_id=7)
    lengths = [40, 24, 9]
    features = make_features(lengths)
    labels = torch.tensor([row + [padding] * (3 - len(row)) for row in LABELS])
    losses = []
    for clip, length in enumerate(lengths):
        with torch.no_grad():
            log_probs = model(features[clip : clip + 1, :length]).logits[0].double().log_softmax(dim=-1)
        losses.append(ctc_loss_of_clip(log_probs.tolist(), LABELS[clip], BLANK))
    output = model(features, input_lengths=torch.tensor(lengths), labels=labels)
    expected = sum(losses) / (len(losses) if reduction == "mean" else 1)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("encoder.", "ctc_head.")):
            assert torch.isfinite(parameter.grad).all(), name
        else:
            assert parameter.grad is None, name  # the transducer takes no part
    assert model.ctc_head.weight.grad.abs().max() > 0


def test_a_clip_too_short_for_its_labels_adds_nothing_or_infinity():
    features, labels = make_features([40, 8]), torch.tensor([[1, 2, 3], [1, 2, 3]])
    lengths = torch.tensor([40, 8])
    alone = build_model("ctc")(features[:1], labels=labels[:1]).loss.item()
    model = build_model("ctc")
    loss = model(features, input_lengths=lengths, labels=labels).loss
    assert loss.item() == pytest.approx(alone / 2, rel=1e-5)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    strict = build_model("ctc", ctc_zero_infinity=False)
    assert strict(features, input_lengths=lengths, labels=labels).loss.item() == float("inf")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1, BLANK + 1]], f"labels hold the id {BLANK + 1}; expected ids below {BLANK}"),
        ([[1, -100, 2]], "padding between their tokens"),
        ([[1, BLANK, 2]], "padding between their tokens"),
        ([1, 2], r"labels has shape \(2,\); expected \(1, tokens\)"),
        ([[1], [2]], r"labels has shape \(2, 1\)"),
    ],
)
@pytest.mark.parametrize("kind", ["ctc", "tdt_hybrid_ctc", "rnnt", "tdt_hybrid"])
def test_bad_labels_are_refused(kind, labels, message):
    with pytest.raises(ValueError, match=message):
        build_model(kind)(make_features([20]), labels=torch.tensor(labels))


def test_nothing_to_transcribe():
    model = build_model("ctc")
    assert model.generate(make_features([9, 9]), input_lengths=torch.tensor([0, 0])).shape == (2, 0)
    assert model.generate(torch.zeros(0, 9, 8)).shape == (0, 0)
