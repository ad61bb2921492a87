"""Configurations of the encoder and of its heads. They validate, and count the frames of a clip."""

# No `from __future__ import annotations` here: `strict` checks the types of the fields, and skips those in quotes.
from dataclasses import fields
from inspect import get_annotations
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checkpoint_sources import LoadsFromSources
from .configuration_checks import POSITION_TYPES, check_encoder, require_field, require_positive
from .configuration_limits import check_limits, check_size
from .configuration_training import (
    LOSS_REDUCTIONS,
    TRAINING_FIELDS,
    IntermediateCTCFields,
    SpecAugmentFields,
    TransducerLossFields,
    check_training_fields,
)
from .frames import (
    SUBSAMPLINGS,
    Lengths,
    Reduction,
    StridedSubsampling,
    Subsampling,
    find_reduction,
    find_subsampling,
)
from .validation import require, require_choice

JOINT_ACTIVATIONS = ("relu", "tanh", "sigmoid")
DECODER_TYPES = ("lstm", "stateless")
# NeMo's names of the rules by which a transducer leaves a frame that is full of tokens; the first is the usual one.
DECODING_STRATEGIES = ("greedy_batch", "greedy")
# Outputs of heads that `Trainer` does not gather for metrics.
KEYS_TO_IGNORE_AT_INFERENCE = [
    "last_hidden_state",
    "encoder_lengths",
    "hidden_states",
    "attentions",
    "transducer_loss",
    "ctc_loss",
    "intermediate_ctc_losses",
]


@strict
class FastConformerConfig(LoadsFromSources, SpecAugmentFields, PreTrainedConfig):
    r"""
    Configuration of the FastConformer encoder (Rekesh et al., 2023, "Fast Conformer with Linearly Scalable
    Attention"; NeMo's `ConformerEncoder`). The configurations of the heads inherit it, so that every checkpoint's
    `config.json` describes its encoder at the top level and `AutoModel` finds it.

    Args:
        num_mel_bins (`int`, defaults to 80): Mel features a frame.
        hidden_size (`int`, defaults to 512): Width of the encoder.
        num_hidden_layers (`int`, defaults to 17): Number of blocks.
        num_attention_heads (`int`, defaults to 8): Heads of the self-attention; must divide `hidden_size`.
        intermediate_size (`int`, defaults to 2048): Width of the feed-forward modules.
        hidden_act (`str`, defaults to `"silu"`): Activation of the feed-forward and convolution modules.
        attention_bias (`bool`, defaults to `True`): Biases in the attention and feed-forward projections.
        convolution_bias (`bool`, defaults to `True`): Biases in the convolution modules.
        scale_input (`bool`, defaults to `True`): Multiply the input of the first block by `sqrt(hidden_size)`.
        subsampling_type (`str`, defaults to `"dw_striding"`):
            Front of the encoder: `"dw_striding"`, `"striding"` (convolutions), `"stacking"`, `"stacking_norm"`
            (frames side by side) or `"none"` (a linear layer).
        subsampling_factor (`int`, defaults to 8): Mel frames an encoder frame; of no meaning to `"none"`.
        subsampling_conv_channels (`int`, defaults to 256): Channels of the convolutions in the front.
        subsampling_conv_kernel_size (`int`, defaults to 3), subsampling_conv_stride (`int`, defaults to 2):
            Shape of those convolutions; checkpoints have no others.
        causal_downsampling (`bool`, defaults to `False`): The front sees no later frames (streaming models).
        reduction_type (`str`, *optional*): A second reduction in time among the blocks: `"pooling"` or `"striding"`.
        reduction_position (`int`, *optional*): Index of the block after which it happens; -1: after the last.
        reduction_factor (`int`, defaults to 1): Factor of it.
        position_embedding_type (`str`, defaults to `"rel_pos"`):
            `"rel_pos"` (Transformer-XL), `"rel_pos_local_attn"` (the same in a sliding window, with global tokens)
            or `"abs_pos"` (sinusoids added to the input). A checkpoint of `"rel_pos"` can be loaded as
            `"rel_pos_local_attn"`, with a window in `attention_context`.
        tie_position_biases (`bool`, defaults to `False`): One pair of position biases for all blocks.
        attention_context (`list[int]`, defaults to `[-1, -1]`):
            Encoder frames that attention sees to the left and to the right; -1 is no limit. With
            `attention_context_style="chunked_limited_with_rc"` three numbers: left, chunk, right.
        attention_contexts (`list[list[int]]`, *optional*):
            All the contexts that a multi-latency model was trained with; `attention_context` is the one in use, see
            `set_attention_context`. In training one is drawn for every batch.
        attention_context_probabilities (`list[float]`, *optional*):
            Chance of each of `attention_contexts` in training; `None`: all alike.
        attention_context_style (`str`, defaults to `"regular"`):
            `"regular"` (a band), `"chunked_limited"` (chunks of `right + 1` frames, and the whole chunks that fit into
            `left`) or `"chunked_limited_with_rc"` (chunks with frames to their left and right). With
            `"rel_pos_local_attn"` the context is the window, whatever the style.
        num_global_tokens (`int`, defaults to 0), global_tokens_spacing (`int`, defaults to 1),
        global_attention_separate (`bool`, defaults to `False`):
            Global tokens of `"rel_pos_local_attn"`: how many, how far apart, with own projections or not. The first
            is frame 0.
        conv_kernel_size (`int`, defaults to 9): Kernel of the depthwise convolution; odd.
        conv_norm_type (`str`, defaults to `"batch_norm"`):
            `"batch_norm"`, `"fused_batch_norm"` (only its scale and shift), `"layer_norm"`, `"instance_norm"`
            (without parameters) or `"group_norm"`. The last two take their statistics over the frames of a clip.
        conv_norm_groups (`int`, *optional*): Groups of `"group_norm"`.
        conv_context (`list[int]`, *optional*):
            Frames the depthwise convolution sees to the left and right; `None` is half of the kernel on each side.
        has_speaker_kernel (`bool`, defaults to `False`), has_background_kernel (`bool`, defaults to `False`):
            Small networks before the first block of a multi-talker model, for the speaker to follow and for the
            others. Without speaker activities everybody is followed.
        later_speaker_kernels (`list[int]`, defaults to `[]`):
            Blocks, counted from 1, after which such networks stand too; they act only with speaker activities.
        encoder_output_size (`int`, *optional*): Width after an output projection; `None`: there is none.
        dropout (`float`, defaults to 0.1), activation_dropout (`float`, defaults to 0.1): Dropouts of the modules'
            outputs and inside of the feed-forward modules.
        attention_dropout (`float`, defaults to 0.1): Dropout of the attention probabilities.
        dropout_positions (`float`, defaults to 0.0): Dropout of the position embeddings.
        dropout_pre_encoder (`float`, defaults to 0.1): Dropout of the input of the first block.
        layerdrop (`float`, defaults to 0.0), layerdrop_mode (`str`, defaults to `"linear"`),
        layerdrop_start_layer (`int`, defaults to 1):
            Stochastic depth (Lee and Watanabe, 2021) in training: chance to skip a block, growing to `layerdrop` in
            the last block (`"linear"`) or the same in all (`"uniform"`); the first `layerdrop_start_layer` blocks are
            never skipped.
        initializer_range (`float`, defaults to 0.02): Standard deviation of fresh weights; convolutions follow
            their inputs.
        apply_spec_augment, mask_*: Those of [`SpecAugmentFields`].

    Raises:
        ValueError: for a value that no checkpoint can have; the message names it and what is accepted.
    """

    model_type = "fastconformer"

    num_mel_bins: int = 80
    hidden_size: int = 512
    num_hidden_layers: int = 17
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    hidden_act: str = "silu"
    attention_bias: bool = True
    convolution_bias: bool = True
    scale_input: bool = True
    subsampling_type: str = "dw_striding"
    subsampling_factor: int = 8
    subsampling_conv_channels: int = 256
    subsampling_conv_kernel_size: int = 3
    subsampling_conv_stride: int = 2
    causal_downsampling: bool = False
    reduction_type: str | None = None
    reduction_position: int | None = None
    reduction_factor: int = 1
    position_embedding_type: str = "rel_pos"
    tie_position_biases: bool = False
    attention_context: list[int] | tuple[int, ...] = (-1, -1)
    attention_contexts: list[list[int]] | None = None
    attention_context_probabilities: list[float | int] | None = None
    attention_context_style: str = "regular"
    num_global_tokens: int = 0
    global_tokens_spacing: int = 1
    global_attention_separate: bool = False
    conv_kernel_size: int = 9
    conv_norm_type: str = "batch_norm"
    conv_norm_groups: int | None = None
    conv_context: list[int] | tuple[int, ...] | None = None
    has_speaker_kernel: bool = False
    has_background_kernel: bool = False
    later_speaker_kernels: list[int] | tuple[int, ...] = ()
    encoder_output_size: int | None = None
    dropout: float | int = 0.1
    dropout_positions: float | int = 0.0
    activation_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    dropout_pre_encoder: float | int = 0.1
    layerdrop: float | int = 0.0
    layerdrop_mode: str = "linear"
    layerdrop_start_layer: int = 1
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        self.attention_context = list(self.attention_context)
        if self.conv_context is not None:
            self.conv_context = list(self.conv_context)
        self.later_speaker_kernels = list(self.later_speaker_kernels)
        self.check_values()
        super().__post_init__(**kwargs)

    def check_values(self) -> None:
        """Raise a `ValueError` for values that are not accepted, or do not fit together; models do it when built."""
        check_limits(self)
        self._validate_head()
        check_encoder(self)
        check_training_fields(self)
        check_size(self)

    def _validate_head(self) -> None:
        """Refuse values of the head; an encoder does not have one."""

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        As in Transformers; that an encoder reads its part of a head's configuration, or a new head begins with
        that of an encoder, is no mismatch.
        """
        config_dict, unused = super().get_config_dict(*args, **kwargs)
        found, encoder_type = str(config_dict.get("model_type", "")), FastConformerConfig.model_type
        if cls is FastConformerConfig and found.startswith(f"{encoder_type}_"):
            # The form of the weights is no field, and a model without it would be filled with fresh ones.
            names = {*(field.name for field in fields(cls)), "quantization_config"}
            config_dict = {name: value for name, value in config_dict.items() if name in names}
            config_dict["model_type"] = encoder_type
        elif found == encoder_type:
            config_dict["model_type"] = cls.model_type
        return config_dict, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        As in Transformers, but values given next to those of the dictionary are checked together with them, and the
        blank follows a `vocab_size` that is given so.
        """
        classes = [base for base in cls.__mro__ if issubclass(base, (FastConformerConfig, *TRAINING_FIELDS))]
        names = {name for base in classes for name in get_annotations(base)}
        given = {name: kwargs.pop(name) for name in list(kwargs) if name in names}
        config_dict = dict(config_dict)
        if "vocab_size" in given:
            old_blank_id = config_dict.pop("blank_token_id", None)
            if config_dict.get("pad_token_id") == old_blank_id:
                config_dict.pop("pad_token_id", None)
        return super().from_dict({**config_dict, **given, "model_type": cls.model_type}, **kwargs)

    def estimate_parameters(self) -> int:
        """Weights of the large matrices: no more than the model has, and not many fewer."""
        width, channels = self.hidden_size, self.subsampling_conv_channels
        # What meets the linear layer of the front: channels and the mels that are left, or frames side by side.
        if SUBSAMPLINGS[self.subsampling_type] is StridedSubsampling:
            columns = channels * (self.num_mel_bins // self.subsampling_factor)
            front = channels**2 if self.subsampling_factor > 2 else 0
        else:
            columns, front = self.num_mel_bins * self.subsampling.factor, 0
        block = width * (7 * width + 4 * self.intermediate_size)
        return front + columns * width + self.num_hidden_layers * block

    def _require_that(self, is_accepted: bool, name: str, expected: str) -> None:
        """`require`, for the field of this name."""
        require_field(self, is_accepted, name, expected)

    def _require_positive(self, name: str) -> None:
        require_positive(self, name)

    @property
    def output_size(self) -> int:
        """Width of the encoder's output: `encoder_output_size` where there is a projection, else `hidden_size`."""
        return self.encoder_output_size or self.hidden_size

    @property
    def follows_speakers(self) -> bool:
        """True for a multi-talker model, which can be told whom to listen to."""
        return self.has_speaker_kernel or bool(self.later_speaker_kernels)

    @property
    def conv_padding(self) -> tuple[int, int]:
        """Frames that the depthwise convolution sees to the left and to the right."""
        if self.conv_context is None:
            return (self.conv_kernel_size - 1) // 2, (self.conv_kernel_size - 1) // 2
        return self.conv_context[0], self.conv_context[1]

    @property
    def has_relative_positions(self) -> bool:
        """True where positions are distances between frames, False where they are added to the input."""
        return POSITION_TYPES[self.position_embedding_type].is_relative

    @property
    def has_local_attention(self) -> bool:
        """True where attention goes by a sliding window; may change while a model lives, the weights are the same."""
        return POSITION_TYPES[self.position_embedding_type].is_local

    @property
    def subsampling(self) -> Subsampling:
        """Counts frames as the front of the encoder does."""
        return find_subsampling(self.subsampling_type, self.subsampling_factor, self.causal_downsampling)

    @property
    def reduction(self) -> Reduction:
        """Counts frames as the reduction among the blocks does."""
        return find_reduction(self.reduction_type, self.reduction_factor)

    @property
    def mel_frames_per_encoder_frame(self) -> int:
        """Mel frames from one encoder frame to the next, the reduction among the blocks included."""
        return self.subsampling.factor * self.reduction.factor

    def count_encoder_frames(self, mel_lengths: Lengths) -> Lengths:
        """Encoder frames of clips of so many mel frames, an `int` or a tensor of them."""
        return self.reduction.count_frames(self.subsampling.count_frames(mel_lengths))


@strict
class FastConformerCTCConfig(IntermediateCTCFields, FastConformerConfig):
    r"""
    Encoder and a CTC head (NeMo's `EncDecCTCModel`, `EncDecCTCModelBPE`).

    Args:
        vocab_size (`int`, defaults to 1025): Output classes, the blank (the last one) included.
        blank_token_id (`int`, *optional*): Always `vocab_size - 1`.
        pad_token_id (`int`, *optional*): Fills `sequences`; the blank, which never occurs in a text.
        ctc_loss_reduction (`str`, defaults to `"mean"`): As `transducer_loss_reduction` of [`TransducerLossFields`].
        ctc_zero_infinity (`bool`, defaults to `True`): A clip too short for its labels adds nothing to the loss.
        kwargs: Those of [`FastConformerConfig`] and [`IntermediateCTCFields`].
    """

    model_type = "fastconformer_ctc"
    keys_to_ignore_at_inference = KEYS_TO_IGNORE_AT_INFERENCE

    vocab_size: int = 1025
    blank_token_id: int | None = None
    pad_token_id: int | None = None
    ctc_loss_reduction: str = "mean"
    ctc_zero_infinity: bool = True

    def _validate_head(self) -> None:
        _validate_vocabulary(self)


@strict
class FastConformerRNNTConfig(TransducerLossFields, IntermediateCTCFields, FastConformerConfig):
    r"""
    Encoder and a transducer head (Graves, 2012; NeMo's `EncDecRNNTModel`), with a CTC head next to it in hybrids.

    Args:
        vocab_size (`int`, defaults to 1025): Tokens and the blank, which is the last one.
        blank_token_id, pad_token_id (`int`, *optional*): As in [`FastConformerCTCConfig`].
        has_ctc_head (`bool`, defaults to `False`): The checkpoint is a hybrid: it has a CTC head too.
        decoder_type (`str`, defaults to `"lstm"`): Prediction network: `"lstm"` or `"stateless"` (n-gram embeddings).
        decoder_hidden_size (`int`, defaults to 640): Width of the prediction network.
        num_decoder_layers (`int`, defaults to 1): LSTM layers.
        decoder_context_size (`int`, defaults to 1): Tokens that a stateless prediction network sees.
        decoder_layer_norm (`bool`, defaults to `False`): Normalise a stateless network's output (no parameters).
        joint_hidden_size (`int`, defaults to 640): Width of the joint network.
        joint_activation (`str`, defaults to `"relu"`): `"relu"`, `"tanh"` or `"sigmoid"`.
        decoder_dropout, joint_dropout (`float`, defaults to 0.2): Dropouts in training.
        max_symbols_per_step (`int`, defaults to 10): Most tokens in one frame in greedy decoding.
        decoding_strategy (`str`, defaults to `"greedy_batch"`):
            NeMo's rule for a frame with so many tokens. `"greedy_batch"`: the next frame where the last token lasts
            none. `"greedy"`: TDT counts the blank of a frame too, and a last duration above 0 grows by one frame.
        ctc_loss_weight (`float`, defaults to 0.3): Share of the CTC loss in a hybrid's training loss.
        ctc_loss_reduction, ctc_zero_infinity: As in [`FastConformerCTCConfig`].
        transducer_zero_infinity (`bool`, defaults to `True`):
            A clip that no alignment fits adds nothing to the transducer's loss: one with tokens but no frames, or one
            whose number of frames no sum of TDT durations is (an odd one and durations 0, 2, 4, 8).
        num_prompts (`int`, defaults to 0):
            Languages that a prompted model has room for: its heads see the encoder's output after a network that is
            told the language. 0: no prompts.
        prompt_languages (`dict[str, int]`, *optional*): Code of each language, such as `"de-DE"`, and its number.
        default_language (`str`, *optional*): The language where none is given; `None`: one must be given.
        kwargs: Those of [`FastConformerConfig`], [`TransducerLossFields`] and, for hybrids, [`IntermediateCTCFields`].
    """

    model_type = "fastconformer_rnnt"
    keys_to_ignore_at_inference = KEYS_TO_IGNORE_AT_INFERENCE

    vocab_size: int = 1025
    blank_token_id: int | None = None
    pad_token_id: int | None = None
    has_ctc_head: bool = False
    decoder_type: str = "lstm"
    decoder_hidden_size: int = 640
    num_decoder_layers: int = 1
    decoder_context_size: int = 1
    decoder_layer_norm: bool = False
    joint_hidden_size: int = 640
    joint_activation: str = "relu"
    decoder_dropout: float | int = 0.2
    joint_dropout: float | int = 0.2
    max_symbols_per_step: int = 10
    decoding_strategy: str = DECODING_STRATEGIES[0]
    ctc_loss_weight: float | int = 0.3
    ctc_loss_reduction: str = "mean"
    ctc_zero_infinity: bool = True
    transducer_zero_infinity: bool = True
    num_prompts: int = 0
    prompt_languages: dict[str, int] | None = None
    default_language: str | None = None

    def _validate_head(self) -> None:
        _validate_vocabulary(self)
        require_choice("decoder_type", self.decoder_type, DECODER_TYPES)
        require_choice("joint_activation", self.joint_activation, JOINT_ACTIVATIONS)
        require_choice("decoding_strategy", self.decoding_strategy, DECODING_STRATEGIES)
        for name in ("decoder_hidden_size", "num_decoder_layers", "joint_hidden_size", "max_symbols_per_step"):
            self._require_positive(name)
        if self.decoder_type == "stateless":
            # Each of the older tokens has `decoder_hidden_size // 2 // decoder_context_size` places.
            require(
                1 <= self.decoder_context_size <= max(self.decoder_hidden_size // 2, 1),
                "decoder_context_size",
                self.decoder_context_size,
                f"1 to decoder_hidden_size // 2 = {self.decoder_hidden_size // 2}",
            )
        for name in ("decoder_dropout", "joint_dropout"):
            self._require_that(0 <= getattr(self, name) <= 1, name, "a probability")
        self._validate_prompts()

    def _validate_prompts(self) -> None:
        languages = self.prompt_languages or {}
        require(self.num_prompts >= 0, "num_prompts", self.num_prompts, "0 or more")
        require(
            bool(languages) == (self.num_prompts > 0),
            "prompt_languages",
            self.prompt_languages,
            f"codes of languages where num_prompts is above 0, and none where it is 0 (it is {self.num_prompts})",
        )
        for code, number in languages.items():
            require(
                0 <= number < self.num_prompts, f"prompt_languages[{code!r}]", number, f"0 to {self.num_prompts - 1}"
            )
        require(
            self.default_language is None or self.default_language in languages,
            "default_language",
            self.default_language,
            f"null or one of {sorted(languages)}",
        )

    def estimate_parameters(self) -> int:
        width, joint_width = self.decoder_hidden_size, self.joint_hidden_size
        layers = self.num_decoder_layers * 8 * width**2 if self.decoder_type == "lstm" else 0
        embeddings = (self.vocab_size - 1) * width
        joint = joint_width * (self.hidden_size + width + self.vocab_size)
        return super().estimate_parameters() + embeddings + layers + joint

    @property
    def num_joint_outputs(self) -> int:
        """Classes of the joint network: tokens and blank, and for TDT the durations after them."""
        return self.vocab_size


@strict
class FastConformerTDTConfig(FastConformerRNNTConfig):
    r"""
    Encoder and a token-and-duration transducer head (Xu et al., 2023, "Efficient Sequence Transduction by Jointly
    Predicting Tokens and Durations").

    Args:
        durations (`list[int]`, defaults to `[0, 1, 2, 3, 4]`):
            Meanings of the duration classes, in frames. Values, not indices: `[0, 2, 4, 8]` is legal.
        sigma (`float`, defaults to 0.02): Under-normalisation of the token logits in the loss.
        omega (`float`, defaults to 0.1): Chance of taking the plain RNN-T loss for a batch.
        kwargs: Those of [`FastConformerRNNTConfig`].
    """

    model_type = "fastconformer_tdt"

    durations: list[int] | tuple[int, ...] = (0, 1, 2, 3, 4)
    sigma: float | int = 0.02
    omega: float | int = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        self.durations = list(self.durations)
        super().__post_init__(**kwargs)

    def _validate_head(self) -> None:
        require(
            len(self.durations) > 0 and min(self.durations) >= 0 and len(set(self.durations)) == len(self.durations),
            "durations",
            self.durations,
            "distinct numbers of frames, none negative",
        )
        super()._validate_head()

    @property
    def num_joint_outputs(self) -> int:
        return self.vocab_size + len(self.durations)


def _validate_vocabulary(config: FastConformerCTCConfig | FastConformerRNNTConfig) -> None:
    require(config.vocab_size >= 1, "vocab_size", config.vocab_size, "1 or more (tokens and the blank)")
    blank_token_id = config.vocab_size - 1
    for name in ("blank_token_id", "pad_token_id"):
        if getattr(config, name) is None:
            setattr(config, name, blank_token_id)
    require(
        config.blank_token_id == blank_token_id,
        "blank_token_id",
        config.blank_token_id,
        f"vocab_size - 1 = {blank_token_id}, where NeMo puts it",
    )
    require_choice("ctc_loss_reduction", config.ctc_loss_reduction, LOSS_REDUCTIONS)
