"""Checkpoints of Transformers' Canary, both ways, with all that belongs to them; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interop_cases import MULTITASK, build_ours, load_ours, load_theirs, state_of
from multitask_archives import SPECIAL_MODEL, SYMBOLS
from multitask_models import SMALL
from safetensors.torch import load_file, save_file
from sentencepiece_models import train_sentencepiece_model
from their_models import build_their_model, class_of_transformers
from transformers import AutoProcessor

from transformers_fastconformer import (
    FastConformerFeatureExtractor,
    FastConformerMultitaskConfig,
    FastConformerProcessor,
    FastConformerTokenizer,
)
from transformers_fastconformer.interop.canary_form import prompt_template
from transformers_fastconformer.interop.config_form import config_to_transformers, options_left_out
from transformers_fastconformer.interop.reading import convert_transformers_checkpoint, read_transformers_checkpoint
from transformers_fastconformer.interop.writing import export_to_transformers
from transformers_fastconformer.nemo.tokenizers import sentencepiece_tokenizer

FLAGS = (
    "<|emo:undefined|>",
    "<|itn|>",
    "<|noitn|>",
    "<|timestamp|>",
    "<|notimestamp|>",
    "<|diarize|>",
    "<|nodiarize|>",
)


def make_tokenizer() -> FastConformerTokenizer:
    """A tokenizer with all the tokens of a prompt of `canary2`."""
    return sentencepiece_tokenizer(
        train_sentencepiece_model(**{**SPECIAL_MODEL, "user_defined_symbols": SYMBOLS + FLAGS, "vocab_size": 100})
    )


def make_checkpoint() -> tuple[Any, FastConformerProcessor]:
    """A model of ours, and a processor whose ids are the model's."""
    tokenizer = make_tokenizer()
    ids = tokenizer.prompt_token_ids
    model = build_ours(
        "multitask",
        vocab_size=104,
        num_tokens=len(tokenizer),
        prompt_token_ids=ids,
        prompt_defaults={"source_lang": "de", "itn": True},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=ids["<|startofcontext|>"],
    )
    extractor = FastConformerFeatureExtractor(feature_size=SMALL["num_mel_bins"], normalize="per_feature")
    return model, FastConformerProcessor(extractor, tokenizer)


def test_a_whole_checkpoint_writes_the_same_text_there(tmp_path: Path) -> None:
    class_of_transformers("CanaryForConditionalGeneration")
    ours, processor = make_checkpoint()
    result = export_to_transformers(ours, tmp_path / "theirs", processor=processor)
    assert set(result.options_left_out) == {"decoding_strategy", "prompt_defaults"}
    assert "processor.apply_transcription_request(audio" in (tmp_path / "theirs" / "README.md").read_text()
    theirs, their_processor = load_theirs(tmp_path / "theirs"), AutoProcessor.from_pretrained(tmp_path / "theirs")
    assert type(their_processor).__name__ == "CanaryProcessor"
    audio = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    inputs = processor(audio, sampling_rate=16000)
    limit = {"max_new_tokens": 12}
    texts = []
    for source, target, pnc in (("en", "en", True), ("de", "en", False)):
        request = their_processor.apply_transcription_request(
            audio, source_language=source, target_language=target, punctuation=pnc
        )
        assert torch.equal(request["input_features"], inputs["input_features"])
        expected = theirs.generate(**request, **limit)
        found = ours.generate(**inputs, **limit, source_lang=source, target_lang=target, pnc=pnc)
        texts.append(processor.batch_decode(found, skip_special_tokens=True))
        assert their_processor.batch_decode(expected, skip_special_tokens=True) == texts[-1]
        # Their `generate` puts the word mark first, as NeMo's prompts have it.
        assert expected[0, 0] == processor.tokenizer.prompt_token_ids["▁"]
        assert (
            expected[0, 1 : 1 + request["decoder_input_ids"].shape[1]].tolist()
            == request["decoder_input_ids"][0].tolist()
        )
    assert texts[0] != texts[1]

    convert_transformers_checkpoint(tmp_path / "theirs", tmp_path / "back")
    back = load_ours(tmp_path / "back")
    assert back.config.prompt_token_ids == ours.config.prompt_token_ids
    assert back.config.num_tokens == ours.config.num_tokens
    assert all(torch.equal(tensor, state_of(ours)[name]) for name, tensor in state_of(back).items())
    again = FastConformerProcessor.from_pretrained(tmp_path / "back")
    assert again.tokenizer.text_options == processor.tokenizer.text_options


def test_the_template_has_the_defaults_of_the_checkpoint() -> None:
    config = make_checkpoint()[0].config
    template = prompt_template(config)
    assert template is not None
    assert "default('de')" in template
    assert "<|itn|><|notimestamp|><|nodiarize|>" in template
    config.prompt_token_ids.pop("<|notimestamp|>")
    assert prompt_template(config) is None


def test_ends_and_limit_of_texts_are_written_for_generate(tmp_path: Path) -> None:
    class_of_transformers("CanaryForConditionalGeneration")
    for strategy, end, limit in (("greedy", 4, 32), ("beam", [4, 5], 33)):
        export_to_transformers(build_ours("multitask", decoding_strategy=strategy), tmp_path / strategy)
        generation = json.loads((tmp_path / strategy / "generation_config.json").read_text())
        assert generation["eos_token_id"] == end
        assert generation["max_length"] == limit
        assert generation["decoder_start_token_id"] == 6


def test_options_of_decoding_that_are_lost_are_named() -> None:
    options = {"max_generation_delta": 50, "beam_size": 4, "beam_length_penalty": 1.0, "label_smoothing": 0.1}
    config = FastConformerMultitaskConfig(**{**SMALL, **MULTITASK, "decoding_strategy": "greedy", **options})
    family, _ = config_to_transformers(config)
    assert set(options_left_out(config, family)) == set(options)


UNWRITTEN: tuple[tuple[dict[str, Any], str], ...] = (
    ({"decoder_pre_norm": False}, "decoder_pre_norm=False"),
    ({"decoder_final_norm": False}, "decoder_final_norm=False"),
    ({"decoder_learned_positions": True}, "decoder_learned_positions=True"),
    ({"decoder_positions_dtype": "bfloat16"}, "decoder_positions_dtype='bfloat16'.*'float32'"),
    ({"num_transformer_encoder_layers": 1}, "num_transformer_encoder_layers=1"),
    ({"prompt_format": "canary"}, "prompt_format='canary'.*'canary2'"),
    ({"decoder_hidden_size": 24}, "decoder_hidden_size=24.*expected 32"),
    ({"conv_norm_type": "layer_norm"}, "conv_norm_type='layer_norm'"),
)


@pytest.mark.parametrize(("options", "message"), UNWRITTEN)
def test_what_their_class_lacks_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    config = FastConformerMultitaskConfig(**{**SMALL, **MULTITASK, **options})
    with pytest.raises(ValueError, match=message) as caught:
        config_to_transformers(config)
    assert "is not supported by CanaryForConditionalGeneration; expected" in str(caught.value)


def test_a_causal_encoder_is_refused() -> None:
    config = FastConformerMultitaskConfig(**{**SMALL, **MULTITASK, "causal_downsampling": True})
    with pytest.raises(ValueError, match="causal_downsampling=True with model_type='fastconformer_multitask'"):
        config_to_transformers(config)


def test_an_installed_release_without_the_class_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from transformers_fastconformer.interop import writing

    monkeypatch.setattr(writing, "transformers", type("Old", (), {"__version__": "5.10.0"}))
    with pytest.raises(ValueError, match=r"CanaryForConditionalGeneration is not in transformers 5\.10\.0"):
        export_to_transformers(build_ours("multitask"), tmp_path / "theirs")


UNREAD: tuple[tuple[dict[str, Any], dict[str, Any], str], ...] = (
    ({"tie_word_embeddings": False}, {}, "tie_word_embeddings=False.*True"),
    ({"d_model": 16}, {}, "d_model=16"),
    ({}, {"attention_bias": False}, "decoder_config.attention_bias=False"),
    ({}, {"num_key_value_heads": 1}, "decoder_config.num_key_value_heads=1.*expected 2"),
    ({}, {"head_dim": 16}, "decoder_config.head_dim=16.*expected 8"),
    ({}, {"hidden_size": 32, "head_dim": 16}, "decoder_config.hidden_size=32.*expected 16"),
    ({}, {"vocab_size": 24}, "decoder_config.vocab_size=24.*expected 16"),
    ({}, {"hidden_act": "silu"}, "decoder_activation='silu'"),
    ({}, {"num_hidden_layers": 2}, "missing tensors: model.decoder.layers.1"),
    ({}, {"colour": "blue"}, "decoder_config.colour='blue'"),
)


@pytest.mark.parametrize(("whole", "decoder", "message"), UNREAD)
def test_what_cannot_be_read_is_refused_by_name(
    whole: dict[str, Any], decoder: dict[str, Any], message: str, tmp_path: Path
) -> None:
    build_their_model("CanaryForConditionalGeneration").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["decoder_config"] |= decoder
    path.write_text(json.dumps(config | whole))
    with pytest.raises(ValueError, match=message):
        read_transformers_checkpoint(tmp_path)


def test_a_stored_head_must_be_the_embedding(tmp_path: Path) -> None:
    build_their_model("CanaryForConditionalGeneration").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["proj_out.weight"] = tensors["model.decoder.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    assert set(read_transformers_checkpoint(tmp_path).left_out) == {"proj_out.weight"}
    tensors["proj_out.weight"][0] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"proj_out\.weight differs from model\.decoder\.embed_tokens\.weight"):
        read_transformers_checkpoint(tmp_path)


def test_ids_of_the_tokenizer_must_be_those_of_the_model(tmp_path: Path) -> None:
    class_of_transformers("CanaryForConditionalGeneration")
    ours, processor = make_checkpoint()
    export_to_transformers(ours, tmp_path, processor=processor)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "eos_token_id": 7}))
    with pytest.raises(ValueError, match=r"tokenizer\.json: eos_token_id=\d+ is not supported; expected 7"):
        read_transformers_checkpoint(tmp_path)
