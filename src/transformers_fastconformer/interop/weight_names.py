"""
Names of tensors in Transformers' checkpoints and ours.

The tables below are rows of `checkpoints.name_table`; [`name_table`] puts together those of one model.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..checkpoints.name_table import Check, Map, NameTable, Row, SameForm, Shape, pointwise
from ..configuration_fastconformer import FastConformerConfig, FastConformerCTCConfig, FastConformerRNNTConfig
from ..configuration_multitask import FastConformerMultitaskConfig
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


class HalvedForm(SameForm):
    """
    A tensor one axis of which is the residual stream of a prompted decoder.

    Theirs adds positions whose sines come before all cosines, ours NeMo's with each sine next to its cosine. No part
    of the decoder depends on the order of that axis, so that it is sorted to fit the positions.

    Args:
        axis: The axis.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def to_ours(self, tensor: torch.Tensor, our_shape: Shape) -> torch.Tensor:
        return self._swap(tensor, (2, -1))

    def to_theirs(self, tensor: torch.Tensor, their_shape: Shape) -> torch.Tensor:
        return self._swap(tensor, (-1, 2))

    def _swap(self, tensor: torch.Tensor, sizes: tuple[int, int]) -> torch.Tensor:
        split = tensor.unflatten(self.axis, sizes)
        return split.transpose(self.axis, self.axis + 1).flatten(self.axis, self.axis + 1)


ZERO_FILLED, ZERO_FILLED_GATES = ZeroFilledForm(), ZeroFilledGatesForm()
HALVED_ROWS, HALVED_COLUMNS = HalvedForm(0), HalvedForm(1)
TOKEN_EMBEDDING, TIED_HEAD = "model.decoder.embed_tokens.weight", "proj_out.weight"

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

MULTITASK_HEAD = (
    Map(TOKEN_EMBEDDING, "decoder.embedding.weight", HALVED_COLUMNS),
    Check(TIED_HEAD, "the embedding again", "reading._check_tied_head"),
    Map("proj_out.bias", "token_head.bias"),
    *(
        Map(f"model.decoder.{theirs}.{{p}}", f"decoder.{ours}.{{p}}", HALVED_ROWS)
        for theirs, ours in (
            ("embedding_layernorm", "norm_embedding"),
            ("norm", "norm"),
            ("layers.{n}.input_layernorm", "layers.{n}.norm_self_attn"),
            ("layers.{n}.post_attention_layernorm", "layers.{n}.norm_cross_attn"),
            ("layers.{n}.final_layernorm", "layers.{n}.norm_feed_forward"),
            # What is added to the stream.
            ("layers.{n}.self_attn.o_proj", "layers.{n}.self_attn.o_proj"),
            ("layers.{n}.encoder_attn.o_proj", "layers.{n}.cross_attn.o_proj"),
            ("layers.{n}.mlp.fc2", "layers.{n}.feed_forward.linear2"),
        )
    ),
    *(
        Map(f"model.decoder.layers.{{n}}.{theirs}.weight", f"decoder.layers.{{n}}.{ours}.weight", HALVED_COLUMNS)
        for theirs, ours in (
            # What reads the stream.
            *((f"self_attn.{name}_proj", f"self_attn.{name}_proj") for name in "qkv"),
            ("encoder_attn.q_proj", "cross_attn.q_proj"),
            ("mlp.fc1", "feed_forward.linear1"),
        )
    ),
    # Their outputs do not enter the stream, and keys and values of the frames do not read it.
    Map("model.decoder.layers.{n}.self_attn.{rest}", "decoder.layers.{n}.self_attn.{rest}"),
    Map("model.decoder.layers.{n}.encoder_attn.{rest}", "decoder.layers.{n}.cross_attn.{rest}"),
    Map("model.decoder.layers.{n}.mlp.fc1.bias", "decoder.layers.{n}.feed_forward.linear1.bias"),
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
    head: tuple[Row, ...] = ()
    if issubclass(family.config_class, FastConformerCTCConfig):
        head = CTC_HEAD
    elif issubclass(family.config_class, FastConformerRNNTConfig):
        head = (*TRANSDUCER_HEAD, *(PROMPTS if family.has_prompts else ()))
    elif issubclass(family.config_class, FastConformerMultitaskConfig):
        head = MULTITASK_HEAD
    return NameTable([*encoder, *head])
