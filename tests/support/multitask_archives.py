"""Tiny Canary archives made by hand, without NeMo: their configurations and tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nemo_archives import make_members, make_nemo_config, make_nemo_tensors, write_members
from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer.modeling.multitask_decoder import scaled_sinusoids
from transformers_fastconformer.nemo.weight_map import POSITION_TABLE

SYMBOLS = (
    "<|startofcontext|>",
    "<|startoftranscript|>",
    "<|endoftext|>",
    "<|nospeech|>",
    "<pad>",
    "<|pnc|>",
    "<|nopnc|>",
    "<|en|>",
    "<|de|>",
    "<|transcribe|>",
    "<|translate|>",
    "<|0|>",
    "<|12|>",
)
TOKENIZERS = "nemo.collections.common.tokenizers.canary_tokenizer"
SPECIAL_MODEL = {"user_defined_symbols": SYMBOLS, "vocab_size": 90}


def _section(name: str) -> dict[str, Any]:
    return {"dir": "/x", "type": "bpe", "model_path": f"nemo:{name}", "vocab_path": "nemo:vocab.txt"}


def make_canary_config(is_aggregate: bool = True) -> dict[str, Any]:
    """A parsed `model_config.yaml` with all the parts that a Canary may have, fresh each time."""
    config = make_nemo_config("ctc")
    for key in ("decoder", "labels"):
        del config[key]
    layers = {"num_layers": 2, "hidden_size": 12, "inner_size": 20, "num_attention_heads": 2, "pre_ln": True}
    tokenizer: dict[str, Any] = {
        **_section("special.model"),
        "custom_tokenizer": {"_target_": f"{TOKENIZERS}.CanaryBPETokenizer"},
    }
    if is_aggregate:
        tokenizer = {
            "dir": None,
            "type": "agg",
            "langs": {"spl_tokens": _section("special.model"), "en": _section("text.model")},
            "custom_tokenizer": {"_target_": f"{TOKENIZERS}.CanaryTokenizer", "tokenizers": None},
        }
    return config | {
        "target": "nemo.collections.asr.models.aed_multitask_models.EncDecMultiTaskModel",
        "prompt_format": "canary2",
        "prompt_defaults": [
            {"role": "user", "slots": {"decodercontext": "", "source_lang": "en", "pnc": "yes", "diarize": False}},
            {"role": "user_partial", "slots": {"decodercontext": ""}},
        ],
        "tokenizer": tokenizer,
        "model_defaults": {"asr_enc_hidden": 16, "lm_enc_hidden": 12, "lm_dec_hidden": 12},
        "transf_encoder": {
            "_target_": "nemo.collections.asr.modules.transformer.transformer_encoders.TransformerEncoder",
            **layers,
        },
        "transf_decoder": {
            "_target_": "nemo.collections.asr.modules.transformer.get_nemo_transformer",
            "model_name": None,
            "pretrained": False,
            "encoder": None,
            "pre_ln_final_layer_norm": True,
            "config_dict": {"max_sequence_length": 32, "vocab_size": None, **layers},
        },
        "head": {
            "_target_": "nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier",
            "num_layers": 1,
            "activation": "relu",
            "log_softmax": True,
            "hidden_size": 12,
            "num_classes": 240 if is_aggregate else 96,
        },
        "decoding": {"strategy": "beam", "beam": {"beam_size": 1, "max_generation_delta": 50, "len_pen": 1.0}},
        "loss": {
            "_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss",
            "label_smoothing": 0.1,
            "pad_id": 3,
        },
    }


def fit_head(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with as many classes as its tokenizer asks for."""
    num_tokens = _count_pieces(train_sentencepiece_model(**SPECIAL_MODEL))
    if config["tokenizer"]["type"] == "agg":
        num_tokens += _count_pieces(train_sentencepiece_model())
    config["head"]["num_classes"] = -(-num_tokens // 8) * 8
    return config


def _count_pieces(model: bytes) -> int:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=model).GetPieceSize()


def make_canary_tensors(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights under NeMo's names, with those that have no place in our form."""
    tensors = make_nemo_tensors(config)
    layers = config["transf_decoder"]["config_dict"]
    if not layers.get("learn_positional_encodings"):
        tensors[POSITION_TABLE] = scaled_sinusoids(layers["max_sequence_length"], layers["hidden_size"])
    tensors["transf_decoder._embedding.token_type_embedding.weight"] = torch.ones(2, layers["hidden_size"])
    return tensors


def write_canary(
    path: Path,
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor] | None = None,
    extra: Sequence[tuple[str, bytes]] = (),
) -> Path:
    """A whole archive on disk, with further members."""
    members = make_members(config, make_canary_tensors(config) if tensors is None else tensors)
    members += [
        ("./special.model", train_sentencepiece_model(**SPECIAL_MODEL)),
        ("./text.model", train_sentencepiece_model()),
        ("./vocab.txt", b""),
        *extra,
    ]
    with path.open("wb") as file:
        write_members(file, members)
    return path


def write_timed_canary(path: Path, window_seconds: float | None = None) -> Path:
    """An archive with a model that times its words, whose analysis windows may be others."""
    config = make_canary_config(False) | {"prompt_format": "canary", "prompt_defaults": None}
    times_config = make_nemo_config("ctc")
    if window_seconds is not None:
        times_config["preprocessor"]["window_size"] = window_seconds
    tensors = make_canary_tensors(fit_head(config))
    extra = [(name.replace("model_", "timestamps_asr_model_"), data) for name, data in make_members(times_config)]
    return write_canary(path, config, tensors, extra)
