"""Options of searches for a text that Transformers' `generate` knows, for models with an attention decoder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..validation import is_number, require, require_choice, require_count

# Options that are read only in sampling, and only by several beams.
OF_SAMPLING = ("temperature", "top_k", "top_p", "min_p")
OF_BEAMS = ("length_penalty", "early_stopping")


@dataclass(frozen=True)
class SearchOptions:
    """
    Search for a text, by the names and rules of Transformers' `GenerationMixin`; None leaves an option to these.

    Args:
        num_beams: Texts that a beam holds; 1 is greedy decoding, also of a checkpoint that has beams of NeMo's.
        do_sample: Draw tokens by their probabilities.
        temperature: Divisor of the scores before they are drawn from.
        top_k, top_p, min_p: Tokens that may be drawn: so many of the likeliest; as many as have this probability
            together; those that have this share of the probability of the likeliest.
        length_penalty: Power of the length by which the score of a text of a beam is divided.
        early_stopping: Stop when there are as many ended texts as beams.
        repetition_penalty: Divisor of the scores of tokens that were written before.
        no_repeat_ngram_size: Sequences of so many tokens are written once at most.

    Raises:
        ValueError: for a value that is not accepted, and for one that the search would not read.
    """

    num_beams: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    length_penalty: float | None = None
    early_stopping: bool | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_beams", "top_k", "no_repeat_ngram_size"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))
        for name in ("do_sample", "early_stopping"):
            require_choice(name, getattr(self, name), (True, False, None))
        for name in ("temperature", "repetition_penalty"):
            value = getattr(self, name)
            require(value is None or (is_number(value) and value > 0), name, value, "a number above 0")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            require(value is None or (is_number(value) and 0 < value <= 1), name, value, "a probability above 0")
        require(
            self.length_penalty is None or is_number(self.length_penalty),
            "length_penalty",
            self.length_penalty,
            "a number",
        )
        for name in OF_SAMPLING:
            is_read = getattr(self, name) is None or self.do_sample
            require(bool(is_read), name, getattr(self, name), "None without do_sample=True")
        for name in OF_BEAMS:
            is_read = getattr(self, name) is None or (self.num_beams or 1) > 1
            require(is_read, name, getattr(self, name), "None without num_beams of 2 or more")

    @property
    def arguments(self) -> dict[str, Any]:
        """The options that are said, as arguments of `generate`."""
        return {name: getattr(self, name) for name in SEARCH_OPTIONS if getattr(self, name) is not None}

    @property
    def is_greedy(self) -> bool:
        """True where the likeliest token is taken, whatever was written before."""
        return not any(value for name, value in self.arguments.items() if (name, value) != ("num_beams", 1))


SEARCH_OPTIONS = tuple(field.name for field in fields(SearchOptions))
