"""
Names of tensors in Transformers' checkpoints and ours.

The tables below are rows of `checkpoints.name_table`; [`name_table`] puts together those of one model.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..checkpoints.name_table import Map, NameTable, SameForm, Shape, pointwise
from ..configuration_fastconformer import FastConformerConfig, FastConformerCTCConfig, FastConformerRNNTConfig
from ..frames import halvings
from .families import Family

LSTM_GATES = 4


class ZeroFilledForm(SameForm):
    """
    A tensor that is filled up with zeros after what there is, where theirs is wider.

    The mathematics stays: an LSTM unit without weights is 0 at every step, and a joint unit without weights, whatever
    the activation makes of its 0, goes into the logits with the weight 0.
    """

    def can_write(self, our_shape: Shape, their_shape: Shape) -> bool:
        return len(our_shape) == len(their_shape) and all(
            ours <= theirs for ours, theirs in zip(our_shape, their_shape, strict=True)
        )

    def to_theirs(self, tensor: torch.Tensor, their_shape: Shape) -> torch.Tensor:
        if tuple(tensor.shape) == their_shape:
            return tensor
        filled = tensor.new_zeros(their_shape)
        filled[tuple(slice(size) for size in tensor.shape)] = tensor
        return filled


class ZeroFilledGatesForm(ZeroFilledForm):
    """A tensor of an LSTM, which is filled up gate by gate."""

    def to_theirs(self, tensor: torch.Tensor, their_shape: Shape) -> torch.Tensor:
        gates = tensor.unflatten(0, (LSTM_GATES, -1))  # (gates, units, ...)
        return super().to_theirs(gates, (LSTM_GATES, their_shape[0] // LSTM_GATES, *their_shape[1:])).flatten(0, 1)


ZERO_FILLED, ZERO_FILLED_GATES = ZeroFilledForm(), ZeroFilledGatesForm()

OFFLINE_FRONT = (Map("subsampling.layers.{i}.{p}", "encoder.subsampling.conv_layers.{i}.{p}"),)
BLOCKS = (
    *pointwise("layers.{n}.conv.pointwise_conv1", "encoder.layers.{n}.conv.pointwise_conv1"),
    *pointwise("layers.{n}.conv.pointwise_conv2", "encoder.layers.{n}.conv.pointwise_conv2"),
    Map("layers.{n}.{rest}", "encoder.layers.{n}.{rest}"),
)
FRONT_PROJECTION = Map("subsampling.linear.{p}", "encoder.subsampling.linear.{p}")
CTC_HEAD = pointwise("ctc_head", "ctc_head")
TRANSDUCER_HEAD = (
    Map("encoder_projector.{p}", "joint.encoder_proj.{p}", ZERO_FILLED),
    Map("decoder.decoder_projector.{p}", "joint.decoder_proj.{p}", ZERO_FILLED),
    Map("decoder.embedding.{p}", "decoder.embedding.{p}", ZERO_FILLED),
    Map("decoder.lstm.{p}", "decoder.lstm.{p}", ZERO_FILLED_GATES),
    Map("joint.head.{p}", "joint.head.{p}", ZERO_FILLED),
)
PROMPTS = (
    Map("prompt_projector.linear_1.{p}", "prompt_kernel.input_proj.{p}"),
    Map("prompt_projector.linear_2.{p}", "prompt_kernel.output_proj.{p}"),
)


def streaming_front(num_stages: int) -> tuple[Map, ...]:
    """The convolutions of the causal front: ours are numbered with the activations between them."""
    return (
        Map("subsampling.conv_in.{p}", "encoder.subsampling.conv_layers.0.{p}"),
        *(
            Map(
                f"subsampling.layers.{stage - 1}.{name}.{{p}}",
                f"encoder.subsampling.conv_layers.{3 * stage + offset}.{{p}}",
            )
            for stage in range(1, num_stages)
            for name, offset in (("depthwise_conv", -1), ("pointwise_conv", 0))
        ),
    )


def name_table(family: Family, config: FastConformerConfig) -> NameTable:
    """The rows of one kind of model."""
    front = streaming_front(halvings(config.subsampling_factor)) if family.is_streaming else OFFLINE_FRONT
    encoder = (replace(row, theirs=family.encoder_prefix + row.theirs) for row in (*front, FRONT_PROJECTION, *BLOCKS))
    head: tuple[Map, ...] = ()
    if issubclass(family.config_class, FastConformerCTCConfig):
        head = CTC_HEAD
    elif issubclass(family.config_class, FastConformerRNNTConfig):
        head = (*TRANSDUCER_HEAD, *(PROMPTS if family.has_prompts else ()))
    return NameTable([*family.left_out, *encoder, *head])
