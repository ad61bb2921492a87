"""Text and times beside NeMo's own decoding objects, on random ids, frames and durations."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sentencepiece_models import VARIANTS, train_sentencepiece_model

from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.modeling.outputs import FastConformerGenerateOutput
from transformers_fastconformer.nemo.tokenizer_map import build_tokenizer, timestamp_options
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor

pytestmark = pytest.mark.nemo

CASES = 150
TDT_DURATIONS = [0, 1, 2, 3, 4]
LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'", ".", ",", "?", "-"]
WORDPIECES = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "dog", "don", "t", "n", "a", "Hello",
    "##er", "##s", "##ing", "##'", "##.", "'", ".", ",", "!", "?", "-", "...",
]  # fmt: skip


@dataclass
class Pair:
    """NeMo's decoding objects and our processor, made from the same archive."""

    rnnt: Any  # RNN-T or TDT
    ctc: Any
    processor: FastConformerProcessor
    is_tdt: bool


def read_archive(path: Path) -> tuple[dict[str, Any], Callable[[str], bytes]]:
    with tarfile.open(path) as archive:
        members = {}
        for member in archive.getmembers():
            if member.isfile() and not member.name.endswith(".ckpt"):
                file = archive.extractfile(member)
                assert file is not None
                members[member.name.removeprefix("./")] = file.read()
    return yaml.safe_load(io.BytesIO(members["model_config.yaml"])), members.__getitem__


def lay_out_tokenizer(folder: Path, model: bytes) -> Path:
    """A tokenizer folder as NeMo wants it."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (folder / "tokenizer.vocab").write_text("".join(f"{piece}\t0\n" for piece in pieces), encoding="utf-8")
    return folder


def pair_from(model: Any, folder: Path, kind: str) -> Pair:
    path = folder / "model.nemo"
    model.save_to(str(path))
    config, read = read_archive(path)
    processor = FastConformerProcessor(
        FastConformerFeatureExtractor(), build_tokenizer(config, read), **timestamp_options(config)
    )
    return Pair(model.decoding, model.ctc_decoding, processor, "tdt" in kind)


@pytest.fixture(scope="module", params=["hybrid_tdt_ctc", "hybrid_rnnt_ctc"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def sentencepiece_model(build_nemo_model: Callable[..., Any], kind: str, tmp_path_factory: Any) -> Any:
    """The function `sentencepiece_model(variant) -> Pair`; one NeMo model takes one vocabulary after another."""
    folder = tmp_path_factory.mktemp(kind)
    model = build_nemo_model(kind, tokenizer=lay_out_tokenizer(folder / "first", train_sentencepiece_model()))

    def build(variant: str) -> Pair:
        tokenizer = lay_out_tokenizer(folder / variant, train_sentencepiece_model(**VARIANTS[variant]))
        model.change_vocabulary(new_tokenizer_dir=str(tokenizer), new_tokenizer_type="bpe")
        return pair_from(model, folder / variant, kind)

    return build


def random_ids(rng: random.Random, tokenizer: Any, unspoken: int = 0) -> list[int]:
    """Ids of any kind, of few kinds, or with much punctuation and many spaces; never the last `unspoken` ones."""
    size = tokenizer.blank_token_id - unspoken
    tokens = tokenizer.vocabulary_tokens(range(size))
    marks = [i for i, token in enumerate(tokens) if set(token) <= {*tokenizer.punctuation, "▁", " ", "#"}]
    pool = rng.choice(([*range(size)], [*range(min(size, 12))], marks * 3 + [rng.randrange(size) for _ in marks * 3]))
    return [rng.choice(pool) for _ in range(rng.choice((0, 1, 2, 3, 5, 8, 13, 25)))]


def nemo_hypothesis(ids: list[int], frames: list[int], durations: list[int] | None) -> Any:
    from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis

    hypothesis = Hypothesis(score=0.0, y_sequence=list(ids), timestamp=torch.tensor(frames, dtype=torch.long))
    if durations is not None:
        hypothesis.token_duration = torch.tensor(durations, dtype=torch.long)
    return hypothesis


def with_seconds(hypothesis: Any) -> dict[str, list[dict[str, Any]]]:
    """NeMo's times in its user's form, with one text where its transducers have a list of one."""
    from nemo.collections.asr.parts.utils.timestamp_utils import process_timestamp_outputs

    (hypothesis,) = process_timestamp_outputs([hypothesis], subsampling_factor=8, window_stride=0.01)
    times = {level: hypothesis.timestamp[level] for level in ("char", "word", "segment")}
    for items in times.values():
        for item in items:
            item |= {name: int(item[name]) for name in ("start_offset", "end_offset")}
            item |= {name: float(item[name]) for name in ("start", "end")}
    for item in times["char"]:
        if isinstance(item["char"], list):
            (item["char"],) = item["char"]
    return times


def generated(ids: list[int], frames: list[int], durations: list[int] | None, decoder_type: str) -> Any:
    """What `generate()` returns for this clip as the second of three, with padding behind it."""

    def rows(values: list[int] | None, filling: int) -> torch.Tensor | None:
        return None if values is None else torch.tensor([[filling] * (len(values) + 2), [*values, filling, filling]])

    return FastConformerGenerateOutput(
        sequences=rows(ids, 0),
        sequence_lengths=torch.tensor([0, len(ids)]),
        frame_indices=rows(frames, 0),
        durations=rows(durations, 3),
        decoder_type=decoder_type,
    )


def assert_equal(pair: Pair, hypothesis: Any, output: Any) -> None:
    processor = pair.processor
    transcription = processor.batch_decode(output, timestamps=True, skip_special_tokens=False)[1]
    ids = output.sequences[1, : output.sequence_lengths[1]].tolist()
    assert transcription.text == hypothesis.text, ids
    assert processor.tokenizer.decode(ids) == hypothesis.text, ids
    expected = with_seconds(hypothesis)
    for level, items in expected.items():
        assert transcription.timestamps[level] == items, (level, ids)
    tokens = [{**item, "token": None} for item in transcription.timestamps["token"]]
    chars = [{**item, "token": None} for item in transcription.timestamps["char"]]
    assert tokens == [{name: item[name] for name in tokens[0]} for item in chars] if tokens else not chars


def check_transducer(pair: Pair, seed: int, unspoken: int = 0) -> None:
    """Runs the random cases."""
    rng = random.Random(seed)
    with_words = 0
    for _ in range(CASES):
        ids = random_ids(rng, pair.processor.tokenizer, unspoken)
        frames = sorted(rng.randrange(3 * len(ids)) for _ in ids)
        durations = [rng.choice((0, 1, 2, 4, 8)) for _ in ids] if pair.is_tdt else None
        output = generated(ids, frames, durations, "tdt" if pair.is_tdt else "rnnt")
        gap = rng.choice((None, None, 1, 3))
        pair.rnnt.segment_gap_threshold = pair.processor.segment_gap_frames = gap
        (hypothesis,) = pair.rnnt.decode_hypothesis([nemo_hypothesis(ids, frames, durations)])
        hypothesis = pair.rnnt.compute_rnnt_timestamps(hypothesis)
        assert_equal(pair, hypothesis, output)
        with_words += bool(hypothesis.timestamp["word"])
    assert with_words > CASES // 3


def check_ctc(pair: Pair, seed: int) -> None:
    rng = random.Random(seed)
    blank = pair.processor.tokenizer.blank_token_id
    pair.ctc.compute_timestamps = True
    with_words = 0
    for _ in range(CASES):
        labels = [label for token_id in random_ids(rng, pair.processor.tokenizer)
                  for label in [blank] * rng.randint(0, 3) + [token_id] * rng.randint(1, 3)]  # fmt: skip
        labels += [blank] * rng.randint(1, 3)
        frames = [t for t, label in enumerate(labels) if label != blank and label != ([blank, *labels])[t]]
        ids = [labels[frame] for frame in frames]
        gap = rng.choice((None, None, 1, 3))
        pair.ctc.segment_gap_threshold = pair.processor.segment_gap_frames = gap
        (hypothesis,) = pair.ctc.ctc_decoder_predictions_tensor(
            torch.tensor([labels]), torch.tensor([len(labels)]), return_hypotheses=True
        )
        assert_equal(pair, hypothesis, generated(ids, frames, None, "ctc"))
        with_words += bool(hypothesis.timestamp["word"])
    assert with_words > CASES // 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_sentencepiece_vocabularies(sentencepiece_model: Callable[[str], Pair], variant: str) -> None:
    pair = sentencepiece_model(variant)
    assert pair.rnnt.blank_id == pair.ctc.blank_id == pair.processor.tokenizer.blank_token_id
    assert frozenset(pair.rnnt.supported_punctuation) == pair.processor.tokenizer.punctuation
    check_transducer(pair, seed=0)
    check_ctc(pair, seed=1)


def test_character_vocabularies(build_nemo_model: Callable[..., Any], kind: str, tmp_path: Path) -> None:
    # NeMo's TDT models of characters leave the last labels, as many as there are durations, out of the text: its
    # `RNNTDecoding.decode_ids_to_tokens` takes them for durations. We write them.
    unspoken = len(TDT_DURATIONS) if "tdt" in kind else 0
    labels = [*LABELS, *"01234"]
    pair = pair_from(build_nemo_model(kind, tokenizer="char", labels=labels), tmp_path, kind)
    (hypothesis,) = pair.rnnt.decode_hypothesis([nemo_hypothesis([1, len(labels) - 1], [0, 1], [1, 1])])
    assert hypothesis.text == ("a" if unspoken else "a4")
    assert pair.processor.tokenizer.decode([1, len(labels) - 1]) == "a4"
    assert pair.processor.tokenizer.text_rule == "character"
    assert frozenset(pair.rnnt.supported_punctuation) == pair.processor.tokenizer.punctuation
    check_transducer(pair, seed=2, unspoken=unspoken)
    check_ctc(pair, seed=3)


def test_wordpiece_vocabularies(
    build_nemo_model: Callable[..., Any], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # NeMo asks for "bert-base-cased" by name; offline, a folder of that name answers.
    for folder in (tmp_path / "bert-base-cased", tmp_path / "wordpiece"):
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join(WORDPIECES) + "\n")
    (tmp_path / "bert-base-cased" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "bert-base-cased" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "do_lower_case": false}'
    )
    monkeypatch.chdir(tmp_path)
    first = lay_out_tokenizer(tmp_path / "first", train_sentencepiece_model())
    model = build_nemo_model(kind, tokenizer=first)
    model.change_vocabulary(new_tokenizer_dir=str(tmp_path / "wordpiece"), new_tokenizer_type="wpe")
    pair = pair_from(model, tmp_path, kind)
    tokenizer = pair.processor.tokenizer
    assert tokenizer.text_rule == "wordpiece"
    assert tokenizer.word_rule == "continuation_mark"
    assert pair.rnnt.blank_id == tokenizer.blank_token_id
    assert frozenset(pair.rnnt.supported_punctuation) == tokenizer.punctuation
    for text in ("the quickers don't", "Hello dogs... zzz the,dog!", "", "  a  "):
        assert tokenizer(text).input_ids == model.tokenizer.text_to_ids(text)
    check_transducer(pair, seed=4)
    check_ctc(pair, seed=5)


def test_aggregate_vocabularies(build_nemo_model: Callable[..., Any], kind: str, tmp_path: Path) -> None:
    variants = {"es": "unigram", "en": "bpe with symbols", "de": "bpe with bytes"}
    folders = {
        language: lay_out_tokenizer(tmp_path / language, train_sentencepiece_model(**VARIANTS[variant]))
        for language, variant in variants.items()
    }
    model = build_nemo_model(kind, tokenizer=folders["en"])
    parts = {language: {"dir": str(folder), "type": "bpe"} for language, folder in folders.items()}
    from omegaconf import OmegaConf

    section = OmegaConf.create({"type": "agg", "langs": parts})
    model.change_vocabulary(new_tokenizer_dir=section, new_tokenizer_type="agg")
    pair = pair_from(model, tmp_path, kind)
    tokenizer = pair.processor.tokenizer
    assert pair.rnnt.blank_id == tokenizer.blank_token_id
    assert frozenset(pair.rnnt.supported_punctuation) == tokenizer.punctuation
    rng = random.Random(6)
    for _ in range(CASES):
        ids = random_ids(rng, tokenizer)
        frames = sorted(rng.randrange(3 * len(ids)) for _ in ids)
        (hypothesis,) = pair.rnnt.decode_hypothesis([nemo_hypothesis(ids, frames, frames if pair.is_tdt else None)])
        assert tokenizer.decode(ids) == hypothesis.text
        assert [tokenizer.language_of(token_id) for token_id in ids] == [
            entry["lang"] for entry in model.tokenizer.ids_to_text_and_langs(ids)
        ]
        assert tokenizer.vocabulary_tokens(ids) == model.tokenizer.ids_to_tokens(ids)
        # NeMo has no times of words here; ours add up to the text and the languages stand beside the tokens.
        (_, ours) = pair.processor.batch_decode(
            generated(ids, frames, frames, "tdt"), timestamps=["token", "word"], skip_special_tokens=False
        )
        assert ours.text == hypothesis.text
        assert [item["language"] for item in ours.timestamps["token"]] == [tokenizer.language_of(i) for i in ids]
    for language in variants:
        for text in ("the quick brown dog", "Where does the road lead?", "Über 中文"):
            assert tokenizer(text, language=language).input_ids == model.tokenizer.text_to_ids(text, language)
