"""What `generate()` of the heads shares: refusing what it does not know, and the form of its result."""

from __future__ import annotations

from typing import Any

import torch

from .decoding.ctc import CTCHypotheses
from .decoding.transducer_greedy import TransducerHypotheses
from .modeling_outputs import FastConformerGenerateOutput


def refuse_unknown_options(options: dict[str, Any], accepted: tuple[str, ...]) -> None:
    """Raise for options that decoding would have to ignore; `None` values are no options."""
    unknown = sorted(name for name, value in options.items() if value is not None)
    if unknown:
        raise ValueError(
            f"generate() does not know {', '.join(unknown)}; greedy decoding accepts {', '.join(accepted)}."
        )


def build_generate_output(
    hypotheses: CTCHypotheses | TransducerHypotheses,
    encoder_lengths: torch.Tensor,
    decoder_type: str,
    return_dict_in_generate: bool | None,
) -> FastConformerGenerateOutput | torch.Tensor:
    """The token ids alone, or with `return_dict_in_generate` everything that decoding found."""
    if not return_dict_in_generate:
        return hypotheses.tokens
    return FastConformerGenerateOutput(
        sequences=hypotheses.tokens,
        sequence_lengths=hypotheses.token_lengths,
        frame_indices=hypotheses.frame_indices,
        durations=getattr(hypotheses, "durations", None),
        log_probs=hypotheses.log_probs,
        encoder_lengths=encoder_lengths,
        decoder_type=decoder_type,
    )
