"""Language prompts, without NeMo: what the heads see, which languages are taken, and saving."""

from __future__ import annotations

import pytest
import torch
from models import HYBRID_SHAPE, TRANSDUCER_SHAPE

from transformers_fastconformer import (
    FastConformerForRNNT,
    FastConformerForTDT,
    FastConformerHybridForCTC,
    FastConformerModel,
    FastConformerRNNTConfig,
    FastConformerTDTConfig,
)
from transformers_fastconformer.modeling.hybrid import share_as_ctc

LANGUAGES = {"en-US": 0, "de-DE": 2, "auto": 4}
PROMPTS = {"num_prompts": 6, "prompt_languages": LANGUAGES}


def build(model_class=FastConformerForRNNT, config_class=FastConformerRNNTConfig, **options):
    torch.manual_seed(0)
    model = model_class(config_class(**{**HYBRID_SHAPE, **PROMPTS, **options})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def features():
    return torch.randn(2, 65, 8, generator=torch.Generator().manual_seed(1))


def test_the_language_is_a_column_of_the_first_layer(features):
    model = build()
    encoded = model.encoder(features).last_hidden_state
    kernel = model.prompt_kernel
    hidden = kernel.input_proj.weight[:, :16] @ encoded[..., None] + kernel.input_proj.bias[:, None]
    for languages, numbers in (("de-DE", (2, 2)), (["auto", "en-US"], (4, 0))):
        column = kernel.input_proj.weight[:, [16 + number for number in numbers]].T[:, None]  # (clips, 1, width)
        expected = kernel.output_proj((hidden[..., 0] + column).relu())
        found = model.encode(features, language=languages).last_hidden_state
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(model(features, language=languages).last_hidden_state, expected)


def test_each_clip_has_its_language(features):
    model = build()
    both = model.generate(features, language=["de-DE", "auto"])
    for index, language in enumerate(("de-DE", "auto")):
        alone = model.generate(features[index : index + 1], language=language)[0]
        assert torch.equal(both[index, : len(alone)], alone)
    logits = share_as_ctc(model)(features, language="de-DE").logits
    assert torch.equal(logits, model.ctc_head(model.encode(features, language="de-DE").last_hidden_state))
    assert not torch.equal(logits, share_as_ctc(model)(features, language="auto").logits)


def test_the_default_language(features):
    with pytest.raises(ValueError, match=r"language=None is not supported.*'auto', 'de-DE', 'en-US'"):
        build()(features)
    model = build(default_language="auto")
    assert torch.equal(model(features).last_hidden_state, model(features, language="auto").last_hidden_state)


@pytest.mark.parametrize(
    ("language", "message"),
    [
        ("fr-FR", r"language='fr-FR' is not supported by this model; expected one of \['auto', 'de-DE', 'en-US'\]"),
        (["de-DE", "de"], r"language='de' is not supported"),
        (["de-DE"], r"language has 1 codes; expected one, or one for each of the 2 clips"),
    ],
)
def test_unknown_languages_list_the_known(features, language, message):
    model = build()
    for call in (model, model.generate, share_as_ctc(model).generate):
        with pytest.raises(ValueError, match=message):
            call(features, language=language)


def test_a_model_without_prompts_takes_no_language(features):
    model = FastConformerForTDT(FastConformerTDTConfig(**TRANSDUCER_SHAPE)).eval()
    assert model.prompt_kernel is None
    with pytest.raises(ValueError, match=r"language='de-DE' is not supported: this model has no language prompts"):
        model.generate(features, language="de-DE")


def test_loss_has_gradients_for_the_kernel(features):
    model = build().train()
    model(features, labels=torch.tensor([[1, 2], [3, -100]]), language=["de-DE", "auto"]).loss.backward()
    gradient = model.prompt_kernel.input_proj.weight.grad
    assert gradient[:, 16 + 2].any()
    assert gradient[:, 16 + 4].any()
    assert not gradient[:, 16 + 1].any()


def test_save_and_load(features, tmp_path):
    model = build(default_language="en-US")
    model.save_pretrained(tmp_path)
    for model_class in (FastConformerForRNNT, FastConformerHybridForCTC, FastConformerModel):
        again, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"] | report["unexpected_keys"]
        if model_class is not FastConformerModel:
            assert torch.equal(again.eval().encode(features).last_hidden_state, model.encode(features)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_prompts": 2}, r"prompt_languages\['de-DE'\]=2 is not supported; expected 0 to 1"),
        ({"num_prompts": 0}, "prompt_languages=.*expected codes of languages where num_prompts is above 0"),
        ({"prompt_languages": None}, "prompt_languages=None is not supported"),
        ({"default_language": "fr"}, "default_language='fr' is not supported; expected null or one of"),
        ({"num_prompts": -1}, "num_prompts=-1 is not supported"),
    ],
)
def test_configurations_that_contradict_themselves(options, message):
    with pytest.raises(ValueError, match=message):
        FastConformerRNNTConfig(**{**TRANSDUCER_SHAPE, **PROMPTS, **options})


def test_a_speaker_kernel_follows_everybody(features):
    torch.manual_seed(0)
    config = FastConformerRNNTConfig(**TRANSDUCER_SHAPE, has_speaker_kernel=True, has_background_kernel=True)
    model = FastConformerForRNNT(config).eval()
    kernel = model.encoder.speaker_kernel
    for parameter in kernel.parameters():
        torch.nn.init.normal_(parameter)
    seen = []
    model.encoder.layers[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model.encoder(features)
    kernel.forward, plain = (lambda hidden_states, activities: hidden_states), seen[0]
    model.encoder(features)
    hidden = seen[1] + kernel.speaker(seen[1])
    nobody = kernel.background[3](kernel.background[0].bias.relu())  # what zeros give
    torch.testing.assert_close(plain, hidden + nobody)
    with pytest.raises(ValueError, match="has_background_kernel=True is not supported"):
        FastConformerRNNTConfig(**TRANSDUCER_SHAPE, has_background_kernel=True)
