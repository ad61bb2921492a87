"""
Names and shapes of NeMo's tensors and of ours.

The tables below are rows of `checkpoints.name_table`; [`name_table`] puts together those of one model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

import torch

from ..checkpoints.name_table import (
    Check,
    Drop,
    DropOtherParts,
    Map,
    NameTable,
    Refuse,
    Row,
    SameForm,
    Shape,
    pointwise,
)
from ..configuration_diarization import FastConformerDiarizationConfig
from ..configuration_fastconformer import FastConformerConfig, FastConformerCTCConfig, FastConformerRNNTConfig
from ..configuration_multitask import FastConformerMultitaskConfig
from ..configuration_pretraining import FastConformerPreTrainingConfig
from ..frames import StackedSubsampling, StridedSubsampling
from .adapters import adapter_rows
from .sections.prompts import LANGUAGE_ID_KERNEL, LANGUAGE_ID_PROMPTS

FILTERBANK = "preprocessor.featurizer.fb"
WINDOW = "preprocessor.featurizer.window"

# Tensors without a place in any model.
LEFT_OUT: tuple[Row, ...] = (
    *(
        Check(name, "rebuilt by the feature extractor, which is checked", by="build_feature_extractor")
        for name in (FILTERBANK, WINDOW)
    ),
    Drop("encoder.pos_enc.pe", "sinusoids, computed"),
)

# Of a model that is converted without its heads.
PART_LEFT_OUT = "not of the encoder"
ENCODER_ALONE: tuple[Row, ...] = (
    Drop("encoder.pre_encode.masking.{p}", "hides frames in self-supervised training"),
    DropOtherParts("preprocessor|encoder|spk_kernels|bg_spk_kernels", PART_LEFT_OUT),
)

# Tensors of models that are not supported yet.
REFUSED: tuple[Row, ...] = tuple(
    Refuse(
        f"{prefix}{LANGUAGE_ID_KERNEL}.{{any}}",
        f"{LANGUAGE_ID_PROMPTS}; such checkpoints are not supported yet",
    )
    for prefix in ("", "{any}.")
)

# The front of the encoder; NeMo wraps it where a self-supervised model masks after it.
FRONTS = ("encoder.pre_encode", "encoder.pre_encode.pre_encode")


def _front(*parts: tuple[str, str]) -> tuple[Map, ...]:
    return tuple(Map(f"{front}{nemo}", f"encoder.subsampling{ours}") for front in FRONTS for nemo, ours in parts)


CONV_SUBSAMPLING = _front((".conv.{i}.{p}", ".conv_layers.{i}.{p}"), (".out.{p}", ".linear.{p}"))
STACKING = _front((".proj_out.{p}", ".linear.{p}"), (".pre_norm.{p}", ".norm.{p}"))
NO_SUBSAMPLING = _front((".{p}", ".linear.{p}"))

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
ENCODER: tuple[Map, ...] = (
    Map("encoder.reduction_subsampling.reduction_enc.conv.{i}.{p}", "encoder.reduction.conv_layers.{i}.{p}"),
    Map("encoder.reduction_subsampling.reduction_enc.out.{p}", "encoder.reduction.linear.{p}"),
    *(
        Map(f"encoder.layers.{{n}}.{nemo}.{{p}}", f"encoder.layers.{{n}}.{ours}.{{p}}")
        for nemo, ours in BLOCK_PARTS.items()
    ),
    *pointwise("encoder.layers.{n}.conv.pointwise_conv1", "encoder.layers.{n}.conv.pointwise_conv1"),
    *pointwise("encoder.layers.{n}.conv.pointwise_conv2", "encoder.layers.{n}.conv.pointwise_conv2"),
    Map("encoder.layers.{n}.self_attn.pos_bias_u", "encoder.layers.{n}.self_attn.bias_u"),
    Map("encoder.layers.{n}.self_attn.pos_bias_v", "encoder.layers.{n}.self_attn.bias_v"),
    Map("encoder.out_proj.{p}", "encoder.output_proj.{p}"),
)
SPEAKER_KERNELS = tuple(
    Map(f"{nemo}_kernels.{place}.{{i}}.{{p}}", f"encoder.{kernel}.{ours}.{{i}}.{{p}}")
    for place, kernel in (("0", "speaker_kernel"), ("{n}", "later_speaker_kernels.{n}"))
    for nemo, ours in (("spk", "speaker"), ("bg_spk", "background"))
)
PROMPTS = (
    Map("prompt_kernel.0.{p}", "prompt_kernel.input_proj.{p}"),
    Map("prompt_kernel.2.{p}", "prompt_kernel.output_proj.{p}"),
)


class BlankRowForm(SameForm):
    """An embedding that may have a row for each token there and none for the blank, which is zero here."""

    def can_read(self, their_shape: Shape, our_shape: Shape) -> bool:
        return their_shape == our_shape or self._lacks_blank(their_shape, our_shape)

    def to_ours(self, tensor: torch.Tensor, our_shape: Shape) -> torch.Tensor:
        if self._lacks_blank(tuple(tensor.shape), our_shape):
            return torch.cat([tensor, tensor.new_zeros(1, *tensor.shape[1:])])
        return tensor

    @staticmethod
    def _lacks_blank(their_shape: Shape, our_shape: Shape) -> bool:
        return their_shape == (our_shape[0] - 1, *our_shape[1:])


LSTM_DECODER = (
    Map("decoder.prediction.embed.weight", "decoder.embedding.weight", BlankRowForm()),
    Map("decoder.prediction.dec_rnn.lstm.{p}", "decoder.lstm.{p}"),
)
STATELESS_DECODER = (Map("decoder.prediction.embeds.{i}.{p}", "decoder.embeddings.{i}.{p}"),)
JOINT = (
    Map("joint.enc.{p}", "joint.encoder_proj.{p}"),
    Map("joint.pred.{p}", "joint.decoder_proj.{p}"),
)
# After the activation and, where it is not 0, the dropout.
JOINT_HEAD = (Map("joint.joint_net.1.{p}", "joint.head.{p}"),)
JOINT_HEAD_AFTER_DROPOUT = (Map("joint.joint_net.2.{p}", "joint.head.{p}"),)
CTC_HEAD = pointwise("decoder.decoder_layers.0", "ctc_head")
AUXILIARY_CTC_HEAD = pointwise("ctc_decoder.decoder_layers.0", "ctc_head")

# Parts of a layer of Canary's transformers: NeMo's names and ours.
ATTENTION_PARTS = {"query_net": "q_proj", "key_net": "k_proj", "value_net": "v_proj", "out_projection": "o_proj"}
FEED_FORWARD_PARTS = {"dense_in": "linear1", "dense_out": "linear2"}


def _transformer_rows(theirs: str, ours: str, parts: Mapping[str, str]) -> tuple[Map, ...]:
    """Rows of the layers of a transformer, whose sublayers and norms are numbered in NeMo."""
    names = {
        f"{nemo}.{nemo_part}": f"{our}.{our_part}"
        for nemo, our in parts.items()
        for nemo_part, our_part in (FEED_FORWARD_PARTS if our == "feed_forward" else ATTENTION_PARTS).items()
    }
    names |= {f"layer_norm_{number}": f"norm_{our}" for number, our in enumerate(parts.values(), 1)}
    return tuple(
        Map(f"{theirs}.layers.{{n}}.{nemo}.{{p}}", f"{ours}.layers.{{n}}.{our}.{{p}}") for nemo, our in names.items()
    )


TOKEN_EMBEDDING = "transf_decoder._embedding.token_embedding.weight"
POSITION_TABLE = "transf_decoder._embedding.position_embedding.pos_enc"
TOKEN_TYPES = "transf_decoder._embedding.token_type_embedding.weight"
TIED_HEAD = "log_softmax.mlp.layer0.weight"
MULTITASK: tuple[Row, ...] = (
    Map("encoder_decoder_proj.{p}", "encoder_proj.{p}"),
    *_transformer_rows(
        "transf_encoder",
        "transformer_encoder",
        {"first_sub_layer": "self_attn", "second_sub_layer": "feed_forward"},
    ),
    Map("transf_encoder.final_layer_norm.{p}", "transformer_encoder.norm.{p}"),
    Map(TOKEN_EMBEDDING, "decoder.embedding.weight"),
    Map("transf_decoder._embedding.position_embedding.weight", "decoder.position_embedding.weight"),
    Check(POSITION_TABLE, "sinusoids, computed", by="check_multitask_weights"),
    Drop(TOKEN_TYPES, "NeMo's decoder does not read it"),
    Map("transf_decoder._embedding.layer_norm.{p}", "decoder.norm_embedding.{p}"),
    *_transformer_rows(
        "transf_decoder._decoder",
        "decoder",
        {"first_sub_layer": "self_attn", "second_sub_layer": "cross_attn", "third_sub_layer": "feed_forward"},
    ),
    Map("transf_decoder._decoder.final_layer_norm.{p}", "decoder.norm.{p}"),
    Check(TIED_HEAD, "the embedding, which it is tied to", by="check_multitask_weights"),
    Map("log_softmax.mlp.layer0.bias", "token_head.bias"),
)

DIARIZATION: tuple[Row, ...] = (
    Map("sortformer_modules.encoder_proj.{p}", "encoder_proj.{p}"),
    Map("sortformer_modules.first_hidden_to_hidden.{p}", "speaker_head.dense.{p}"),
    Map("sortformer_modules.single_hidden_to_spks.{p}", "speaker_head.out_proj.{p}"),
    Drop("sortformer_modules.hidden_to_spks.{p}", "NeMo does not read it"),
    *_transformer_rows(
        "transformer_encoder",
        "transformer_encoder",
        {"first_sub_layer": "self_attn", "second_sub_layer": "feed_forward"},
    ),
    Map("transformer_encoder.final_layer_norm.{p}", "transformer_encoder.norm.{p}"),
)


PRETRAINING: tuple[Row, ...] = (
    Map("quantizer.proj.weight", "quantizer.projection"),
    Map("quantizer.codebooks", "quantizer.codebooks"),
    Map("mask_processor.mask_embedding", "masking.embedding"),
    *pointwise("decoder.decoder_layers.0", "prediction_head"),
    Drop("pre_encoder.{any}", "the front and the masks once more"),
    Drop("encoder.pre_encode.masking.{p}", "the masks once more"),
)


def name_table(config: FastConformerConfig, adapters_off: Collection[str] = ()) -> NameTable:
    """
    The rows for one model.

    Args:
        config: Our configuration.
        adapters_off: Names of the adapters that are switched off.
    """
    return NameTable(
        [
            *LEFT_OUT,
            *adapter_rows(adapters_off),
            *([] if _has_head(config) else ENCODER_ALONE),
            *REFUSED,
            *_subsampling_rows(config),
            *ENCODER,
            *(SPEAKER_KERNELS if config.follows_speakers else ()),
            *_head_rows(config),
        ]
    )


# Parts of which a configuration says how many there are: the option, NeMo's key, and the tensors that tell.
COUNTED_PARTS = (
    ("num_hidden_layers", "encoder.n_layers", re.compile(r"encoder\.layers\.(\d+)\..+")),
    (
        "num_decoder_layers",
        "decoder.prednet.pred_rnn_layers",
        re.compile(r"decoder\.prediction\.dec_rnn\.lstm\.weight_ih_l(\d+)"),
    ),
    ("decoder_context_size", "decoder.context_size", re.compile(r"decoder\.prediction\.embeds\.(\d+)\.weight")),
)
MULTITASK_COUNTED_PARTS = (
    COUNTED_PARTS[0],
    (
        "num_decoder_layers",
        "transf_decoder.config_dict.num_layers",
        re.compile(r"transf_decoder\._decoder\.layers\.(\d+)\..+"),
    ),
    ("num_transformer_encoder_layers", "transf_encoder.num_layers", re.compile(r"transf_encoder\.layers\.(\d+)\..+")),
)
DIARIZATION_COUNTED_PARTS = (
    COUNTED_PARTS[0],
    (
        "num_transformer_encoder_layers",
        "transformer_encoder.num_layers",
        re.compile(r"transformer_encoder\.layers\.(\d+)\..+"),
    ),
)


def check_counts(config: FastConformerConfig, tensor_names: Iterable[str], source: str) -> None:
    """
    Compare the number of layers with the weights, before a model with so many is built.

    Raises:
        ValueError: for a configuration with more layers than the weights have.
    """
    names = list(tensor_names)
    is_stateless = getattr(config, "decoder_type", None) == "stateless"
    counted: tuple[tuple[str, str, re.Pattern[str]], ...] = COUNTED_PARTS
    if isinstance(config, FastConformerMultitaskConfig):
        counted = MULTITASK_COUNTED_PARTS
    if isinstance(config, FastConformerDiarizationConfig):
        counted = DIARIZATION_COUNTED_PARTS
    for option, key, pattern in counted:
        expected = getattr(config, option, None)
        if expected is None or (option == "num_decoder_layers" and is_stateless):
            continue
        if option == "decoder_context_size" and not is_stateless:
            continue
        found = len({match[1] for name in names if (match := pattern.fullmatch(name))})
        if expected > found:
            raise ValueError(
                f"{source}: the weights do not fit their configuration; {key}={expected}, and the archive holds "
                f"tensors of {found}."
            )


def _has_head(config: FastConformerConfig) -> bool:
    kinds = FastConformerCTCConfig | FastConformerRNNTConfig | FastConformerMultitaskConfig
    return isinstance(config, kinds | FastConformerDiarizationConfig | FastConformerPreTrainingConfig)


def _subsampling_rows(config: FastConformerConfig) -> tuple[Map, ...]:
    if isinstance(config.subsampling, StridedSubsampling):
        return CONV_SUBSAMPLING
    if isinstance(config.subsampling, StackedSubsampling):
        return STACKING
    return NO_SUBSAMPLING


def _head_rows(config: FastConformerConfig) -> Iterator[Row]:
    if isinstance(config, FastConformerMultitaskConfig):
        yield from MULTITASK
    if isinstance(config, FastConformerDiarizationConfig):
        yield from DIARIZATION
    if isinstance(config, FastConformerPreTrainingConfig):
        yield from PRETRAINING
    if isinstance(config, FastConformerCTCConfig):
        yield from CTC_HEAD
    if isinstance(config, FastConformerRNNTConfig):
        if config.num_prompts > 0:
            yield from PROMPTS
        if config.has_ctc_head:
            yield from AUXILIARY_CTC_HEAD
        yield from STATELESS_DECODER if config.decoder_type == "stateless" else LSTM_DECODER
        yield from JOINT
        yield from JOINT_HEAD_AFTER_DROPOUT if config.joint_dropout > 0 else JOINT_HEAD


def part_of_tensor(nemo_name: str) -> str:
    """The module of NeMo's model that a tensor belongs to: the first part of its name."""
    return nemo_name.partition(".")[0]


def unmap_state_dict(state_dict: Mapping[str, torch.Tensor], config: FastConformerConfig) -> dict[str, torch.Tensor]:
    """Our state dict under NeMo's names and in NeMo's shapes; without the front end's constants."""
    table = name_table(config)
    nemo_state_dict = {}
    for our_name, tensor in state_dict.items():
        found = table.to_theirs(our_name)
        if found is None:
            raise ValueError(f"Tensor {our_name!r} has no name in NeMo.")
        nemo_name, row = found
        nemo_state_dict[nemo_name] = row.form.to_theirs(tensor, row.form.their_shape(tuple(tensor.shape)))
    if isinstance(config, FastConformerMultitaskConfig):
        nemo_state_dict[TIED_HEAD] = nemo_state_dict[TOKEN_EMBEDDING]
    return nemo_state_dict
