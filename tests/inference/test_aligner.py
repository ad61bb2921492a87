"""Words of a multitask model with the times of the model of times that its checkpoint carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from multitask_archives import write_timed_canary
from sentencepiece_models import train_sentencepiece_model
from transformers import pipeline

from transformers_fastconformer import load_model, transcribe
from transformers_fastconformer.decoding.hypotheses import Hypotheses
from transformers_fastconformer.inference.aligner import align_words
from transformers_fastconformer.nemo.tokenizers import sentencepiece_tokenizer

RATE = 16000


@pytest.fixture(scope="module", params=["same front end", "another"])
def path(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with drawn weights and a model of times."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        window_seconds = 0.02 if request.param == "another" else None
        return write_timed_canary(tmp_path_factory.mktemp("canary") / "a.nemo", window_seconds)


def test_words_have_the_times_of_the_aligner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = load_model(path, device="cpu")
    assert model.times_model is not None
    ids = processor.tokenizer("the quick dog.")["input_ids"]

    def write(frames: torch.Tensor, *others: Any, prompt_ids: list[int], **options: Any) -> tuple[Hypotheses, None]:
        tokens = torch.tensor([ids] * len(frames))
        return Hypotheses(tokens, torch.tensor([len(ids)] * len(frames)), tokens, tokens.float(), None, None), None

    monkeypatch.setattr(model, "decode_frames", write)
    speech = np.random.default_rng(0).normal(0, 0.1, 45 * RATE).astype(np.float32)
    for samples in (4 * RATE, 45 * RATE):
        found = transcribe(speech[:samples], (model, processor), timestamps="word")
        assert found.text.endswith("quick dog.")
        words = found.timestamps["word"]
        assert " ".join(item["word"] for item in words) == found.text
        starts = [item["start_offset"] for item in words]
        assert starts == sorted(starts)
        assert all(0 <= item["start"] <= item["end"] <= samples / RATE for item in words)
    recognize = pipeline("automatic-speech-recognition", model=model, processor=processor)
    chunks = recognize(speech[: 4 * RATE], return_timestamps="word")["chunks"]
    short = transcribe(speech[: 4 * RATE], (model, processor), timestamps="word").timestamps["word"]
    assert [chunk["text"] for chunk in chunks] == [item["word"] for item in short]
    with pytest.raises(ValueError, match="timestamps='word' is not supported for a translation"):
        transcribe(speech[:RATE], (model, processor), timestamps="word", source_lang="de", target_lang="en")


def test_closing_punctuation_has_no_duration() -> None:
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model())
    rows = tokenizer(["the", "dog."])["input_ids"]
    ids = [token_id for row in rows for token_id in row]
    assert tokenizer.vocabulary_tokens(ids[-1:]) == ["."]
    log_probs = torch.full((2 * len(ids) + 4, tokenizer.blank_token_id + 1), -10.0)
    frames = [tokenizer.blank_token_id, *ids, ids[-1], ids[-1]]
    frames += [tokenizer.blank_token_id] * (len(log_probs) - len(frames))
    log_probs[range(len(frames)), frames] = 0.0
    first, second = align_words(log_probs, " the  dog. ", tokenizer)
    assert tuple(first) == ("the", 1, 1 + len(rows[0]))
    assert tuple(second) == ("dog.", 1 + len(rows[0]), len(ids))


def test_text_that_cannot_be_aligned_has_no_words() -> None:
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model())
    log_probs = torch.zeros(6, tokenizer.blank_token_id + 1).log_softmax(dim=-1)
    assert align_words(log_probs, "", tokenizer) == []
    assert align_words(log_probs, "the quick brown fox jumps over", tokenizer) == []
    assert align_words(log_probs[:0], "the", tokenizer) == []
    (unknown,) = align_words(log_probs, "語", tokenizer)
    assert unknown.text == "語"
    assert 0 <= unknown.start_offset < unknown.end_offset <= 6


def test_words_without_tokens_lie_between_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model())
    log_probs = torch.zeros(24, tokenizer.blank_token_id + 1).log_softmax(dim=-1)
    call = type(tokenizer).__call__

    def skip(self: Any, words: list[str], **options: Any) -> Any:
        """As of a tokenizer whose normalisation leaves nothing of dashes."""
        rows = call(self, [word.replace("-", "") or "the" for word in words], **options)
        rows["input_ids"] = [[] if word == "-" else row for word, row in zip(words, rows["input_ids"], strict=True)]
        return rows

    plain = align_words(log_probs, "the dog the", tokenizer)
    monkeypatch.setattr(type(tokenizer), "__call__", skip)
    found = align_words(log_probs, "- the - - dog the -", tokenizer)
    assert [span.text for span in found] == ["-", "the", "-", "-", "dog", "the", "-"]
    the, dog, last = plain
    assert [found[1], found[4], found[5]] == plain
    middle = the.end_offset + (dog.start_offset - the.end_offset) // 2
    assert found[0] == ("-", the.start_offset, the.start_offset)
    assert found[2] == ("-", the.end_offset, middle)
    assert found[3] == ("-", middle, dog.start_offset)
    assert found[6] == ("-", last.end_offset, last.end_offset)
    assert align_words(log_probs, "- -", tokenizer) == []
