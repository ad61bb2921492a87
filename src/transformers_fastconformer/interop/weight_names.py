"""Names of tensors in Transformers' checkpoints and ours, a table read in both directions; and their shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import torch

from ..configuration_fastconformer import FastConformerConfig, FastConformerCTCConfig, FastConformerRNNTConfig
from ..frames import halvings
from .families import Family

# `{n}` is the number of a block, `{i}` that of a layer in the front, `{p}` the rest of the name.
PLACEHOLDERS = {"{n}": r"(?P<n>\d+)", "{i}": r"(?P<i>\d+)", "{p}": r"(?P<p>[a-z_0-9.]+)"}


@dataclass(frozen=True)
class Row:
    """
    A tensor's name in both forms.

    Args:
        theirs: Name in Transformers.
        ours: Our name, with the same placeholders.
        is_pointwise: A convolution of kernel 1 there, a linear layer here: (out, in, 1) is (out, in).
    """

    theirs: str
    ours: str
    is_pointwise: bool = False

    @cached_property
    def their_pattern(self) -> re.Pattern[str]:
        return _pattern_of(self.theirs)

    @cached_property
    def our_pattern(self) -> re.Pattern[str]:
        return _pattern_of(self.ours)

    def squeezes(self, our_name: str) -> bool:
        """Whether the tensor has a last dimension of 1 there and not here."""
        return self.is_pointwise and our_name.endswith(".weight")


def _pattern_of(template: str) -> re.Pattern[str]:
    pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    for placeholder, expression in PLACEHOLDERS.items():
        pattern = pattern.replace(placeholder, expression)
    return re.compile(pattern)


OFFLINE_FRONT = (Row("subsampling.layers.{i}.{p}", "encoder.subsampling.conv_layers.{i}.{p}"),)
BLOCKS = (
    *(
        Row(f"layers.{{n}}.conv.{name}.{{p}}", f"encoder.layers.{{n}}.conv.{name}.{{p}}", is_pointwise=True)
        for name in ("pointwise_conv1", "pointwise_conv2")
    ),
    Row("layers.{n}.{p}", "encoder.layers.{n}.{p}"),
)
FRONT_PROJECTION = Row("subsampling.linear.{p}", "encoder.subsampling.linear.{p}")
CTC_HEAD = (Row("ctc_head.{p}", "ctc_head.{p}", is_pointwise=True),)
TRANSDUCER_HEAD = (
    Row("encoder_projector.{p}", "joint.encoder_proj.{p}"),
    Row("decoder.decoder_projector.{p}", "joint.decoder_proj.{p}"),
    Row("decoder.embedding.{p}", "decoder.embedding.{p}"),
    Row("decoder.lstm.{p}", "decoder.lstm.{p}"),
    Row("joint.head.{p}", "joint.head.{p}"),
)
PROMPTS = (
    Row("prompt_projector.linear_1.{p}", "prompt_kernel.input_proj.{p}"),
    Row("prompt_projector.linear_2.{p}", "prompt_kernel.output_proj.{p}"),
)


def streaming_front(num_stages: int) -> tuple[Row, ...]:
    """The convolutions of the causal front: ours are numbered as in NeMo, activations counted."""
    stages = range(1, num_stages)
    return (
        Row("subsampling.conv_in.{p}", "encoder.subsampling.conv_layers.0.{p}"),
        *(
            Row(
                f"subsampling.layers.{stage - 1}.{name}.{{p}}",
                f"encoder.subsampling.conv_layers.{3 * stage + offset}.{{p}}",
            )
            for stage in stages
            for name, offset in (("depthwise_conv", -1), ("pointwise_conv", 0))
        ),
    )


def rows_for(family: Family, config: FastConformerConfig) -> tuple[Row, ...]:
    """The table of one kind of model."""
    front = streaming_front(halvings(config.subsampling_factor)) if family.is_streaming else OFFLINE_FRONT
    encoder = (
        Row(family.encoder_prefix + row.theirs, row.ours, row.is_pointwise)
        for row in (*front, FRONT_PROJECTION, *BLOCKS)
    )
    head: tuple[Row, ...] = ()
    if issubclass(family.config_class, FastConformerCTCConfig):
        head = CTC_HEAD
    elif issubclass(family.config_class, FastConformerRNNTConfig):
        head = (*TRANSDUCER_HEAD, *(PROMPTS if family.has_prompts else ()))
    return (*encoder, *head)


def our_name_of(their_name: str, rows: tuple[Row, ...]) -> tuple[str, Row] | None:
    """Our name of one of their tensors and the row that says so; None where no row fits."""
    for row in rows:
        match = row.their_pattern.fullmatch(their_name)
        if match:
            return row.ours.format(**match.groupdict()), row
    return None


def their_name_of(our_name: str, rows: tuple[Row, ...]) -> tuple[str, Row] | None:
    """Their name of one of our tensors and the row that says so; None where no row fits."""
    for row in rows:
        match = row.our_pattern.fullmatch(our_name)
        if match:
            return row.theirs.format(**match.groupdict()), row
    return None


LSTM_GATES = 4
LSTM_START = "decoder.lstm."


def can_widen(our_name: str, shape: tuple[int, ...], their_shape: tuple[int, ...]) -> bool:
    """Whether a tensor of a prediction or joint network may be filled up with zeros to a larger shape."""
    starts = tuple(row.ours.removesuffix("{p}") for row in TRANSDUCER_HEAD)
    return (
        our_name.startswith(starts)
        and len(shape) == len(their_shape)
        and all(ours <= theirs for ours, theirs in zip(shape, their_shape, strict=True))
    )


def widen(tensor: torch.Tensor, our_name: str, their_shape: tuple[int, ...]) -> torch.Tensor:
    """
    Fill a tensor up with zeros behind what there is, gate by gate in an LSTM.

    The mathematics stays: an LSTM unit without weights is 0 at every step, and a joint unit without weights, whatever
    the activation makes of its 0, goes into the logits with the weight 0.
    """
    if tuple(tensor.shape) == their_shape:
        return tensor
    if our_name.startswith(LSTM_START):
        tensor = tensor.unflatten(0, (LSTM_GATES, -1))  # (gates, units, ...)
        padded = tensor.new_zeros(LSTM_GATES, their_shape[0] // LSTM_GATES, *their_shape[1:])
        padded[tuple(slice(size) for size in tensor.shape)] = tensor
        return padded.flatten(0, 1)
    padded = tensor.new_zeros(their_shape)
    padded[tuple(slice(size) for size in tensor.shape)] = tensor
    return padded
