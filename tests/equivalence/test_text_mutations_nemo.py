"""
What turns frames into text: every option of the tokenizer, the labels, the decoding, the loss and the sections beside
them is changed in a saved archive, one at a time. NeMo then restores the archive and finds what it found before, or
something else, and this package the same; or the conversion is refused and names the option.

The constructors of NeMo's modules are walked in `test_mutations_nemo.py`.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import rewrite_archive
from balance import balance_classes
from families import PROMPTS, tagged_tokenizer, two_languages_tokenizer, wordpiece_tokenizer, write_bert_base

from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint
from transformers_fastconformer.nemo.converted_runner import ConvertedRunner
from transformers_fastconformer.nemo.reference import NemoRunner
from transformers_fastconformer.nemo.stage_comparison import compare_outputs
from transformers_fastconformer.nemo.stage_outputs import StageOutputs
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor

pytestmark = pytest.mark.nemo

ABSENT = object()
LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
CANARY_TOKENIZERS = "nemo.collections.common.tokenizers.canary_tokenizer"
SENTENCES = ["one two three", "the children, again.", "Hello dogs... don't"]
LANGUAGES = {"prompted": "de-DE"}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ctc": ("ctc", {}),
    "rnnt": ("rnnt", {"tokenizer": tagged_tokenizer}),
    "tdt": ("tdt", {}),
    "hybrid": ("hybrid_rnnt_ctc", {}),
    "ctc of characters": ("ctc", {"tokenizer": "char"}),
    "rnnt of characters": ("rnnt", {"tokenizer": "char"}),
    "hybrid of characters": ("hybrid_rnnt_ctc", {"tokenizer": "char"}),
    "wordpiece": ("ctc", {"tokenizer": wordpiece_tokenizer}),
    "aggregate": ("rnnt", {"tokenizer": two_languages_tokenizer}),
    "prompted": ("rnnt", {"nemo_class": "EncDecRNNTBPEModelWithPrompt", **PROMPTS}),
    "multi-talker": (
        "rnnt",
        {
            "nemo_class": "EncDecMultiTalkerRNNTBPEModel",
            "sections": {"spk_kernel_type": "ff", "spk_kernel_layers": [0, 1], "add_bg_spk_kernel": True},
        },
    ),
}


@dataclass(frozen=True)
class Change:
    """
    One change of a configuration.

    Args:
        base: Which archive.
        path: The option, with dots between the sections. `together` is changed beside it.
        value: What it becomes; `ABSENT` takes it away.
        names: Pattern that a refusal must contain; the last part of the path where there is none.
        is_harmless: NeMo 3.0 stumbles over it, and it says nothing: what comes out is that of the untouched archive.
    """

    base: str
    path: str
    value: Any
    names: str = ""
    together: dict[str, Any] = field(default_factory=dict)
    is_harmless: bool = False

    def apply(self, config: dict[str, Any]) -> None:
        for path, value in {**self.together, self.path: self.value}.items():
            *sections, key = path.split(".")
            target = config
            for section in sections:
                if target.get(section) is None:
                    target[section] = {}
                target = target[section]
            if value is ABSENT:
                target.pop(key, None)
            else:
                target[key] = copy.deepcopy(value)

    def __str__(self) -> str:
        together = "".join(f"-{path}-{value}" for path, value in self.together.items() if value is not ABSENT)
        return f"{self.base}-{self.path}-{'absent' if self.value is ABSENT else self.value}{together}"


def each(base: str, path: str, *values: Any, **options: Any) -> list[Change]:
    return [Change(base, path, value, **options) for value in values]


TOKENIZER = [
    *each("tdt", "tokenizer", ABSENT, names="labels|tokenizer"),
    *each("tdt", "tokenizer.type", "BPE", "yttm", None, ABSENT),
    *each("tdt", "tokenizer.type", "wpe", names="vocab_path"),
    *each("tdt", "tokenizer.type", "agg", names="langs|model_path"),
    *each("tdt", "tokenizer.dir", ABSENT, is_harmless=True),
    *each("tdt", "tokenizer.dir", None, "/nowhere"),
    *each("tdt", "tokenizer.model_path", "nemo:nothing.model", "nemo:model_config.yaml"),
    *each("tdt", "tokenizer.model_path", ABSENT),
    *each("tdt", "tokenizer.vocab_path", "nemo:nothing.txt", ABSENT, is_harmless=True),
    *each("tdt", "tokenizer.spe_tokenizer_vocab", ABSENT, "nemo:nothing.vocab", is_harmless=True),
    *each("tdt", "tokenizer.special_tokens", None, ["<a>"], {"pad_token": "<a>"}),
    *each("tdt", "tokenizer.hf_kwargs", {"unk_token": "<x>"}, {}, None),
    *each("tdt", "tokenizer.langs", {"en": {"type": "bpe"}}),
    *each(
        "tdt",
        "tokenizer.custom_tokenizer",
        {"_target_": f"{CANARY_TOKENIZERS}.CanaryBPETokenizer"},
        {"_target_": "nemo.collections.common.tokenizers.ByteLevelTokenizer"},
        {"_target_": "nemo.collections.common.tokenizers.WordTokenizer"},
    ),
    *each("tdt", "tokenizer.custom_tokenizer", None, is_harmless=True),
    *each("ctc of characters", "tokenizer", {"dir": "x", "type": "bpe", "model_path": "nemo:nothing.model"}),
    *each("rnnt of characters", "tokenizer", {"dir": "x", "type": "bpe", "model_path": "nemo:nothing.model"}),
    *each("tdt", "tokenizer.not_an_option", 1),
    *each("wordpiece", "tokenizer.type", "WPE"),
    *each("wordpiece", "tokenizer.type", "bpe", names="model_path"),
    *each("wordpiece", "tokenizer.vocab_path", ABSENT, "nemo:nothing.txt"),
    *each("wordpiece", "tokenizer.dir", None, "/nowhere"),
    *each("wordpiece", "tokenizer.hf_kwargs.use_fast", True, False),
    *each("wordpiece", "tokenizer.hf_kwargs.unk_token", "[UNK]", "dog", "<x>", names="special tokens|unk_token"),
    *[
        change
        for token in ("mask", "bos", "eos", "pad", "sep", "cls")
        for change in each(
            "wordpiece", f"tokenizer.hf_kwargs.{token}_token", "[CLS]", "dog", "<x>", names=f"special|{token}_token"
        )
    ],
    *each("wordpiece", "tokenizer.hf_kwargs.pretrained_model_name", "bert-base-uncased", "other"),
    *each("wordpiece", "tokenizer.hf_kwargs.do_lower_case", True),
    *each("wordpiece", "tokenizer.hf_kwargs.not_an_option", 1),
    *each("wordpiece", "tokenizer.model_path", "nemo:nothing.model"),
    *each("wordpiece", "tokenizer.special_tokens", ["<a>"]),
    *each(
        "wordpiece",
        "tokenizer.custom_tokenizer",
        {"_target_": f"{CANARY_TOKENIZERS}.CanaryTokenizer"},
    ),
    *each("aggregate", "tokenizer.type", "AGG", is_harmless=True),
    *each("aggregate", "tokenizer.type", "bpe", names="model_path"),
    *each("aggregate", "tokenizer.dir", ABSENT, "/nowhere"),
    *each("aggregate", "tokenizer.langs", None, {}, ABSENT),
    *each("aggregate", "tokenizer.hf_kwargs", {"unk_token": "<x>"}),
    *each("aggregate", "tokenizer.model_path", "nemo:nothing.model"),
    *each("aggregate", "tokenizer.langs.e.type", "BPE", "agg", None),
    *each("aggregate", "tokenizer.langs.e.type", "wpe", names="vocab_path"),
    *each("aggregate", "tokenizer.langs.e.dir", ABSENT, is_harmless=True),
    *each("aggregate", "tokenizer.langs.e.model_path", ABSENT, "nemo:nothing.model"),
    *each("aggregate", "tokenizer.langs.e.vocab_path", ABSENT, is_harmless=True),
    *each("aggregate", "tokenizer.langs.e.spe_tokenizer_vocab", ABSENT, is_harmless=True),
    *each("aggregate", "tokenizer.langs.e.special_tokens", None, ["<a>"]),
    *each(
        "aggregate",
        "tokenizer.langs.e.custom_tokenizer",
        {"_target_": "nemo.collections.common.tokenizers.ByteLevelTokenizer"},
    ),
    *each("aggregate", "tokenizer.langs.e.hf_kwargs", {"unk_token": "<x>"}),
    *each("aggregate", "tokenizer.langs.e.not_an_option", 1),
    *each(
        "aggregate",
        "tokenizer.custom_tokenizer",
        {"_target_": "nemo.collections.common.tokenizers.AggregateTokenizer"},
        {"_target_": "nemo.collections.common.tokenizers.ByteLevelTokenizer"},
    ),
    *each("aggregate", "tokenizer.not_an_option", 1),
]
LABEL_CHANGES = [
    *each("ctc of characters", "labels", LABELS[::-1], LABELS[:-1], ["<x>"], ABSENT, None, [*LABELS, "é"]),
    *each("ctc of characters", "decoder.vocabulary", LABELS[::-1], names="decoder.vocabulary"),
    *each("ctc of characters", "decoder.vocabulary", LABELS[:-1], ["a"] * 28, names="vocabulary|decoder"),
    *each("rnnt of characters", "labels", LABELS[::-1], names="labels|vocabulary"),
    *each("rnnt of characters", "labels", LABELS[:-1], names="labels|vocabulary"),
    *each("rnnt of characters", "labels", [*LABELS[:-1], 7], [*LABELS[:-1], True], names="labels"),
    *each("rnnt of characters", "joint.vocabulary", LABELS[::-1], ["a"], ABSENT, names="vocabulary"),
    *each("hybrid of characters", "labels", LABELS[::-1], names="labels|vocabulary"),
    *each("hybrid of characters", "aux_ctc.decoder.vocabulary", LABELS[::-1], ["a"], names="vocabulary"),
    *each("hybrid of characters", "aux_ctc.decoder.vocabulary", ABSENT, is_harmless=True),
    *each("hybrid of characters", "joint.vocabulary", LABELS[::-1], names="vocabulary"),
    *each("tdt", "labels", ["a"], ABSENT),
    *each("tdt", "joint.vocabulary", ["a"], ABSENT),
    *each("ctc", "decoder.vocabulary", ["a"], ABSENT),
    *each("hybrid", "aux_ctc.decoder.vocabulary", ["a"], ABSENT),
]
REPORTED = ("preserve_alignments", "compute_timestamps", "confidence_cfg.preserve_frame_confidence")
DECODING = [
    *each("rnnt", "decoding.strategy", "greedy", "beam", "maes", "tsd", "alsd", "malsd_batch", "odd", None),
    *each("tdt", "decoding.strategy", "greedy", "malsd_batch"),
    *[
        change
        for base in ("rnnt", "tdt", "hybrid")
        for limit in (1, 2, 3)
        for change in each(
            base, "decoding.strategy", "greedy", "greedy_batch", together={"decoding.greedy.max_symbols": limit}
        )
    ],
    *each(
        "ctc",
        "decoding.strategy",
        "greedy",
        "greedy_batch",
        "beam",
        "beam_batch",
        "wfst",
        "flashlight",
        "pyctcdecode",
        "odd",
    ),
    *each("rnnt", "decoding.greedy.max_symbols", 1, 3, None),
    *each("rnnt", "decoding.greedy.max_symbols", 0, -1, "odd"),
    *each("rnnt", "decoding.greedy.max_symbols_per_step", 1, 2, together={"decoding.greedy.max_symbols": ABSENT}),
    *each("rnnt", "decoding.greedy.max_symbols_per_step", 1),
    *each("tdt", "decoding.greedy.max_symbols", 1, 2, None),
    *each("tdt", "decoding.greedy.max_symbols_per_step", 1, 2, together={"decoding.greedy.max_symbols": ABSENT}),
    *each("rnnt", "decoding.greedy.loop_labels", False, True),
    *each("rnnt", "decoding.greedy.use_cuda_graph_decoder", False),
    *each("rnnt", "decoding.greedy.enable_per_stream_biasing", True),
    *each("rnnt", "decoding.greedy.ngram_lm_model", "nemo:nothing.nemo"),
    *each("rnnt", "decoding.greedy.ngram_lm_alpha", 0.5),
    *each("rnnt", "decoding.greedy.boosting_tree", {"key_phrases_list": ["one"]}, {"model_path": "x"}, {}, None),
    *each("rnnt", "decoding.greedy.boosting_tree_alpha", 0.5),
    *each("rnnt", "decoding.greedy.not_an_option", 1),
    *each("rnnt", "decoding.greedy", ABSENT, None, is_harmless=True),
    *each("rnnt", "decoding.greedy", {}),
    *[change for key in REPORTED for change in each("rnnt", f"decoding.{key}", True)],
    *[change for key in REPORTED for change in each("rnnt", f"decoding.greedy.{key.split('.')[-1]}", True)],
    *each("rnnt", "decoding.compute_langs", True),
    *each("rnnt", "decoding.compute_hypothesis_token_set", True),
    *each("rnnt", "decoding.fused_batch_size", 2, is_harmless=True),
    *each("rnnt", "decoding.batch_dim_index", 1),
    *each("rnnt", "decoding.rnnt_timestamp_type", "all"),
    *each("rnnt", "decoding.model_type", "tdt", "rnnt", "multiblank"),
    *each("rnnt", "decoding.durations", [0, 1], [], names="durations|num_extra_outputs"),
    *each("rnnt", "decoding.big_blank_durations", [2, 4], []),
    *each("rnnt", "decoding.temperature", 2.0, 1.0),
    *each("rnnt", "decoding.strip_lang_tags", True),
    *each("rnnt", "decoding.lang_tag_pattern", "<[a-z]+-US>"),
    *each("rnnt", "decoding.lang_tag_pattern", "<[a-z]+-US>", "(", together={"decoding.strip_lang_tags": True}),
    *each("rnnt", "decoding.word_seperator", "t", "▁", ""),
    *each("rnnt", "decoding.segment_seperators", ["one"], [], ["e"]),
    *each("rnnt", "decoding.segment_seperators", None, is_harmless=True),
    *each("rnnt", "decoding.segment_gap_threshold", 2, 0),
    *each("rnnt", "decoding.beam", {"beam_size": 7, "not_an_option": 1}),
    *each("rnnt", "decoding.not_an_option", 1),
    *each("rnnt", "decoding", ABSENT, None, is_harmless=True),
    *each("tdt", "decoding.model_type", "rnnt", "odd"),
    *each("tdt", "decoding.durations", [0, 2], []),
    *each("tdt", "decoding.durations", ABSENT, is_harmless=True),
    *each("tdt", "decoding.tdt_include_token_duration", True),
    *each("tdt", "decoding.big_blank_durations", [2]),
    *each("tdt", "decoding.word_seperator", "t"),
    *each("tdt", "decoding.segment_gap_threshold", 2),
    *each("ctc", "decoding.word_seperator", "t"),
    *each("ctc", "decoding.segment_seperators", ["one"], ["e"]),
    *each("ctc", "decoding.segment_gap_threshold", 2),
    *each("ctc", "decoding.strip_lang_tags", True),
    *each("ctc", "decoding.temperature", 0.5),
    *each("ctc", "decoding.batch_dim_index", 1),
    *each("ctc", "decoding.wfst", {"beam_size": 3}),
    *each("ctc", "decoding.ctc_timestamp_type", "all"),
    *each("ctc", "decoding.greedy.ngram_lm_model", "nemo:nothing.nemo"),
    *each("ctc", "decoding.greedy.max_symbols", 1),
    *each("ctc", "decoding.greedy.allow_cuda_graphs", False),
    *each("ctc", "decoding", ABSENT, None),
    *each("hybrid", "decoding.word_seperator", "t", names="word_seperator"),
    *each("hybrid", "aux_ctc.decoding.word_seperator", "t"),
    *each("hybrid", "aux_ctc.decoding.segment_seperators", ["e"]),
    *each("hybrid", "aux_ctc.decoding.segment_gap_threshold", 2),
    *each("hybrid", "decoding.segment_gap_threshold", 2, names="segment_gap_threshold"),
    *each("hybrid", "decoding.strip_lang_tags", True),
    *each("hybrid", "aux_ctc.decoding.strategy", "greedy_batch", "beam"),
    *each("hybrid", "aux_ctc.decoding.greedy.ngram_lm_model", "nemo:nothing.nemo"),
    *each("hybrid", "aux_ctc.decoding.not_an_option", 1),
    *each("hybrid", "aux_ctc.decoding", ABSENT, None),
]
LOSS = [
    *each("tdt", "loss.tdt_kwargs.durations", [0, 2, 4, 6, 8], [0, 1], [], None, ABSENT, names="durations|num_extra"),
    *each("tdt", "loss.tdt_kwargs.sigma", 0.5),
    *each("tdt", "loss.tdt_kwargs.omega", 0.5),
    *each("tdt", "loss.tdt_kwargs.clamp", 1.0),
    *each("tdt", "loss.tdt_kwargs.fastemit_lambda", 0.1),
    *each("tdt", "loss.tdt_kwargs.not_an_option", 1),
    *each("tdt", "loss.tdt_kwargs", ABSENT, names="durations"),
    *each("tdt", "loss.loss_name", "default", "warprnnt_numba", "odd"),
    *each("tdt", "loss.loss_name", "multiblank_rnnt"),
    *each("tdt", "loss", ABSENT, None),
    *each("rnnt", "loss.loss_name", "warprnnt_numba", "pytorch", "odd"),
    *each("rnnt", "loss.loss_name", "tdt", names="durations"),
    *each("rnnt", "loss.warprnnt_numba_kwargs", {"fastemit_lambda": 0.1}),
    *each("rnnt", "loss.not_an_option", 1),
    *each("rnnt", "loss", ABSENT, None),
    *each("rnnt", "rnnt_reduction", "sum"),
    *each("ctc", "ctc_reduction", "sum", "odd"),
]
BESIDE = [
    *each("tdt", "model_defaults.enc_hidden", 40, is_harmless=True),
    *each("tdt", "model_defaults.pred_hidden", 40, is_harmless=True),
    *each("tdt", "model_defaults.joint_hidden", 40),
    *each("tdt", "model_defaults", ABSENT, is_harmless=True),
    *each("tdt", "model_defaults.not_an_option", 1),
    *each("tdt", "joint.jointnet.encoder_hidden", 40),
    *each("tdt", "joint.num_classes", 40),
    *each("tdt", "decoder.vocab_size", 40, names="vocab_size|vocabulary|classes"),
    *each("tdt", "sample_rate", 8000, ABSENT),
    *each("tdt", "not_a_section", {"a": 1}),
    *each("tdt", "target", "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModelOdd"),
    *each("tdt", "aux_ctc", {"decoder": {"num_classes": 5}}),
    *each("hybrid", "aux_ctc", ABSENT, None),
    *each("hybrid", "aux_ctc.ctc_loss_weight", 0.9),
    *each("hybrid", "aux_ctc.use_cer", True),
    *each("hybrid", "aux_ctc.ctc_reduction", "sum"),
    *each("hybrid", "aux_ctc.decoder.num_classes", 5, -1),
    *each("hybrid", "aux_ctc.decoder.feat_in", 5, is_harmless=True),
    *each("hybrid", "aux_ctc.decoder.add_blank", False),
    *each("hybrid", "aux_ctc.not_an_option", 1),
    *each("prompted", "model_defaults.num_prompts", 8, ABSENT, names="num_prompts|prompt"),
    *each("prompted", "num_prompts", 8),
    *each("prompted", "model_defaults.prompt_dictionary", {"de-DE": 5}, {"de-DE": "x"}, {}, ABSENT),
    *each("prompted", "model_defaults.prompt_dictionary", {"de-DE": 99, "auto": 11}),
    *each("prompted", "model_defaults.initialize_prompt_feature", False, ABSENT, names="prompt_kernel|initialize"),
    *each("multi-talker", "spk_kernel_type", "mask", None, names="spk_kernel"),
    *each("multi-talker", "spk_kernel_layers", [1], [0], [0, 9], 0, names="spk_kernel"),
    *each("multi-talker", "spk_kernel_layers", ABSENT, names="spk_kernel"),
    *each("multi-talker", "add_bg_spk_kernel", False, names="bg_spk"),
]
CHANGES = [*TOKENIZER, *LABEL_CHANGES, *DECODING, *LOSS, *BESIDE]


@pytest.fixture(scope="module", autouse=True)
def offline_bert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """NeMo asks for `bert-base-cased` by name; without a network a folder of that name answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(write_bert_base(tmp_path_factory.mktemp("bert")))
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clips(speech_batches: dict[str, list[np.ndarray]]) -> list[np.ndarray]:
    """A clip of five seconds and one of three."""
    chosen = sorted((clips[0] for clips in speech_batches.values()), key=len)
    return [chosen[-1][: 5 * 16000], chosen[-2][: 3 * 16000 + 77]]


def run_nemo(archive: Path, base: str, clips: list[np.ndarray]) -> tuple[StageOutputs, list[list[int]]]:
    """What NeMo finds, and its ids of a few sentences (a character model's labels)."""
    nemo = NemoRunner(archive)
    outputs = nemo.run("clips", clips, language=LANGUAGES.get(base))
    if not hasattr(nemo.model, "tokenizer"):
        return outputs, [[ord(letter) for letter in label] for label in vocabulary_of(nemo.model)]
    languages = list(nemo.model.cfg.tokenizer.langs) if base == "aggregate" else [None]
    encode = nemo.model.tokenizer.text_to_ids
    return outputs, [
        encode(text, *([] if language is None else [language])) for text in SENTENCES for language in languages
    ]


def vocabulary_of(model: Any) -> list[str]:
    decoding = getattr(model, "ctc_decoding", model.decoding)
    return [decoding.labels_map[index] for index in range(decoding.blank_id)]


def run_ours(folder: Path, base: str, clips: list[np.ndarray], targets: Any) -> tuple[StageOutputs, list[list[int]]]:
    converted = ConvertedRunner(folder, attn_implementation="eager")
    outputs = converted.run("clips", clips, targets, language=LANGUAGES.get(base))
    tokenizer = FastConformerProcessor.from_pretrained(folder).tokenizer
    if tokenizer.text_rule == "character":
        labels = tokenizer.vocabulary_tokens(range(tokenizer.blank_token_id))
        return outputs, [[ord(letter) for letter in label] for label in labels]
    languages = [span.language for span in tokenizer.language_spans] if base == "aggregate" else [None]
    return outputs, [
        tokenizer(text, **({} if language is None else {"language": language})).input_ids
        for text in SENTENCES
        for language in languages
    ]


def find_differences(theirs: tuple[StageOutputs, Any], ours: tuple[StageOutputs, Any]) -> list[Any]:
    differences: list[Any] = [row for row in compare_outputs([theirs[0]], [ours[0]]) if not row.passed]
    if theirs[0].hypotheses.keys() != ours[0].hypotheses.keys():
        differences.append(("heads", list(theirs[0].hypotheses), list(ours[0].hypotheses)))
    if theirs[1] != ours[1]:
        differences.append(("ids", theirs[1], ours[1]))
    return differences


@pytest.fixture(scope="module")
def base_archive(
    build_nemo_model: Callable[..., Any], clips: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, tuple[StageOutputs, list[list[int]]]]]:
    """The archive of a base, and what NeMo finds with it."""
    folder = tmp_path_factory.mktemp("bases")
    kept: dict[str, tuple[Path, tuple[StageOutputs, list[list[int]]]]] = {}

    def build(name: str) -> tuple[Path, tuple[StageOutputs, list[list[int]]]]:
        if name not in kept:
            kind, options = BASES[name]
            model = build_nemo_model(kind, **options)
            balance_classes(model, clips[0], {"prompted": 3}.get(name))
            path = folder / f"{name.replace(' ', '-')}.nemo"
            model.save_to(str(path))
            kept[name] = path, run_nemo(path, name, clips)
        return kept[name]

    return build


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_changed_option_is_followed_or_refused(
    change: Change,
    base_archive: Callable[[str], tuple[Path, tuple[StageOutputs, list[list[int]]]]],
    clips: list[np.ndarray],
    tmp_path: Path,
) -> None:
    base, found_before = base_archive(change.base)
    archive = tmp_path / "model.nemo"
    rewrite_archive(base, archive, change.apply)
    theirs: tuple[StageOutputs, list[list[int]]] | None = None
    try:
        theirs = run_nemo(archive, change.base, clips)
    except Exception:  # whatever NeMo says
        if change.is_harmless:
            theirs = found_before
    refusal = None
    try:
        convert_nemo_checkpoint(archive, tmp_path / "out")
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert re.search(change.names or re.escape(change.path.rsplit(".", 1)[-1]), refusal.replace(str(archive), ""))
        return
    assert theirs is not None, "NeMo refuses it, and we do not"
    assert not find_differences(theirs, run_ours(tmp_path / "out", change.base, clips, theirs[0].joint_targets))


def test_every_option_of_the_decodings_is_changed() -> None:
    from nemo.collections.asr.parts.submodules.ctc_decoding import CTCDecodingConfig
    from nemo.collections.asr.parts.submodules.rnnt_decoding import RNNTDecodingConfig

    changed = {change.path for change in CHANGES}
    for name in {item.name for kind in (CTCDecodingConfig, RNNTDecodingConfig) for item in dataclasses.fields(kind)}:
        assert any(path.startswith(f"decoding.{name}") for path in changed), name
