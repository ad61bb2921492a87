"""Models that turn audio into text: what every head offers to `generate`, to files, to pipelines and to streams."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch

from ..decoding.hypotheses import Hypotheses
from ..decoding.options import DEFAULT_DECODING, DecodingOptions
from .finite_check import check_features
from .outputs import FastConformerEncoderOutput, FastConformerGenerateOutput
from .pretrained import FastConformerPreTrainedModel
from .prompt import Language, check_language


class FastConformerRecognizer(FastConformerPreTrainedModel):
    """
    Encoder and a head that decodes: `encode` audio, `decode_frames` with a state in and out, `generate` for both.

    Heads differ in `decode_frames` and in which of [`DecodingOptions`] they read.
    """

    decoder_type: ClassVar[str]
    # Names of the options of decoding that the head reads; others are refused.
    decoding_options: ClassVar[frozenset[str]] = frozenset({"language", "confidence"})

    @abstractmethod
    def encode(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        language: Language | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> FastConformerEncoderOutput:
        """What the heads see: the encoder's output, told the language where the model has prompts. As in `forward`."""

    @abstractmethod
    def decode_frames(
        self,
        last_hidden_state: torch.Tensor,
        encoder_lengths: torch.Tensor,
        decoding: DecodingOptions = DEFAULT_DECODING,
        state: Any = None,
    ) -> tuple[Hypotheses, Any]:
        """
        Greedy decoding of encoder frames: what `generate` does after the encoder.

        Args:
            last_hidden_state: (batch, frames, size), as `encode` returns it.
            encoder_lengths: (batch,), frames of each clip that count.
            decoding: How.
            state: What an earlier call returned for the frames before these; None at the start of the clips.

        Returns:
            The hypotheses, with frames counted from the first of these, and the state for the frames that follow.
        """

    def restart_clips(self, state: Any, last_hidden_state: torch.Tensor, clips: list[int]) -> Any:
        """
        The state with some clips as at their start, for frames that another window of the encoder gives.

        Args:
            state: Of all clips.
            last_hidden_state: (batch, frames, size) of all clips, for its shape, type and device.
            clips: Numbers of those that start anew.
        """
        return state

    def check_decoding(self, decoding: DecodingOptions) -> None:
        """
        Raise for options that this model does not have, before anything is computed.

        Raises:
            ValueError: naming the option, and for a language the codes that the model knows.
        """
        for name, value in decoding.asked_for().items():
            if name not in self.decoding_options:
                kind = self.decoder_type.upper()
                raise ValueError(f"{name}={value!r} is not supported by a model with a {kind} head; expected None.")
        check_language(self.config, decoding.language)

    @torch.no_grad()
    def generate(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        input_lengths: torch.Tensor | None = None,
        decoding: DecodingOptions | None = None,
        return_dict_in_generate: bool | None = None,
        **kwargs: Any,
    ) -> FastConformerGenerateOutput | torch.Tensor:
        r"""
        Greedy decoding by NeMo's rules (`greedy_batch`); every clip of a batch ends on its own.

        Args:
            input_features, attention_mask, input_lengths: As in [`FastConformerEncoder.forward`].
            decoding ([`DecodingOptions`], *optional*): How to decode.
            return_dict_in_generate (`bool`, *optional*): Return frames, durations and log-probabilities too.
            kwargs: Fields of [`DecodingOptions`] one by one: `language`, `max_symbols_per_step`, `confidence`.

        Returns:
            Token ids (batch, tokens) padded with `config.pad_token_id`, or [`FastConformerGenerateOutput`].

        Raises:
            ValueError: for an option that decoding does not have, a language that the model does not know, and for
                features that are not finite.
        """
        decoding = DecodingOptions.of(decoding, kwargs)
        self.check_decoding(decoding)
        if decoding.confidence is not None and not return_dict_in_generate:
            raise ValueError("confidence needs return_dict_in_generate=True; found only token ids asked for.")
        features_check = check_features(input_features, attention_mask, input_lengths)
        encoded: Any = self.encode(input_features, attention_mask, input_lengths, decoding.language)
        hypotheses, _ = self.decode_frames(encoded.last_hidden_state, encoded.encoder_lengths, decoding)
        features_check.finish()
        if not return_dict_in_generate:
            return hypotheses.tokens
        return FastConformerGenerateOutput.of(hypotheses, encoded.encoder_lengths, self.decoder_type, decoding)
