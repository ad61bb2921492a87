"""
Confidence of greedy decoding in each token, word and clip.

Pure functions over log-probabilities, by the measures of NeMo 3.0 (`ConfidenceMethodMixin`, `ConfidenceMixin`; Laptev
and Ginsburg, 2023, "Fast entropy-based methods of word-level confidence estimation"). Every measure is 1 where one
class has all the probability and 0 where all classes have the same; `tests/decoding/test_confidence_nemo.py` compares
them with NeMo's. Blanks are left out, as by default in NeMo.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..validation import is_number, require, require_choice

METHODS = ("max_prob", "entropy")
ENTROPY_TYPES = ("gibbs", "tsallis", "renyi")
ENTROPY_NORMS = ("lin", "exp")
AGGREGATIONS = ("mean", "min", "max", "prod")


@dataclass(frozen=True)
class ConfidenceOptions:
    r"""
    Measure of confidence, and rule that joins several confidences into one. The defaults are NeMo's.

    Args:
        method: `"max_prob"`, the largest probability, or `"entropy"` (default).
        entropy_type: `"gibbs"`, `"tsallis"` (default) or `"renyi"`.
        alpha: Power of the probabilities, above 0, 0.33 by default; 1 gives the plain largest probability and
            Shannon's entropy.
        entropy_norm: Rule that brings the entropy between 0 and 1: `"lin"` or `"exp"` (default).
        aggregation: Rule that joins several confidences: `"mean"`, `"min"` (default), `"max"` or `"prod"`.
        include_durations: True joins the confidence in a token of TDT with that in its duration; False by default.

    Raises:
        ValueError: for a value that is not accepted.
    """

    method: str = "entropy"
    entropy_type: str = "tsallis"
    alpha: float = 0.33
    entropy_norm: str = "exp"
    aggregation: str = "min"
    include_durations: bool = False

    def __post_init__(self) -> None:
        for name, accepted in (
            ("method", METHODS),
            ("entropy_type", ENTROPY_TYPES),
            ("entropy_norm", ENTROPY_NORMS),
            ("aggregation", AGGREGATIONS),
        ):
            require_choice(name, getattr(self, name), accepted)
        require(is_number(self.alpha) and self.alpha > 0, "alpha", self.alpha, "a number above 0")


def measure_confidence(log_probs: torch.Tensor, num_classes: int, options: ConfidenceOptions) -> torch.Tensor:
    """
    Confidence in each distribution.

    Args:
        log_probs: (..., classes), log-probabilities; those of impossible classes may be -inf.
        num_classes: Number of classes by which the measure is brought to its range. NeMo takes the number of tokens
            and blank, also for distributions over durations.
        options: The measure.

    Returns:
        (...,)
    """
    log_probs = torch.nan_to_num(log_probs)
    alpha, count = options.alpha, float(num_classes)
    if options.method == "max_prob":
        largest = (alpha * log_probs.amax(dim=-1)).exp()
        return (largest * count**alpha - 1.0) / (count**alpha - 1.0)
    if alpha == 1.0:  # Shannon's entropy, for every type
        negative_entropy = (log_probs.exp() * log_probs).sum(dim=-1)
        if options.entropy_norm == "lin":
            return 1.0 + negative_entropy / math.log(count)
        return (negative_entropy.exp() * count - 1.0) / (count - 1.0)
    powers = (alpha * log_probs).exp()  # p ** alpha
    if options.entropy_type == "gibbs":
        negative_entropy = (powers * log_probs).sum(dim=-1)
        if options.entropy_norm == "lin":
            return 1.0 + negative_entropy / (math.log(count) * count ** (1.0 - alpha))
        return _exponential(alpha * negative_entropy, -alpha * count ** (1.0 - alpha) * math.log(count))
    total = powers.sum(dim=-1)
    if options.entropy_type == "tsallis":
        if options.entropy_norm == "lin":
            return 1.0 + (1.0 - total) / (count ** (1.0 - alpha) - 1.0)
        return _exponential((1.0 - total) / (1.0 - alpha), (1.0 - count ** (1.0 - alpha)) / (1.0 - alpha))
    if options.entropy_norm == "lin":
        return 1.0 + total.log2() / ((alpha - 1.0) * math.log2(count))
    return (total ** (1.0 / (alpha - 1.0)) * count - 1.0) / (count - 1.0)


def _exponential(negative_entropy: torch.Tensor, least: float) -> torch.Tensor:
    """The exponential of a negative entropy, shifted so that its least value becomes 0."""
    floor = math.exp(least)
    return (negative_entropy.exp() - floor) / (1.0 - floor)


def transducer_confidence(logits: torch.Tensor, blank_id: int, options: ConfidenceOptions) -> torch.Tensor:
    """
    Confidence in emitted tokens, each from the joint network's outputs it was read from.

    Args:
        logits: (n, classes), tokens, blank and, for TDT, durations after them.
        blank_id: Class of the blank.
        options: The measure, and whether durations count.

    Returns:
        (n,)
    """
    num_classes = blank_id + 1
    found = measure_confidence(logits[:, :num_classes].float().log_softmax(dim=-1), num_classes, options)
    if not options.include_durations:
        return found
    if logits.shape[1] == num_classes:
        raise ValueError("include_durations=True is not supported; expected False where there are no durations (TDT).")
    in_duration = measure_confidence(logits[:, num_classes:].float().log_softmax(dim=-1), num_classes, options)
    return _aggregate_rows(torch.stack([found, in_duration]), options.aggregation)


@dataclass(frozen=True)
class TransducerScore:
    """`transducer_confidence` with its options, in the form that decoding takes; equal options make equal objects."""

    blank_id: int
    options: ConfidenceOptions

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """(n, classes) to (n,)."""
        return transducer_confidence(logits, self.blank_id, self.options)


@dataclass(frozen=True)
class TokenScore:
    """
    Confidence in tokens that a decoder wrote, which in a search need not be the likeliest.

    Args:
        options: The measure; `"max_prob"` is of the probability of the token.
    """

    options: ConfidenceOptions

    def __post_init__(self) -> None:
        expected = "False for tokens without durations"
        require(not self.options.include_durations, "include_durations", self.options.include_durations, expected)

    def __call__(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Scores (n, classes) before the softmax and tokens (n,) to confidences, (n,)."""
        log_probs = logits.float().log_softmax(dim=-1)
        num_classes = log_probs.shape[-1]
        if self.options.method == "max_prob":
            log_probs = log_probs.gather(1, tokens[:, None])
        return measure_confidence(log_probs, num_classes, self.options)


def _aggregate_rows(values: torch.Tensor, aggregation: str) -> torch.Tensor:
    """(values, n) to (n,)."""
    if aggregation == "mean":
        return values.mean(dim=0)
    if aggregation == "prod":
        return values.prod(dim=0)
    return values.amin(dim=0) if aggregation == "min" else values.amax(dim=0)


def ctc_confidence(
    log_probs: torch.Tensor,
    encoder_lengths: torch.Tensor,
    frame_indices: torch.Tensor,
    token_lengths: torch.Tensor,
    options: ConfidenceOptions,
    labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Confidence in the tokens of greedy CTC decoding, taken over the frames in which a token is the best class.

    Args:
        log_probs: (batch, frames, classes).
        encoder_lengths: (batch,), frames that count.
        frame_indices: (batch, tokens), first frame of each token.
        token_lengths: (batch,).
        options: The measure and the aggregation.
        labels: (batch, frames), class of each frame, where it is not the best one.

    Returns:
        (batch, tokens), 0 in the padding.
    """
    if options.include_durations:
        raise ValueError("include_durations=True is not supported; expected False for CTC, which has no durations.")
    batch_size, num_frames, num_classes = log_probs.shape
    found = measure_confidence(log_probs.float(), num_classes, options)  # (batch, frames)
    best = log_probs.argmax(dim=-1) if labels is None else labels
    result = found.new_zeros(frame_indices.shape)
    if not frame_indices.numel():
        return result
    frames = torch.arange(num_frames, device=found.device)
    counts = frames < encoder_lengths.to(found.device)[:, None]
    is_change = torch.ones_like(counts)
    is_change[:, 1:] = best[:, 1:] != best[:, :-1]
    run = is_change.cumsum(dim=1) - 1  # (batch, frames), number of the run of equal classes
    shape = (batch_size, num_frames)
    reduce = {"mean": "sum", "prod": "prod", "min": "amin", "max": "amax"}[options.aggregation]
    neutral = {"mean": 0.0, "prod": 1.0, "min": math.inf, "max": -math.inf}[options.aggregation]
    values = found.new_full(shape, neutral)
    values.scatter_reduce_(1, run, torch.where(counts, found, neutral), reduce)
    if options.aggregation == "mean":
        sizes = found.new_zeros(shape).scatter_reduce_(1, run, counts.to(found.dtype), "sum")
        values = values / sizes.clamp(min=1.0)
    per_token = values.gather(1, run.gather(1, frame_indices))
    is_token = torch.arange(frame_indices.shape[1], device=found.device) < token_lengths[:, None]
    return torch.where(is_token, per_token, result)


def aggregate_confidence(values: Sequence[float], aggregation: str) -> float:
    """Join the confidences of the tokens of a word or a clip into one; without tokens it is 1."""
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation={aggregation!r} is not supported; expected one of {AGGREGATIONS}.")
    if not values:
        return 1.0
    if aggregation == "mean":
        return sum(values) / len(values)
    if aggregation == "prod":
        return math.prod(values)
    return min(values) if aggregation == "min" else max(values)


def word_positions(tokens: Sequence[str], token_texts: Sequence[str], word_rule: str) -> list[tuple[int, int]]:
    """
    First position of each word of the text and the one after its last, as NeMo groups tokens into words.

    Args:
        tokens: Vocabulary strings, with their word or continuation marks.
        token_texts: The text of each token on its own.
        word_rule: `"word_mark"`: a token whose text is not the token itself opens a word, `<unk>` is a word of its
            own, and a token that is only a mark, before another mark, is not a word; `"continuation_mark"`: a token
            without `##` opens a word; `"character"`: spaces separate words.
    """
    if word_rule == "character":
        words, start = [], 0
        for position, text in enumerate([*token_texts, " "]):
            if text == " ":
                if position > start:
                    words.append((start, position))
                start = position + 1
        return words
    words, start = [], 0
    is_unknown = is_mark = False
    for position, (token, text) in enumerate(zip(tokens, token_texts, strict=True)):
        opens = not token.startswith("##") if word_rule == "continuation_mark" else token != text or is_unknown
        if opens and position > start:
            if not is_mark:
                words.append((start, position))
            start = position
        is_unknown, is_mark = token == "<unk>", token == "▁"
    if tokens and not is_mark:
        words.append((start, len(tokens)))
    return words


def word_confidences(
    tokens: Sequence[str],
    token_texts: Sequence[str],
    token_confidences: Sequence[float],
    word_rule: str,
    aggregation: str,
) -> list[float]:
    """Confidence in each word of the text, from the confidences in its tokens."""
    return [
        aggregate_confidence(token_confidences[start:end], aggregation)
        for start, end in word_positions(tokens, token_texts, word_rule)
    ]
