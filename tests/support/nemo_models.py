"""NeMo models of every kind, small and fully perturbed, with tokenizers of their own."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

NEMO_MODEL_KINDS = ("ctc", "rnnt", "tdt", "hybrid_tdt_ctc", "hybrid_rnnt_ctc")
# Modules of NeMo's classes beyond those of the kinds.
NEMO_MODULES = (
    "aed_multitask_models",
    "asr_eou_models",
    "hybrid_rnnt_ctc_bpe_models_prompt",
    "multitalker_asr_models",
    "rnnt_bpe_models_prompt",
    "sortformer_diar_models",
    "ssl_models",
)
TDT_DURATIONS = [0, 1, 2, 3, 4]

# What tokenizers are trained on: sentences of the project's own, with punctuation, capitals and numbers.
TOKENIZER_SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Speech is turned into features, features into frames, frames into tokens; tokens make the text.",
    "Where does the road lead? It leads to the river, past the mill and the old stone bridge!",
    "One two three four five six seven eight nine zero. Zero nine eight seven six five four three two one.",
    "She said: it's a model's job to listen, isn't it? Yes, and to write down what was said.",
    "Every morning the children walk to school, every evening they run home again.",
    "Rain fell on the harbour; the boats, tied to the quay, moved slowly up and down.",
    "A long sentence has many words, a short one has few. Both end with a mark.",
    "He bought 12 apples, 3 pears and 45 plums for 6.70 at the well-known market.",
    "Quiet voices, loud voices, voices far away: the machine hears them all.",
]


def train_sentencepiece(folder: Path, model_type: str = "bpe", vocab_size: int = 128) -> Path:
    """Train a SentencePiece model and lay it out as NeMo wants a tokenizer folder. Returns the folder."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TOKENIZER_SENTENCES * 4),
        model_writer=model,
        model_type=model_type,
        vocab_size=vocab_size,
        bos_id=-1,
        eos_id=-1,
        unk_id=0,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.IdToPiece(index) for index in range(processor.GetPieceSize())]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (folder / "tokenizer.vocab").write_text("".join(f"{piece}\t0\n" for piece in pieces), encoding="utf-8")
    return folder


def _merge(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`base` with `overrides` laid over it, dictionaries inside dictionaries too. `base` stays as it is."""
    merged = copy.deepcopy(base)
    for key, value in overrides.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def nemo_model_config(kind: str, tokenizer_dir: Path | None, **overrides: Any) -> dict[str, Any]:
    """
    A small NeMo model configuration.

    Args:
        kind: One of `NEMO_MODEL_KINDS`.
        tokenizer_dir: Folder with `tokenizer.model`; `None` for a character model, whose `labels` come from
            `overrides` or are the small letters.
        overrides: Sections of the configuration laid over the small one: `encoder={"n_layers": 3}`,
            `decoder={"prednet": {...}}`, `joint={"jointnet": {...}}`, `preprocessor={...}`, `loss={...}`,
            `decoding={...}`, `aux_ctc={...}`. `durations` is a short form for TDT's.
    """
    assert kind in NEMO_MODEL_KINDS, kind
    overrides = dict(overrides)
    is_tdt = "tdt" in kind
    durations = overrides.pop("durations", TDT_DURATIONS)
    num_mels = overrides.get("preprocessor", {}).get("features", 16)
    hidden = overrides.get("encoder", {}).get("d_model", 32)
    encoder_output = overrides.get("encoder", {}).get("feat_out", -1)
    config: dict[str, Any] = {
        "sample_rate": 16000,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": num_mels,
            "n_fft": 512,
            "log": True,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
            "pad_value": 0.0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": num_mels,
            "feat_out": -1,
            "n_layers": 2,
            "d_model": hidden,
            "use_bias": True,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 16,
            "causal_downsampling": False,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": 4,
            "att_context_size": [-1, -1],
            "att_context_style": "regular",
            "xscaling": True,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
            "conv_context_size": None,
            "dropout": 0.1,
            "dropout_pre_encoder": 0.1,
            "dropout_emb": 0.0,
            "dropout_att": 0.1,
            "stochastic_depth_drop_prob": 0.0,
        },
    }
    if tokenizer_dir is not None:
        config["tokenizer"] = {"dir": str(tokenizer_dir), "type": "bpe"}
    else:
        config["labels"] = overrides.get("labels", [" ", *"abcdefghijklmnopqrstuvwxyz", "'"])
    if kind == "ctc":
        config["decoder"] = {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": None,
            "num_classes": -1,
            "vocabulary": config.get("labels", []),
        }
        return _merge(config, overrides)
    config["model_defaults"] = {
        "enc_hidden": encoder_output if encoder_output > 0 else hidden,
        "pred_hidden": overrides.get("decoder", {}).get("prednet", {}).get("pred_hidden", 20),
        "joint_hidden": overrides.get("joint", {}).get("jointnet", {}).get("joint_hidden", 24),
    }
    config["decoder"] = {
        "_target_": "nemo.collections.asr.modules.RNNTDecoder",
        "normalization_mode": None,
        "random_state_sampling": False,
        "blank_as_pad": True,
        "prednet": {
            "pred_hidden": config["model_defaults"]["pred_hidden"],
            "pred_rnn_layers": 1,
            "t_max": None,
            "dropout": 0.2,
        },
    }
    if overrides.get("decoder", {}).get("_target_", "").endswith("StatelessTransducerDecoder"):
        # It refuses keys of the LSTM decoder.
        prednet = {"pred_hidden": config["model_defaults"]["pred_hidden"], "dropout": 0.2}
        config["decoder"] = {"prednet": prednet}
    config["joint"] = {
        "_target_": "nemo.collections.asr.modules.RNNTJoint",
        "log_softmax": None,
        "preserve_memory": False,
        "fuse_loss_wer": False,
        "fused_batch_size": None,
        "jointnet": {
            "joint_hidden": config["model_defaults"]["joint_hidden"],
            "activation": "relu",
            "dropout": 0.2,
        },
    }
    config["decoding"] = {
        "strategy": "greedy_batch",
        "greedy": {"max_symbols": 10},
    }
    config["loss"] = {"loss_name": "default"}
    if is_tdt:
        config["joint"]["num_extra_outputs"] = len(durations)
        config["decoding"] |= {"model_type": "tdt", "durations": list(durations)}
        config["loss"] = {
            "loss_name": "tdt",
            "tdt_kwargs": {
                "fastemit_lambda": 0.0,
                "clamp": -1.0,
                "durations": list(durations),
                "sigma": 0.02,
                "omega": 0.1,
            },
        }
    if kind.startswith("hybrid"):
        config["aux_ctc"] = {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": {
                "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
                "feat_in": None,
                "num_classes": -1,
                "vocabulary": config.get("labels", []),
            },
            "decoding": {"strategy": "greedy"},
        }
    return _merge(config, overrides)


def perturb_weights(
    module: torch.nn.Module, seed: int = 0, keep: tuple[str, ...] = ("fb", "window", "pos_enc")
) -> None:
    """
    Move every parameter and every saved floating buffer away from its initial value, so that no weight is left at a
    zero or a one that would hide a wrong mapping. The rows of padding tokens stay 0, as after training, and
    buffers that are not saved (tables of sinusoids) stay what they are computed to be.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point() or tensor.numel() == 0 or name.rsplit(".", 1)[-1] in keep:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif name.endswith("running_mean"):
                tensor.copy_(0.3 * noise)
            elif tensor.ndim <= 1:
                tensor.add_(0.1 * noise)
            else:
                fan_in = math.prod(tensor.shape[1:])
                tensor.copy_(noise / math.sqrt(max(1, fan_in)))
        for child in module.modules():
            if isinstance(child, torch.nn.Embedding) and child.padding_idx is not None:
                child.weight[child.padding_idx] = 0.0


def _model_class(kind: str, is_character_model: bool) -> Any:
    from nemo.collections.asr import models

    family = "ctc" if kind == "ctc" else "hybrid" if kind.startswith("hybrid") else "rnnt"
    return {
        ("ctc", False): models.EncDecCTCModelBPE,
        ("ctc", True): models.EncDecCTCModel,
        ("rnnt", False): models.EncDecRNNTBPEModel,
        ("rnnt", True): models.EncDecRNNTModel,
        ("hybrid", False): models.EncDecHybridRNNTCTCBPEModel,
        ("hybrid", True): models.EncDecHybridRNNTCTCModel,
    }[family, is_character_model]


def _find_model_class(kind: str, is_character_model: bool, name: str | None) -> Any:
    if name is None:
        return _model_class(kind, is_character_model)
    import importlib

    for module in NEMO_MODULES:
        found = getattr(importlib.import_module(f"nemo.collections.asr.models.{module}"), name, None)
        if found is not None:
            return found
    raise AssertionError(f"NeMo has no {name}")


class ModelBuilder:
    """
    Builds NeMo models in evaluation mode with perturbed weights.

    Args:
        folder: Where the tokenizers are kept that are trained on the way.
    """

    def __init__(self, folder: Path) -> None:
        import logging

        from nemo.utils import logging as nemo_logging

        nemo_logging.setLevel(logging.ERROR)
        self.folder = folder

    def __call__(
        self,
        kind: str,
        *,
        tokenizer: str | Path | Callable[[Path], dict[str, Any]] = "bpe",
        vocab_size: int = 128,
        seed: int = 0,
        nemo_class: str | None = None,
        without: tuple[str, ...] = (),
        sections: dict[str, Any] | None = None,
        **overrides: Any,
    ) -> Any:
        """
        Build a model.

        Args:
            kind: One of `NEMO_MODEL_KINDS`.
            tokenizer: `"bpe"`, `"unigram"`, `"char"` (labels in the configuration), a folder, or a function that makes
                it and returns NeMo's section.
            vocab_size: Pieces of a tokenizer that is trained.
            seed: Of the weights.
            nemo_class: Another class than that of the kind.
            without: Sections that the configuration does not have.
            sections: Sections that are put in the place of those of the kind.
            overrides: Those of `nemo_model_config`.
        """
        from omegaconf import OmegaConf

        if tokenizer == "char":
            folder = None
        elif callable(tokenizer):
            folder = self.folder / tokenizer.__name__
            overrides["tokenizer"] = tokenizer(folder)
        elif tokenizer in ("bpe", "unigram"):
            folder = self.folder / f"{tokenizer}-{vocab_size}"
            if not (folder / "tokenizer.model").is_file():
                train_sentencepiece(folder, str(tokenizer), vocab_size)
        else:
            folder = Path(tokenizer)
        content = nemo_model_config(kind, folder, **overrides) | copy.deepcopy(sections or {})
        config = OmegaConf.create({name: section for name, section in content.items() if name not in without})
        # Biases keep the draw of their initialisation, which must not depend on the models before.
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = _find_model_class(kind, folder is None, nemo_class)(cfg=config, trainer=None).eval()
        perturb_weights(model, seed)
        return model
