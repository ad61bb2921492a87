"""Greedy decoding with phrases or a language model equals NeMo 3.0's, token by token."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from balance import balance_classes

from transformers_fastconformer.decoding.options import DecodingOptions
from transformers_fastconformer.decoding.phrase_boosting import PhraseBoosting
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.tokenization_phrases import compile_decoding

pytestmark = pytest.mark.nemo

PHRASES = [
    "the quick brown fox",
    "brown bread",
    "stone",
    "stone bridge",
    "the old",
    "voices far away",
    "away",
    "speech is turned",
    "turned",
    "river",
    "seven eight nine",
    "eight",
    "a model",
    "Rain",
]
# NeMo's names of the options and ours.
OPTIONS: dict[str, dict[str, float | bool]] = {
    "defaults": {},
    "strong": {"context_score": 2.5, "depth_scaling": 1.5},
    "unknown tokens": {"unk_score": -0.5},
    "uniform": {"uniform_weights": True},
    "scores of phrases": {"score_per_phrase": 12.0},
}
OUR_NAMES = {"unk_score": "unknown_score"}
FAMILIES = {
    "ctc": ("ctc", {}),
    "rnnt": ("rnnt", {}),
    "rnnt, two layers": ("rnnt", {"decoder": {"prednet": {"pred_rnn_layers": 2}}}),
    "tdt": ("tdt", {}),
    "tdt, durations 0 2 4 8": ("tdt", {"durations": [0, 2, 4, 8]}),
    "tdt, durations 1 2": ("tdt", {"durations": [1, 2]}),
}


class Pair:
    """A NeMo model and ours, and the encoder frames of some clips."""

    def __init__(self, nemo_model: Any, folder: Path, clips: list[np.ndarray], head: str = "auto") -> None:
        from omegaconf import OmegaConf

        self.nemo = nemo_model.eval()
        self.model, self.processor = load_model(folder, head, "cpu")
        is_ctc_of_hybrid = self.model.decoder_type == "ctc" and hasattr(self.nemo, "ctc_decoder")
        section = self.nemo.cfg.aux_ctc.decoding if is_ctc_of_hybrid else self.nemo.cfg.get("decoding", {})
        self.section = OmegaConf.to_container(OmegaConf.create(section), resolve=True)
        lengths = torch.tensor([len(clip) for clip in clips])
        signals = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
        with torch.inference_mode():
            features, feature_lengths = self.nemo.preprocessor(input_signal=signals, length=lengths)
            self.encoded, self.lengths = self.nemo.encoder(audio_signal=features, length=feature_lengths)

    def theirs(self, clips: slice, **greedy: Any) -> list[list[int]]:
        """Tokens of NeMo's `greedy_batch` with options of its `greedy` section."""
        from omegaconf import OmegaConf, open_dict

        is_ctc, is_hybrid = self.model.decoder_type == "ctc", hasattr(self.nemo, "ctc_decoder")
        decoding = OmegaConf.create(copy.deepcopy(self.section))
        with open_dict(decoding):
            decoding.strategy = "greedy_batch"
            decoding.greedy = {**decoding.get("greedy", {}), "allow_cuda_graphs": False, **greedy}
        kind = {"decoder_type": "ctc" if is_ctc else "rnnt"} if is_hybrid else {}
        self.nemo.change_decoding_strategy(decoding, verbose=False, **kind)
        encoded = self.encoded[clips, :, : int(self.lengths[clips].max())]
        with torch.inference_mode():
            if not is_ctc:
                found = self.nemo.decoding.rnnt_decoder_predictions_tensor(
                    encoded, self.lengths[clips], return_hypotheses=True
                )
                return [[int(token) for token in one.y_sequence] for one in found]
            log_probs = (self.nemo.ctc_decoder if is_hybrid else self.nemo.decoder)(encoder_output=encoded)
            search = self.nemo.ctc_decoding if is_hybrid else self.nemo.decoding
            found = search.ctc_decoder_predictions_tensor(log_probs, self.lengths[clips], return_hypotheses=True)
            rows = [[int(token) for token in one.y_sequence] for one in found]
            blank = self.model.config.blank_token_id
            return [
                [token for place, token in enumerate(row) if token != blank and row[:place][-1:] != [token]]
                for row in rows
            ]

    def ours(self, clips: slice, **options: Any) -> list[list[int]]:
        """Tokens of ours; with a state, in two calls."""
        decoding = compile_decoding(DecodingOptions(**options), self.processor.tokenizer)
        frames = self.encoded[clips].transpose(1, 2).contiguous()
        whole, _ = self.model.decode_frames(frames, self.lengths[clips], decoding)
        rows = _rows(whole)
        cut = int(self.lengths[clips].max()) // 2
        first_lengths = self.lengths[clips].clamp(max=cut)
        first, state = self.model.decode_frames(frames[:, :cut], first_lengths, decoding)
        rest_lengths = self.lengths[clips] - first_lengths
        rest, _ = self.model.decode_frames(frames[:, cut:], rest_lengths, decoding, state)
        joined = [left + right for left, right in zip(_rows(first), _rows(rest), strict=True)]
        assert joined == rows, "the state does not carry the scores"
        return rows


def _rows(found: Any) -> list[list[int]]:
    return [row[:length] for row, length in zip(found.tokens.tolist(), found.token_lengths.tolist(), strict=True)]


@pytest.fixture(scope="module")
def clips(speech_batches: dict[str, list[np.ndarray]]) -> list[np.ndarray]:
    """Five clips of different lengths."""
    return speech_batches["batch 0"][:5]


@pytest.fixture(scope="module")
def pairs(
    build_nemo_model: Callable[..., Any], clips: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Pair]:
    """A pair for each family, made when it is first asked for."""
    kept: dict[str, Pair] = {}

    def make(family: str) -> Pair:
        if family not in kept:
            kind, overrides = FAMILIES[family]
            model = build_nemo_model(kind, **overrides)
            balance_classes(model, max(clips, key=len))
            folder = tmp_path_factory.mktemp("pair")
            model.save_to(str(folder / "model.nemo"))
            convert_nemo_checkpoint(folder / "model.nemo", folder / "converted")
            kept[family] = Pair(model, folder / "converted", clips)
        return kept[family]

    return make


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_boosting_equals_nemo(family: str, name: str, pairs: Callable[[str], Pair]) -> None:
    pair = pairs(family)
    theirs = OPTIONS[name]
    ours = {OUR_NAMES.get(key, key): value for key, value in theirs.items()}
    strength = 1.5
    boosting = PhraseBoosting(PHRASES, strength=strength, **ours)
    options = {"boosting_tree": {"key_phrases_list": PHRASES, **theirs}, "boosting_tree_alpha": strength}
    plain = pair.ours(slice(None))
    assert plain == pair.theirs(slice(None))
    changed = 0
    limits: list[int | None] = [None] if pair.model.decoder_type == "ctc" else [None, 2]
    for limit in limits:
        more = {} if limit is None else {"max_symbols": limit}
        for chosen in (slice(None), slice(1, 2), slice(3, 4)):
            expected = pair.theirs(chosen, **options, **more)
            found = pair.ours(chosen, boosting=boosting, max_symbols_per_step=limit)
            assert found == expected
            changed += sum(row != before for row, before in zip(found, plain[chosen], strict=True))
    assert changed >= 5, "boosting changed hardly anything; the comparison would be empty"


@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_demonstration_checkpoint(
    head: str, clips: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from nemo.collections.asr.models import ASRModel

    folder = tmp_path_factory.mktemp("demonstration")
    convert_nemo_checkpoint(CHECKPOINT_PATH, folder / "converted")
    pair = Pair(ASRModel.restore_from(str(CHECKPOINT_PATH), map_location="cpu"), folder / "converted", clips, head)
    for phrases, strength in ((["seven"], 1.0), (["eight nine", "two"], 3.0)):
        options = {"boosting_tree": {"key_phrases_list": phrases}, "boosting_tree_alpha": strength}
        expected = pair.theirs(slice(None), **options)
        assert pair.ours(slice(None), boosting=PhraseBoosting(phrases, strength=strength)) == expected
        assert sum(map(len, expected)) > 20
