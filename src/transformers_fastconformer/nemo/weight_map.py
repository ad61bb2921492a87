"""
Names and shapes of NeMo's tensors and of ours.

`ROWS` is a plain table that is read in both directions. Every tensor of an archive must stand in a row that maps it
or in one that drops it for a reason, and every tensor of our model must be met; shapes are compared before anything
is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from ..configuration_fastconformer import FastConformerConfig, FastConformerRNNTConfig

Condition = Callable[[FastConformerConfig], bool]
Shape = tuple[int, ...]

# What stands for a part of a name in the rows: numbers of layers, and the rest of a parameter's name.
PLACEHOLDERS = {"{n}": r"(?P<n>\d+)", "{i}": r"(?P<i>\d+)", "{p}": r"(?P<p>[a-z_0-9]+)"}


def _always(config: FastConformerConfig) -> bool:
    return True


@dataclass(frozen=True)
class Map:
    """
    A tensor of NeMo's and what it is called here.

    Args:
        nemo: NeMo's name; `{n}` and `{i}` are numbers, `{p}` is a parameter (`weight`, `bias`, `running_mean`, ...).
        ours: Our name, with the same placeholders.
        is_pointwise: A convolution of kernel 1 that is a linear layer here: (out, in, 1) becomes (out, in).
        condition: For which configurations the row holds.
    """

    nemo: str
    ours: str
    is_pointwise: bool = False
    condition: Condition = _always

    @cached_property
    def nemo_pattern(self) -> re.Pattern[str]:
        return _pattern_of(self.nemo)

    @cached_property
    def our_pattern(self) -> re.Pattern[str]:
        return _pattern_of(self.ours)

    def squeezes(self, our_name: str) -> bool:
        """Whether the tensor loses its last dimension, as the weight of a pointwise convolution does."""
        return self.is_pointwise and our_name.endswith(".weight")


@dataclass(frozen=True)
class Drop:
    """A tensor of NeMo's that has no place here, and why."""

    nemo: str
    reason: str

    @cached_property
    def nemo_pattern(self) -> re.Pattern[str]:
        return _pattern_of(self.nemo)


@dataclass(frozen=True)
class TensorTarget:
    """Where a tensor of NeMo's goes: our name, our shape and whether its last dimension is taken away."""

    name: str
    shape: Shape
    squeezes_last: bool

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.squeeze(-1) if self.squeezes_last else tensor


def _pattern_of(template: str) -> re.Pattern[str]:
    pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    for placeholder, expression in PLACEHOLDERS.items():
        pattern = pattern.replace(placeholder, expression)
    return re.compile(pattern)


# Conditions


def _has_conv_subsampling(config: FastConformerConfig) -> bool:
    return config.subsampling_factor > 1 and config.subsampling_type in ("dw_striding", "striding")


def _has_stacking(config: FastConformerConfig) -> bool:
    return config.subsampling_factor > 1 and config.subsampling_type in ("stacking", "stacking_norm")


def _has_no_subsampling(config: FastConformerConfig) -> bool:
    return not _has_conv_subsampling(config) and not _has_stacking(config)


def _is_transducer(config: FastConformerConfig) -> bool:
    return isinstance(config, FastConformerRNNTConfig)


def _is_ctc(config: FastConformerConfig) -> bool:
    return not _is_transducer(config)


def _is_hybrid(config: FastConformerConfig) -> bool:
    return isinstance(config, FastConformerRNNTConfig) and config.has_ctc_head


def _has_decoder(decoder_type: str) -> Condition:
    def condition(config: FastConformerConfig) -> bool:
        return isinstance(config, FastConformerRNNTConfig) and config.decoder_type == decoder_type

    return condition


def _has_joint_dropout(config: FastConformerConfig) -> bool:
    return isinstance(config, FastConformerRNNTConfig) and config.joint_dropout > 0


def _has_no_joint_dropout(config: FastConformerConfig) -> bool:
    return isinstance(config, FastConformerRNNTConfig) and config.joint_dropout == 0


# NeMo's name of a part of a block, and ours.
BLOCK_PARTS = {
    "norm_feed_forward1": "norm_feed_forward1",
    "feed_forward1.linear1": "feed_forward1.linear1",
    "feed_forward1.linear2": "feed_forward1.linear2",
    "norm_self_att": "norm_self_att",
    "self_attn.linear_q": "self_attn.q_proj",
    "self_attn.linear_k": "self_attn.k_proj",
    "self_attn.linear_v": "self_attn.v_proj",
    "self_attn.linear_out": "self_attn.o_proj",
    "self_attn.linear_pos": "self_attn.relative_k_proj",
    "self_attn.global_q": "self_attn.global_q_proj",
    "self_attn.global_k": "self_attn.global_k_proj",
    "self_attn.global_v": "self_attn.global_v_proj",
    "norm_conv": "norm_conv",
    "conv.depthwise_conv": "conv.depthwise_conv",
    "conv.batch_norm": "conv.norm",  # the norm's name in NeMo, whatever its type
    "norm_feed_forward2": "norm_feed_forward2",
    "feed_forward2.linear1": "feed_forward2.linear1",
    "feed_forward2.linear2": "feed_forward2.linear2",
    "norm_out": "norm_out",
}

ROWS: tuple[Map, ...] = (
    Map("encoder.pre_encode.conv.{i}.{p}", "encoder.subsampling.conv_layers.{i}.{p}", condition=_has_conv_subsampling),
    Map("encoder.pre_encode.out.{p}", "encoder.subsampling.linear.{p}", condition=_has_conv_subsampling),
    Map("encoder.pre_encode.proj_out.{p}", "encoder.subsampling.linear.{p}", condition=_has_stacking),
    Map("encoder.pre_encode.pre_norm.{p}", "encoder.subsampling.norm.{p}", condition=_has_stacking),
    Map("encoder.pre_encode.{p}", "encoder.subsampling.linear.{p}", condition=_has_no_subsampling),
    Map("encoder.reduction_subsampling.reduction_enc.conv.{i}.{p}", "encoder.reduction.conv_layers.{i}.{p}"),
    Map("encoder.reduction_subsampling.reduction_enc.out.{p}", "encoder.reduction.linear.{p}"),
    *(
        Map(f"encoder.layers.{{n}}.{nemo}.{{p}}", f"encoder.layers.{{n}}.{ours}.{{p}}")
        for nemo, ours in BLOCK_PARTS.items()
    ),
    *(
        Map(f"encoder.layers.{{n}}.conv.{name}.{{p}}", f"encoder.layers.{{n}}.conv.{name}.{{p}}", is_pointwise=True)
        for name in ("pointwise_conv1", "pointwise_conv2")
    ),
    Map("encoder.layers.{n}.self_attn.pos_bias_u", "encoder.layers.{n}.self_attn.bias_u"),
    Map("encoder.layers.{n}.self_attn.pos_bias_v", "encoder.layers.{n}.self_attn.bias_v"),
    Map("encoder.out_proj.{p}", "encoder.output_proj.{p}"),
    Map("decoder.decoder_layers.0.{p}", "ctc_head.{p}", is_pointwise=True, condition=_is_ctc),
    Map("ctc_decoder.decoder_layers.0.{p}", "ctc_head.{p}", is_pointwise=True, condition=_is_hybrid),
    Map("decoder.prediction.embed.{p}", "decoder.embedding.{p}", condition=_has_decoder("lstm")),
    Map("decoder.prediction.dec_rnn.lstm.{p}", "decoder.lstm.{p}", condition=_has_decoder("lstm")),
    Map("decoder.prediction.embeds.{i}.{p}", "decoder.embeddings.{i}.{p}", condition=_has_decoder("stateless")),
    Map("joint.enc.{p}", "joint.encoder_proj.{p}", condition=_is_transducer),
    Map("joint.pred.{p}", "joint.decoder_proj.{p}", condition=_is_transducer),
    # Behind the activation and, where it is not 0, the dropout.
    Map("joint.joint_net.1.{p}", "joint.head.{p}", condition=_has_no_joint_dropout),
    Map("joint.joint_net.2.{p}", "joint.head.{p}", condition=_has_joint_dropout),
)

FILTERBANK = "preprocessor.featurizer.fb"
WINDOW = "preprocessor.featurizer.window"

DROPPED: tuple[Drop, ...] = (
    Drop(FILTERBANK, "rebuilt by the feature extractor, which is checked"),
    Drop(WINDOW, "rebuilt by the feature extractor, which is checked"),
    Drop("encoder.pos_enc.pe", "sinusoids, computed"),
)


def map_name(nemo_name: str, config: FastConformerConfig) -> tuple[str, Map] | Drop | None:
    """Our name of a tensor of NeMo's and the row that says so, or the row that drops it; None where no row fits."""
    for drop in DROPPED:
        if drop.nemo_pattern.fullmatch(nemo_name):
            return drop
    for row in ROWS:
        match = row.nemo_pattern.fullmatch(nemo_name)
        if match and row.condition(config):
            return row.ours.format(**match.groupdict()), row
    return None


def unmap_name(our_name: str, config: FastConformerConfig) -> tuple[str, Map] | None:
    """NeMo's name of one of our tensors, and the row that says so."""
    for row in ROWS:
        match = row.our_pattern.fullmatch(our_name)
        if match and row.condition(config):
            return row.nemo.format(**match.groupdict()), row
    return None


def unmap_state_dict(state_dict: Mapping[str, torch.Tensor], config: FastConformerConfig) -> dict[str, torch.Tensor]:
    """Our state dict under NeMo's names and in NeMo's shapes; without the front end's constants."""
    nemo_state_dict = {}
    for our_name, tensor in state_dict.items():
        found = unmap_name(our_name, config)
        if found is None:
            raise ValueError(f"Tensor {our_name!r} has no name in NeMo.")
        nemo_name, row = found
        nemo_state_dict[nemo_name] = tensor.unsqueeze(-1) if row.squeezes(our_name) else tensor
    return nemo_state_dict


def plan_tensors(
    nemo_shapes: Mapping[str, Shape], our_shapes: Mapping[str, Shape], config: FastConformerConfig, source: str
) -> dict[str, TensorTarget]:
    """
    Where every tensor of an archive goes.

    Args:
        nemo_shapes: Names and shapes in the archive.
        our_shapes: Names and shapes of our model, from the meta device.
        config: Our configuration.
        source: The archive, for messages.

    Returns:
        Targets by NeMo's name, without the dropped tensors.

    Raises:
        ValueError: naming the tensors that no row knows, that are missing, or whose shape is not the model's.
    """
    targets: dict[str, TensorTarget] = {}
    unknown: list[str] = []
    wrong: list[str] = []
    for nemo_name, nemo_shape in nemo_shapes.items():
        found = map_name(nemo_name, config)
        if isinstance(found, Drop):
            continue
        if found is None or found[0] not in our_shapes:
            unknown.append(nemo_name)
            continue
        our_name, row = found
        squeezes_last = row.squeezes(our_name)
        expected = our_shapes[our_name] + ((1,) if squeezes_last else ())
        if tuple(nemo_shape) != expected:
            wrong.append(f"{nemo_name} is {tuple(nemo_shape)}, expected {expected}")
        targets[nemo_name] = TensorTarget(our_name, our_shapes[our_name], squeezes_last)
    met = {target.name for target in targets.values()}
    missing = [_nemo_name_or_ours(name, config) for name in our_shapes if name not in met]
    faults = [
        f"{what}: {_enumerate(names)}"
        for what, names in (
            ("tensors of the wrong shape", wrong),
            ("missing tensors", missing),
            ("tensors that are not supported", unknown),
        )
        if names
    ]
    if faults:
        raise ValueError(f"{source}: the weights do not fit their configuration; {'; '.join(faults)}.")
    return targets


def _nemo_name_or_ours(our_name: str, config: FastConformerConfig) -> str:
    found = unmap_name(our_name, config)
    return found[0] if found else our_name


def _enumerate(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
