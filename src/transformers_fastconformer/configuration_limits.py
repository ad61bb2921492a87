"""Largest values of a configuration, for the encoder and all heads."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from .validation import is_integer, is_number, require

# Largest values, about ten times those of the largest published checkpoints: a file that declares more is damaged or
# hostile, and is refused before anything of that size is made.
MAX_VALUES = {
    "num_mel_bins": 2048,
    "hidden_size": 2**14,
    "num_hidden_layers": 512,
    "num_attention_heads": 512,
    "intermediate_size": 2**16,
    "subsampling_factor": 256,
    "subsampling_conv_channels": 2**14,
    "reduction_factor": 256,
    "attention_context": 2**24,
    "attention_contexts": 2**24,
    "num_global_tokens": 2**16,
    "global_tokens_spacing": 2**24,
    "conv_kernel_size": 1023,
    "conv_context": 1023,
    "conv_norm_groups": 2**14,
    "encoder_output_size": 2**14,
    "vocab_size": 2**18,
    "decoder_hidden_size": 2**14,
    "num_decoder_layers": 64,
    "decoder_context_size": 64,
    "num_tokens": 2**18,
    "num_decoder_attention_heads": 512,
    "decoder_intermediate_size": 2**16,
    "decoder_max_positions": 2**17,
    "num_transformer_encoder_layers": 64,
    "num_transformer_encoder_attention_heads": 512,
    "transformer_encoder_intermediate_size": 2**16,
    "max_generation_delta": 2**17,
    "beam_size": 1024,
    "transformer_hidden_size": 2**14,
    "num_speakers": 1024,
    "cache_frames": 2**20,
    "queue_frames": 2**20,
    "chunk_frames": 2**20,
    "update_frames": 2**20,
    "left_context_frames": 2**20,
    "right_context_frames": 2**20,
    "cache_silence_frames": 2**20,
    "joint_hidden_size": 2**14,
    "max_symbols_per_step": 1024,
    "num_prompts": 4096,
    "durations": 4096,
    "pad_token_id": 2**31 - 1,
}
# Most entries of a list or table.
MAX_ENTRIES = {
    "attention_contexts": 1024,
    "attention_context_probabilities": 1024,
    "durations": 256,
    "prompt_languages": 2**16,
    "prompt_token_ids": 2**16,
    "prompt_defaults": 256,
}
MAX_PARAMETERS = 2 * 10**10  # of all that a configuration declares
NUMBERS = ("initializer_range", "sigma", "omega", "ctc_loss_weight", "label_smoothing", "beam_length_penalty")


def check_limits(config: PreTrainedConfig) -> None:
    """Refuse what no checkpoint is as large as, before any arithmetic on it."""
    for name, limit in MAX_VALUES.items():
        value = getattr(config, name, None)  # only some configurations have it
        is_accepted = all(is_integer(number) and abs(number) <= limit for number in _flatten(value))
        require(is_accepted, name, value, f"integers of at most {limit}")
    for name, limit in MAX_ENTRIES.items():
        value = getattr(config, name, None)
        require(value is None or len(value) <= limit, name, value, f"at most {limit} entries")
    for name in NUMBERS:
        value = getattr(config, name, 0)
        require(is_number(value), name, value, "a finite number")


def check_size(config: PreTrainedConfig) -> None:
    """Refuse values that are each accepted and together make a model that no machine holds."""
    num_parameters = config.estimate_parameters()
    if num_parameters > MAX_PARAMETERS:
        raise ValueError(
            f"hidden_size={config.hidden_size}, num_hidden_layers={config.num_hidden_layers} and the other widths "
            f"are not supported: they make about {num_parameters} weights; expected at most {MAX_PARAMETERS}."
        )


def _flatten(value: Any) -> list[Any]:
    """All the numbers in a value, or in a list of them or of lists; none for `None`."""
    if isinstance(value, list | tuple):
        return [number for entry in value for number in _flatten(entry)]
    return [] if value is None else [value]
