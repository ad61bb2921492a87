"""LoRA of PEFT on parts of a model that are named in plain words; needs the extra `train`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..validation import is_number, require, require_count
from .freezing import ParameterCount, count_parameters
from .packages import require_package

# Modules of each preset, as regular expressions for full names. LSTMs have no form in LoRA.
PRESETS: dict[str, str] = {
    "attention": r"encoder\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)",
    "feed_forward": r"encoder\.layers\.\d+\.feed_forward[12]\.linear[12]",
    "convolution": r"encoder\.layers\.\d+\.conv\.pointwise_conv[12]",
    "encoder": r"encoder\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|o_proj)|feed_forward[12]\.linear[12]"
    r"|conv\.pointwise_conv[12])",
    "prediction_network": r"decoder\.embedding|decoder\.embeddings\.\d+|joint\.decoder_proj",
    "joint": r"joint\.(encoder_proj|decoder_proj|head)",
    "ctc_head": r"ctc_head",
    "attention_decoder": r"decoder\.layers\.\d+\.((self|cross)_attn\.(q_proj|k_proj|v_proj|o_proj)"
    r"|feed_forward\.linear[12])",
}
DEFAULT_TARGETS = ("encoder", "joint", "ctc_head", "attention_decoder")


@dataclass(frozen=True)
class LoraOptions:
    """
    Low-rank adapters.

    Args:
        targets: Parts that get adapters: `"encoder"` (attention, feed-forward and pointwise convolutions of all
            blocks) or some of it (`"attention"`, `"feed_forward"`, `"convolution"`), `"prediction_network"`
            (embeddings and their projection; its LSTM stays), `"joint"`, `"ctc_head"`, `"attention_decoder"` (all
            layers of Canary's decoder); others are regular expressions for full names of modules. None: encoder and
            heads, as far as the model has them.
        rank: Rank of the adapters.
        alpha: Adapters are multiplied by alpha / rank; None: twice the rank.
        dropout: Dropout in front of the adapters; 0 for targets that include the joint network's head, whose lean loss
            takes the adapter as part of the weight.
    """

    targets: tuple[str, ...] | None = None
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_count("rank", self.rank)
        require(
            self.alpha is None or (is_number(self.alpha) and self.alpha > 0), "alpha", self.alpha, "a number above 0"
        )
        require(is_number(self.dropout) and 0 <= self.dropout < 1, "dropout", self.dropout, "a share of 0 up to 1")
        is_list = self.targets is None or (
            isinstance(self.targets, tuple)
            and bool(self.targets)
            and all(isinstance(name, str) for name in self.targets)
        )
        require(is_list, "targets", self.targets, f"some of {', '.join(PRESETS)}, or regular expressions")


def add_lora(model: Any, options: LoraOptions | None = None) -> tuple[Any, ParameterCount]:
    """
    Put adapters around layers of a model; all else is frozen.

    Args:
        model: A model of this package.
        options: Which layers, and how.

    Returns:
        PEFT's model around it, and how many parameters are trained.

    Raises:
        ValueError: for a target that no layer has, with those that there are, and for dropout where it cannot be.
        ImportError: PEFT is not installed; the message holds the command.
    """
    require_package("peft")
    import peft

    options = LoraOptions() if options is None else options
    layers = _find_layers(model, options.targets)
    if options.dropout and "joint.head" in layers:
        raise ValueError(
            f"dropout={options.dropout} is not supported on joint.head; expected 0, or targets without 'joint': the "
            "loss takes that adapter as part of the weight, which keeps the joint's outputs out of memory."
        )
    alpha = 2 * options.rank if options.alpha is None else options.alpha
    config = peft.LoraConfig(r=options.rank, lora_alpha=alpha, lora_dropout=options.dropout, target_modules=layers)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        # PEFT asks for it by the name that Transformers 5 is about to drop, which users can do nothing about.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        adapted = peft.get_peft_model(model, config)
    return adapted, count_parameters(adapted)


def merge_lora(model: Any) -> Any:
    """
    Make the model of a model with adapters, whose weights do what both did together; it saves as every checkpoint.

    Args:
        model: What `add_lora` returned, or `PeftModel.from_pretrained`.
    """
    return model.merge_and_unload(safe_merge=True)


def _find_layers(model: nn.Module, targets: Sequence[str] | None) -> list[str]:
    """Full names of the layers of all targets, each of which must be there."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)]
    found: dict[str, None] = {}
    for target in DEFAULT_TARGETS if targets is None else targets:
        try:
            pattern = re.compile(PRESETS.get(target, target))
        except re.error as error:
            raise ValueError(
                f"targets={target!r} is no regular expression: {error}; expected {_accepted(model)}."
            ) from error
        matching = [name for name in layers if pattern.fullmatch(name)]
        if not matching and targets is not None:
            raise ValueError(
                f"targets={target!r} matches no layer of {type(model).__name__}; expected {_accepted(model)}."
            )
        found |= dict.fromkeys(matching)
    return list(found)


def _accepted(model: nn.Module) -> str:
    """Presets and names of layers that a model has, blocks by their common names."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)]
    presets = [name for name, pattern in PRESETS.items() if any(re.fullmatch(pattern, layer) for layer in layers)]
    names = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", layer) for layer in layers)
    return f"some of {', '.join(presets)}, or regular expressions for layers such as {', '.join(names)}"
