"""The endpoints for files, as the `openai` package uses them."""

from __future__ import annotations

import asyncio
import io
import math
import threading
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
from diarizers import build_diarizer, make_extractor
from openai import OpenAI
from served import CLIP, Served, serving

from transformers_fastconformer import add_speakers, diarize, load_model, transcribe_file
from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.server.app import build_app
from transformers_fastconformer.server.file_queue import FileJob
from transformers_fastconformer.server.options import ServerOptions
from transformers_fastconformer.server.service import Service

KEY = {"Authorization": "Bearer secret"}
SPOKEN = "three one four one five nine"


def transcribe(client: OpenAI, **fields: Any) -> Any:
    with open(CLIP, "rb") as file:
        return client.audio.transcriptions.create(file=file, **{"model": "demo", **fields})


def test_every_format(client: OpenAI) -> None:
    answer = transcribe(client)
    assert answer.text == SPOKEN
    assert answer.usage.seconds == 3
    assert transcribe(client, response_format="text").strip() == SPOKEN
    assert "00:00:00,000 --> " in transcribe(client, response_format="srt")
    assert transcribe(client, response_format="vtt").startswith("WEBVTT")
    verbose = transcribe(client, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert [word.word for word in verbose.words] == SPOKEN.split()
    assert all(0 <= word.start < word.end <= verbose.duration for word in verbose.words)
    assert [segment.text for segment in verbose.segments] == [SPOKEN]
    assert len(verbose.segments[0].tokens) > 0


def test_log_probabilities_of_the_tokens(client: OpenAI) -> None:
    answer = transcribe(client, include=["logprobs"])
    assert "".join(one.token for one in answer.logprobs).strip() == SPOKEN
    assert all(-1 < one.logprob <= 0 for one in answer.logprobs)
    assert bytes(map(int, answer.logprobs[0].bytes)).decode() == answer.logprobs[0].token
    assert math.exp(min(one.logprob for one in answer.logprobs)) < 1


def test_events(client: OpenAI) -> None:
    events = list(transcribe(client, stream=True))
    assert "".join(event.delta for event in events[:-1]) == SPOKEN
    assert (events[-1].type, events[-1].text) == ("transcript.text.done", SPOKEN)


def test_keywords_and_languages(client: OpenAI) -> None:
    answer = transcribe(client, extra_body={"keywords": ["nine"], "languages": ["en"]})
    assert answer.text == SPOKEN
    assert answer.languages[0].code == "en"
    with pytest.raises(openai.BadRequestError) as refused:
        transcribe(client, language="klingon")
    assert refused.value.param == "language"
    assert "'en'" in str(refused.value)


def test_speech_only(client: OpenAI) -> None:
    answer = transcribe(client, chunking_strategy={"type": "server_vad", "silence_duration_ms": 1000})
    assert answer.text == SPOKEN
    assert transcribe(client, chunking_strategy="auto").text == SPOKEN


def test_speakers(tmp_path: Path) -> None:
    """Who said what is what `add_speakers` gives, in each format that has a place for it; short files and long."""
    diarizer = build_diarizer(), make_extractor()
    for part in diarizer:
        part.save_pretrained(tmp_path / "speakers")
    long = tmp_path / "long.wav"  # is not kept in memory
    samples = read_audio(CLIP)
    soundfile.write(long, np.concatenate([samples, np.zeros(16000 * 61)]), 16000)
    model = load_model("demo")
    with serving(diarize=str(tmp_path / "speakers")) as running:
        asking = OpenAI(base_url=f"{running.address}/v1", api_key="any", max_retries=0)
        assert asking.models.list().data[0].diarizes
        for path in (CLIP, long):
            transcript = add_speakers(transcribe_file(*model, path), diarize(path, diarizer).turns)
            words, segments = (
                [item["speaker"] for item in transcript.timestamps[kind]] for kind in ("word", "segment")
            )
            letters = dict(zip(dict.fromkeys(segments), "ABC", strict=False))
            asked = {"extra_body": {"diarize": True}}
            with open(path, "rb") as file:
                create = partial(asking.audio.transcriptions.create, file=file, model="demo")
                answer = create(response_format="diarized_json")
                assert answer.text == transcript.text
                assert [one.text for one in answer.segments] == [
                    item["segment"] for item in transcript.timestamps["segment"]
                ]
                assert [one.speaker for one in answer.segments] == [letters[speaker] for speaker in segments]
                assert answer.segments[0].id == "seg_001"
                verbose = create(response_format="verbose_json", timestamp_granularities=["word", "segment"], **asked)
                assert [one.speaker for one in verbose.words] == words
                assert [one.speaker for one in verbose.segments] == segments
                assert f"[{segments[0]}]" in create(response_format="srt", **asked)
                assert "speaker" not in create(response_format="srt")
                events = list(create(response_format="diarized_json", stream=True))
            found = [event.speaker for event in events if event.type == "transcript.text.segment"]
            assert found == [letters[speaker] for speaker in segments]
            text = "".join(event.delta for event in events if event.type == "transcript.text.delta")
            assert text == events[-1].text == transcript.text


def test_refusals_name_the_field(client: OpenAI, served: Served) -> None:
    for name, fields in (
        ("prompt", {"prompt": "so far"}),
        ("temperature", {"temperature": 0.7}),
        ("response_format", {"response_format": "diarized_json"}),
        ("frobnicate", {"extra_body": {"frobnicate": "1"}}),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            transcribe(client, **fields)
        assert refused.value.param == name
    with pytest.raises(openai.NotFoundError, match="demo-streaming"):
        transcribe(client, model="whisper-1")
    with pytest.raises(openai.AuthenticationError):
        transcribe(client.with_options(api_key="wrong"))
    with open(CLIP, "rb") as file:
        answer = httpx.post(f"{served.address}/v1/audio/translations", headers=KEY, files={"file": file})
    assert "does not translate" in answer.json()["error"]["message"]
    with pytest.raises(openai.BadRequestError, match="cannot be decoded"):
        client.audio.transcriptions.create(file=("talk.mp3", b"not audio"), model="demo")
    url = f"{served.address}/v1/audio/transcriptions"
    assert httpx.post(url, headers=KEY, json={"file": "http://127.0.0.1/secret.wav"}).status_code == 415
    answer = httpx.post(url, headers=KEY, files={"file": (None, "/etc/passwd")})
    assert answer.json()["error"]["param"] == "file"


def test_a_recording_longer_than_a_batch(client: OpenAI) -> None:
    samples, rate = soundfile.read(CLIP)
    file = io.BytesIO()
    soundfile.write(file, np.concatenate([samples, np.zeros(2 * rate)] * 16), rate, format="FLAC")
    answer = client.audio.transcriptions.create(file=("long.flac", file.getvalue()), model="demo")
    assert answer.text.split().count("three") == 16


def test_many_clients_each_have_their_own_text(client: OpenAI) -> None:
    samples, rate = soundfile.read(CLIP)
    texts: dict[int, str] = {}

    def ask(number: int) -> None:
        file = io.BytesIO()
        soundfile.write(file, np.concatenate([samples] * (number % 3 + 1)), rate, format="WAV")
        texts[number] = client.audio.transcriptions.create(file=("a.wav", file.getvalue()), model="demo").text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for number in range(9):
        assert texts[number].split().count("three") == number % 3 + 1


def test_a_client_that_leaves_before_the_first_event_leaves_nothing() -> None:
    service = Service(ServerOptions(device="cpu"))
    request = httpx.Request(
        "POST", "http://server/", data={"stream": "true"}, files={"file": ("clip.wav", CLIP.read_bytes())}
    )
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/audio/transcriptions",
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
    }
    messages = iter([{"type": "http.request", "body": request.read(), "more_body": False}])
    dropped: list[FileJob] = []
    sent: list[str] = []

    async def receive() -> Any:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message["type"])
        await asyncio.sleep(0)  # the one that looks after the client comes first

    submit = service.files.submit
    service.files.submit = lambda job: dropped.append(job) or submit(job)  # type: ignore[method-assign]
    asyncio.run(build_app(service)(scope, receive, send))
    assert "http.response.body" not in sent, "an event was sent"
    assert [job.is_dropped for job in dropped] == [True]
    assert service.models._entries["demo"].num_users == 0
    service.close()
