"""
Checkpoints of published shapes with random weights, built and saved by NeMo, for benchmarks and `slow` tests.

`find_archive` builds them, in a process of its own that runs this module.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from common.processes import module_command

# Encoder, vocabulary and heads as in the published configurations; `preprocessor` and `encoder` are further options.
SHAPES: dict[str, dict[str, Any]] = {
    "parakeet-tdt-0.6b-v2": {
        "d_model": 1024,
        "n_layers": 24,
        "mels": 128,
        "vocab_size": 1024,
        "use_bias": False,
        "xscaling": False,
        "pred_layers": 2,
        "durations": [0, 1, 2, 3, 4],
        "ctc": False,
    },
    "parakeet-tdt-0.6b-v3": {
        "d_model": 1024,
        "n_layers": 24,
        "mels": 128,
        "vocab_size": 8192,
        "use_bias": False,
        "xscaling": False,
        "pred_layers": 2,
        "durations": [0, 1, 2, 3, 4],
        "ctc": False,
    },
    "parakeet-tdt_ctc-110m": {
        "d_model": 512,
        "n_layers": 17,
        "mels": 80,
        "vocab_size": 1024,
        "use_bias": True,
        "xscaling": False,
        "pred_layers": 1,
        "durations": [0, 1, 2, 3, 4],
        "ctc": True,
    },
    "parakeet-ctc-1.1b": {
        "d_model": 1024,
        "n_layers": 42,
        "mels": 80,
        "vocab_size": 1024,
        "use_bias": True,
        "xscaling": True,
        "pred_layers": 0,
        "durations": [],
        "ctc": True,
    },
    "stt_en_fastconformer_hybrid_large_streaming_multi": {
        "d_model": 512,
        "n_layers": 17,
        "mels": 80,
        "vocab_size": 1024,
        "use_bias": True,
        "xscaling": True,
        "pred_layers": 1,
        "durations": [],
        "ctc": True,
        "preprocessor": {"normalize": "NA"},
        "encoder": {
            "causal_downsampling": True,
            "conv_context_size": "causal",
            "conv_norm_type": "layer_norm",
            "att_context_style": "chunked_limited",
            "att_context_size": [[70, 13], [70, 6], [70, 1], [70, 0]],
        },
    },
}


def train_tokenizer(folder: Path, vocab_size: int) -> Path:
    """Train a SentencePiece BPE tokenizer with the given number of pieces, on words made from syllables."""
    import random

    import sentencepiece

    generator = random.Random(0)
    syllables = [consonant + vowel for consonant in "bcdfghjklmnpqrstvwxyz" for vowel in "aeiou"]
    sentences = [
        " ".join("".join(generator.choices(syllables, k=generator.randint(1, 5))) for _ in range(12))
        + generator.choice(".?!")
        for _ in range(6000)
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        bos_id=-1,
        eos_id=-1,
        unk_id=0,
        character_coverage=1.0,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.IdToPiece(index) for index in range(processor.GetPieceSize())]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (folder / "tokenizer.vocab").write_text("".join(f"{piece}\t0\n" for piece in pieces), encoding="utf-8")
    return folder


def build_config(shape: dict[str, Any], tokenizer_dir: Path) -> dict[str, Any]:
    """NeMo's configuration of a shape."""
    config: dict[str, Any] = {
        "sample_rate": 16000,
        "tokenizer": {"dir": str(tokenizer_dir), "type": "bpe"},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": shape["mels"],
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": shape["mels"],
            "feat_out": -1,
            "n_layers": shape["n_layers"],
            "d_model": shape["d_model"],
            "use_bias": shape["use_bias"],
            "xscaling": shape["xscaling"],
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 256,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": 8,
            "att_context_size": [-1, -1],
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
            "dropout": 0.1,
            "dropout_pre_encoder": 0.1,
            "dropout_emb": 0.0,
            "dropout_att": 0.1,
        },
    }
    config["preprocessor"] |= shape.get("preprocessor", {})
    config["encoder"] |= shape.get("encoder", {})
    ctc_decoder = {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": None,
        "num_classes": -1,
        "vocabulary": [],
    }
    if not shape["pred_layers"]:
        config["decoder"] = ctc_decoder
        return config
    config["model_defaults"] = {"enc_hidden": shape["d_model"], "pred_hidden": 640, "joint_hidden": 640}
    config["decoder"] = {
        "_target_": "nemo.collections.asr.modules.RNNTDecoder",
        "normalization_mode": None,
        "blank_as_pad": True,
        "random_state_sampling": False,
        "prednet": {"pred_hidden": 640, "pred_rnn_layers": shape["pred_layers"], "t_max": None, "dropout": 0.2},
    }
    config["joint"] = {
        "_target_": "nemo.collections.asr.modules.RNNTJoint",
        "log_softmax": None,
        "preserve_memory": False,
        "fuse_loss_wer": False,
        "fused_batch_size": None,
        "num_extra_outputs": len(shape["durations"]),
        "jointnet": {"joint_hidden": 640, "activation": "relu", "dropout": 0.2},
    }
    config["decoding"] = {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}}
    config["loss"] = {"loss_name": "default"}
    if shape["durations"]:
        config["decoding"] |= {"model_type": "tdt", "durations": shape["durations"]}
        config["loss"] = {
            "loss_name": "tdt",
            "tdt_kwargs": {
                "fastemit_lambda": 0.0,
                "clamp": -1.0,
                "durations": shape["durations"],
                "sigma": 0.02,
                "omega": 0.1,
            },
        }
    if shape["ctc"]:
        config["aux_ctc"] = {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": ctc_decoder,
            "decoding": {"strategy": "greedy"},
        }
    return config


def perturb(model: Any) -> None:
    """Draw random weights, also the running statistics of batch norms, scaled so that values stay moderate."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or name.endswith((".fb", ".window")):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.ndim <= 1:
                tensor.add_(0.1 * noise)
            else:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
        for child in model.modules():
            if isinstance(child, torch.nn.Embedding) and child.padding_idx is not None:
                child.weight[child.padding_idx] = 0.0
        if hasattr(model, "joint"):
            # The blank wins mostly, as in a trained model; with random weights it loses, and tokens fill every frame.
            blank = model.joint.num_classes_with_blank - 1 - getattr(model.joint, "num_extra_outputs", 0)
            model.joint.joint_net[-1].bias[blank] += 3.0


def build_archive(name: str, path: Path) -> None:
    """Build a shape with NeMo and save it as a `.nemo`."""
    from nemo.collections.asr import models
    from omegaconf import OmegaConf

    shape = SHAPES[name]
    with tempfile.TemporaryDirectory() as temporary:
        config = OmegaConf.create(build_config(shape, train_tokenizer(Path(temporary), shape["vocab_size"])))
        if not shape["pred_layers"]:
            model: Any = models.EncDecCTCModelBPE(cfg=config)
        elif shape["ctc"]:
            model = models.EncDecHybridRNNTCTCBPEModel(cfg=config)
        else:
            model = models.EncDecRNNTBPEModel(cfg=config)
        perturb(model)
        model.save_to(str(path))


def find_archive(name: str, folder: Path) -> Path:
    """Find the archive of a shape in a folder; it is built if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.nemo"
    if not path.exists():
        # In a process of its own, so that NeMo's memory is not that of the caller.
        subprocess.run([*module_command("common.nemo_shapes"), name, str(path)], check=True)
    return path


if __name__ == "__main__":
    build_archive(sys.argv[1], Path(sys.argv[2]))
