"""NeMo's `ConformerEncoder`, tiny and perturbed, and our encoder with the same weights."""

from __future__ import annotations

from typing import Any

import torch

from transformers_fastconformer import FastConformerConfig, FastConformerEncoder
from transformers_fastconformer.nemo.weight_map import name_table

NEMO_BASE: dict[str, Any] = {
    "feat_in": 16,
    "n_layers": 3,
    "d_model": 32,
    "n_heads": 4,
    "subsampling": "dw_striding",
    "subsampling_factor": 4,
    "subsampling_conv_channels": 8,
    "conv_kernel_size": 9,
    "pos_emb_max_len": 5000,
    "dropout": 0.1,
    "dropout_emb": 0.0,
    "dropout_att": 0.0,
}
OUR_BASE: dict[str, Any] = {
    "num_mel_bins": 16,
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "subsampling_type": "dw_striding",
    "subsampling_factor": 4,
    "subsampling_conv_channels": 8,
    "conv_kernel_size": 9,
}


@torch.no_grad()
def perturb_weights(encoder: Any, seed: int = 0) -> None:
    """Every parameter and every statistic away from where it starts; the sinusoids stay."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in encoder.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim == 1:
            tensor.add_(0.2 * noise)
        elif name.endswith(("pos_bias_u", "pos_bias_v")):
            tensor.copy_(0.5 * noise)
        else:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)


def build_nemo_encoder(encoder_class: Any, options: dict[str, Any], seed: int = 0) -> Any:
    from omegaconf import OmegaConf

    # From a configuration, which `change_attention_model` reads again.
    section = {"_target_": "nemo.collections.asr.modules.ConformerEncoder"} | NEMO_BASE | options
    # Biases keep the draw of their initialisation, which must not depend on the tests before.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = encoder_class.from_config_dict(OmegaConf.create(section)).eval()
    perturb_weights(encoder, seed)
    return encoder


def copy_weights(nemo_encoder: Any, config: FastConformerConfig) -> FastConformerEncoder:
    """Our encoder with NeMo's weights; every tensor must be met, on both sides."""
    encoder = FastConformerEncoder(config)
    our_shapes = {f"encoder.{name}": tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    nemo_tensors = {f"encoder.{name}": tensor for name, tensor in nemo_encoder.state_dict().items()}
    nemo_shapes = {name: tuple(tensor.shape) for name, tensor in nemo_tensors.items()}
    plan = name_table(config).plan_reading(nemo_shapes, our_shapes, "NeMo's encoder")
    state_dict = {
        target.name.removeprefix("encoder."): target.form.to_ours(nemo_tensors[nemo_name], target.shape)
        for nemo_name, target in plan.targets.items()
    }
    encoder.load_state_dict(state_dict, strict=True)
    return encoder.eval()
