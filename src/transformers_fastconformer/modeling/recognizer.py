"""Base class of the models with a head: the methods that `generate`, files, pipelines and streams call on them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from transformers import GenerationConfig

from ..decoding.hypotheses import Hypotheses
from ..decoding.options import DEFAULT_DECODING, DecodingOptions
from ..kernels.forks import survive_forks
from ..validation import require
from .encoder_cache import FastConformerEncoderCache
from .finite_check import check_features
from .generation import take_generation_arguments, with_return_sequences
from .outputs import FastConformerEncoderOutput, FastConformerGenerateOutput
from .pretrained import FastConformerPreTrainedModel
from .prompt import Language, check_language


class FastConformerRecognizer(FastConformerPreTrainedModel):
    """
    Encoder and a head that decodes: `encode` audio, `decode_frames` with a state in and out, `generate` for both.

    Heads differ in `decode_frames` and in which of [`DecodingOptions`] they read.
    """

    config: Any  # of one of the heads
    generation_config: GenerationConfig
    decoder_type: ClassVar[str]
    output_modalities = ("text",)  # which the pipelines of Transformers show
    # Names of the options of decoding that the head reads; others are refused.
    decoding_options: ClassVar[frozenset[str]] = frozenset(
        {"language", "languages", "confidence", "boosting", "language_model", "language_model_weight"}
        | {"num_beams", "beam"}
    )

    @abstractmethod
    def encode(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        language: Language | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        cache: FastConformerEncoderCache | None = None,
        is_last: bool | Sequence[bool] | None = None,
    ) -> FastConformerEncoderOutput:
        """
        Encode features and, in models with prompts, mix the language in; arguments are those of `forward`.

        With a `cache` the features are the next chunks of live streams, see [`FastConformerEncoder.forward`].
        """

    @abstractmethod
    def decode_frames(
        self,
        last_hidden_state: torch.Tensor,
        encoder_lengths: torch.Tensor,
        decoding: DecodingOptions = DEFAULT_DECODING,
        state: Any = None,
    ) -> tuple[Hypotheses, Any]:
        """
        Decode encoder frames: the part of `generate` that comes after the encoder.

        Args:
            last_hidden_state: (batch, frames, size), as `encode` returns it.
            encoder_lengths: (batch,), frames of each clip that count.
            decoding: Options of decoding.
            state: State that an earlier call returned for the frames before these; None at the start of the clips.

        Returns:
            The hypotheses, with frames counted from the first one given, and the state for the frames that follow. A
            beam search returns `num_best` rows for each clip, and begins the frames that follow with the best one.
        """

    def restart_clips(self, state: Any, last_hidden_state: torch.Tensor, clips: list[int]) -> Any:
        """
        Put some clips of a state back to their start, for frames that come from another window of the encoder.

        Args:
            state: State of all clips.
            last_hidden_state: (batch, frames, size) of all clips, for its shape, type and device.
            clips: Numbers of the clips that start anew.

        Returns:
            The new state.
        """
        return state

    @classmethod
    def can_generate(cls) -> bool:
        """True: there is a `generate`, though not the `GenerationMixin` of Transformers."""
        return True

    @property
    def follows_speakers(self) -> bool:
        """True for a multi-talker model, whose `encode` and `generate` take `speaker_activities`."""
        return False

    @property
    def is_told_language(self) -> bool:
        """True for a model that is told the language; others write what `compile_languages` allows."""
        return getattr(self.config, "num_prompts", 0) > 0

    def check_decoding(self, decoding: DecodingOptions) -> None:
        """
        Raise for options that this model does not have, before anything is computed.

        Raises:
            ValueError: the message names the option and, for a language, the codes that the model knows.
        """
        for name, value in decoding.asked_for().items():
            if name not in self.decoding_options:
                kind = self.decoder_type.upper()
                raise ValueError(f"{name}={value!r} is not supported by a model with a {kind} head; expected None.")
        check_language(self.config, decoding.language)
        if decoding.beam is not None and "beam" in self.decoding_options:
            decoding.beam.check_decoder(self.decoder_type)

    @torch.no_grad()
    def generate(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        decoding: DecodingOptions | None = None,
        return_dict_in_generate: bool | None = None,
        generation_config: GenerationConfig | None = None,
        speaker_activities: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> FastConformerGenerateOutput | torch.Tensor:
        r"""
        Decode features by NeMo's rules, greedily or by beam search; every clip of a batch ends on its own.

        Args:
            input_features (`torch.FloatTensor` of shape `(batch, mel frames, num_mel_bins)`):
                Log-mel features, as in [`FastConformerEncoder.forward`].
            attention_mask (`torch.Tensor` of shape `(batch, mel frames)`, *optional*):
                Nonzero for the mel frames that count, as in [`FastConformerEncoder.forward`].
            input_lengths (`torch.LongTensor` of shape `(batch,)`, *optional*):
                Mel frames of each clip that count, in place of the mask.
            decoding ([`DecodingOptions`], *optional*): Options of decoding.
            return_dict_in_generate (`bool`, *optional*, defaults to `False`):
                Return frames, durations and log-probabilities too.
            generation_config (`GenerationConfig`, *optional*, defaults to that of the model):
                Its entries count like the arguments of their names.
            speaker_activities (`torch.Tensor`, *optional*):
                Whom a multi-talker model follows in each clip, as in [`FastConformerEncoder.forward`].
            kwargs: Fields of [`DecodingOptions`] one by one: `language`, `max_symbols_per_step`,
                `decoding_strategy`, `confidence`, `boosting`, `language_model`, `language_model_weight`, `num_beams`,
                `beam`; `num_return_sequences`, the number of best texts of each clip, which come in consecutive rows;
                `max_new_tokens` (or `max_length`), the number of tokens after which a clip ends; and what other models
                of Transformers take, as long as it asks for nothing else than NeMo's decoding (`do_sample=False`,
                `use_cache`). `labels` are not read.

        Returns:
            Token ids (batch, tokens) padded with `config.pad_token_id`, or [`FastConformerGenerateOutput`].

        Raises:
            ValueError: for an option that decoding or this model does not have, a language that the model does not
                know, an argument that would change the result elsewhere (`do_sample=True`), features or lengths of a
                wrong shape, features that are not finite, and for `confidence` without `return_dict_in_generate`.
        """
        survive_forks()
        if generation_config is None:
            generation_config = getattr(self, "generation_config", None)
        require(
            isinstance(generation_config, GenerationConfig | None),
            "generation_config",
            generation_config,
            "a GenerationConfig or None",
        )
        if return_dict_in_generate is None and generation_config is not None:
            return_dict_in_generate = generation_config.return_dict_in_generate
        rest, max_tokens, count = take_generation_arguments(kwargs, generation_config, self.config.pad_token_id)
        decoding = with_return_sequences(DecodingOptions.of(decoding, rest), count)
        self.check_decoding(decoding)
        if decoding.confidence is not None and not return_dict_in_generate:
            raise ValueError("confidence needs return_dict_in_generate=True; found only token ids asked for.")
        features_check = check_features(input_features, attention_mask, input_lengths)
        told: dict[str, Any] = {}
        if speaker_activities is not None:
            follows = self.follows_speakers
            require(follows, "speaker_activities", "a tensor", "None, as this model follows no speaker")
            told["speaker_activities"] = speaker_activities
        encoded: Any = self.encode(input_features, attention_mask, input_lengths, decoding.language, **told)
        hypotheses, _ = self.decode_frames(encoded.last_hidden_state, encoded.encoder_lengths, decoding)
        features_check.finish()
        if max_tokens is not None:
            hypotheses = hypotheses.first(max_tokens)
        if not return_dict_in_generate:
            return hypotheses.tokens
        lengths = encoded.encoder_lengths
        if decoding.beam is not None:
            lengths = lengths.repeat_interleave(decoding.beam.num_best)
        return FastConformerGenerateOutput.of(hypotheses, lengths, self.decoder_type, decoding)
