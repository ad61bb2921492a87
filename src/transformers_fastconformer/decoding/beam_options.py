"""Options of beam search, by NeMo's names where NeMo has them."""

from __future__ import annotations

from dataclasses import dataclass

from ..validation import is_number, require, require_choice, require_count

# Strategies by decoder, the usual one first.
STRATEGIES = {"rnnt": ("malsd_batch", "maes_batch"), "tdt": ("malsd_batch",), "ctc": ("beam_batch",)}
BLANK_SCORE_MODES = ("lm_weighted_full", "no_score")
PRUNING_MODES = ("late", "early")


@dataclass(frozen=True)
class BeamOptions:
    r"""
    Options of beam search. Scores of phrases and a language model are added as in greedy decoding.

    Args:
        num_beams: Texts of each clip that the search holds (NeMo: `beam_size`).
        num_best: Texts of each clip that `generate` returns, best first; at most `num_beams`.
        strategy: NeMo's name of the search: `"malsd_batch"` for RNN-T and TDT (texts of as many tokens and blanks side
            by side), `"maes_batch"` for RNN-T (frame by frame, likely tokens only), `"beam_batch"` for CTC; None
            (default): the first that the model has.
        normalize_length: Compare texts by their score for each token (NeMo: `score_norm`), for transducers.
        blank_lm_score_mode: `"lm_weighted_full"` (default): the blank has its share of the weight of phrases and
            language model, so that they neither add nor drop tokens; `"no_score"`: only tokens have it. For
            transducers.
        pruning_mode: `"late"` (default): candidates are chosen with the scores of phrases and language model;
            `"early"`: chosen without, then scored. For transducers.
        beam_threshold: For CTC: a text this far below the best one (in natural logarithms) is dropped.
        beam_beta: For CTC: bonus of each token. NeMo's default is 1, which is meant for use with a language model.
        maes_num_steps: For `maes_batch`: tokens on a frame at most.
        maes_expansion_beta: For `maes_batch`: continuations of a text that are tried, next to `num_beams`.
        maes_expansion_gamma: For `maes_batch`: those this far below the best one (in natural logarithms) are not.

    Raises:
        ValueError: for a value that no model accepts; the message names the option.
    """

    num_beams: int = 4
    num_best: int = 1
    strategy: str | None = None
    normalize_length: bool = True
    blank_lm_score_mode: str = "lm_weighted_full"
    pruning_mode: str = "late"
    beam_threshold: float = 20.0
    beam_beta: float = 0.0
    maes_num_steps: int = 2
    maes_expansion_beta: int = 2
    maes_expansion_gamma: float = 2.3

    def __post_init__(self) -> None:
        require_count("num_beams", self.num_beams)
        require_count("num_best", self.num_best)
        require(self.num_best <= self.num_beams, "num_best", self.num_best, f"at most num_beams={self.num_beams}")
        known = {name for names in STRATEGIES.values() for name in names}
        require_choice("strategy", self.strategy, (*sorted(known), None))
        require(isinstance(self.normalize_length, bool), "normalize_length", self.normalize_length, "True or False")
        require_choice("blank_lm_score_mode", self.blank_lm_score_mode, BLANK_SCORE_MODES)
        require_choice("pruning_mode", self.pruning_mode, PRUNING_MODES)
        is_distance = is_number(self.beam_threshold) and self.beam_threshold > 0
        require(is_distance, "beam_threshold", self.beam_threshold, "a number above 0")
        require(is_number(self.beam_beta), "beam_beta", self.beam_beta, "a number")
        require_count("maes_num_steps", self.maes_num_steps)
        require_count("maes_expansion_beta", self.maes_expansion_beta, 0)
        is_distance = is_number(self.maes_expansion_gamma) and self.maes_expansion_gamma > 0
        require(is_distance, "maes_expansion_gamma", self.maes_expansion_gamma, "a number above 0")
        modes = (self.strategy, self.pruning_mode, self.blank_lm_score_mode)
        if modes == ("maes_batch", "early", "lm_weighted_full"):
            # NeMo 3.0 counts the probability of each label twice there.
            raise ValueError(
                "pruning_mode='early' of strategy='maes_batch' needs blank_lm_score_mode='no_score'; found "
                f"{self.blank_lm_score_mode!r}."
            )

    def check_decoder(self, decoder_type: str) -> str:
        """
        Find the strategy for a kind of decoder.

        Raises:
            ValueError: for a strategy that this decoder does not have.
        """
        known = STRATEGIES[decoder_type]
        if self.strategy is not None and self.strategy not in known:
            expected = " or ".join(map(repr, known))
            raise ValueError(
                f"strategy={self.strategy!r} is not supported by a model with a {decoder_type.upper()} head; "
                f"expected {expected}."
            )
        return self.strategy or known[0]
