"""
Names and shapes of NeMo's tensors and of ours.

`ROWS` is a plain table that is read in both directions. Every tensor of an archive must stand in a row that maps it
or in one that drops it for a reason, and every tensor of our model must be met; shapes are compared before anything
is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from ..configuration_fastconformer import FastConformerConfig, FastConformerCTCConfig, FastConformerRNNTConfig
from ..frames import NoSubsampling, StackedSubsampling, StridedSubsampling
from .adapters import adapter_of_tensor

Condition = Callable[[FastConformerConfig], bool]
Shape = tuple[int, ...]

# What stands for a part of a name in the rows: numbers of layers (`{later}` is none that is mapped), and the rest of a
# parameter's name.
PLACEHOLDERS = {"{later}": r"[1-9]\d*", "{n}": r"(?P<n>\d+)", "{i}": r"(?P<i>\d+)", "{p}": r"(?P<p>[a-z_0-9]+)"}


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
        may_lack_blank: NeMo may have a row for each token and none for the blank, which is zero here.
        condition: For which configurations the row holds.
    """

    nemo: str
    ours: str
    is_pointwise: bool = False
    may_lack_blank: bool = False
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
    condition: Condition = _always

    @cached_property
    def nemo_pattern(self) -> re.Pattern[str]:
        return _pattern_of(self.nemo)


@dataclass(frozen=True)
class TensorTarget:
    """
    Where a tensor of NeMo's goes: our name, our shape, whether its last dimension is taken away, and whether a row of
    zeros for the blank comes behind its rows.
    """

    name: str
    shape: Shape
    squeezes_last: bool
    adds_blank: bool = False

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.adds_blank:
            return torch.cat([tensor, tensor.new_zeros(1, *tensor.shape[1:])])
        return tensor.squeeze(-1) if self.squeezes_last else tensor


def _pattern_of(template: str) -> re.Pattern[str]:
    pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    for placeholder, expression in PLACEHOLDERS.items():
        pattern = pattern.replace(placeholder, expression)
    return re.compile(pattern)


# Conditions


def _has_conv_subsampling(config: FastConformerConfig) -> bool:
    return isinstance(config.subsampling, StridedSubsampling)


def _has_stacking(config: FastConformerConfig) -> bool:
    return isinstance(config.subsampling, StackedSubsampling)


def _has_no_subsampling(config: FastConformerConfig) -> bool:
    return isinstance(config.subsampling, NoSubsampling)


def _is_transducer(config: FastConformerConfig) -> bool:
    return isinstance(config, FastConformerRNNTConfig)


def _is_ctc(config: FastConformerConfig) -> bool:
    return isinstance(config, FastConformerCTCConfig)


def _is_encoder_alone(config: FastConformerConfig) -> bool:
    return not _is_transducer(config) and not _is_ctc(config)


def _is_hybrid(config: FastConformerConfig) -> bool:
    return isinstance(config, FastConformerRNNTConfig) and config.has_ctc_head


def _has_decoder(decoder_type: str) -> Condition:
    def condition(config: FastConformerConfig) -> bool:
        return isinstance(config, FastConformerRNNTConfig) and config.decoder_type == decoder_type

    return condition


def _has_speaker_kernel(config: FastConformerConfig) -> bool:
    return config.has_speaker_kernel


def _has_prompts(config: FastConformerConfig) -> bool:
    return isinstance(config, FastConformerRNNTConfig) and config.num_prompts > 0


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

# Behind the front of the encoder's name: the parts of it.
FRONT_PARTS: tuple[tuple[str, str, Condition], ...] = (
    (".conv.{i}.{p}", ".conv_layers.{i}.{p}", _has_conv_subsampling),
    (".out.{p}", ".linear.{p}", _has_conv_subsampling),
    (".proj_out.{p}", ".linear.{p}", _has_stacking),
    (".pre_norm.{p}", ".norm.{p}", _has_stacking),
    (".{p}", ".linear.{p}", _has_no_subsampling),
)

ROWS: tuple[Map, ...] = (
    *(
        Map(f"{front}{nemo}", f"encoder.subsampling{ours}", condition=condition)
        # The second where a self-supervised model masks behind the front: NeMo wraps it then.
        for front in ("encoder.pre_encode", "encoder.pre_encode.pre_encode")
        for nemo, ours, condition in FRONT_PARTS
    ),
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
    *(
        Map(
            f"{nemo}_kernels.0.{{i}}.{{p}}",
            f"encoder.speaker_kernel.{ours}.{{i}}.{{p}}",
            condition=_has_speaker_kernel,
        )
        for nemo, ours in (("spk", "speaker"), ("bg_spk", "background"))
    ),
    Map("encoder.out_proj.{p}", "encoder.output_proj.{p}"),
    Map("prompt_kernel.0.{p}", "prompt_kernel.input_proj.{p}", condition=_has_prompts),
    Map("prompt_kernel.2.{p}", "prompt_kernel.output_proj.{p}", condition=_has_prompts),
    Map("decoder.decoder_layers.0.{p}", "ctc_head.{p}", is_pointwise=True, condition=_is_ctc),
    Map("ctc_decoder.decoder_layers.0.{p}", "ctc_head.{p}", is_pointwise=True, condition=_is_hybrid),
    Map(
        "decoder.prediction.embed.{p}",
        "decoder.embedding.{p}",
        may_lack_blank=True,
        condition=_has_decoder("lstm"),
    ),
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
    *(
        Drop(f"{kernels}.{{later}}.{{i}}.{{p}}", "acts where a speaker is chosen, alone")
        for kernels in ("spk_kernels", "bg_spk_kernels")
    ),
    Drop("encoder.pre_encode.masking.{p}", "hides frames in self-supervised training", _is_encoder_alone),
)

# Parts of a model that the encoder alone comes without.
PART_LEFT_OUT = "not of the encoder"
ENCODER_PARTS = ("preprocessor", "encoder", "spk_kernels", "bg_spk_kernels")


def part_of_tensor(nemo_name: str) -> str:
    """The module of NeMo's model that a tensor belongs to: the first part of its name."""
    return nemo_name.partition(".")[0]


def map_name(
    nemo_name: str, config: FastConformerConfig, adapters_off: Collection[str] = ()
) -> tuple[str, Map] | Drop | None:
    """
    Our name of a tensor of NeMo's and the row that says so, or the row that drops it; None where no row fits.

    Args:
        nemo_name: NeMo's name.
        config: Our configuration.
        adapters_off: Names of the adapters that are switched off.
    """
    for drop in DROPPED:
        if drop.nemo_pattern.fullmatch(nemo_name) and drop.condition(config):
            return drop
    if adapter_of_tensor(nemo_name) in adapters_off:
        return Drop(nemo_name, "an adapter that is switched off")
    if _is_encoder_alone(config) and part_of_tensor(nemo_name) not in ENCODER_PARTS:
        return Drop(nemo_name, PART_LEFT_OUT)
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
    nemo_shapes: Mapping[str, Shape],
    our_shapes: Mapping[str, Shape],
    config: FastConformerConfig,
    source: str,
    adapters_off: Collection[str] = (),
) -> dict[str, TensorTarget]:
    """
    Where every tensor of an archive goes.

    Args:
        nemo_shapes: Names and shapes in the archive.
        our_shapes: Names and shapes of our model, from the meta device.
        config: Our configuration.
        source: The archive, for messages.
        adapters_off: Names of the adapters that are switched off.

    Returns:
        Targets by NeMo's name, without the dropped tensors.

    Raises:
        ValueError: naming the tensors that no row knows, that are missing, or whose shape is not the model's.
    """
    targets: dict[str, TensorTarget] = {}
    unknown: list[str] = []
    wrong: list[str] = []
    met: set[str] = set()
    for nemo_name, nemo_shape in nemo_shapes.items():
        found = map_name(nemo_name, config, adapters_off)
        if isinstance(found, Drop):
            continue
        if found is None or found[0] not in our_shapes:
            unknown.append(nemo_name)
            continue
        our_name, row = found
        squeezes_last = row.squeezes(our_name)
        expected = our_shapes[our_name] + ((1,) if squeezes_last else ())
        adds_blank = row.may_lack_blank and tuple(nemo_shape) == (expected[0] - 1, *expected[1:])
        if tuple(nemo_shape) != expected and not adds_blank:
            wrong.append(f"{nemo_name} is {tuple(nemo_shape)}, expected {expected}")
        if our_name in met:
            wrong.append(f"{nemo_name} is {our_name} a second time")
        met.add(our_name)
        targets[nemo_name] = TensorTarget(our_name, our_shapes[our_name], squeezes_last, adds_blank)
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
