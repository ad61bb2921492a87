"""What Transformers' habits pass to `generate`: accepted where nothing changes, honoured or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import BLANK, HEADS, build_model, few_of, make_features
from transformers import GenerationConfig

from transformers_fastconformer import BeamOptions, ConfidenceOptions, DecodingOptions
from transformers_fastconformer.inference.chunked import transcribe_features
from transformers_fastconformer.modeling.generation import (
    refuse_other_results,
    take_generation_arguments,
    with_return_sequences,
)

LENGTHS = [90, 41, 66]
SHORT_HEADS = ("ctc", "rnnt", "tdt", "tdt_hybrid_ctc")
HARMLESS: dict[str, Any] = {
    "num_beams": 1,
    "do_sample": False,
    "use_cache": True,
    "temperature": 1.0,
    "top_p": 1,
    "num_return_sequences": 1,
    "pad_token_id": BLANK,
    "eos_token_id": None,
    "suppress_tokens": [],
    "labels": torch.tensor([[1]]),
    "synced_gpus": False,
    "task": "transcribe",
    "generation_config": GenerationConfig(num_beams=1, use_cache=False),
}


@pytest.mark.parametrize("kind", SHORT_HEADS)
def test_what_asks_for_nothing_else_changes_nothing(kind: str) -> None:
    model, features = build_model(kind), make_features(LENGTHS)
    expected = model.generate(features)
    for name, value in HARMLESS.items():
        assert torch.equal(model.generate(features, **{name: value}), expected), name
    assert torch.equal(model.generate(features, **HARMLESS), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 0),
        ("num_beams", True),
        ("do_sample", True),
        ("temperature", 0.5),
        ("num_return_sequences", 2),
        ("repetition_penalty", 1.3),
        ("pad_token_id", 0),
        ("eos_token_id", 3),
        ("suppress_tokens", [1]),
        ("task", "translate"),
        ("synced_gpus", True),
        ("max_new_tokens", 0),
        ("max_length", 2.5),
        ("output_scores", True),
    ],
)
def test_what_would_change_the_result_is_refused_by_name(name: str, value: Any) -> None:
    model, features = build_model("tdt"), make_features([20])
    with pytest.raises(ValueError, match=f"^{name}={value!r} is not supported; expected".replace("[", r"\[")):
        model.generate(features, **{name: value})
    if name not in ("max_new_tokens", "max_length", "synced_gpus", "task", "output_scores"):
        config = GenerationConfig()
        setattr(config, name, value)
        with pytest.raises(ValueError, match=f"^{name}="):
            model.generate(features, generation_config=config)
        model.generation_config = config
        with pytest.raises(ValueError, match=f"^{name}="):
            model.generate(features)


def test_the_message_says_why() -> None:
    with pytest.raises(ValueError, match=r"^num_beams=4 is not supported; expected 1, as decoding is greedy\.$"):
        refuse_other_results({"num_beams": 4}, BLANK)
    with pytest.raises(ValueError, match="generation_config='greedy' is not supported; expected a GenerationConfig"):
        build_model("ctc").generate(make_features([20]), generation_config="greedy")


@pytest.mark.parametrize("kind", SHORT_HEADS)
def test_a_clip_ends_after_the_tokens_asked_for(kind: str) -> None:
    """Every column is cut, as if decoding had ended there."""
    model, features = build_model(kind), make_features(LENGTHS)
    lengths = torch.tensor(LENGTHS)
    options: dict[str, Any] = {
        "input_lengths": lengths,
        "return_dict_in_generate": True,
        "confidence": ConfidenceOptions(),
    }
    whole = model.generate(features, **options)
    counts = whole.sequence_lengths.tolist()
    limit = min(counts) + 1
    assert max(counts) > limit
    for said in ({"max_new_tokens": limit}, {"max_length": limit}, {"max_new_tokens": limit, "max_length": 1}):
        found = model.generate(features, **options, **said)
        assert found.sequence_lengths.tolist() == [min(count, limit) for count in counts]
        for name in ("sequences", "frame_indices", "durations", "log_probs", "token_confidences"):
            column = getattr(whole, name)
            assert column is None or torch.equal(getattr(found, name), column[:, :limit]), name
    config = GenerationConfig(max_new_tokens=limit)
    assert torch.equal(model.generate(features, None, lengths, generation_config=config), whole.sequences[:, :limit])
    assert torch.equal(model.generate(features, None, lengths, max_new_tokens=1000), whole.sequences)


def test_a_dictionary_that_the_configuration_asks_for() -> None:
    model = build_model("ctc")
    model.generation_config.return_dict_in_generate = True
    assert model.generate(make_features([40])).decoder_type == "ctc"
    assert torch.is_tensor(model.generate(make_features([40]), return_dict_in_generate=False))


def test_unknown_arguments_are_left_to_others() -> None:
    rest, *others = take_generation_arguments({"language": "de", "top_k": 50, "foo": 2}, None, BLANK)
    assert (rest, others) == ({"language": "de", "foo": 2}, [None, None])


def test_beams_are_options_of_decoding() -> None:
    config = GenerationConfig(num_beams=3, num_return_sequences=2)
    rest, _, count = take_generation_arguments({}, config, BLANK)
    assert (rest, count) == ({"num_beams": 3}, 2)
    rest, _, count = take_generation_arguments({"num_beams": 4}, config, BLANK)
    assert (rest, count) == ({"num_beams": 4}, 2)
    assert with_return_sequences(DecodingOptions(num_beams=4), 2).beam == BeamOptions(num_beams=4, num_best=2)
    assert with_return_sequences(DecodingOptions(), 1) == DecodingOptions()
    for decoding, wrong in ((DecodingOptions(), 2), (DecodingOptions(num_beams=2), 3), (DecodingOptions(), 0)):
        with pytest.raises(ValueError, match=f"num_return_sequences={wrong}"):
            with_return_sequences(decoding, wrong)


@pytest.mark.parametrize("kind", SHORT_HEADS)
def test_several_texts_of_a_clip(kind: str) -> None:
    model, features = build_model(kind), make_features(LENGTHS)
    options: dict[str, Any] = {"num_beams": 4, "return_dict_in_generate": True}
    several = model.generate(features, num_return_sequences=3, confidence=ConfidenceOptions(), **options)
    best = model.generate(features, **options)
    assert several.sequences.shape[0] == 3 * len(features)
    assert several.encoder_lengths.shape == several.sequences_scores.shape == (3 * len(features),)
    for clip in range(len(features)):
        count = int(best.sequence_lengths[clip])
        assert torch.equal(several.sequences[3 * clip, :count], best.sequences[clip, :count])
        assert float(several.sequences_scores[3 * clip]) == float(best.sequences_scores[clip])
    assert torch.equal(model.generate(features, num_beams=4), best.sequences)
    with pytest.raises(ValueError, match="num_best=3"):
        transcribe_features(model, [], decoding=DecodingOptions(beam=BeamOptions(num_best=3)))
    strategy = "malsd_batch" if kind.endswith("ctc") else "beam_batch"
    with pytest.raises(ValueError, match=f"strategy='{strategy}'"):
        model.generate(features, beam=BeamOptions(strategy=strategy))


@pytest.mark.parametrize("kind", few_of(HEADS))
def test_models_with_a_head_can_generate(kind: str, tmp_path: Any) -> None:
    model = build_model(kind)
    assert model.can_generate()
    assert model.generation_config.pad_token_id == BLANK
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again.generate(make_features(LENGTHS)), model.generate(make_features(LENGTHS)))
    assert not build_model("encoder").can_generate()
