"""The Auto classes of Transformers know every configuration, class and saved folder of this package."""

from __future__ import annotations

import pytest
import torch
import transformers
from models import KINDS, build_config, make_features
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCTC

from transformers_fastconformer import (
    AutoModelForRNNT,
    AutoModelForTDT,
    FastConformerFeatureExtractor,
    FastConformerForCTC,
    FastConformerForRNNT,
    FastConformerForTDT,
    FastConformerHybridForCTC,
    FastConformerModel,
    ParakeetTDTForCTC,
)
from transformers_fastconformer.auto import register

ACCEPTED = [
    *((AutoModel, kind, FastConformerModel) for kind in KINDS),
    (AutoModelForCTC, "ctc", FastConformerForCTC),
    (AutoModelForCTC, "tdt_hybrid", ParakeetTDTForCTC),
    (AutoModelForCTC, "tdt_hybrid_ctc", ParakeetTDTForCTC),
    (AutoModelForCTC, "rnnt_hybrid", FastConformerHybridForCTC),
    (AutoModelForCTC, "rnnt_hybrid_ctc", FastConformerHybridForCTC),
    (AutoModelForRNNT, "rnnt", FastConformerForRNNT),
    (AutoModelForRNNT, "rnnt_stateless", FastConformerForRNNT),
    (AutoModelForRNNT, "rnnt_hybrid_ctc", FastConformerForRNNT),
    (AutoModelForTDT, "tdt", FastConformerForTDT),
    (AutoModelForTDT, "tdt_far", FastConformerForTDT),
    (AutoModelForTDT, "tdt_hybrid_ctc", FastConformerForTDT),
]


@pytest.mark.parametrize(("auto_class", "kind", "model_class"), ACCEPTED)
def test_a_saved_folder_gives_the_class_and_its_weights(auto_class, kind, model_class, saved_model):
    model, folder = saved_model(kind)
    loaded, report = auto_class.from_pretrained(folder, output_loading_info=True)
    assert type(loaded) is model_class
    assert not any(report.values()), report
    truth = model.state_dict()
    prefix = "encoder." if kind == "encoder" else ""
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, truth[name.removeprefix(prefix)]), name
    with torch.no_grad():
        assert torch.isfinite(loaded(make_features([20]))[0]).all()


@pytest.mark.parametrize(("auto_class", "kind", "model_class"), ACCEPTED)
def test_a_configuration_gives_the_class(auto_class, kind, model_class):
    model = auto_class.from_config(build_config(kind))
    assert type(model) is model_class
    assert model.config.model_type == build_config(kind).model_type


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"torch_dtype": "float16"}, {"device_map": "auto"}])
@pytest.mark.parametrize(
    ("auto_class", "kind"), [(AutoModel, "tdt"), (AutoModelForTDT, "tdt"), (AutoModelForCTC, "ctc")]
)
def test_options_reach_the_class(auto_class, kind, options, saved_model):
    model = auto_class.from_pretrained(saved_model(kind)[1], **options)
    expected = {"float16": torch.float16}.get(options.get("torch_dtype"), options.get("dtype", torch.float32))
    assert model.dtype == expected
    with torch.no_grad():
        assert model(make_features([20]))[0].dtype == expected


@pytest.mark.parametrize(
    ("auto_class", "kind", "message"),
    [
        (AutoModelForCTC, "encoder", "FastConformerConfig"),
        (AutoModelForCTC, "tdt", "needs a hybrid checkpoint"),
        (AutoModelForCTC, "rnnt", "needs a hybrid checkpoint"),
        (AutoModelForRNNT, "tdt", "FastConformerTDTConfig"),
        (AutoModelForTDT, "rnnt", "FastConformerRNNTConfig"),
        (AutoModelForTDT, "ctc", "FastConformerCTCConfig"),
    ],
)
def test_a_head_that_is_not_there_is_refused(auto_class, kind, message, saved_model):
    with pytest.raises(ValueError, match=message):
        auto_class.from_pretrained(saved_model(kind)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_configurations_are_found_by_model_type(kind, saved_model):
    config = AutoConfig.from_pretrained(saved_model(kind)[1])
    assert type(config) is KINDS[kind][1]
    assert type(AutoConfig.for_model(config.model_type)) is KINDS[kind][1]


def test_the_feature_extractor_is_found(tmp_path):
    build_config("tdt").save_pretrained(tmp_path)
    FastConformerFeatureExtractor().save_pretrained(tmp_path)
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is FastConformerFeatureExtractor


def test_the_auto_classes_are_those_of_transformers_where_it_has_them():
    for ours in (AutoModelForRNNT, AutoModelForTDT):
        assert getattr(transformers, ours.__name__, ours) is ours


def test_registering_again_changes_nothing():
    before = type(AutoModel.from_config(build_config("ctc")))
    register()
    assert type(AutoModel.from_config(build_config("ctc"))) is before
