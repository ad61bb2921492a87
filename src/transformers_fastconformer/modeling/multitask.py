"""Encoder with a prompted transformer decoder: Canary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, GenerationMixin

from ..configuration_multitask import FastConformerMultitaskConfig
from ..decoding.hypotheses import Hypotheses
from ..decoding.options import DEFAULT_DECODING, DecodingOptions
from ..decoding.prompts import PROMPT_OPTIONS, fill_prompt
from ..kernels.forks import survive_forks
from ..losses.smoothed_cross_entropy import smoothed_cross_entropy
from ..validation import require
from .encoder import FastConformerEncoder
from .encoder_cache import FastConformerEncoderCache
from .finite_check import check_features
from .masking import resolve_lengths
from .multitask_decoder import (
    FastConformerMultitaskDecoder,
    FastConformerTokenHead,
    shape_of,
)
from .multitask_decoding import decode_prompted, mask_frames, place_texts
from .multitask_generation import (
    CACHE_NAME,
    TOKEN_ARGUMENTS,
    asks_for_transformers,
    check_num_beams,
    check_prompt_mask,
    generate_by_transformers,
    limit_of_tokens,
    split_arguments,
)
from .multitask_prompts import Prompts, asks_for_prompt, check_labels, limit_tokens, read_prompts, tokens_before_labels
from .multitask_times import TIMES_FOLDER, CarriedTimesModel, find_times_model
from .outputs import (
    FastConformerEncoderOutput,
    FastConformerGenerateOutput,
    FastConformerMultitaskEncoderOutput,
    FastConformerMultitaskOutput,
)
from .pretrained import wants_dict
from .prompt import Language, check_language
from .recognizer import FastConformerRecognizer
from .transformer import FastConformerTransformerEncoder


class FastConformerForMultitask(FastConformerRecognizer, GenerationMixin):  # type: ignore[misc]
    r"""
    FastConformer with a prompted transformer decoder (NeMo's `EncDecMultiTaskModel`: Canary).

    Args:
        config ([`FastConformerMultitaskConfig`]): Shape of encoder and decoder.
    """

    config_class: Any = FastConformerMultitaskConfig
    decoder_type = "multitask"
    # The model that times the words, in checkpoints that carry one; its parameters are not among this one's.
    times_model: CarriedTimesModel | None = None
    decoding_options = (FastConformerRecognizer.decoding_options - {"beam", "languages"}) | {"search", *PROMPT_OPTIONS}

    def __init__(self, config: FastConformerMultitaskConfig) -> None:
        super().__init__(config)
        size = config.decoder_hidden_size
        self.encoder = FastConformerEncoder(config)
        self.encoder_proj = nn.Linear(config.output_size, size) if config.has_encoder_projection else None
        self.transformer_encoder = (
            FastConformerTransformerEncoder(
                config,
                shape_of(config, "transformer_encoder"),
                config.num_transformer_encoder_layers,
                config.transformer_encoder_final_norm,
            )
            if config.num_transformer_encoder_layers > 0
            else None
        )
        self.decoder = FastConformerMultitaskDecoder(config)
        self.token_head = FastConformerTokenHead(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load as all models of this package, with the model of times that the checkpoint carries."""
        options = dict(kwargs)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if pretrained_model_name_or_path is not None:
            model.times_model = find_times_model(pretrained_model_name_or_path, cls, model.config, options)
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save as all models, with the model of times in a folder of its own."""
        self.config.has_timestamps_model = self.times_model is not None
        if self.times_model is not None and kwargs.get("is_main_process", True):
            self.times_model.save_into(save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)

    def _get_files_timestamps(self, working_dir: Any) -> dict[str, float]:
        """Times of the files that an upload leaves out unless they change; the model of times is written before."""
        found: dict[str, float] = super()._get_files_timestamps(working_dir)
        return {name: time for name, time in found.items() if name != TIMES_FOLDER}

    def _init_weights(self, module: nn.Module) -> None:
        """Draw weights like all models; the bias of the head starts at zero."""
        super()._init_weights(module)
        if isinstance(module, FastConformerTokenHead):
            nn.init.zeros_(module.bias)

    @property
    def is_told_language(self) -> bool:
        """True: the prompt has the language."""
        return True

    def check_decoding(self, decoding: DecodingOptions) -> None:
        """
        Raise for options that this model or its prompt does not have, before anything is computed.

        Raises:
            ValueError: the message names the option and what the checkpoint knows.
        """
        super().check_decoding(replace(decoding, language=None))
        language = decoding.language
        require(isinstance(language, str | None), "language", language, "the code of one language, or None")
        if asks_for_prompt(decoding):
            fill_prompt(self.config, decoding.prompt)
        has_scores = decoding.boosting is not None or decoding.language_model is not None
        is_greedy = decoding.search is None or decoding.search.is_greedy
        require(is_greedy or not has_scores, "search", decoding.search, "None with boosting or language_model")

    def get_encoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The encoder, whatever stands after it."""
        return self.encoder

    def get_decoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The transformer decoder."""
        return self.decoder

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
    ) -> FastConformerMultitaskEncoderOutput:
        """
        Encode features to the frames that the decoder attends to: (batch, frames, decoder_hidden_size).

        Arguments are those of `forward`. A `language` belongs to the prompt and is refused here; a `cache`, of live
        streams, too.
        """
        require(input_features.shape[0] > 0, "the number of clips", input_features.shape[0], "1 or more")
        check_language(self.config, language)
        require(cache is None, "cache", cache, "None: this model does not stream")
        encoded: Any = self.encoder(
            input_features,
            attention_mask=attention_mask,
            input_lengths=input_lengths,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            is_last=is_last,
        )
        frames, lengths = encoded.last_hidden_state, encoded.encoder_lengths
        if self.encoder_proj is not None:
            frames = self.encoder_proj(frames)
        if self.transformer_encoder is not None:
            frames = self.transformer_encoder(frames, mask_frames(lengths, frames.shape[1]))
        return FastConformerMultitaskEncoderOutput(
            last_hidden_state=frames,
            encoder_lengths=lengths,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            padded_lengths=self.count_padded_frames(input_features, attention_mask, input_lengths, lengths),
        )

    def count_padded_frames(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None,
        input_lengths: torch.Tensor | None,
        encoder_lengths: torch.Tensor,
    ) -> torch.Tensor:
        """Encoder frames of each clip and its one masked mel frame, (batch,), of which the limit of tokens is made."""
        mel_lengths = resolve_lengths(attention_mask, input_lengths, *input_features.shape[:2])
        if mel_lengths is None:
            mel_lengths = torch.full_like(encoder_lengths, input_features.shape[1])
        padded_lengths: torch.Tensor = self.config.count_encoder_frames(mel_lengths.to(encoder_lengths.device) + 1)
        return padded_lengths

    def forward(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: FastConformerEncoderOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int = 0,
        cache: EncoderDecoderCache | None = None,
    ) -> FastConformerMultitaskOutput | tuple[Any, ...]:
        r"""
        Compute the logits of the token after each decoder token and, with labels, the loss.

        Args:
            input_features (`torch.FloatTensor` of shape `(batch, mel frames, num_mel_bins)`, *optional*):
                Log-mel features, as in [`FastConformerEncoder.forward`]; not needed next to `encoder_outputs`.
            attention_mask (`torch.Tensor` of shape `(batch, mel frames)`, *optional*):
                Nonzero for the mel frames that count, as in [`FastConformerEncoder.forward`].
            input_lengths (`torch.LongTensor` of shape `(batch,)`, *optional*):
                Mel frames of each clip that count, in place of the mask.
            decoder_input_ids (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                Prompt and text so far; default: the labels, shifted by one after `config.decoder_start_token_id`.
            decoder_attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*):
                Nonzero for tokens that count, those of `past_key_values` included; the others are seen by none, and
                positions do not count them.
            encoder_outputs ([`FastConformerEncoderOutput`], *optional*): Result of `encode`.
            past_key_values (`EncoderDecoderCache`, *optional*):
                Keys and values of the tokens before, and of the frames; changed in place.
            labels (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                Token after each decoder token; -100 and `config.pad_token_id` are padding, and -100 in the place of
                the prompt leaves it out of the loss. The processor makes them together with `decoder_input_ids`. Those
                of whole prompts may stand for themselves: the decoder's tokens are then made of them, one place later.
            use_cache (`bool`, *optional*, defaults to `config.use_cache` without labels): Return `past_key_values`.
            output_hidden_states (`bool`, *optional*): Return the states between layers; default: the configuration's.
            output_attentions (`bool`, *optional*):
                Return attention probabilities, those over the frames too; default: the configuration's.
            return_dict (`bool`, *optional*): Return an output object, not a tuple; default: the configuration's.
            logits_to_keep (`int`, defaults to 0): Compute the logits of so many last tokens; 0: of all.
            cache (`EncoderDecoderCache`, *optional*): The newer name of `past_key_values` in Transformers.

        Returns:
            [`FastConformerMultitaskOutput`]

        Raises:
            ValueError: for features, lengths, tokens or labels of a wrong shape, for labels that are not tokens, and
                for more tokens than the decoder has positions.
        """
        with_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        with_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        past_key_values = cache if past_key_values is None else past_key_values
        if encoder_outputs is None:
            if input_features is None:
                raise ValueError("input_features=None without encoder_outputs; expected one of them.")
            encoder_outputs = self.encode(
                input_features,
                attention_mask,
                input_lengths,
                output_hidden_states=with_states,
                output_attentions=with_attentions,
            )
        frames, lengths = encoder_outputs.last_hidden_state, encoder_outputs.encoder_lengths
        assert frames is not None
        assert lengths is not None
        if labels is not None:
            check_labels(self.config, labels, frames.shape[0])
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("decoder_input_ids=None without labels; expected the ids of a prompt.")
            decoder_input_ids = tokens_before_labels(self.config, labels)
        if use_cache is None:
            use_cache = self.config.use_cache and labels is None
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        states = self.decode_tokens(
            decoder_input_ids,
            decoder_attention_mask,
            frames,
            lengths,
            past_key_values,
            bool(with_states),
            bool(with_attentions),
        )
        last = states.last_hidden_state[:, -logits_to_keep:] if logits_to_keep else states.last_hidden_state
        logits = self.token_head(last, self.decoder.embedding.weight)
        loss = None
        if labels is not None:
            loss = smoothed_cross_entropy(logits, labels, self.config.pad_token_id, self.config.label_smoothing)
        output = FastConformerMultitaskOutput(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: past_key_values if use_cache else None},
            decoder_hidden_states=states.hidden_states,
            decoder_attentions=states.attentions,
            cross_attentions=states.cross_attentions,
            encoder_last_hidden_state=frames,
            encoder_lengths=lengths,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )
        return output if wants_dict(self.config, return_dict) else output.to_tuple()

    def decode_tokens(
        self,
        tokens: torch.Tensor,
        token_mask: torch.Tensor | None,
        frames: torch.Tensor,
        lengths: torch.Tensor,
        past_key_values: Any,
        with_states: bool,
        with_attentions: bool,
    ) -> Any:
        """States of new tokens after those that a cache holds."""
        num_past = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        num_tokens = num_past + tokens.shape[1]
        # The last token of a search may stand one place after the limit, and is never embedded.
        limit = self.config.decoder_max_positions + (0 if self.config.decoder_learned_positions else 1)
        require(num_tokens <= limit, "the number of decoder tokens", num_tokens, f"at most {limit}")
        places = torch.arange(num_tokens, dtype=torch.int64, device=tokens.device)
        mask = None
        if tokens.shape[1] > 1:
            mask = (places <= places[num_past:, None])[None, None]  # (1, 1, tokens, past and tokens)
        positions = places[num_past:].expand(tokens.shape[0], -1)
        if token_mask is not None:
            is_token = token_mask.to(tokens.device).bool()
            positions = (is_token.cumsum(dim=-1) - 1).clamp(min=0)[:, num_past:]
            seen = is_token[:, None, None]
            mask = seen if mask is None else mask & seen
            # A token that does not count sees itself, for a softmax over something.
            mask = mask | torch.eye(num_tokens, dtype=torch.bool, device=tokens.device)[num_past:]
        return self.decoder(
            tokens,
            positions,
            frames,
            mask,
            mask_frames(lengths, frames.shape[1]),
            past_key_values,
            with_states,
            with_attentions,
        )

    @torch.no_grad()
    def decode_frames(
        self,
        last_hidden_state: torch.Tensor,
        encoder_lengths: torch.Tensor,
        decoding: DecodingOptions = DEFAULT_DECODING,
        state: Any = None,
        prompt_ids: Prompts | None = None,
        padded_lengths: torch.Tensor | None = None,
        max_new_tokens: int | None = None,
        with_log_probs: bool = True,
        beam_size: int | None = None,
    ) -> tuple[Hypotheses, None]:
        """
        Decode frames greedily, or by NeMo's beam search.

        Each clip is decoded until it ends or has as many tokens as NeMo allows it by itself.

        Args:
            last_hidden_state: (batch, frames, decoder_hidden_size), as `encode` returns it.
            encoder_lengths: (batch,), frames of each clip that count.
            decoding: Options of decoding.
            state: None; each call decodes whole clips.
            prompt_ids: Ids of one prompt for all clips, or of one for each, also of several lengths.
            padded_lengths: (batch,), as `encode` returns them, for the limit of tokens; default: the lengths.
            max_new_tokens: Most tokens of each clip after the prompt, the end included; None: only NeMo's limit.
            with_log_probs: Compute the log-probability of each token, which costs time.
            beam_size: Texts that a beam search holds; 1 is greedy decoding, None that of the checkpoint.

        Returns:
            The hypotheses, without prompt and end, and None.
        """
        require(state is None, "state", state, "None: an attention decoder decodes whole clips")
        num_clips = last_hidden_state.shape[0]
        require(num_clips > 0, "the number of clips", num_clips, "1 or more")
        said = decoding if prompt_ids is None else DEFAULT_DECODING  # ids were made of what the options say
        prompts = read_prompts(self.config, prompt_ids, num_clips, said)
        padded_lengths = encoder_lengths if padded_lengths is None else padded_lengths
        limits = limit_tokens(self.config, padded_lengths, encoder_lengths, prompts, max_new_tokens)
        found = decode_prompted(
            self, last_hidden_state, encoder_lengths, decoding, prompts, limits, with_log_probs, beam_size
        )
        return found, None

    @torch.no_grad()
    def place_tokens(
        self,
        last_hidden_state: torch.Tensor,
        encoder_lengths: torch.Tensor,
        prompt_ids: Sequence[int],
        texts: Sequence[Sequence[int]],
    ) -> list[list[int]]:
        """
        Find about where the tokens of texts are said, by the decoder's attention over the frames.

        Args:
            last_hidden_state: (batch, frames, decoder_hidden_size), as `encode` returns it.
            encoder_lengths: (batch,), frames of each clip that count.
            prompt_ids: The prompt that was given to all clips.
            texts: Tokens of each clip after it, without the end.

        Returns:
            For each clip an encoder frame for each token; they do not decrease.
        """
        return place_texts(self, last_hidden_state, encoder_lengths, prompt_ids, texts)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        decoding: DecodingOptions | None = None,
        return_dict_in_generate: bool | None = None,
        generation_config: GenerationConfig | None = None,
        prompt_ids: Prompts | None = None,
        encoder_outputs: FastConformerMultitaskEncoderOutput | None = None,
        **kwargs: Any,
    ) -> Any:
        r"""
        Write what is said in each clip, after a prompt that says how.

        Greedy decoding has a loop of its own, and so has NeMo's beam search, by which a checkpoint with
        `config.beam_size` above 1 decodes unless `num_beams` says another thing; whatever else is asked for goes
        through Transformers' `GenerationMixin`.

        Args:
            input_features (`torch.FloatTensor` of shape `(batch, mel frames, num_mel_bins)`, *optional*):
                Log-mel features, as in [`FastConformerEncoder.forward`]; not needed next to `encoder_outputs`.
            attention_mask (`torch.Tensor` of shape `(batch, mel frames)`, *optional*):
                Nonzero for the mel frames that count, as in [`FastConformerEncoder.forward`].
            input_lengths (`torch.LongTensor` of shape `(batch,)`, *optional*):
                Mel frames of each clip that count, in place of the mask.
            decoding ([`DecodingOptions`], *optional*): Options of decoding.
            return_dict_in_generate (`bool`, *optional*, defaults to `False`):
                Return lengths and log-probabilities too, as [`FastConformerGenerateOutput`]; through Transformers its
                own output of the way of decoding.
            generation_config (`GenerationConfig`, *optional*, defaults to that of the model):
                Its entries count like the arguments of their names.
            prompt_ids (`torch.LongTensor` or lists of `int`, *optional*):
                Ids of one prompt for all clips, or of one for each; `decoder_input_ids` says the same. Default: the
                prompt that the options say (`source_lang`, `target_lang`, `task`, `pnc`...), see [`PromptOptions`].
            encoder_outputs ([`FastConformerMultitaskEncoderOutput`], *optional*): Result of `encode`.
            kwargs: Fields of [`DecodingOptions`] one by one; `max_new_tokens`, or `max_length`, which counts the
                prompt; and all that `GenerationMixin.generate` takes (`num_beams`, `do_sample`, `output_scores`,
                `num_return_sequences`, `stopping_criteria`...). NeMo's limit of tokens holds besides.

        Returns:
            Token ids (batch, tokens) without prompt and end, padded with `config.pad_token_id`, or an output object.

        Raises:
            ValueError: for an option that decoding or this model does not have, features or lengths of a wrong shape,
                features that are not finite, the `decoder_input_ids` of a training batch, and for `confidence` without
                `return_dict_in_generate`.
        """
        survive_forks()
        if generation_config is None:
            generation_config = getattr(self, "generation_config", None)
        if return_dict_in_generate is None and generation_config is not None:
            return_dict_in_generate = generation_config.return_dict_in_generate
        if kwargs.get("decoder_input_ids") is not None:
            check_prompt_mask(kwargs.get("decoder_attention_mask"))
            if kwargs.get("labels") is not None and kwargs["labels"].shape == kwargs["decoder_input_ids"].shape:
                raise ValueError(
                    "decoder_input_ids of the shape of labels are those of a training batch, which hold the text; "
                    "expected the ids of a prompt, or only the features and options of the prompt."
                )
        options, arguments = split_arguments(kwargs)
        decoding = DecodingOptions.of(decoding, options)
        self.check_decoding(decoding)
        for name, value in ({} if decoding.search is None else decoding.search.arguments).items():
            if arguments.setdefault(name, value) not in (None, value):
                raise ValueError(f"{name}={arguments[name]!r} contradicts decoding, which has {value!r}.")
            arguments[name] = value
        decoding = replace(decoding, search=None, num_beams=None, beam=None)
        if decoding.confidence is not None and not return_dict_in_generate:
            raise ValueError("confidence needs return_dict_in_generate=True; found only token ids asked for.")
        if prompt_ids is None:
            prompt_ids = arguments.pop("decoder_input_ids", None)
        features_check = None
        if encoder_outputs is None:
            if input_features is None:
                raise ValueError("input_features=None without encoder_outputs; expected one of them.")
            features_check = check_features(input_features, attention_mask, input_lengths)
            encoder_outputs = self.encode(input_features, attention_mask, input_lengths)
        frames, lengths = encoder_outputs.last_hidden_state, encoder_outputs.encoder_lengths
        assert frames is not None
        assert lengths is not None
        padded_lengths = getattr(encoder_outputs, "padded_lengths", None)
        padded_lengths = lengths if padded_lengths is None else padded_lengths
        prompts = read_prompts(self.config, prompt_ids, frames.shape[0], decoding)
        limit = limit_of_tokens(arguments, generation_config, max(map(len, prompts)))
        own_ids = {name: getattr(self.config, name) for name in TOKEN_ARGUMENTS}
        if asks_for_transformers(arguments, generation_config, own_ids):
            for name in ("confidence", "boosting", "language_model"):
                value = getattr(decoding, name)
                require(value is None, name, value, "None with other ways than greedy")
            check_num_beams(arguments, generation_config, self.config.beam_size)
            limits = limit_tokens(self.config, padded_lengths, lengths, prompts, limit)
            arguments["return_dict_in_generate"] = return_dict_in_generate
            result = generate_by_transformers(self, encoder_outputs, prompts, limits, generation_config, arguments)
            if features_check is not None:
                features_check.finish()
            return result
        hypotheses, _ = self.decode_frames(
            frames,
            lengths,
            decoding,
            prompt_ids=prompts,
            padded_lengths=padded_lengths,
            max_new_tokens=limit,
            with_log_probs=bool(return_dict_in_generate),
            beam_size=1 if arguments.get("num_beams") == 1 else None,
        )
        if features_check is not None:
            features_check.finish()
        if not return_dict_in_generate:
            return hypotheses.tokens
        return FastConformerGenerateOutput.of(hypotheses, lengths, self.decoder_type, decoding)

    @property
    def padding_id(self) -> int:
        """Id that fills tables of tokens."""
        return 0 if self.config.pad_token_id is None else self.config.pad_token_id
