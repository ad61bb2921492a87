"""Multitask models through the inference layer, with a scripted model: prompts, windows, joins, times, refusals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer import FastConformerConfig
from transformers_fastconformer.decoding.confidence import ConfidenceOptions
from transformers_fastconformer.decoding.hypotheses import Hypotheses
from transformers_fastconformer.decoding.options import DecodingOptions
from transformers_fastconformer.decoding.prompts import fill_prompt
from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.inference.clip_features import ClipFeatures
from transformers_fastconformer.inference.file import check_options
from transformers_fastconformer.inference.multitask import transcribe_multitask
from transformers_fastconformer.inference.options import ChunkOptions, TranscriptionOptions
from transformers_fastconformer.inference.pause_cuts import plan_cuts
from transformers_fastconformer.inference.recognition import recognize
from transformers_fastconformer.inference.strategy import choose_strategy
from transformers_fastconformer.nemo.tokenizers import aggregate_tokenizer, sentencepiece_tokenizer
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor

FRAME_SECONDS = 0.08
TIMES = tuple(f"<|{frame}|>" for frame in range(1210))
CANARY = ("<|startoftranscript|>", "<|endoftext|>", "<pad>", "<|en|>", "<|de|>", "<|pnc|>", "<|nopnc|>")
CANARY += ("<|transcribe|>", "<|translate|>")
CANARY2 = (*CANARY, "<|startofcontext|>", "<|itn|>", "<|noitn|>", "<|timestamp|>", "<|notimestamp|>")
CANARY2 += ("<|diarize|>", "<|nodiarize|>", "<|emo:undefined|>")
WORDS = ("the", "dog", "quick", "brown", "lazy", "fox", "jumps", "over", "features", "text")


class ScriptedModel:
    """
    A multitask model that hears what the features say.

    Args:
        processor: Its processor.
        prompt_format: Format of its prompts.

    The first mel bin of a mel frame is the number of the word that is said, plus 1, or 0 in a pause; a word counts
    where half of it is in the window. The mean of all bins is the level.
    """

    decoder_type: ClassVar[str] = "multitask"
    is_told_language = True
    times_model = None
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, processor: FastConformerProcessor, prompt_format: str) -> None:
        self.processor = processor
        self.config: Any = FastConformerConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
        self.config.prompt_format = prompt_format
        self.config.prompt_defaults = {}
        self.config.prompt_token_ids = processor.tokenizer.prompt_token_ids
        self.prompts: list[list[int]] = []
        self.batches: list[list[int]] = []
        self.num_placed = 0

    def check_decoding(self, decoding: DecodingOptions) -> None:
        fill_prompt(self.config, decoding.prompt)

    def encode(self, features: torch.Tensor, input_lengths: torch.Tensor) -> Any:
        self.batches.append(input_lengths.tolist())
        lengths = input_lengths // 8
        return SimpleNamespace(last_hidden_state=features, encoder_lengths=lengths, padded_lengths=lengths)

    def decode_frames(
        self, frames: torch.Tensor, lengths: torch.Tensor, decoding: DecodingOptions, prompt_ids: Any, **others: Any
    ) -> tuple[Hypotheses, None]:
        self.prompts.append(list(prompt_ids))
        rows = [self._write(row[: 8 * length], decoding) for row, length in zip(frames, lengths.tolist(), strict=True)]
        longest = max(map(len, rows))
        padding = self.processor.tokenizer.pad_token_id
        tokens = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], dtype=torch.int64)
        scores = None if decoding.confidence is None else torch.full(tokens.shape, 0.5)
        zeros = torch.zeros(tokens.shape)
        return Hypotheses(tokens, torch.tensor(list(map(len, rows))), zeros.long(), zeros, None, scores), None

    def place_tokens(
        self, frames: torch.Tensor, lengths: torch.Tensor, prompt_ids: Any, texts: list[list[int]]
    ) -> list[list[int]]:
        """The frame in the middle of the word of each token."""
        self.num_placed += len(texts)
        tokenizer = self.processor.tokenizer
        options = {"language": "en"} if tokenizer.text_rule == "aggregate" else {}
        places = []
        for row, length, text in zip(frames, lengths.tolist(), texts, strict=True):
            words = find_words(row[: 8 * length])
            places.append(
                [(start + stop) // 16 for word, start, stop in words for _ in tokenizer(word, **options).input_ids]
            )
            assert len(places[-1]) == len(text)
        return places

    def _write(self, row: torch.Tensor, decoding: DecodingOptions) -> list[int]:
        tokenizer = self.processor.tokenizer
        options = {"language": "en"} if tokenizer.text_rule == "aggregate" else {}
        ids: list[int] = []
        for word, start, stop in find_words(row):
            text = tokenizer(word, **options).input_ids
            if decoding.timestamps:
                start, stop = (tokenizer.prompt_token_id(f"<|{frame // 8}|>") for frame in (start, stop))
                text = [start, *text, stop]
            ids += text
        return ids


def find_words(row: torch.Tensor) -> list[tuple[str, int, int]]:
    """Words of features with their mel frames; a word of which less than half is there is not heard."""
    numbers = row[:, 0].long().tolist()
    found, start = [], 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[start]:
            if numbers[start] and place - start >= WORD_FRAMES // 2:
                found.append((WORDS[(numbers[start] - 1) % len(WORDS)], start, place))
            start = place
    return found


WORD_FRAMES = 40


def speak(numbers: list[int], pause: int = 0) -> ClipFeatures:
    """Words with pauses of so many mel frames between them; neighbours that are the same are two words."""
    rows = []
    for place, number in enumerate(numbers):
        word = torch.ones(WORD_FRAMES, 16)
        word[:, 0] = number + 1 + len(WORDS) * (place % 2)
        word[:, 1] = 2 - word[:, 0]
        silence = -torch.ones(pause, 16)
        silence[:, 0] = 0
        rows += [word, silence]
    features = torch.cat([*rows, torch.zeros(1, 16)])
    return ClipFeatures(features, features.shape[0] - 1)


def text_of(numbers: list[int]) -> str:
    return " ".join(WORDS[number] for number in numbers)


def make(kind: str, prompt_format: str, times: tuple[str, ...] = TIMES) -> Any:
    symbols = CANARY if prompt_format == "canary" else CANARY2
    special = (*symbols, *times)
    tokenizer = sentencepiece_tokenizer(
        train_sentencepiece_model(user_defined_symbols=special, vocab_size=150 + len(special))
    )
    if kind == "aggregate":
        english = sentencepiece_tokenizer(train_sentencepiece_model())
        tokenizer = aggregate_tokenizer({"spl_tokens": tokenizer, "en": english})
    processor = FastConformerProcessor(FastConformerFeatureExtractor(), tokenizer)
    return ScriptedModel(processor, prompt_format), processor


def run(model: Any, processor: Any, clips: list[ClipFeatures], chunk: float | None = 10.0, **options: Any) -> Any:
    given = TranscriptionOptions.of(None, {"chunk_length_s": chunk, **options})
    check_options(model, processor, given)
    longest = max(clip.mel_length for clip in clips)
    chosen = choose_strategy(model, longest, FRAME_SECONDS, given)
    return recognize(processor, clips, chosen, given, given.timestamps or ["word"])


NUMBERS = [(7 * place + place // 10) % 10 for place in range(150)]  # a minute


@pytest.mark.parametrize("kind", ["single", "aggregate"])
@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("pause", [0, 24])
def test_windows_lose_and_double_no_word(kind: str, timestamps: bool, pause: int) -> None:
    model, processor = make(kind, "canary2")
    clip = speak(NUMBERS, pause)
    whole = run(model, processor, [clip], None, strategy="full", timestamps=timestamps)[0]
    assert whole.text == text_of(NUMBERS)
    (found,) = run(model, processor, [clip], timestamps=timestamps)
    assert found.text == whole.text
    assert max(map(max, model.batches[1:])) <= 1000
    if timestamps:
        assert found.timestamps["word"] == whole.timestamps["word"]
        assert found.timestamps["segment"] == whole.timestamps["segment"]


@pytest.mark.parametrize("options", [{"timestamps": False}, {"target_lang": "de"}, {"timestamps": True}])
def test_words_are_placed_where_windows_without_times_overlap(options: dict[str, Any]) -> None:
    model, processor = make("single", "canary2")
    run(model, processor, [speak(NUMBERS, 24)], **options)
    # Windows meet in pauses; sentences of a translation need places.
    assert (model.num_placed > 0) is ("target_lang" in options)
    model.num_placed = 0
    (found,) = run(model, processor, [speak(NUMBERS)], **options)
    assert found.text == text_of(NUMBERS)
    num_windows = sum(map(len, model.batches[-99:]))
    assert (model.num_placed > 5) is (options.get("timestamps") is not True)
    assert model.num_placed <= num_windows


@pytest.mark.parametrize("numbers", [NUMBERS, NUMBERS[:20]])
def test_sentences_of_a_translation_are_segments(numbers: list[int]) -> None:
    model, processor = make("single", "canary2")
    processor.segment_separators = ["fox"]  # a word that ends sentences
    (found,) = run(model, processor, [speak(numbers, 24)], target_lang="de")
    segments = found.timestamps["segment"]
    assert " ".join(item["segment"] for item in segments) == found.text
    assert len(segments) >= found.text.count("fox")
    word_frames = (WORD_FRAMES + 24) / 8
    said = 0
    for item in segments:
        # Half a pause and rounding.
        assert abs(item["start_offset"] - said * word_frames) <= 4
        said += len(item["segment"].split())
    assert segments[-1]["end_offset"] == len(numbers) * 8


def test_two_texts_of_one_stretch_are_not_written_both(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = make("single", "canary2")
    hear = find_words
    windows: list[int] = []

    def hear_otherwise(row: torch.Tensor) -> list[tuple[str, int, int]]:
        # Windows take turns in two vocabularies, as translations may.
        first = int(row[0, 1])
        if first not in windows:
            windows.append(first)
        side = windows.index(first) % 2
        return [(WORDS[(WORDS.index(word) % 5) + 5 * side], start, stop) for word, start, stop in hear(row)]

    monkeypatch.setitem(globals(), "find_words", hear_otherwise)
    clip = speak(NUMBERS)
    clip.input_features[:, 1] = torch.arange(len(clip.input_features)).float()
    clip.input_features[:, 2] = -clip.input_features[:, 1]  # the mean stays
    (found,) = run(model, processor, [clip], timestamps=False)
    assert len(windows) > 5
    assert len(found.text.split()) == len(NUMBERS)


def test_clips_of_a_batch_are_as_each_alone() -> None:
    model, processor = make("single", "canary2")
    clips = [speak(NUMBERS[:60], 24), speak([], 0), speak(NUMBERS[:3], 24), speak(NUMBERS[20:140], 0)]
    together = run(model, processor, clips, batch_size=3)
    assert [len(batch) for batch in model.batches[:2]] == [3, 3]
    for clip, found in zip(clips, together, strict=True):
        (alone,) = run(model, processor, [clip])
        assert (found.text, found.timestamps) == (alone.text, alone.timestamps)
    assert together[1].text == ""
    assert together[1].timestamps == {"word": [], "segment": []}


def test_short_clips_are_whole_and_long_ones_are_cut() -> None:
    model, processor = make("single", "canary2")
    for seconds, is_cut in ((39, False), (41, True)):
        clip = speak(NUMBERS[: int(seconds / 0.4)])
        options = TranscriptionOptions()
        chosen = choose_strategy(model, clip.mel_length, FRAME_SECONDS, options)
        assert (chosen.name, bool(chosen.reason)) == (("chunked", True) if is_cut else ("full", False))
        model.batches.clear()
        recognize(processor, [clip], chosen, options, True)
        assert (sum(map(len, model.batches)) > 1) == is_cut


def test_times_are_asked_for_where_the_model_has_them() -> None:
    model, processor = make("single", "canary2")
    on, off = (processor.tokenizer.prompt_token_id(token) for token in ("<|timestamp|>", "<|notimestamp|>"))
    for timestamps, is_on in ((True, True), (False, False), ("segment", True), (["word"], True)):
        found = run(model, processor, [speak([1, 2], 24)], timestamps=timestamps)[0]
        assert (on if is_on else off) in model.prompts[-1]
        assert (off if is_on else on) not in model.prompts[-1]
        assert found.text == text_of([1, 2])
    (found,) = run(model, processor, [speak([1, 2], 24)], timestamps="segment")
    assert list(found.timestamps) == ["segment"]


@pytest.mark.parametrize(("prompt_format", "options"), [("canary", {}), ("canary2", {"target_lang": "de"})])
def test_models_without_times_and_translations_have_segments(prompt_format: str, options: dict[str, Any]) -> None:
    model, processor = make("single", prompt_format)
    (found,) = run(model, processor, [speak(NUMBERS, 24)], **options)
    assert found.text == text_of(NUMBERS)
    segments = found.timestamps["segment"]
    assert list(found.timestamps) == ["segment"]
    assert len(segments) > 5
    assert " ".join(item["segment"] for item in segments) == found.text
    assert [item["start_offset"] for item in segments[1:]] == [item["end_offset"] for item in segments[:-1]]
    assert (segments[0]["start_offset"], segments[-1]["end_offset"]) == (0, 150 * 64 // 8)
    for name in ("word", ["segment", "char"]):
        with pytest.raises(ValueError, match="timestamps="):
            run(model, processor, [speak([1])], timestamps=name, **options)


def test_the_prompt_holds_what_is_asked_for() -> None:
    model, processor = make("aggregate", "canary2")
    ids = processor.tokenizer.prompt_token_ids
    context = processor.tokenizer("the quick", language="en").input_ids
    run(model, processor, [speak([1])], pnc=False, context="the quick", timestamps=False)
    start = [ids["<|startofcontext|>"], *context, ids["<|startoftranscript|>"], ids["<|emo:undefined|>"]]
    assert model.prompts[-1][: len(start) + 3] == [*start, ids["<|en|>"], ids["<|en|>"], ids["<|nopnc|>"]]
    with pytest.raises(ValueError, match=r"target_lang='de' is not supported by this model; expected one of \['en'\]"):
        run(model, processor, [speak([1])], language="de")
    with pytest.raises(ValueError, match="source_lang='fr'"):
        run(model, processor, [speak([1])], source_lang="fr")


def test_confidences_of_windows_are_joined() -> None:
    model, processor = make("single", "canary")
    (found,) = run(model, processor, [speak(NUMBERS, 24)], confidence=ConfidenceOptions())
    assert len(found.word_confidences) == len(NUMBERS)
    assert found.confidence == pytest.approx(0.5)
    assert run(model, processor, [speak(NUMBERS, 24)])[0].confidence is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "local"}, "strategy='local' is not supported.*'full' or 'chunked'"),
        ({"chunk_length_s": 5.0}, "chunk_length_s=5.0 is not supported; expected 10 to 40 seconds"),
        ({"chunk_length_s": 60.0}, "chunk_length_s=60.0"),
        ({"chunk_length_s": 20.0, "stride_length_s": 6.0}, "stride_length_s=6.0.*at most 5"),
    ],
)
def test_chunks_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    model, processor = make("single", "canary")
    with pytest.raises(ValueError, match=message):
        check_options(model, processor, TranscriptionOptions.of(None, options))


def test_progress_and_memory_are_of_a_window() -> None:
    model, processor = make("single", "canary2")
    done: list[int] = []
    rules = plan_cuts(ChunkOptions(chunk_length_s=10.0), FRAME_SECONDS, 8)
    transcribe_multitask(
        model, processor, [speak(NUMBERS, 24)], rules, 2, TranscriptionOptions(), lambda frames: done.extend(frames)
    )
    assert done == sorted(done)
    assert done[-1] == 150 * 64 // 8
    assert max(map(len, model.batches)) == 2
