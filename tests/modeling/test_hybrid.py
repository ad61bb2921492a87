"""The two heads of a hybrid checkpoint: each loads from the files of the other, and each keeps both."""

from __future__ import annotations

import pytest
import torch
from models import CTC_HEADS, HEADS, build_config, build_model, few_of, make_features

from transformers_fastconformer import (
    FastConformerForCTC,
    FastConformerForRNNT,
    FastConformerForTDT,
    FastConformerHybridForCTC,
    ParakeetTDTForCTC,
    ParakeetTDTForTDT,
)
from transformers_fastconformer.inference.loading import choose_head
from transformers_fastconformer.modeling.hybrid import share_as_ctc


def names_without_gradient(model) -> list[str]:
    """Trainable parameters that a step of training does not reach, on which distributed training stops."""
    model.train()
    lengths, labels = torch.tensor([90, 41]), torch.tensor([[1, 2], [3, -100]])
    model(make_features([90, 41]), input_lengths=lengths, labels=labels).loss.backward()
    return [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]


PAIRS = [
    ("tdt_hybrid", ParakeetTDTForCTC),
    ("tdt_hybrid", FastConformerForTDT),
    ("tdt_hybrid_ctc", ParakeetTDTForTDT),
    ("tdt_hybrid_ctc", FastConformerForTDT),
    ("rnnt_hybrid", FastConformerHybridForCTC),
    ("rnnt_hybrid_ctc", FastConformerForRNNT),
]


@pytest.mark.parametrize(("kind", "other"), PAIRS)
def test_either_head_loads_what_the_other_saved(kind, other, saved_model, tmp_path):
    model, folder = saved_model(kind)
    loaded, report = other.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    state = model.state_dict()
    assert set(loaded.state_dict()) == set(state)
    loaded.save_pretrained(tmp_path)
    again, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())


def test_the_ctc_head_of_a_hybrid_is_a_ctc_model():
    hybrid = build_model("tdt_hybrid_ctc")
    plain = FastConformerForCTC(build_config("ctc")).eval()
    plain.load_state_dict({name: tensor for name, tensor in hybrid.state_dict().items() if name in plain.state_dict()})
    features, lengths = make_features([60, 33]), torch.tensor([60, 33])
    labels = torch.tensor([[1, 2], [3, -100]])
    with torch.no_grad():
        ours, truth = (model(features, input_lengths=lengths, labels=labels) for model in (hybrid, plain))
    assert torch.equal(ours.logits, truth.logits)
    assert torch.equal(ours.loss, truth.loss)
    assert torch.equal(
        hybrid.generate(features, input_lengths=lengths), plain.generate(features, input_lengths=lengths)
    )


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("kind", ["tdt_hybrid", "rnnt_hybrid"])
def test_the_loss_of_a_hybrid_weighs_both(kind, weight):
    model = build_model(kind, ctc_loss_weight=weight)
    features, labels = make_features([60]), torch.tensor([[1, 2]])
    with torch.no_grad():
        both = model(features, labels=labels).loss
        model.config.ctc_loss_weight = 0.0
        transducer = model(features, labels=labels).loss
    ctc = build_model(f"{kind}_ctc")(features, labels=labels).loss
    assert both.item() == pytest.approx(((1 - weight) * transducer + weight * ctc).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("model_class", "kind"),
    [(ParakeetTDTForTDT, "tdt"), (ParakeetTDTForCTC, "tdt"), (FastConformerHybridForCTC, "rnnt")],
)
def test_a_checkpoint_without_a_ctc_head_is_refused(model_class, kind, saved_model):
    message = f"{model_class.__name__} needs a hybrid checkpoint; this one has has_ctc_head=False"
    with pytest.raises(ValueError, match=message):
        model_class(build_config(kind))
    with pytest.raises(ValueError, match=message):
        model_class.from_pretrained(saved_model(kind)[1])


@pytest.mark.parametrize(
    ("kind", "ctc_class"), [("tdt_hybrid", ParakeetTDTForCTC), ("rnnt_hybrid", FastConformerHybridForCTC)]
)
def test_sharing_copies_nothing(kind, ctc_class):
    model = build_model(kind)
    shared = share_as_ctc(model)
    assert type(shared) is ctc_class
    assert not shared.training
    truth = dict(model.named_parameters())
    assert all(parameter is truth[name] for name, parameter in shared.named_parameters())
    features = make_features([60])
    assert torch.equal(shared.generate(features), build_model(f"{kind}_ctc").generate(features))
    with pytest.raises(ValueError, match="has_ctc_head=False"):
        share_as_ctc(build_model("tdt"))


@pytest.mark.parametrize("kind", few_of(HEADS))
def test_every_trainable_parameter_has_a_gradient(kind, saved_model):
    """Made anew and loaded; a CTC head keeps its transducer frozen."""
    made, folder = saved_model(kind)
    loaded = type(made).from_pretrained(folder)
    loaded_again, _ = type(made).from_pretrained(folder, output_loading_info=True)
    for model in (build_model(kind), loaded, loaded_again):
        assert names_without_gradient(model) == []
        is_hybrid_ctc = kind in CTC_HEADS and kind != "ctc"
        frozen = {name.split(".")[0] for name, value in model.named_parameters() if not value.requires_grad}
        assert frozen == ({"decoder", "joint"} if is_hybrid_ctc else set())


@pytest.mark.parametrize("kind", ["tdt_hybrid_ctc", "rnnt_hybrid_ctc"])
def test_the_transducer_of_a_ctc_head_can_be_trained(kind):
    transducer = choose_head(build_model(kind), "transducer")
    assert names_without_gradient(transducer) == []
    assert all(value.requires_grad for value in transducer.parameters())


@pytest.mark.parametrize("kind", ["tdt_hybrid", "rnnt_hybrid"])
def test_both_heads_of_one_load(kind):
    """`share_as_ctc` copies nothing: training one trains the other."""
    model = build_model(kind)
    other, features = share_as_ctc(model), make_features([90, 41])
    assert {value.data_ptr() for value in other.parameters()} == {value.data_ptr() for value in model.parameters()}
    before = other(features).logits
    with torch.no_grad():
        model.ctc_head.weight.mul_(2.0)
    assert not torch.equal(other(features).logits, before)
    assert other.generate(features).shape[0] == model.generate(features).shape[0] == 2
    assert names_without_gradient(model) == []
