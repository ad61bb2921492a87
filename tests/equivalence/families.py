"""
The table of checkpoint families: what each row builds with NeMo, and which published checkpoints it stands for.

Plain data, read by the test that runs NeMo beside us and by the one that checks `docs/supported-checkpoints.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Family:
    """
    One row.

    Args:
        name: What the row is called.
        checkpoints: Published checkpoints it stands for.
        options: What is particular about it, for a reader.
        kind: Kind of the small configuration that it starts from, as `nemo_model_config` knows it.
        build: Further arguments of `build_nemo_model`.
        architecture: Our class.
        languages: Of prompted models: the language of each run.
        left_out: Parts that are not converted.
    """

    name: str
    checkpoints: str
    options: str
    kind: str
    architecture: str
    build: dict[str, Any] = field(default_factory=dict)
    languages: tuple[str | None, ...] = (None,)
    left_out: tuple[str, ...] = ()


# Encoders whose heads are not converted


def train_with_symbols(folder: Path, symbols: list[str], vocab_size: int) -> dict[str, Any]:
    """A SentencePiece model with symbols of its own, and NeMo's section for it."""
    import io

    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        user_defined_symbols=symbols,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.IdToPiece(index) for index in range(processor.GetPieceSize())]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (folder / "tokenizer.vocab").write_text("".join(f"{piece}\t0\n" for piece in pieces), encoding="utf-8")
    return {"dir": str(folder), "type": "bpe"}


SENTENCES = [
    "one two three four five six seven eight nine zero",
    "the children walk to school and run home again",
    "speech is turned into features, features into text.",
]
CANARY_SYMBOLS = ["<|startofcontext|>", "<|startoftranscript|>", "<|endoftext|>", "<|nospeech|>", "<|pnc|>"]
CANARY_SYMBOLS += ["<|nopnc|>", "<pad>", "<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>"]


def canary_tokenizer(folder: Path) -> dict[str, Any]:
    """Canary's aggregate of special tokens and languages."""
    return {
        "dir": None,
        "type": "agg",
        "langs": {
            "spl_tokens": train_with_symbols(folder / "spl_tokens", CANARY_SYMBOLS, 64),
            "en": train_with_symbols(folder / "en", [], 64),
        },
        "custom_tokenizer": {"_target_": "nemo.collections.common.tokenizers.canary_tokenizer.CanaryTokenizer"},
    }


TRANSFORMER = {"num_layers": 1, "inner_size": 32, "num_attention_heads": 2}
CANARY_SECTIONS: dict[str, Any] = {
    "prompt_format": "canary",
    "model_defaults": {"asr_enc_hidden": 32, "lm_enc_hidden": 24, "lm_dec_hidden": 24},
    "transf_encoder": {
        "_target_": "nemo.collections.asr.modules.transformer.transformer_encoders.TransformerEncoder",
        "hidden_size": 24,
        **TRANSFORMER,
    },
    "transf_decoder": {
        "_target_": "nemo.collections.asr.modules.transformer.get_nemo_transformer",
        "model_name": None,
        "pretrained": False,
        "encoder": None,
        "pre_ln_final_layer_norm": True,
        "config_dict": {"max_sequence_length": 64, "hidden_size": 24, "vocab_size": None, **TRANSFORMER},
    },
    "head": {
        "_target_": "nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier",
        "num_layers": 1,
        "activation": "relu",
        "log_softmax": True,
        "hidden_size": 24,
        "num_classes": None,
    },
    "decoding": {"strategy": "beam", "return_best_hypothesis": True, "beam": {"beam_size": 1}},
    "loss": {"_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss"},
}

SPEC_AUGMENT = {"_target_": "nemo.collections.asr.modules.SpectrogramAugmentation", "freq_masks": 0, "time_masks": 0}
QUANTIZER = {"feat_in": 16, "code_dim": 4, "num_books": 1, "num_classes": 32}
NEST_SECTIONS: dict[str, Any] = {
    "num_books": 1,
    "num_classes": 32,
    "squeeze_single": False,
    "mask_position": "pre_conv",
    "spec_augment": SPEC_AUGMENT,
    "decoder": {
        "_target_": "nemo.collections.asr.modules.MultiSoftmaxDecoder",
        "feat_in": 32,
        "num_classes": 32,
        "num_decoders": 1,
        "squeeze_single": False,
        "use_bias": True,
    },
    "masking": {
        "_target_": "nemo.collections.asr.modules.RandomBlockMasking",
        "block_size": 40,
        "mask_prob": 0.01,
        "feat_in": 16,
    },
    "quantizer": {
        "_target_": "nemo.collections.asr.modules.RandomProjectionVectorQuantizer",
        "combine_time_steps": 8,
        **QUANTIZER,
    },
    "loss": {"_target_": "nemo.collections.asr.losses.MultiMLMLoss", "combine_time_steps": 8, "num_decoders": 1},
}
POST_CONV_SECTIONS = {
    **NEST_SECTIONS,
    "mask_position": "post_conv",
    "quantizer": {**NEST_SECTIONS["quantizer"], "combine_time_steps": 1},
}

SORTFORMER_SECTIONS: dict[str, Any] = {
    "max_num_of_spks": 4,
    "model_defaults": {"fc_d_model": 32, "tf_d_model": 24},
    "sortformer_modules": {
        "_target_": "nemo.collections.asr.modules.sortformer_modules.SortformerModules",
        "num_spks": 4,
        "fc_d_model": 32,
        "tf_d_model": 24,
    },
    "transformer_encoder": {
        "_target_": "nemo.collections.asr.modules.transformer.transformer_encoders.TransformerEncoder",
        "hidden_size": 24,
        **TRANSFORMER,
    },
    "loss": {"_target_": "nemo.collections.asr.losses.bce_loss.BCELoss"},
}

FAMILIES: tuple[Family, ...] = (
    Family(
        "canary",
        "canary-1b, canary-1b-flash, canary-180m-flash, canary-1b-v2",
        "the encoder of an attention decoder",
        "ctc",
        "FastConformerModel",
        {
            "nemo_class": "EncDecMultiTaskModel",
            "tokenizer": canary_tokenizer,
            "without": ("decoder",),
            "sections": CANARY_SECTIONS,
        },
        left_out=("encoder_decoder_proj", "log_softmax", "transf_decoder", "transf_encoder"),
    ),
    Family(
        "nest",
        "ssl_en_nest_large_v1.0, ssl_en_nest_xlarge_v1.0",
        "self-supervised, masks before the subsampling",
        "ctc",
        "FastConformerModel",
        {"nemo_class": "EncDecDenoiseMaskedTokenPredModel", "tokenizer": "char", "sections": NEST_SECTIONS},
        left_out=("decoder", "mask_processor", "quantizer"),
    ),
    Family(
        "nest, masks behind the subsampling",
        "fine-tunes of the self-supervised recipes",
        "`mask_position: post_conv`",
        "ctc",
        "FastConformerModel",
        {"nemo_class": "EncDecMaskedTokenPredModel", "tokenizer": "char", "sections": POST_CONV_SECTIONS},
        left_out=("decoder", "mask_processor", "pre_encoder", "quantizer"),
    ),
    Family(
        "sortformer",
        "diar_sortformer_4spk-v1",
        "the encoder of a speaker diariser",
        "ctc",
        "FastConformerModel",
        {
            "nemo_class": "SortformerEncLabelModel",
            "tokenizer": "char",
            "without": ("decoder", "labels"),
            "sections": SORTFORMER_SECTIONS,
        },
        left_out=("sortformer_modules", "transformer_encoder"),
    ),
)
