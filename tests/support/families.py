"""
The table of checkpoint families: the model that each row builds with NeMo, and the published checkpoints it covers.

Plain data, read by the test that runs NeMo next to this package and by the one that checks
`docs/supported-checkpoints.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TABLE_PATH = Path(__file__).resolve().parents[2] / "docs" / "supported-checkpoints.md"


@dataclass(frozen=True)
class Family:
    """
    One row of the table.

    Args:
        name: Name of the row.
        checkpoints: Published checkpoints that it covers.
        options: Its particular options, in words.
        kind: Kind of the small configuration that it starts from, as `nemo_model_config` knows it.
        build: Further arguments of `build_nemo_model`.
        architecture: Our class.
        languages: For models with language prompts, the language of each run.
        left_out: Parts that are not converted.
        done_right: Stages that NeMo 3.0 gets wrong and this package does not, which are not compared.
        note: Parts that the comparison leaves out, with the reason.
        strategy: NeMo's decoding that ours is compared with.
        is_alone_only: True to compare clip by clip, since NeMo's result depends on the batch (see
            `differences-from-nemo.md`).
    """

    name: str
    checkpoints: str
    options: str
    kind: str
    architecture: str
    build: dict[str, Any] = field(default_factory=dict)
    languages: tuple[str | None, ...] = (None,)
    left_out: tuple[str, ...] = ()
    note: str = ""
    strategy: str = "greedy_batch"
    is_alone_only: bool = False
    done_right: tuple[str, ...] = ()


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
CANARY_SYMBOLS += ["<|nopnc|>", "<pad>", "<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>", "<|emo:undefined|>"]
CANARY_SYMBOLS += ["<|itn|>", "<|noitn|>", "<|timestamp|>", "<|notimestamp|>", "<|diarize|>", "<|nodiarize|>"]
CANARY_SYMBOLS += [f"<|{frame}|>" for frame in range(8)]
CANARY_TOKENIZERS = "nemo.collections.common.tokenizers.canary_tokenizer"


def canary_tokenizer(folder: Path) -> dict[str, Any]:
    """Canary's aggregate of special tokens and languages."""
    return {
        "dir": None,
        "type": "agg",
        "langs": {
            "spl_tokens": train_with_symbols(folder / "spl_tokens", CANARY_SYMBOLS, 80),
            "en": train_with_symbols(folder / "en", [], 64),
        },
        "custom_tokenizer": {"_target_": f"{CANARY_TOKENIZERS}.CanaryTokenizer"},
    }


def canary_single_tokenizer(folder: Path) -> dict[str, Any]:
    """The single SentencePiece model of canary-1b-v2."""
    section = train_with_symbols(folder, CANARY_SYMBOLS, 128)
    return {**section, "custom_tokenizer": {"_target_": f"{CANARY_TOKENIZERS}.CanaryBPETokenizer"}}


def canary_overrides(
    *,
    has_projection: bool = True,
    num_frames_layers: int = 2,
    is_pre_norm: bool = True,
    has_final_norm: bool = True,
    has_learned_positions: bool = False,
    activation: str = "relu",
    prompt_format: str = "canary",
    is_aggregate: bool = True,
) -> dict[str, Any]:
    """Arguments of `build_nemo_model` for a Canary with a random decoder."""
    width = 24 if has_projection else 32
    layers = {
        "hidden_size": width,
        "inner_size": 48,
        "num_attention_heads": 2,
        "pre_ln": is_pre_norm,
        "hidden_act": activation,
    }
    slots = {"source_lang": "en", "target_lang": "en", "pnc": "yes"}
    slots |= {"task": "asr"} if prompt_format == "canary" else CANARY2_SLOTS
    sections: dict[str, Any] = {
        "prompt_format": prompt_format,
        "prompt_defaults": [{"role": "user", "slots": slots}],
        "restore_timestamps_model": False,
        "model_defaults": {"asr_enc_hidden": 32, "lm_enc_hidden": width, "lm_dec_hidden": width},
        "transf_encoder": {
            "_target_": "nemo.collections.asr.modules.transformer.transformer_encoders.TransformerEncoder",
            "num_layers": num_frames_layers,
            **layers,
        },
        "transf_decoder": {
            "_target_": "nemo.collections.asr.modules.transformer.get_nemo_transformer",
            "model_name": None,
            "pretrained": False,
            "encoder": None,
            "pre_ln_final_layer_norm": has_final_norm,
            "config_dict": {
                "max_sequence_length": 64,
                "learn_positional_encodings": has_learned_positions,
                "num_token_types": 0 if has_learned_positions else 2,
                "vocab_size": None,
                "num_layers": 2,
                **layers,
            },
        },
        "head": {
            "_target_": "nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier",
            "num_layers": 1,
            "activation": "relu",
            "log_softmax": True,
            "hidden_size": width,
            "num_classes": None,
        },
        "decoding": {
            "strategy": "beam",
            "return_best_hypothesis": True,
            "beam": {"beam_size": 1, "max_generation_delta": 10},
            "greedy": {"temperature": None, "n_samples": 1, "max_generation_delta": 10},
        },
        "loss": {"_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss"},
    }
    return {
        "nemo_class": "EncDecMultiTaskModel",
        "tokenizer": canary_tokenizer if is_aggregate else canary_single_tokenizer,
        "without": ("decoder",),
        "sections": sections,
    }


CANARY2_SLOTS = {
    "decodercontext": "",
    "emotion": "<|emo:undefined|>",
    "itn": "no",
    "timestamp": "no",
    "diarize": "no",
}


def balance_decoder(model: Any) -> None:
    """Random weights of a NeMo Canary that say many tokens, drawn so that none of them always wins."""
    import torch

    with torch.no_grad():
        for parameter in model.transf_decoder.decoder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
        generator = torch.Generator().manual_seed(5)
        weight = model.transf_decoder.embedding.token_embedding.weight
        weight.copy_(torch.randn(weight.shape, generator=generator))
        weight.div_(weight.norm(dim=1, keepdim=True))
        num_mels = model.cfg.preprocessor.features
        features = torch.randn(16, num_mels, 97, generator=generator)
        tokens = torch.randint(0, len(weight), (16, 8), generator=generator)
        _, _, frames, mask = model.forward(processed_signal=features, processed_signal_length=torch.full((16,), 96))
        states = model.transf_decoder(
            input_ids=tokens, decoder_mask=torch.ones_like(tokens), encoder_embeddings=frames, encoder_mask=mask
        )
        bias = -(weight @ states.mean(dim=(0, 1)))
        bias[model.tokenizer.vocab_size :] = -1e3  # classes without a token
        model.log_softmax.mlp.layer0.bias.copy_(bias)


# Classes of ours that write no text.
WITHOUT_TEXT = ("FastConformerModel", "FastConformerForDiarization", "FastConformerForPreTraining")
TRANSFORMER = {"num_layers": 1, "inner_size": 32, "num_attention_heads": 2}
SPEC_AUGMENT = {"_target_": "nemo.collections.asr.modules.SpectrogramAugmentation", "freq_masks": 0, "time_masks": 0}
QUANTIZER = {"feat_in": 16, "code_dim": 4, "num_books": 1, "num_classes": 32, "dist_fn": "l2"}
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


def event_tokenizer(folder: Path) -> dict[str, Any]:
    """A vocabulary with the ends of utterances and of backchannels."""
    return train_with_symbols(folder, ["<EOU>", "<EOB>"], 96)


def tagged_tokenizer(folder: Path) -> dict[str, Any]:
    """A vocabulary with tags of languages."""
    return train_with_symbols(folder, ["<en-US>", "<de-DE>"], 96)


def two_languages_tokenizer(folder: Path) -> dict[str, Any]:
    """An aggregate of two SentencePiece models."""
    parts = {
        language: train_with_symbols(folder / language, [], 48 + 8 * index) for index, language in enumerate("ek")
    }
    return {"dir": None, "type": "agg", "langs": parts}


WORDPIECES = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "one", "two", "three", "dog", "don", "t", "a", "Hello", "he",
    "##er", "##s", "##ing", "##'", "##.", "##ll", "'", ".", ",", "!", "?", "-", "...", "child", "##ren", "again", "o",
]  # fmt: skip


def wordpiece_tokenizer(folder: Path) -> dict[str, Any]:
    """A WordPiece vocabulary. NeMo also needs `bert-base-cased`, see `write_bert_base`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDPIECES) + "\n", encoding="utf-8")
    return {"dir": str(folder), "type": "wpe"}


def write_bert_base(folder: Path) -> Path:
    """Put a folder `bert-base-cased` into `folder`: in that working directory NeMo reads it in place of the Hub."""
    model = folder / "bert-base-cased"
    model.mkdir(parents=True, exist_ok=True)
    (model / "vocab.txt").write_text("\n".join(WORDPIECES) + "\n", encoding="utf-8")
    (model / "config.json").write_text('{"model_type": "bert"}')
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    return folder


STATELESS = "nemo.collections.asr.modules.StatelessTransducerDecoder"
STREAMING = {
    "causal_downsampling": True,
    "conv_context_size": "causal",
    "conv_norm_type": "layer_norm",
    "att_context_style": "chunked_limited",
}
PROMPTS = {
    "model_defaults": {
        "initialize_prompt_feature": True,
        "num_prompts": 16,
        "prompt_dictionary": {"en-US": 0, "de-DE": 3, "en": 0, "auto": 11},
    }
}

FAMILIES: tuple[Family, ...] = (
    Family(
        "ctc",
        "parakeet-ctc-0.6b, parakeet-ctc-1.1b, stt_en_fastconformer_ctc_large, _xlarge, _xxlarge",
        "80 mels, scaled input, biases",
        "ctc",
        "FastConformerForCTC",
        {"preprocessor": {"features": 80}},
    ),
    Family(
        "conformer ctc",
        "stt_en_conformer_ctc_small, _medium, _large",
        "`striding` x4, kernel 31",
        "ctc",
        "FastConformerForCTC",
        {"encoder": {"subsampling": "striding", "subsampling_factor": 4, "conv_kernel_size": 31}},
    ),
    Family(
        "conformer ctc, characters",
        "character models of the Conformer recipes",
        "`striding` x4, `labels`",
        "ctc",
        "FastConformerForCTC",
        {"tokenizer": "char", "encoder": {"subsampling": "striding", "subsampling_factor": 4, "conv_kernel_size": 31}},
    ),
    Family(
        "ctc, stacked frames",
        "recipes with `subsampling: stacking_norm`",
        "`stacking_norm` x4, group norm in the convolutions",
        "ctc",
        "FastConformerForCTC",
        {"encoder": {"subsampling": "stacking_norm", "subsampling_factor": 4, "conv_norm_type": "group_norm4"}},
        is_alone_only=True,
        note="compared clip by clip, since the number of frames that NeMo stacks depends on the padding of the batch",
    ),
    Family(
        "long-form ctc",
        "models switched to local attention with a global token, `att_context_size: [128, 128]`",
        "`rel_pos_local_attn`, one global token",
        "ctc",
        "FastConformerForCTC",
        {
            "encoder": {
                "self_attention_model": "rel_pos_local_attn",
                "att_context_size": [8, 8],
                "global_tokens": 1,
                "global_attn_separate": True,
            }
        },
    ),
    Family(
        "absolute positions, reduction",
        "recipes with `reduction: striding`",
        "`abs_pos`, `stacking` x4, striding reduction after block 0",
        "ctc",
        "FastConformerForCTC",
        {
            "encoder": {
                "self_attention_model": "abs_pos",
                "subsampling": "stacking",
                "subsampling_factor": 4,
                "reduction": "striding",
                "reduction_position": 0,
                "reduction_factor": 2,
            }
        },
        is_alone_only=True,
        done_right=("ctc: timestamps",),
        note="compared clip by clip, as above; times are not compared, since NeMo's leave the reduction out",
    ),
    Family(
        "rnnt",
        "parakeet-rnnt-0.6b, parakeet-rnnt-1.1b, stt_en_fastconformer_transducer_large, _xlarge, _xxlarge",
        "2 LSTM layers",
        "rnnt",
        "FastConformerForRNNT",
        {"preprocessor": {"features": 80}, "decoder": {"prednet": {"pred_rnn_layers": 2}}},
    ),
    Family(
        "conformer rnnt",
        "stt_en_conformer_transducer_small, _medium, _large, _xlarge",
        "`striding` x4, tanh, joint without dropout, wide prediction network",
        "rnnt",
        "FastConformerForRNNT",
        {
            "encoder": {"subsampling": "striding", "subsampling_factor": 4, "conv_kernel_size": 31},
            "decoder": {"prednet": {"pred_hidden": 40}},
            "joint": {"jointnet": {"joint_hidden": 28, "activation": "tanh", "dropout": 0.0}},
        },
    ),
    Family(
        "rnnt, sigmoid, blank without a row",
        "`blank_as_pad: false` recipes",
        "sigmoid joint, no embedding of the blank",
        "rnnt",
        "FastConformerForRNNT",
        {"decoder": {"blank_as_pad": False}, "joint": {"jointnet": {"activation": "sigmoid"}}},
        strategy="greedy",
        note="compared with NeMo's `greedy`: its `greedy_batch` reads token 0 for the blank until the first token",
    ),
    Family(
        "rnnt, stateless",
        "recipes with `StatelessTransducerDecoder`",
        "context of 2 tokens",
        "rnnt",
        "FastConformerForRNNT",
        {"decoder": {"_target_": STATELESS, "context_size": 2}},
    ),
    Family(
        "tdt, stateless, normalised",
        "recipes with `StatelessTransducerDecoder`",
        "context of 3 tokens, `normalization_mode: layer`, durations 0 2 4 8",
        "tdt",
        "FastConformerForTDT",
        {
            "decoder": {"_target_": STATELESS, "context_size": 3, "normalization_mode": "layer"},
            "durations": [0, 2, 4, 8],
        },
    ),
    Family(
        "tdt",
        "parakeet-tdt-0.6b-v2, parakeet-tdt-0.6b-v3, parakeet-tdt-1.1b",
        "128 mels, no biases, unscaled input, 2 LSTM layers",
        "tdt",
        "FastConformerForTDT",
        {
            "preprocessor": {"features": 128},
            "encoder": {"use_bias": False, "xscaling": False},
            "decoder": {"prednet": {"pred_rnn_layers": 2}},
        },
    ),
    Family(
        "hybrid tdt-ctc",
        "parakeet-tdt_ctc-110m, parakeet-tdt_ctc-1.1b, parakeet-tdt_ctc-0.6b-ja",
        "1 LSTM layer, biases, unscaled input",
        "hybrid_tdt_ctc",
        "ParakeetTDTForTDT",
        {"preprocessor": {"features": 80}, "encoder": {"xscaling": False}},
    ),
    Family(
        "hybrid rnnt-ctc",
        "stt_*_fastconformer_hybrid_large_pc (de, es, fr, it, ru, ua, pl, hr, be, nl, pt, ka, hy, ar, uz, fa)",
        "unigram tokenizer",
        "hybrid_rnnt_ctc",
        "FastConformerForRNNT",
        {"tokenizer": "unigram"},
    ),
    Family(
        "hybrid rnnt-ctc, layer norm",
        "stt_kk_ru_fastconformer_hybrid_large",
        "layer norm in the convolutions of an offline model",
        "hybrid_rnnt_ctc",
        "FastConformerForRNNT",
        {"encoder": {"conv_norm_type": "layer_norm"}},
    ),
    Family(
        "streaming hybrid",
        "stt_en_fastconformer_hybrid_large_streaming_80ms, _480ms, _1040ms, _multi, _medium_streaming_80ms(_pc)",
        "causal, `chunked_limited`, several contexts, `normalize: NA`",
        "hybrid_rnnt_ctc",
        "FastConformerForRNNT",
        {
            "preprocessor": {"normalize": "NA"},
            "encoder": {**STREAMING, "att_context_size": [[14, 6], [14, 1], [14, 0]]},
        },
    ),
    Family(
        "streaming rnnt",
        "nemotron-speech-streaming-en-0.6b",
        "causal, `chunked_limited`, no biases",
        "rnnt",
        "FastConformerForRNNT",
        {
            "preprocessor": {"features": 128, "normalize": "NA"},
            "encoder": {**STREAMING, "att_context_size": [12, 3], "use_bias": False, "xscaling": False},
            "decoder": {"prednet": {"pred_rnn_layers": 2}},
        },
    ),
    Family(
        "unified rnnt",
        "parakeet-unified-en-0.6b",
        "`chunked_limited_with_rc`, dynamic chunked convolution",
        "rnnt",
        "FastConformerForRNNT",
        {
            "preprocessor": {"features": 128},
            "encoder": {"att_context_style": "chunked_limited_with_rc", "conv_context_style": "dcc"},
        },
    ),
    Family(
        "end of utterance",
        "parakeet_realtime_eou_120m-v1",
        "`<EOU>` and `<EOB>` in the vocabulary",
        "rnnt",
        "FastConformerForRNNT",
        {
            "nemo_class": "EncDecRNNTBPEEOUModel",
            "tokenizer": event_tokenizer,
            "preprocessor": {"features": 128, "normalize": "NA"},
            "encoder": {**STREAMING, "att_context_size": [14, 1], "xscaling": False},
        },
    ),
    Family(
        "end of utterance, hybrid",
        "fine-tunes of the end-of-utterance recipes",
        "`<EOU>` and `<EOB>` in the vocabulary",
        "hybrid_rnnt_ctc",
        "FastConformerForRNNT",
        {"nemo_class": "EncDecHybridRNNTCTCBPEEOUModel", "tokenizer": event_tokenizer},
    ),
    Family(
        "language prompts",
        "nemotron-3.5-asr-streaming-0.6b",
        "prompts by language, tags left out of the text",
        "rnnt",
        "FastConformerForRNNT",
        {
            "nemo_class": "EncDecRNNTBPEModelWithPrompt",
            "tokenizer": tagged_tokenizer,
            "preprocessor": {"normalize": "NA"},
            "encoder": {**STREAMING, "att_context_size": [12, 3]},
            "decoding": {"strip_lang_tags": True},
            **PROMPTS,
        },
        languages=("de-DE", "auto"),
    ),
    Family(
        "language prompts, hybrid",
        "fine-tunes with a CTC head too",
        "prompts by language",
        "hybrid_rnnt_ctc",
        "FastConformerForRNNT",
        {"nemo_class": "EncDecHybridRNNTCTCBPEModelWithPrompt", **PROMPTS},
        languages=("de-DE", "en-US"),
    ),
    Family(
        "multi-talker",
        "multitalker-parakeet-streaming-0.6b-v1",
        "speaker kernels, everybody and one speaker followed",
        "rnnt",
        "FastConformerForRNNT",
        {
            "nemo_class": "EncDecMultiTalkerRNNTBPEModel",
            "encoder": {**STREAMING, "att_context_size": [12, 3]},
            "sections": {"spk_kernel_type": "ff", "spk_kernel_layers": [0, 1], "add_bg_spk_kernel": True},
        },
    ),
    Family(
        "several languages",
        "stt_multilingual_fastconformer_hybrid_large_pc, aggregate tokenizers",
        "two SentencePiece models, one after the other",
        "rnnt",
        "FastConformerForRNNT",
        {"tokenizer": two_languages_tokenizer},
    ),
    Family(
        "several languages, hybrid",
        "stt_multilingual_fastconformer_hybrid_large_pc, its CTC head",
        "two SentencePiece models, one after the other, both heads",
        "hybrid_rnnt_ctc",
        "FastConformerForRNNT",
        {"tokenizer": two_languages_tokenizer},
        done_right=("ctc: text",),
        note="NeMo 3.0 does not give the text of the CTC head; its tokens and frames are compared",
    ),
    Family(
        "word pieces",
        "models of the `wpe` recipes",
        "WordPiece vocabulary from `vocab.txt`",
        "hybrid_tdt_ctc",
        "ParakeetTDTForTDT",
        {"tokenizer": wordpiece_tokenizer},
    ),
    Family(
        "canary",
        "canary-1b",
        "attention decoder with projection and transformer encoder, aggregate tokenizer",
        "ctc",
        "FastConformerForMultitask",
        canary_overrides(),
        strategy="beam",
    ),
    Family(
        "canary flash",
        "canary-1b-flash, canary-180m-flash",
        "attention decoder of the encoder's width, `canary2` prompts, aggregate tokenizer",
        "ctc",
        "FastConformerForMultitask",
        canary_overrides(has_projection=False, num_frames_layers=0, prompt_format="canary2"),
        strategy="beam",
    ),
    Family(
        "canary v2",
        "canary-1b-v2",
        "attention decoder of the encoder's width, `canary2` prompts, one SentencePiece model",
        "ctc",
        "FastConformerForMultitask",
        canary_overrides(has_projection=False, num_frames_layers=0, prompt_format="canary2", is_aggregate=False),
        strategy="beam",
    ),
    Family(
        "canary, norms after the sums",
        "fine-tunes and older recipes",
        "`pre_ln: false`, learned positions",
        "ctc",
        "FastConformerForMultitask",
        canary_overrides(is_pre_norm=False, has_learned_positions=True),
        strategy="greedy",
    ),
    Family(
        "nest",
        "ssl_en_nest_large_v1.0, ssl_en_nest_xlarge_v1.0",
        "self-supervised, masks before the subsampling",
        "ctc",
        "FastConformerForPreTraining",
        {"nemo_class": "EncDecDenoiseMaskedTokenPredModel", "tokenizer": "char", "sections": NEST_SECTIONS},
    ),
    Family(
        "nest, masks after the subsampling",
        "fine-tunes of the self-supervised recipes",
        "`mask_position: post_conv`",
        "ctc",
        "FastConformerForPreTraining",
        {"nemo_class": "EncDecMaskedTokenPredModel", "tokenizer": "char", "sections": POST_CONV_SECTIONS},
    ),
    Family(
        "streaming sortformer",
        "diar_streaming_sortformer_4spk-v2, -v2.1",
        "a streaming speaker diariser, 128 mels",
        "ctc",
        "FastConformerForDiarization",
        {
            "nemo_class": "SortformerEncLabelModel",
            "tokenizer": "char",
            "without": ("decoder", "labels"),
            "preprocessor": {"features": 128, "normalize": "NA"},
            "encoder": {"d_model": 32, "xscaling": True},
            "sections": {**SORTFORMER_SECTIONS, "streaming_mode": True},
        },
    ),
    Family(
        "sortformer",
        "diar_sortformer_4spk-v1",
        "a speaker diariser",
        "ctc",
        "FastConformerForDiarization",
        {
            "nemo_class": "SortformerEncLabelModel",
            "tokenizer": "char",
            "without": ("decoder", "labels"),
            "sections": SORTFORMER_SECTIONS,
        },
    ),
)


# The page


COLUMNS = ("family", "published checkpoints", "particular options", "class", "largest error", "decoded")
PAGE = """\
# Supported checkpoints

All families of NeMo's FastConformer and Conformer checkpoints, with the results of a comparison with NeMo {nemo}. For
each row NeMo builds and saves a small model of the family's shape with perturbed random weights, this package converts
it, and both run it on {clips} batches of real speech, some of them padded or of odd lengths. Then the model is saved,
loaded and compared again, with both forms of attention. The published weights themselves are not used in any row.

- **Largest error**: the largest difference from NeMo in float32 on a CPU, as a share of the largest magnitude in
  NeMo's output; {tolerance:.0e} is allowed. Features are bit-equal in every row.
- **Decoded**: the results that are identical for every clip: tokens (of the clip by itself and in a batch), frames,
  durations, times and text.

Rows with only an encoder (`FastConformerModel`) come from models whose other parts are not converted; the conversion
names these parts. `fastconformer inspect --model FILE.nemo` shows the result of a conversion before it is made.

{table}

## Notes

{notes}
- Aggregate tokenizers: NeMo 3.0 does not give times with them, this package does; only tokens, frames and text are
  compared.

Written by `FASTCONFORMER_WRITE_TABLE=1 pytest -m nemo tests/equivalence/test_families_nemo.py`.
"""


def fixed_cells(family: Family) -> list[str]:
    """The cells of a row that do not depend on a run."""
    return [family.name, family.checkpoints, family.options, f"`{family.architecture}`"]


def read_page() -> dict[str, tuple[str, str]]:
    """Read the last two cells of each row of the page."""
    cells = {}
    for line in TABLE_PATH.read_text(encoding="utf-8").splitlines():
        row = tuple(cell.strip() for cell in line.strip().strip("|").split(" | "))
        if len(row) == len(COLUMNS):
            cells[row[0]] = (row[-2], row[-1])
    return cells


def write_page(measured: dict[str, tuple[str, str]], nemo_version: str, num_batches: int, tolerance: float) -> None:
    """
    Write the page.

    Args:
        measured: Name of a family to the last two cells of its row.
        nemo_version: Version that was compared with.
        num_batches: Batches of clips.
        tolerance: Share of the magnitude that is allowed.
    """
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    rows += [(*fixed_cells(family), *measured[family.name]) for family in FAMILIES]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    notes = "\n".join(f"- {family.name}: {family.note}." for family in FAMILIES if family.note)
    page = PAGE.format(nemo=nemo_version, clips=num_batches, tolerance=tolerance, table=table, notes=notes)
    TABLE_PATH.write_text(page, encoding="utf-8")
