"""Configuration of Canary: the encoder, what may stand after it, and a prompted transformer decoder."""

# No `from __future__ import annotations` here: `strict` checks the types of the fields, and skips those in quotes.
from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_fastconformer import KEYS_TO_IGNORE_AT_INFERENCE, FastConformerConfig
from .validation import is_integer, require, require_choice

PROMPT_FORMATS = ("canary", "canary2")
TRANSFORMER_ACTIVATIONS = ("relu", "gelu")
POSITION_DTYPES = ("float32", "float16", "bfloat16")
# NeMo's names of the ways to search; the second counts one token more until it ends.
MULTITASK_STRATEGIES = ("greedy", "beam")
VOCABULARY_MULTIPLE = 8  # NeMo pads the classes of the head to a multiple of it
DROPOUTS = (
    "decoder_embedding_dropout",
    "token_head_dropout",
    *(
        f"{part}_{kind}_dropout"
        for part in ("decoder", "transformer_encoder")
        for kind in ("attention", "residual", "feed_forward")
    ),
)
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


@strict
class FastConformerMultitaskConfig(FastConformerConfig):
    r"""
    Encoder and a prompted transformer decoder (NeMo's `EncDecMultiTaskModel`: Canary).

    Args:
        vocab_size (`int`, defaults to 16384): Classes of the head; NeMo pads them to a multiple of 8.
        num_tokens (`int`, *optional*): Tokens of the tokenizer, at most `vocab_size`; default: that many.
        decoder_hidden_size (`int`, defaults to 1024):
            Width of the decoder and of the transformer encoder; the frames are projected to it where the encoder has
            another width.
        num_decoder_layers (`int`, defaults to 8): Layers of the decoder.
        num_decoder_attention_heads (`int`, defaults to 8): Heads of its attentions.
        decoder_intermediate_size (`int`, defaults to 4096): Width of its feed-forward modules.
        decoder_activation (`str`, defaults to `"relu"`): Activation of its feed-forward modules, `"relu"` or `"gelu"`.
        decoder_pre_norm (`bool`, defaults to `True`): Norms stand before the modules, not after the sums.
        decoder_final_norm (`bool`, defaults to `True`): A norm after the last layer; only with `decoder_pre_norm`.
        decoder_max_positions (`int`, defaults to 1024): Most tokens of a clip, the prompt included.
        decoder_learned_positions (`bool`, defaults to `False`): Positions are parameters, not sinusoids.
        decoder_positions_dtype (`str`, defaults to `"float32"`): Sinusoids are rounded to it first; 16 bits where the
            archive of a checkpoint holds them so.
        num_transformer_encoder_layers (`int`, defaults to 0): Layers of a transformer encoder between the encoder and
            the decoder; 0: no layers.
        num_transformer_encoder_attention_heads (`int`, defaults to 8): As of the decoder.
        transformer_encoder_intermediate_size (`int`, defaults to 4096): As of the decoder.
        transformer_encoder_activation (`str`, defaults to `"relu"`): As of the decoder.
        transformer_encoder_pre_norm (`bool`, defaults to `True`): As of the decoder.
        transformer_encoder_final_norm (`bool`, defaults to `True`): As of the decoder.
        decoder_embedding_dropout (`float`, defaults to 0.0): Dropout in training, of the embeddings.
        decoder_attention_dropout (`float`, defaults to 0.0): Of attention probabilities.
        decoder_residual_dropout (`float`, defaults to 0.0): Of the attentions' outputs.
        decoder_feed_forward_dropout (`float`, defaults to 0.0): Of the feed-forward modules' outputs.
        token_head_dropout (`float`, defaults to 0.0): Of the states that the head gets.
        transformer_encoder_attention_dropout (`float`, defaults to 0.0): As of the decoder.
        transformer_encoder_residual_dropout (`float`, defaults to 0.0): As of the decoder.
        transformer_encoder_feed_forward_dropout (`float`, defaults to 0.0): As of the decoder.
        max_generation_delta (`int`, defaults to -1): A clip of n encoder frames has at most n plus this many tokens,
            the prompt included; -1: no limit but `decoder_max_positions`.
        decoding_strategy (`str`, defaults to `"beam"`):
            NeMo's search of the checkpoint. `"beam"`, also with one beam, has one token more than `"greedy"` until
            the limit ends it.
        beam_size (`int`, defaults to 1): Beams of NeMo's search.
        beam_length_penalty (`float`, defaults to 0.0): Its penalty for the length of a text.
        label_smoothing (`float`, defaults to 0.0): Of the loss.
        bos_token_id (`int`, *optional*): `<|startoftranscript|>`.
        eos_token_id (`int`, *optional*): `<|endoftext|>`.
        pad_token_id (`int`, *optional*): `<pad>`.
        decoder_start_token_id (`int`, *optional*): First token of every prompt.
        prompt_format (`str`, defaults to `"canary2"`): `"canary"` or `"canary2"`, which slots a prompt has.
        prompt_defaults (`dict[str, Any]`, *optional*): Values of slots that are not said.
        prompt_token_ids (`dict[str, int]`, *optional*):
            Every token `<|...|>` of the checkpoint but those of times, and its id.
        has_timestamps_model (`bool`, defaults to `False`):
            The checkpoint carries a CTC model in the folder `timestamps_model`, by which words get their times.
        kwargs: Those of [`FastConformerConfig`].
    """

    model_type = "fastconformer_multitask"
    keys_to_ignore_at_inference = [*KEYS_TO_IGNORE_AT_INFERENCE, "past_key_values", "encoder_last_hidden_state"]

    vocab_size: int = 16384
    num_tokens: int | None = None
    decoder_hidden_size: int = 1024
    num_decoder_layers: int = 8
    num_decoder_attention_heads: int = 8
    decoder_intermediate_size: int = 4096
    decoder_activation: str = "relu"
    decoder_pre_norm: bool = True
    decoder_final_norm: bool = True
    decoder_max_positions: int = 1024
    decoder_learned_positions: bool = False
    decoder_positions_dtype: str = "float32"
    num_transformer_encoder_layers: int = 0
    num_transformer_encoder_attention_heads: int = 8
    transformer_encoder_intermediate_size: int = 4096
    transformer_encoder_activation: str = "relu"
    transformer_encoder_pre_norm: bool = True
    transformer_encoder_final_norm: bool = True
    decoder_embedding_dropout: float | int = 0.0
    decoder_attention_dropout: float | int = 0.0
    decoder_residual_dropout: float | int = 0.0
    decoder_feed_forward_dropout: float | int = 0.0
    token_head_dropout: float | int = 0.0
    transformer_encoder_attention_dropout: float | int = 0.0
    transformer_encoder_residual_dropout: float | int = 0.0
    transformer_encoder_feed_forward_dropout: float | int = 0.0
    max_generation_delta: int = -1
    decoding_strategy: str = "beam"
    beam_size: int = 1
    beam_length_penalty: float | int = 0.0
    label_smoothing: float | int = 0.0
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None
    prompt_format: str = "canary2"
    prompt_defaults: dict[str, Any] | None = None
    prompt_token_ids: dict[str, int] | None = None
    has_timestamps_model: bool = False
    is_encoder_decoder: bool = True
    use_cache: bool = True

    def _validate_head(self) -> None:
        if self.num_tokens is None:
            self.num_tokens = self.vocab_size
        require(self.vocab_size >= 1, "vocab_size", self.vocab_size, "1 or more")
        require(
            1 <= self.num_tokens <= self.vocab_size,
            "num_tokens",
            self.num_tokens,
            f"1 to vocab_size={self.vocab_size}",
        )
        for name in (
            "decoder_hidden_size",
            "num_decoder_layers",
            "num_decoder_attention_heads",
            "decoder_intermediate_size",
            "decoder_max_positions",
            "beam_size",
            "num_transformer_encoder_attention_heads",
            "transformer_encoder_intermediate_size",
        ):
            self._require_positive(name)
        self._require_that(self.decoder_hidden_size % 2 == 0, "decoder_hidden_size", "an even number")
        self._require_that(self.num_transformer_encoder_layers >= 0, "num_transformer_encoder_layers", "0 or more")
        heads = ["num_decoder_attention_heads"]
        if self.num_transformer_encoder_layers > 0:
            heads.append("num_transformer_encoder_attention_heads")
        for name in heads:
            self._require_that(
                self.decoder_hidden_size % getattr(self, name) == 0,
                name,
                f"a divisor of decoder_hidden_size={self.decoder_hidden_size}",
            )
        require_choice("decoder_positions_dtype", self.decoder_positions_dtype, POSITION_DTYPES)
        for name in ("decoder_activation", "transformer_encoder_activation"):
            require_choice(name, getattr(self, name), TRANSFORMER_ACTIVATIONS)
        for name in (*DROPOUTS, "label_smoothing"):
            self._require_that(0 <= getattr(self, name) <= 1, name, "a probability")
        self._require_that(self.max_generation_delta >= -1, "max_generation_delta", "-1 (no limit), 0 or more")
        require_choice("decoding_strategy", self.decoding_strategy, MULTITASK_STRATEGIES)
        require_choice("prompt_format", self.prompt_format, PROMPT_FORMATS)
        self._validate_tokens()

    def _validate_tokens(self) -> None:
        """Refuse ids that are not tokens; those that are not known may be absent."""
        ids = {name: getattr(self, name) for name in TOKEN_IDS}
        ids |= {f"prompt_token_ids[{token!r}]": number for token, number in (self.prompt_token_ids or {}).items()}
        for name, number in ids.items():
            is_token = number is None or (is_integer(number) and 0 <= number < (self.num_tokens or 0))
            require(is_token, name, number, f"0 to num_tokens - 1 = {(self.num_tokens or 0) - 1}")

    def estimate_parameters(self) -> int:
        width = self.decoder_hidden_size
        layer = width * (8 * width + 2 * self.decoder_intermediate_size)
        frames_layer = width * (4 * width + 2 * self.transformer_encoder_intermediate_size)
        rows = self.vocab_size + (self.decoder_max_positions if self.decoder_learned_positions else 0)
        decoder = rows * width + self.num_decoder_layers * layer
        return super().estimate_parameters() + decoder + self.num_transformer_encoder_layers * frames_layer

    @property
    def has_encoder_projection(self) -> bool:
        """True where frames are projected to the width of the decoder."""
        return self.output_size != self.decoder_hidden_size

    def limit_new_tokens(self, padded_lengths: Any, prompt_tokens: int) -> Any:
        """
        Most tokens of clips after the prompt, the end of the text included, by the rule of NeMo 3.0 for one clip.

        Args:
            padded_lengths: Tensor of the encoder frames of each clip and of its one masked mel frame.
            prompt_tokens: Tokens of the prompt, which count too.
        """
        limits = padded_lengths * 0 + self.decoder_max_positions
        if self.max_generation_delta >= 0:
            limits = (padded_lengths + self.max_generation_delta).clamp(max=self.decoder_max_positions)
        return (limits - prompt_tokens).clamp(min=0) + int(self.decoding_strategy == "beam")

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a text: NeMo's beam search takes the padding for one too."""
        ends = (self.eos_token_id, self.pad_token_id if self.decoding_strategy == "beam" else None)
        return tuple(number for number in ends if number is not None)
