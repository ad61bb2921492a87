"""Small Canary-shaped models with weights that say more than one token."""

from __future__ import annotations

from typing import Any

import torch

from transformers_fastconformer import FastConformerForMultitask, FastConformerMultitaskConfig

SMALL: dict[str, Any] = {
    "num_mel_bins": 16,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "subsampling_conv_channels": 16,
    "vocab_size": 40,
    "num_tokens": 37,
    "decoder_hidden_size": 24,
    "num_decoder_layers": 2,
    "num_decoder_attention_heads": 2,
    "decoder_intermediate_size": 48,
    "decoder_max_positions": 32,
    "num_transformer_encoder_layers": 1,
    "num_transformer_encoder_attention_heads": 2,
    "transformer_encoder_intermediate_size": 48,
    "max_generation_delta": 4,
    "bos_token_id": 3,
    "eos_token_id": 4,
    "pad_token_id": 5,
    "decoder_start_token_id": 6,
}
# Kinds of decoders.
DECODERS: list[dict[str, Any]] = [
    {},
    {"decoder_pre_norm": False, "transformer_encoder_pre_norm": False},
    {"decoder_hidden_size": 32, "num_transformer_encoder_layers": 0, "decoder_learned_positions": True},
    {"decoder_final_norm": False, "decoder_activation": "gelu", "decoding_strategy": "greedy"},
]
PROMPT = [6, 3, 10, 11]


def build_multitask(seed: int = 0, spread: float = 5.0, **options: Any) -> FastConformerForMultitask:
    """
    A model in evaluation mode whose weights are all drawn anew, large enough that tokens differ.

    Args:
        seed: Of the weights.
        spread: Size of the decoder's weights; large ones magnify rounding, too.
        options: Of the configuration, over `SMALL`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FastConformerForMultitask(FastConformerMultitaskConfig(**{**SMALL, **options})).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape)
                if parameter.ndim == 1:
                    parameter.add_(0.1 * noise)
                else:
                    # What layers add must outweigh the last token's own embedding, which the head is tied to.
                    scale = spread if name.startswith("decoder.layers") else 1.0
                    parameter.copy_(scale * noise / parameter[0].numel() ** 0.5)
            _balance(model)
    return model


def _balance(model: FastConformerForMultitask) -> None:
    """Take the mean of the states out of the scores, which would else be highest for one token everywhere."""
    tokens = torch.randint(0, model.config.vocab_size, (16, 8))
    encoded = model.encode(**random_features([97] * 16, seed=2))
    states = model(encoder_outputs=encoded, decoder_input_ids=tokens, output_hidden_states=True).decoder_hidden_states
    last = states[-1] if model.decoder.norm is None else model.decoder.norm(states[-1])
    weight = model.decoder.embedding.weight
    weight.div_(weight.norm(dim=1, keepdim=True))
    model.token_head.bias.copy_(-(weight @ last.mean(dim=(0, 1))))


def random_features(lengths: list[int], seed: int = 1) -> dict[str, torch.Tensor]:
    """Features of clips of so many mel frames, with one masked frame after the longest."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(lengths), max(lengths) + 1, SMALL["num_mel_bins"], generator=generator)
    return {"input_features": features, "input_lengths": torch.tensor(lengths)}


def alone(inputs: dict[str, torch.Tensor], clip: int) -> dict[str, torch.Tensor]:
    """One clip of a batch, as it is by itself."""
    length = int(inputs["input_lengths"][clip])
    return {
        "input_features": inputs["input_features"][clip : clip + 1, : length + 1],
        "input_lengths": inputs["input_lengths"][clip : clip + 1],
    }
