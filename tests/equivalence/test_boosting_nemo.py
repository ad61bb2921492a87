"""Greedy decoding with phrases or a language model equals NeMo 3.0's, token by token."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import balance_decoder, canary_overrides
from nemo_models import TOKENIZER_SENTENCES
from nemo_pairs import keep_pairs

from transformers_fastconformer.decoding.confidence import ConfidenceOptions
from transformers_fastconformer.decoding.options import DecodingOptions
from transformers_fastconformer.decoding.phrase_boosting import PhraseBoosting
from transformers_fastconformer.decoding.token_automaton import TokenAutomaton
from transformers_fastconformer.decoding.token_scorer import TokenScorer
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.inference.language_model import NgramLanguageModel
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.tokenization_decoding import compile_decoding
from transformers_fastconformer.tokenization_phrases import compile_phrases

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
        rows = [[int(token) for token in one.y_sequence] for one in self.search(clips, greedy)]
        if self.model.decoder_type != "ctc":
            return rows
        blank = self.model.config.blank_token_id
        return [
            [token for place, token in enumerate(row) if token != blank and row[:place][-1:] != [token]]
            for row in rows
        ]

    @torch.inference_mode()
    def search(self, clips: slice, greedy: dict[str, Any], **options: Any) -> list[Any]:
        """NeMo's hypotheses, with more options of its `decoding` section."""
        from omegaconf import OmegaConf, open_dict

        is_ctc, is_hybrid = self.model.decoder_type == "ctc", hasattr(self.nemo, "ctc_decoder")
        decoding = OmegaConf.create(copy.deepcopy(self.section))
        with open_dict(decoding):
            decoding.strategy = "greedy_batch"
            decoding.greedy = {**decoding.get("greedy", {}), "allow_cuda_graphs": False, **greedy}
            for name, value in options.items():
                decoding[name] = value
        kind = {"decoder_type": "ctc" if is_ctc else "rnnt"} if is_hybrid else {}
        self.nemo.change_decoding_strategy(decoding, verbose=False, **kind)
        encoded = self.encoded[clips, :, : int(self.lengths[clips].max())]
        if not is_ctc:
            return self.nemo.decoding.rnnt_decoder_predictions_tensor(
                encoded, self.lengths[clips], return_hypotheses=True
            )
        log_probs = (self.nemo.ctc_decoder if is_hybrid else self.nemo.decoder)(encoder_output=encoded)
        search = self.nemo.ctc_decoding if is_hybrid else self.nemo.decoding
        return search.ctc_decoder_predictions_tensor(log_probs, self.lengths[clips], return_hypotheses=True)

    def ours(self, clips: slice, **options: Any) -> list[list[int]]:
        """Tokens of ours; with a state, in two calls."""
        decoding = compile_decoding(DecodingOptions(**options), self.processor.tokenizer, False)
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
    return keep_pairs(build_nemo_model, FAMILIES, clips, tmp_path_factory.mktemp, Pair)


# Every family with other options, and every set of options with one family.
CASES = [
    ("ctc", "defaults"),
    ("ctc", "strong"),
    ("rnnt", "strong"),
    ("rnnt", "scores of phrases"),
    ("rnnt, two layers", "unknown tokens"),
    ("tdt", "defaults"),
    ("tdt", "uniform"),
    ("tdt, durations 0 2 4 8", "strong"),
    ("tdt, durations 1 2", "scores of phrases"),
]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_boosting_equals_nemo(family: str, name: str, pairs: Callable[[str], Pair]) -> None:
    pair = pairs(family)
    theirs = OPTIONS[name]
    ours = {OUR_NAMES.get(key, key): value for key, value in theirs.items()}
    strength = 1.5
    options = {"boosting_tree": {"key_phrases_list": PHRASES, **theirs}, "boosting_tree_alpha": strength}
    _compare(pair, options, {"boosting": PhraseBoosting(PHRASES, strength=strength, **ours)})


@pytest.mark.parametrize("family", ["ctc", "rnnt", "tdt"])
def test_language_model_equals_nemo(family: str, pairs: Callable[[str], Pair], tmp_path: Path) -> None:
    """By itself and together with phrases; made here, and read by NeMo from the file that we write."""
    pair = pairs(family)
    language_model = NgramLanguageModel.from_text(TOKENIZER_SENTENCES, pair.processor.tokenizer, order=3)
    path = tmp_path / "model.arpa"
    language_model.save_arpa(path)
    weight = 0.7
    options: dict[str, Any] = {"ngram_lm_model": str(path), "ngram_lm_alpha": weight}
    ours: dict[str, Any] = {"language_model": language_model, "language_model_weight": weight}
    _compare(pair, options, ours)
    options |= {"boosting_tree": {"key_phrases_list": PHRASES}, "boosting_tree_alpha": 1.5}
    _compare(pair, options, {**ours, "boosting": PhraseBoosting(PHRASES, strength=1.5)})


def _compare(pair: Pair, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    plain = pair.ours(slice(None))
    changed = 0
    cases: list[tuple[slice, int | None]] = [(slice(None), None), (slice(1, 2), None)]
    if pair.model.decoder_type != "ctc":
        cases.append((slice(None), 2))
    for chosen, limit in cases:
        more = {} if limit is None else {"max_symbols": limit}
        expected = pair.theirs(chosen, **theirs, **more)
        found = pair.ours(chosen, **ours, max_symbols_per_step=limit)
        assert found == expected
        changed += sum(row != before for row, before in zip(found, plain[chosen], strict=True))
    assert changed >= 5, "hardly anything was changed; the comparison would be empty"


@pytest.mark.parametrize("family", ["rnnt", "tdt"])
def test_confidence_is_that_of_the_model(family: str, pairs: Callable[[str], Pair]) -> None:
    """NeMo's step confidence is of the outputs without the scores of phrases; so is ours."""
    pair = pairs(family)
    options = {"boosting_tree": {"key_phrases_list": PHRASES}, "boosting_tree_alpha": 2.0}
    of_confidence = {"preserve_frame_confidence": True, "exclude_blank": True, "method_cfg": {"name": "max_prob"}}
    found = pair.search(slice(None), options, confidence_cfg=of_confidence)
    decoding = DecodingOptions(
        boosting=PhraseBoosting(PHRASES, strength=2.0), confidence=ConfidenceOptions(method="max_prob")
    )
    compiled = compile_decoding(decoding, pair.processor.tokenizer, False)
    ours, _ = pair.model.decode_frames(pair.encoded.transpose(1, 2).contiguous(), pair.lengths, compiled)
    assert ours.scores is not None
    for clip, one in enumerate(found):
        expected = [float(value) for value in one.non_blank_step_confidence_precomputed]
        assert len(expected) > 5
        torch.testing.assert_close(ours.scores[clip, : len(expected)], torch.tensor(expected), rtol=1e-4, atol=1e-4)


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


@pytest.fixture(scope="module")
def canary(build_nemo_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """A model of NeMo with an attention decoder, ours, and our processor."""
    folder = tmp_path_factory.mktemp("canary")
    shape = {"has_projection": False, "num_frames_layers": 0, "prompt_format": "canary2"}
    nemo = build_nemo_model("ctc", **canary_overrides(**shape))
    balance_decoder(nemo)
    nemo.save_to(str(folder / "a.nemo"))
    convert_nemo_checkpoint(folder / "a.nemo", folder / "out")
    return nemo, *load_model(folder / "out", device="cpu")


@pytest.mark.parametrize("kinds", ["phrases", "language model", "both"])
@torch.inference_mode()
def test_attention_decoder_equals_nemo(kinds: str, canary: tuple[Any, Any, Any], tmp_path: Path) -> None:
    """NeMo has scores only in its beam search, which is greedy with one beam."""
    from omegaconf import OmegaConf, open_dict

    nemo, model, processor = canary
    phrases = [("children", "en"), ("the old stone", "en"), ("river", "en"), ("voices far", "en")]
    theirs: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    if kinds != "language model":
        boosting = PhraseBoosting(phrases, strength=2.0, end_score=0.5)
        ours["boosting"] = boosting
        items = [{"phrase": phrase, "lang": language} for phrase, language in phrases]
        theirs["boosting_tree"] = {"key_phrase_items_list": items, "depth_scaling": 1.0, "final_eos_score": 0.5}
        theirs["boosting_tree_alpha"] = 2.0
    if kinds != "phrases":
        language_model = NgramLanguageModel.from_text(TOKENIZER_SENTENCES, processor.tokenizer, 3, language="en")
        language_model.save_arpa(tmp_path / "model.arpa")
        ours |= {"language_model": language_model, "language_model_weight": 0.6}
        theirs |= {"ngram_lm_model": str(tmp_path / "model.arpa"), "ngram_lm_alpha": 0.6}
    decoding = OmegaConf.create(OmegaConf.to_container(nemo.cfg.decoding, resolve=True))
    with open_dict(decoding):
        decoding.strategy = "beam"
        decoding.beam = {"beam_size": 1, "max_generation_delta": 10, **theirs}
    kept = copy.deepcopy(nemo.cfg.decoding)
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([301, 161, 96])
    features = torch.randn(3, 16, 302, generator=generator)
    prompt = [model.config.bos_token_id, 20, 21, 22]
    model.config.max_generation_delta = 10
    plain = model.generate(features.transpose(1, 2), input_lengths=lengths, prompt_ids=prompt)
    options = compile_decoding(DecodingOptions(**ours), processor.tokenizer, False)
    output = model.generate(
        features.transpose(1, 2),
        input_lengths=lengths,
        prompt_ids=prompt,
        decoding=options,
        return_dict_in_generate=True,
    )
    counts = output.sequence_lengths.tolist()
    found = [row[:count].tolist() for row, count in zip(output.sequences, counts, strict=True)]
    nemo.change_decoding_strategy(decoding)
    expected = []
    for clip, length in enumerate(lengths.tolist()):
        nemo.eval()
        _, _, frames, mask = nemo.forward(
            processed_signal=features[clip : clip + 1, :, : length + 1],
            processed_signal_length=lengths[clip : clip + 1],
        )
        (hypothesis,) = nemo.decoding.decode_predictions_tensor(
            encoder_hidden_states=frames,
            encoder_input_mask=mask,
            decoder_input_ids=torch.tensor([prompt]),
            return_hypotheses=True,
        )
        tokens = hypothesis.y_sequence.tolist()
        expected.append([] if tokens[:1] == [model.config.eos_token_id] else tokens)
    nemo.change_decoding_strategy(kept)
    assert found == expected
    assert sum(counts) > 10
    assert found != [row[: len(other)].tolist() for row, other in zip(plain, found, strict=True)]


def walk_both(theirs: Any, ours: TokenAutomaton, seed: int) -> int:
    """Compare the scores of all tokens and of the end along random texts; returns how many steps backed off."""
    generator = torch.Generator().manual_seed(seed)
    scorer, end_id, num_different = TokenScorer([ours]), 3, 0
    state, own = theirs.get_init_states(batch_size=1, bos=True), torch.from_numpy(scorer.enter(None, 1))
    for _ in range(80):
        expected, following = theirs.advance(states=state)
        torch.testing.assert_close(scorer.scores(own), expected, rtol=1e-5, atol=1e-5)
        with_end, _ = theirs.advance(states=state, eos_id=end_id)
        torch.testing.assert_close(scorer.scores_with_end(own, end_id), with_end, rtol=1e-5, atol=1e-5)
        # Mostly a likely token, so that long histories are met.
        likely = int(expected[0].topk(3).indices[torch.randint(3, (1,), generator=generator)])
        is_likely = bool(torch.rand(1, generator=generator) < 0.8)
        token = likely if is_likely else int(torch.randint(theirs.vocab_size, (1,), generator=generator))
        state, own = following[:, token], scorer.step(own, torch.tensor([token]))
        num_different += int(own[0, 0] > 1)
    return num_different


@torch.inference_mode()
def test_scores_of_archives_and_trees(pairs: Callable[[str], Pair], tmp_path: Path) -> None:
    """What NeMo saves is read; scores in every state of random texts are NeMo's, those of the end of a text too."""
    from nemo.collections.asr.parts.context_biasing.boosting_graph_batched import (
        BoostingTreeModelConfig,
        GPUBoostingTreeModel,
    )
    from nemo.collections.asr.parts.submodules.ngram_lm import NGramGPULanguageModel

    pair = pairs("tdt")
    tokenizer = pair.processor.tokenizer
    made = NgramLanguageModel.from_text(TOKENIZER_SENTENCES, tokenizer, order=4)
    made.save_arpa(tmp_path / "model.arpa")
    size = tokenizer.blank_token_id
    theirs = NGramGPULanguageModel.from_file(tmp_path / "model.arpa", vocab_size=size, use_triton=False)
    theirs.save_to(str(tmp_path / "model.nemo"))
    read = NgramLanguageModel.from_file(tmp_path / "model.nemo", tokenizer)
    for ours in (made.automaton, read.automaton):
        assert sum(walk_both(theirs, ours, seed) for seed in range(4)) > 100
    for name, options in OPTIONS.items():
        config = BoostingTreeModelConfig(key_phrases_list=PHRASES, use_triton=False, final_eos_score=1.5, **options)
        tree = GPUBoostingTreeModel.from_config(config, tokenizer=pair.nemo.tokenizer)
        renamed = {OUR_NAMES.get(key, key): value for key, value in options.items()}
        boosting = PhraseBoosting(PHRASES, end_score=1.5, **renamed)
        compiled = compile_phrases(boosting, tokenizer)
        assert sum(walk_both(tree, compiled.automaton, seed) for seed in range(4)) > 50, name
