"""The processor: inputs and labels, texts, times with seconds, events, saving and loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentencepiece_models import train_sentencepiece_model
from transformers import AutoFeatureExtractor, AutoProcessor, AutoTokenizer

from transformers_fastconformer import FastConformerConfig
from transformers_fastconformer.decoding.confidence import aggregate_confidence
from transformers_fastconformer.feature_extraction_fastconformer import FastConformerFeatureExtractor
from transformers_fastconformer.modeling.outputs import FastConformerGenerateOutput
from transformers_fastconformer.nemo.tokenizers import (
    character_tokenizer,
    sentencepiece_tokenizer,
)
from transformers_fastconformer.processing_fastconformer import FastConformerProcessor, FastConformerTranscription
from transformers_fastconformer.tokenization_fastconformer import FastConformerTokenizer

AUDIO = [np.sin(np.arange(samples) / 7.0).astype(np.float32) for samples in (4000, 2500)]


@pytest.fixture
def processor() -> FastConformerProcessor:
    model = train_sentencepiece_model(user_defined_symbols=("<EOU>",))
    return FastConformerProcessor(FastConformerFeatureExtractor(), sentencepiece_tokenizer(model))


def output_of(processor: FastConformerProcessor, texts: list[str], decoder_type: str = "tdt") -> Any:
    """As if `texts` had been heard: token i in frame 3 * i, for two frames."""
    rows = processor.tokenizer(texts).input_ids
    longest = max(map(len, rows))
    ids = [row + [processor.tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
    frames = [[3 * position for position in range(longest)]] * len(rows)
    durations = torch.full((len(rows), longest), 2) if decoder_type == "tdt" else None
    return FastConformerGenerateOutput(
        sequences=torch.tensor(ids),
        sequence_lengths=torch.tensor([len(row) for row in rows]),
        frame_indices=torch.tensor(frames),
        durations=durations,
        decoder_type=decoder_type,
    )


def test_audio_gives_features(processor: FastConformerProcessor) -> None:
    features = processor(AUDIO, sampling_rate=16000, return_tensors="pt")
    expected = processor.feature_extractor(AUDIO, sampling_rate=16000, return_tensors="pt")
    assert features.keys() == expected.keys()
    assert torch.equal(features["input_features"], expected["input_features"])
    with pytest.raises(ValueError, match="8000"):
        processor(AUDIO, sampling_rate=8000, return_tensors="pt")


def test_text_gives_ids_and_with_audio_labels(processor: FastConformerProcessor) -> None:
    texts = ["the dog", "the lazy brown dog"]
    rows = processor.tokenizer(texts).input_ids
    assert processor(text=texts).input_ids == rows
    assert processor(text=texts[0]).input_ids == rows[0]
    assert processor(text=texts, return_tensors="pt").input_ids.shape == (2, len(rows[1]))
    inputs = processor(AUDIO, text=texts, sampling_rate=16000, return_tensors="pt")
    assert inputs["labels"][1].tolist() == rows[1]
    assert inputs["labels"][0].tolist() == rows[0] + [-100] * (len(rows[1]) - len(rows[0]))
    assert processor.batch_decode(inputs["labels"]) == texts
    assert {"input_features", "attention_mask", "labels"} <= set(processor.model_input_names)
    with pytest.raises(ValueError, match="audio=None and text=None"):
        processor()
    with pytest.raises(ValueError, match="sampling_rate=16000 needs audio"):
        processor(text="a", sampling_rate=16000)


@pytest.mark.parametrize("texts", ["one", ["one"], ["one", "two", "three"]])
def test_every_clip_has_one_transcript(processor: FastConformerProcessor, texts: str | list[str]) -> None:
    count = 1 if isinstance(texts, str) else len(texts)
    with pytest.raises(ValueError, match=f"text has {count} transcripts for 2 clips of audio"):
        processor(AUDIO, text=texts, sampling_rate=16000, return_tensors="pt")


@pytest.mark.parametrize("audio", [None, "audio"])
def test_no_transcript_at_all_is_refused(processor: FastConformerProcessor, audio: str | None) -> None:
    arguments = {} if audio is None else {"audio": AUDIO, "sampling_rate": 16000}
    with pytest.raises(ValueError, match=r"text=\[\] has no transcript"):
        processor(text=[], **arguments)
    if audio is not None:  # an empty one is a transcript
        labels = processor(text=["", "the dog"], return_tensors="pt", **arguments)["labels"]
        assert set(labels[0].tolist()) == {-100}


def test_ids_and_outputs_give_texts(processor: FastConformerProcessor) -> None:
    texts = ["the dog, and the fox.", "", "Where?"]
    output = output_of(processor, texts)
    assert processor.batch_decode(output) == texts
    assert processor.batch_decode(output.sequences) == texts
    assert processor.decode(output.sequences[0]) == texts[0]
    assert processor.decode(output_of(processor, texts[:1])) == texts[0]
    with pytest.raises(ValueError, match="found the output of 3 clips"):
        processor.decode(output)
    with pytest.raises(ValueError, match="found only token ids"):
        processor.batch_decode(output.sequences, timestamps=True)


def test_times_stand_in_frames_and_seconds(processor: FastConformerProcessor) -> None:
    assert processor.frame_seconds == 0.08
    (clip,) = processor.batch_decode(output_of(processor, ["the dog. Where?"]), timestamps=True)
    assert isinstance(clip, FastConformerTranscription)
    assert clip.text == "the dog. Where?"
    assert clip.events == []
    assert list(clip.timestamps) == ["token", "char", "word", "segment"]
    assert [word["word"] for word in clip.timestamps["word"]] == ["the", "dog.", "Where?"]
    assert [segment["segment"] for segment in clip.timestamps["segment"]] == ["the dog.", "Where?"]
    tokens = [item["token"] for item in clip.timestamps["token"]]
    assert tokens == processor.tokenizer.tokenize("the dog. Where?")
    assert [item["char"] for item in clip.timestamps["char"]] == [token.replace("▁", "") for token in tokens]
    first = clip.timestamps["token"][0]
    assert first == {"token": tokens[0], "start_offset": 0, "end_offset": 2, "start": 0.0, "end": 2 * 0.01 * 8}
    for level in clip.timestamps.values():
        for item in level:
            assert item["start"] == item["start_offset"] * 0.01 * 8
            assert item["end"] == item["end_offset"] * 0.01 * 8


@pytest.mark.parametrize("decoder_type", ["ctc", "rnnt", "tdt"])
def test_a_clip_has_the_same_times_in_any_batch(processor: FastConformerProcessor, decoder_type: str) -> None:
    texts = ["the dog.", "", "Where does the road lead? It leads to the river, past the mill."]
    batch = processor.batch_decode(output_of(processor, texts, decoder_type), timestamps=True)
    for text, clip in zip(texts, batch, strict=True):
        alone = processor.decode(output_of(processor, [text], decoder_type), timestamps=True)
        assert dict(clip) == dict(alone)
    assert batch[1].timestamps == {"token": [], "char": [], "word": [], "segment": []}


def test_levels_are_chosen(processor: FastConformerProcessor) -> None:
    output = output_of(processor, ["the dog."])
    everything = processor.decode(output, timestamps=True)
    assert dict(processor.decode(output, output_offsets=True)) == dict(everything)
    for asked, levels in (("word", ["word"]), (["segment", "char"], ["char", "segment"]), (("token",), ["token"])):
        timestamps = processor.decode(output, timestamps=asked).timestamps
        assert list(timestamps) == levels
        assert timestamps == {level: everything.timestamps[level] for level in levels}
    for wrong in ("words", ["word", "all"], []):
        with pytest.raises(ValueError, match=r"timestamps=.* is not supported"):
            processor.decode(output, timestamps=wrong)


def test_events_are_listed_and_not_in_the_text(processor: FastConformerProcessor) -> None:
    output = output_of(processor, ["the dog<EOU>"])
    clip = processor.decode(output, timestamps=True)
    position = int(output.sequence_lengths[0]) - 1
    assert processor.decode(output) == clip.text == "the dog"
    assert clip.timestamps["word"][-1]["word"] == "dog"
    assert [(event["event"], event["start_offset"]) for event in clip.events] == [("<EOU>", 3 * position)]
    written = processor.decode(output, timestamps=True, skip_special_tokens=False)
    assert processor.decode(output, skip_special_tokens=False) == written.text == "the dog<EOU>"
    assert written.timestamps["word"][-1]["word"] == "dog<EOU>"
    assert written.events == clip.events


def test_words_and_segments_follow_the_options() -> None:
    tokenizer = character_tokenizer([" ", *"abcdefghijklmnopqrstuvwxyz", "|", "."])
    options = {"word_separator": "|", "segment_separators": ["b"], "segment_gap_frames": None}
    processor = FastConformerProcessor(FastConformerFeatureExtractor(), tokenizer, **options)
    clip = processor.decode(output_of(processor, ["a|b|c"], "rnnt"), timestamps=True)
    assert [word["word"] for word in clip.timestamps["word"]] == ["a", "b", "c"]
    assert [segment["segment"] for segment in clip.timestamps["segment"]] == ["a b", "c"]
    processor.segment_gap_frames = 4
    clip = processor.decode(output_of(processor, ["a|b|c"], "rnnt"), timestamps="segment")
    assert [segment["segment"] for segment in clip.timestamps["segment"]] == ["a", "b", "c"]


def test_a_silent_clip_has_every_field(processor: FastConformerProcessor) -> None:
    """A text of no characters too is found under its name."""
    output = output_of(processor, ["the dog", ""])
    output.token_confidences, output.confidence_aggregation = torch.zeros(output.sequences.shape), "min"
    timed: Any = processor.batch_decode(output, timestamps="word")
    assert timed[1]["text"] == ""
    assert timed[1]["timestamps"] == {"word": []}
    sure: Any = processor.batch_decode(output, confidence=True)
    assert (sure[1]["text"], sure[1]["token_confidences"], sure[1]["confidence"]) == ("", [], 1.0)


def test_confidences_of_tokens_words_and_clips(processor: FastConformerProcessor) -> None:
    output = output_of(processor, ["the lazy dog", "the dog<EOU>"])
    longest = output.sequences.shape[1]
    output.token_confidences = torch.linspace(0.9, 0.1, 2 * longest).reshape(2, longest)
    output.confidence_aggregation = "min"
    found: Any = processor.batch_decode(output, confidence=True)
    for clip, transcription in enumerate(found):
        ids = output.sequences[clip, : output.sequence_lengths[clip]].tolist()
        is_word = [token != "<EOU>" for token in processor.tokenizer.vocabulary_tokens(ids)]
        values = output.token_confidences[clip, : len(ids)][torch.tensor(is_word)].tolist()
        assert transcription.timestamps is None
        assert transcription.token_confidences == values
        assert len(transcription.word_confidences) == len(transcription.text.split())
        assert transcription.word_confidences[-1] == transcription.confidence == min(values)
    assert found[1].text == "the dog"
    timed: Any = processor.batch_decode(output, confidence=True, timestamps="word")
    assert [transcription.confidence for transcription in timed] == [
        transcription.confidence for transcription in found
    ]
    assert timed[0].timestamps["word"]
    with pytest.raises(ValueError, match="token_confidences: found None"):
        processor.batch_decode(output_of(processor, ["the dog"]), confidence=True)
    with pytest.raises(ValueError, match="found only token ids"):
        processor.batch_decode([[1, 2]], confidence=True)


def test_joined_transcriptions(processor: FastConformerProcessor) -> None:
    def item(level: str, text: str, start: int, end: int) -> dict[str, Any]:
        seconds = {"start": start * processor.frame_seconds, "end": end * processor.frame_seconds}
        return {level: text, "start_offset": start, "end_offset": end, **seconds}

    def part(*words: tuple[str, int, int], confidences: list[float]) -> FastConformerTranscription:
        return FastConformerTranscription(
            text=" ".join(word for word, _, _ in words),
            timestamps={"word": [item("word", *word) for word in words], "segment": []},
            events=[item("event", "<EOU>", 9, 10)],
            token_confidences=confidences,
            word_confidences=confidences,
        )

    parts = [
        part(("Yes.", 1, 2), ("it", 3, 4), confidences=[0.9, 0.8]),
        part(confidences=[]),
        part(("is.", 0, 2), ("Good", 4, 5), confidences=[0.5, 0.7]),
    ]
    joined = processor.join_transcriptions(parts, [0, 20, 40], ["word", "segment"], "prod")
    assert joined.text == "Yes. it is. Good"
    assert joined.timestamps == {
        "word": [item("word", *word) for word in (("Yes.", 1, 2), ("it", 3, 4), ("is.", 40, 42), ("Good", 44, 45))],
        # A sentence goes on in the next part.
        "segment": [item("segment", *s) for s in (("Yes.", 1, 2), ("it is.", 3, 42), ("Good", 44, 45))],
    }
    assert joined.events == [item("event", "<EOU>", frame, frame + 1) for frame in (9, 29, 49)]
    assert joined.word_confidences == [0.9, 0.8, 0.5, 0.7]
    assert joined.confidence == aggregate_confidence([0.9, 0.8, 0.5, 0.7], "prod")
    plain = processor.join_transcriptions(parts, [0, 20, 40], False)
    assert (plain.text, plain.timestamps, plain.confidence) == (joined.text, None, None)


def test_incomplete_outputs_are_refused(processor: FastConformerProcessor) -> None:
    output = output_of(processor, ["the dog"])
    with pytest.raises(ValueError, match="durations: found None"):
        processor.decode(FastConformerGenerateOutput(**{**output, "durations": None}), timestamps=True)
    with pytest.raises(ValueError, match="frame_indices, decoder_type: found None"):
        processor.decode(FastConformerGenerateOutput(**{**output, "frame_indices": None}), timestamps=True)
    with pytest.raises(ValueError, match="subsampling_factor=0"):
        FastConformerProcessor(processor.feature_extractor, processor.tokenizer, subsampling_factor=0)


def test_saving_and_loading_change_nothing(processor: FastConformerProcessor, tmp_path: Path) -> None:
    AutoTokenizer.register(FastConformerConfig, fast_tokenizer_class=FastConformerTokenizer, exist_ok=True)
    AutoFeatureExtractor.register(FastConformerConfig, FastConformerFeatureExtractor, exist_ok=True)
    AutoProcessor.register(FastConformerConfig, FastConformerProcessor, exist_ok=True)
    processor.subsampling_factor = 4
    processor.segment_separators = ["!"]
    processor.segment_gap_frames = 7
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["subsampling_factor"] == 4
    output = output_of(processor, ["the dog. Where! the"])
    expected = processor.decode(output, timestamps=True)
    for loaded in (FastConformerProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is FastConformerProcessor
        assert loaded.frame_seconds == 4 * 0.01
        assert loaded.segment_gap_frames == 7
        assert loaded.segment_separators == ["!"]
        assert dict(loaded.decode(output, timestamps=True)) == dict(expected)


def test_tensors_are_returned_unless_others_are_asked_for(processor: FastConformerProcessor) -> None:
    """`model.generate(**processor(audio))` is enough."""
    inputs = processor(AUDIO, text=["the dog", "the"], sampling_rate=16000)
    assert all(torch.is_tensor(value) for value in inputs.values())
    arrays = processor(AUDIO, text=["the dog", "the"], sampling_rate=16000, return_tensors="np")
    assert all(isinstance(value, np.ndarray) for value in arrays.values())
    lists = processor(AUDIO, text=["the dog", "the"], sampling_rate=16000, padding=False)
    assert all(isinstance(lists[name], list) for name in ("input_features", "attention_mask", "labels"))


def test_arguments_in_mappings(processor: FastConformerProcessor) -> None:
    """As Transformers' processors take them."""
    texts = ["the dog", "the lazy brown dog"]
    expected = processor(AUDIO, text=texts, sampling_rate=16000, return_tensors="pt")
    found = processor(
        AUDIO,
        text=texts,
        audio_kwargs={"sampling_rate": 16000},
        common_kwargs={"return_tensors": "pt"},
        text_kwargs={},
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    found = processor(
        AUDIO,
        text=texts,
        sampling_rate=16000,
        audio_kwargs={"max_length": 3000, "truncation": True},
        text_kwargs={"max_length": 4, "truncation": True, "padding": "max_length", "return_tensors": "pt"},
    )
    assert found["input_lengths"].tolist() == [3000 // 160, 2500 // 160]
    rows = processor.tokenizer(texts).input_ids
    assert found["labels"].tolist() == [(row[:4] + [-100] * 4)[:4] for row in rows]
    assert len(rows[1]) > 4
    ids = processor(
        text=texts, text_kwargs={"return_tensors": "pt"}, common_kwargs={"truncation": True, "max_length": 2}
    )
    assert ids["input_ids"].shape == (2, 2)
    filled = processor(AUDIO, text=texts, sampling_rate=16000, text_kwargs={"padding": "max_length", "max_length": 50})
    assert filled["labels"].shape == (2, 50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 9}, "max_length=9 may be of samples or tokens; expected it in audio_kwargs or text_kwargs"),
        ({"truncation": True}, "truncation=True may be of samples or tokens"),
        ({"audio_kwargs": {"sampling_rate": 8000}}, "audio_kwargs has sampling_rate=8000, which contradicts"),
        ({"common_kwargs": 3}, "common_kwargs=3 is not supported; expected a mapping"),
        (
            {"text_kwargs": {"max_length": 4}},
            "max_length=4 is not supported; expected None without truncation=True or",
        ),
        (
            {"text_kwargs": {"truncation": True}},
            "truncation=True is not supported; expected False without a max_length",
        ),
        ({"text_kwargs": {"max_length": 1, "padding": "max_length"}}, "max_length=1 is not supported; expected .* or"),
        ({"text_kwargs": {"stride": 1}}, "text_kwargs has stride; expected some of language"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    processor: FastConformerProcessor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        processor(AUDIO, text=["the dog", "the"], sampling_rate=16000, **options)


def test_arguments_of_audio_need_audio(processor: FastConformerProcessor) -> None:
    with pytest.raises(ValueError, match=r"audio_kwargs=\{'padding': True\} needs audio"):
        processor(text="the", audio_kwargs={"padding": True})


def test_logits_become_text(processor: FastConformerProcessor) -> None:
    """Best classes are taken, repeats joined, and rows of -100, with which `Trainer` pads, are nothing."""
    ids = processor.tokenizer("the dog").input_ids
    blank = processor.tokenizer.blank_token_id
    frames = [ids[0], ids[0], blank, *ids[1:], blank]
    logits = torch.nn.functional.one_hot(torch.tensor([frames]), blank + 1).float() * 5.0
    padded = torch.nn.functional.pad(logits, (0, 0, 0, 3), value=-100.0)
    for given in (logits, padded, padded.numpy(), padded.to(torch.bfloat16)):
        assert processor.batch_decode(given) == ["the dog"]
        assert processor.decode(given[0]) == "the dog"
    with pytest.raises(ValueError, match=r"floating-point array of shape \(3, 4\); expected ids, or the logits"):
        processor.batch_decode(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="floating-point array of shape"):
        processor.decode(logits)
    with pytest.raises(ValueError, match="found only token ids"):
        processor.batch_decode(logits, timestamps=True)


def test_what_generate_returned_is_not_joined_again(processor: FastConformerProcessor) -> None:
    output = output_of(processor, ["aaaa the"], "ctc")
    expected = processor.batch_decode(output)
    assert processor.batch_decode(output, group_tokens=False) == processor.batch_decode(output.sequences) == expected
    with pytest.raises(ValueError, match="group_tokens=True is not supported"):
        processor.batch_decode(output, group_tokens=True)
