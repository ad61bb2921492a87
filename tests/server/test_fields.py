from __future__ import annotations

import math

import pytest

from transformers_fastconformer.server.errors import ApiError
from transformers_fastconformer.server.fields import PROBABILITIES, FileRequest, log_prob_of
from transformers_fastconformer.server.options import ServerOptions


def test_list_fields_are_accepted_with_and_without_brackets() -> None:
    found = FileRequest.parse(
        [
            ("keywords", "Nvidia"),
            ("keywords[]", "Canary"),
            ("languages[]", "en"),
            ("languages", "fr"),
            ("include[]", "logprobs"),
        ]
    )
    assert found.keywords == ("Nvidia", "Canary")
    assert found.languages == ("en", "fr")
    assert found.has_log_probs


def test_the_fields_become_options() -> None:
    parsed = FileRequest.parse([("language", "en"), ("keywords", "nine"), ("include", "logprobs")])
    options = parsed.to_options(ServerOptions(batch_size=3), is_multitask=False)
    assert options.decoding.language == "en"
    assert options.decoding.boosting.phrases == ("nine",)  # type: ignore[union-attr]
    assert options.decoding.confidence == PROBABILITIES
    assert options.batch_size == 3
    vad = '{"type": "server_vad", "threshold": 0.4, "silence_duration_ms": 500}'
    activity = FileRequest.parse([("chunking_strategy", vad)]).voice_activity
    assert activity is not None
    assert (activity.threshold, activity.min_silence_seconds, activity.padding_seconds) == (0.4, 0.5, 0.3)


def test_prompts_and_translations_are_those_of_canary() -> None:
    parsed = FileRequest.parse([("language", "de"), ("prompt", "so far"), ("response_format", "srt")])
    options = parsed.to_options(ServerOptions(), is_multitask=True)
    assert options.decoding.context == "so far"
    assert options.timestamps == ("word", "segment")
    translation = FileRequest.parse([("language", "de")], is_translation=True)
    decoding = translation.to_options(ServerOptions(), is_multitask=True).decoding
    assert (decoding.source_lang, decoding.target_lang, decoding.task) == ("de", "en", "translate")


def test_speakers_need_a_server_that_tells_them_apart() -> None:
    for fields, name in (
        ([("response_format", "diarized_json")], "response_format"),
        ([("response_format", "vtt"), ("diarize", "true")], "diarize"),
    ):
        parsed = FileRequest.parse(fields)
        assert parsed.has_speakers
        with pytest.raises(ApiError, match="serve --diarize MODEL") as refused:
            parsed.to_options(ServerOptions(), is_multitask=False)
        assert refused.value.parameter == name
        assert "segment" in parsed.to_options(ServerOptions(diarize="speakers"), is_multitask=True).timestamps
        with pytest.raises(ApiError):
            FileRequest.parse(fields, is_translation=True)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ([("frobnicate", "1")], "frobnicate"),
        ([("model", "a"), ("model", "b")], "model"),
        ([("temperature", "0.5")], "temperature"),
        ([("temperature", "warm")], "temperature"),
        ([("diarize", "true")], "diarize"),
        ([("diarize", "who"), ("response_format", "srt")], "diarize"),
        ([("response_format", "docx")], "response_format"),
        ([("known_speaker_names[]", "Ann")], "known_speaker_names"),
        ([("include", "everything")], "include"),
        ([("include", "logprobs"), ("response_format", "text")], "include"),
        ([("timestamp_granularities[]", "word")], "timestamp_granularities"),
        ([("timestamp_granularities", "letter"), ("response_format", "verbose_json")], "timestamp_granularities"),
        ([("stream", "perhaps")], "stream"),
        ([("stream", "true"), ("response_format", "srt")], "stream"),
        ([("chunking_strategy", "[" * 9000)], "chunking_strategy"),
        ([("chunking_strategy", '{"type": "server_vad", "x": 1}')], "chunking_strategy.x"),
        ([("chunking_strategy", '{"type": "server_vad", "threshold": "a"}')], "chunking_strategy.threshold"),
        ([("language", "en"), ("languages", "fr")], "languages"),
        ([("keywords", "x" * 201)], "keywords"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(fields: list[tuple[str, str]], name: str) -> None:
    with pytest.raises(ApiError) as refused:
        FileRequest.parse(fields)
    assert refused.value.parameter == name
    assert refused.value.status == 400


def test_what_a_model_does_not_have_is_refused_by_name() -> None:
    for fields, is_translation, is_multitask, name in (
        ([("prompt", "so far")], False, False, "prompt"),
        ([], True, False, "model"),
        ([("include", "logprobs")], False, True, "include"),
        ([("languages", "de"), ("languages", "en")], False, True, "languages"),
    ):
        with pytest.raises(ApiError) as refused:
            FileRequest.parse(fields, is_translation).to_options(ServerOptions(), is_multitask)
        assert refused.value.parameter == name


def test_empty_fields_are_not_given() -> None:
    assert FileRequest.parse([("prompt", ""), ("language", ""), ("temperature", "0"), ("stream", "false")]) == (
        FileRequest()
    )


def test_a_confidence_is_a_probability() -> None:
    for probability in (0.02, 0.5, 1.0):
        confidence = (probability * 100 - 1) / 99
        assert math.exp(log_prob_of(confidence, 100)) == pytest.approx(probability)
