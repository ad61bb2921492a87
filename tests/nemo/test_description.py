"""Facts that conversion and inspection tell."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from transformers_fastconformer.nemo.config_map import map_config
from transformers_fastconformer.nemo.description import check_vocabulary, describe_model, describe_parts_left_out


@pytest.mark.parametrize("kind", ["ctc", "hybrid_tdt_ctc"])
def test_a_model_is_described_without_its_memory(nemo_config, build_model, kind):
    config = nemo_config(kind)
    shapes, num_parameters, generation_config = describe_model(map_config(config))
    model = build_model(config)
    assert shapes == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (generation_config is not None) == model.can_generate()


def test_the_vocabulary_must_be_that_of_the_head(nemo_config):
    config = map_config(nemo_config("ctc")).config
    check_vocabulary(SimpleNamespace(blank_token_id=28), config, "some.nemo")
    with pytest.raises(ValueError, match=r"some\.nemo: the tokenizer has 27 tokens and the head 29 classes"):
        check_vocabulary(SimpleNamespace(blank_token_id=27), config, "some.nemo")


def test_parts_are_counted():
    reason = "not of the encoder"
    dropped = {"a.x": reason, "a.y.z": reason, "b.x": reason, "preprocessor.featurizer.fb": "rebuilt"}
    members = ["model_config.yaml", "model_weights.ckpt", "aligner_weights.ckpt"]
    assert describe_parts_left_out(dropped, members) == {
        "a": "2 tensors",
        "b": "1 tensor",
        "aligner": "a model of its own in aligner_weights.ckpt",
    }
