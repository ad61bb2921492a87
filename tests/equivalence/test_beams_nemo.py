"""Texts, their order, times and scores of each beam search equal NeMo 3.0's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nemo_models import TOKENIZER_SENTENCES
from nemo_pairs import keep_pairs
from search_pairs import SearchPair, assert_same_texts

from transformers_fastconformer.decoding.beam_options import BeamOptions
from transformers_fastconformer.decoding.phrase_boosting import PhraseBoosting
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.inference.language_model import NgramLanguageModel
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint

pytestmark = pytest.mark.nemo

PHRASES = ["the quick brown fox", "stone bridge", "the old", "away", "speech is turned", "eight", "Rain"]
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "rnnt": ("rnnt", {}),
    "rnnt, two layers": ("rnnt", {"decoder": {"prednet": {"pred_rnn_layers": 2}}}),
    "tdt": ("tdt", {}),
    "tdt, durations 0 1 2": ("tdt", {"durations": [0, 1, 2]}),
    "ctc": ("ctc", {}),
}
TRANSDUCERS = [family for family in FAMILIES if family != "ctc"]
SCORES = ("none", "phrases", "language model", "both")


@pytest.fixture(scope="module")
def clips(speech_batches: dict[str, list[np.ndarray]]) -> list[np.ndarray]:
    """Four clips of different lengths."""
    return speech_batches["batch 0"][:4]


@pytest.fixture(scope="module")
def pairs(
    build_nemo_model: Callable[..., Any], clips: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], SearchPair]:
    """A pair for each family, made when it is first asked for."""
    return keep_pairs(build_nemo_model, FAMILIES, clips, tmp_path_factory.mktemp, SearchPair)


def options_of(
    pair: SearchPair, kind: str, folder: Path, phrases: Sequence[str] = PHRASES
) -> tuple[dict[str, Any], dict[str, Any]]:
    """NeMo's options and ours for phrases and a language model."""
    theirs: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    if kind in ("phrases", "both"):
        theirs |= {"boosting_tree": {"key_phrases_list": list(phrases)}, "boosting_tree_alpha": 0.8}
        ours["boosting"] = PhraseBoosting(phrases, strength=0.8)
    if kind in ("language model", "both"):
        model = NgramLanguageModel.from_text(TOKENIZER_SENTENCES, pair.processor.tokenizer, order=3)
        model.save_arpa(folder / "model.arpa")
        theirs |= {"ngram_lm_model": str(folder / "model.arpa"), "ngram_lm_alpha": 0.4}
        ours |= {"language_model": model, "language_model_weight": 0.4}
    return theirs, ours


# Beams, limit of tokens on a frame, score for each token, scores of what, blank mode, pruning.
CASES = [
    (1, 10, True, "none", "lm_weighted_full", "late"),
    (2, 10, True, "none", "lm_weighted_full", "late"),
    (4, 10, True, "none", "lm_weighted_full", "late"),
    (4, 10, False, "none", "lm_weighted_full", "late"),
    (8, 2, True, "none", "lm_weighted_full", "late"),
    (3, 1, True, "none", "lm_weighted_full", "late"),
    (4, 10, True, "phrases", "lm_weighted_full", "late"),
    (4, 10, True, "language model", "lm_weighted_full", "late"),
    (4, 10, True, "language model", "no_score", "late"),
    (4, 10, True, "language model", "lm_weighted_full", "early"),
    (4, 2, True, "both", "no_score", "early"),
    (4, 2, True, "both", "lm_weighted_full", "late"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("family", TRANSDUCERS)
def test_malsd_equals_nemo(
    family: str, case: tuple[Any, ...], pairs: Callable[[str], SearchPair], tmp_path: Path
) -> None:
    """All texts of the beam, singly and in a batch."""
    num_beams, limit, normalizes, kind, blank_mode, pruning = case
    pair = pairs(family)
    theirs, ours = options_of(pair, kind, tmp_path)
    theirs |= {
        "beam_size": num_beams,
        "max_symbols": limit,
        "score_norm": normalizes,
        "blank_lm_score_mode": blank_mode,
        "pruning_mode": pruning,
    }
    beam = BeamOptions(
        num_beams=num_beams,
        num_best=num_beams,
        normalize_length=normalizes,
        blank_lm_score_mode=blank_mode,
        pruning_mode=pruning,
    )
    for chosen in (slice(None), slice(1, 2), slice(3, 4)):
        expected = pair.theirs(chosen, "malsd_batch", **theirs)
        found = pair.ours(chosen, beam=beam, max_symbols_per_step=limit, **ours)
        assert assert_same_texts(found, expected) >= 5  # a language model shortens texts


# Beams, steps, more candidates, their distance, score for each token, scores of what, blank mode, pruning.
MAES_CASES = [
    (1, 2, 2, 2.3, True, "none", "no_score", "late"),
    (2, 2, 2, 2.3, True, "none", "no_score", "late"),
    (4, 2, 2, 2.3, False, "none", "no_score", "late"),
    (4, 3, 0, 8.0, True, "none", "no_score", "late"),
    (6, 1, 1, 4.0, True, "none", "no_score", "late"),
    (4, 2, 2, 2.3, True, "language model", "lm_weighted_full", "late"),
    (4, 2, 2, 2.3, True, "phrases", "no_score", "late"),
    (4, 2, 2, 5.0, True, "language model", "no_score", "early"),  # of two kinds of scores NeMo reads one
]


@pytest.mark.parametrize("case", MAES_CASES, ids=str)
@pytest.mark.parametrize("family", ["rnnt", "rnnt, two layers"])
def test_maes_equals_nemo(
    family: str, case: tuple[Any, ...], pairs: Callable[[str], SearchPair], tmp_path: Path
) -> None:
    """
    All texts of the beam, singly and in a batch. NeMo counts the frames of texts by blanks, and gives some texts none
    for a frame, so that their times fall short; ours are the frames.
    """
    num_beams, steps, beta, gamma, normalizes, kind, blank_mode, pruning = case
    pair = pairs(family)
    theirs, ours = options_of(pair, kind, tmp_path)
    shared = {"maes_num_steps": steps, "maes_expansion_beta": beta, "maes_expansion_gamma": gamma}
    modes = {"blank_lm_score_mode": blank_mode, "pruning_mode": pruning}
    theirs |= {"beam_size": num_beams, "score_norm": normalizes, **shared, **modes}
    beam = BeamOptions(
        num_beams=num_beams,
        num_best=num_beams,
        strategy="maes_batch",
        normalize_length=normalizes,
        **shared,
        **modes,
    )
    count = 0
    for chosen in (slice(None), slice(1, 2), slice(3, 4)):
        expected = pair.theirs(chosen, "maes_batch", **theirs)
        found = pair.ours(chosen, beam=beam, **ours)
        count += assert_same_texts(found, expected, has_frames=False)
    assert count >= 5  # a language model shortens texts


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_demonstration_checkpoint(
    head: str, kind: str, clips: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from nemo.collections.asr.models import ASRModel

    folder = tmp_path_factory.mktemp("demonstration")
    convert_nemo_checkpoint(CHECKPOINT_PATH, folder / "converted")
    nemo = ASRModel.restore_from(str(CHECKPOINT_PATH), map_location="cpu")
    pair = SearchPair(nemo, folder / "converted", clips, head)
    theirs, ours = options_of(pair, kind, folder, ["seven", "eight nine"])
    beam = BeamOptions(num_beams=4, num_best=4, beam_beta=1.0)
    strategy = "beam_batch" if head == "ctc" else "malsd_batch"
    for clip in range(len(clips)):
        chosen = slice(clip, clip + 1)
        expected = pair.theirs(chosen, strategy, beam_size=4, **theirs)
        assert assert_same_texts(pair.ours(chosen, beam=beam, **ours), expected) > 5


# Beams, scores of what, bonus of a token, threshold.
CTC_CASES = [
    (1, "none", 0.0, 20.0),
    (4, "none", 0.0, 20.0),
    (4, "none", 1.0, 20.0),
    (8, "none", 0.5, 2.0),
    (4, "phrases", 0.0, 20.0),
    (4, "language model", 1.0, 20.0),
    (6, "both", 0.5, 5.0),
]


@pytest.mark.parametrize("case", CTC_CASES, ids=str)
def test_ctc_equals_nemo(case: tuple[Any, ...], pairs: Callable[[str], SearchPair], tmp_path: Path) -> None:
    """Singly: in a batch NeMo adds the scores of padding frames. Our batch gives what our single clips give."""
    num_beams, kind, beta, threshold = case
    pair = pairs("ctc")
    theirs, ours = options_of(pair, kind, tmp_path)
    theirs |= {"beam_size": num_beams, "beam_beta": beta, "beam_threshold": threshold}
    beam = BeamOptions(num_beams=num_beams, num_best=num_beams, beam_beta=beta, beam_threshold=threshold)
    together = pair.ours(slice(None), beam=beam, **ours)
    for clip, texts in enumerate(together):
        chosen = slice(clip, clip + 1)
        expected = pair.theirs(chosen, "beam_batch", **theirs)
        assert assert_same_texts(pair.ours(chosen, beam=beam, **ours), expected) > 10
        assert assert_same_texts([texts], expected) > 10
