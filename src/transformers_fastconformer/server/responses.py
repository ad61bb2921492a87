"""Bodies of the answers for files, in the forms of OpenAI's API."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from typing import Any

from ..inference.transcript import Transcript
from ..processing_fastconformer import FastConformerProcessor
from ..writers.formats import format_transcript
from ..writers.record import TranscriptRecord
from .fields import FileRequest, log_prob_of

MEDIA_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "diarized_json": "application/json",
}
# Speaker of a segment in a recording in which nobody was found.
NOBODY = "unknown"
# Names in English of the languages that the published checkpoints write.
LANGUAGE_NAMES = {
    "ar": "arabic", "be": "belarusian", "bg": "bulgarian", "ca": "catalan", "cs": "czech", "da": "danish",
    "de": "german", "el": "greek", "en": "english", "eo": "esperanto", "es": "spanish", "et": "estonian",
    "fa": "persian", "fi": "finnish", "fr": "french", "he": "hebrew", "hi": "hindi", "hr": "croatian",
    "hu": "hungarian", "hy": "armenian", "it": "italian", "ja": "japanese", "ka": "georgian", "kk": "kazakh",
    "ko": "korean", "lt": "lithuanian", "lv": "latvian", "mt": "maltese", "nl": "dutch", "no": "norwegian",
    "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sk": "slovak", "sl": "slovenian",
    "sv": "swedish", "th": "thai", "tr": "turkish", "uk": "ukrainian", "ur": "urdu", "uz": "uzbek",
    "vi": "vietnamese", "zh": "chinese",
}  # fmt: skip


def language_code(transcript: Transcript, request: FileRequest) -> str | None:
    """The language of a text: as found, or as told; None: not known."""
    if request.is_translation:
        return "en"
    told = request.language or (request.languages[0] if len(request.languages) == 1 else None)
    return transcript.language or told


def write_body(transcript: Transcript, request: FileRequest, processor: FastConformerProcessor) -> str:
    """The body of an answer, in the format that was asked for."""
    if request.response_format == "text":
        return transcript.text + "\n"
    if request.response_format in ("srt", "vtt"):
        return format_transcript(TranscriptRecord(transcript, "file"), request.response_format)
    describe = DESCRIPTIONS.get(request.response_format, _describe)
    return json.dumps(describe(transcript, request, processor), ensure_ascii=False, allow_nan=False)


def _describe(transcript: Transcript, request: FileRequest, processor: FastConformerProcessor) -> dict[str, Any]:
    body: dict[str, Any] = {"text": transcript.text, "usage": usage_of(transcript)}
    if request.language or request.languages:
        code = language_code(transcript, request)
        body["languages"] = [] if code is None else [{"code": code}]
    if request.has_log_probs:
        body["logprobs"] = list_log_probs(transcript, processor)
    return body


def usage_of(transcript: Transcript) -> dict[str, Any]:
    """OpenAI's `usage`: the seconds of audio, rounded up."""
    return {"type": "duration", "seconds": math.ceil(transcript.duration_seconds)}


def list_log_probs(transcript: Transcript, processor: FastConformerProcessor) -> list[dict[str, Any]]:
    """Tokens of the text with their log-probability among tokens and blank, and their bytes."""
    ids = transcript.token_ids or []
    confidences = transcript.token_confidences or []
    tokenizer = processor.tokenizer
    num_classes = tokenizer.blank_token_id + 1
    rows = []
    for token_id, confidence in zip(ids, confidences, strict=True):
        text = str(tokenizer.convert_ids_to_tokens(token_id)).replace("▁", " ")
        log_prob = round(log_prob_of(confidence, num_classes), 6)
        rows.append({"token": text, "logprob": log_prob, "bytes": list(text.encode())})
    return rows


def _describe_verbose(
    transcript: Transcript, request: FileRequest, processor: FastConformerProcessor
) -> dict[str, Any]:
    code = language_code(transcript, request)
    body: dict[str, Any] = {
        "task": "translate" if request.is_translation else "transcribe",
        "language": None if code is None else LANGUAGE_NAMES.get(code.split("-")[0], code),
        "duration": round(transcript.duration_seconds, 3),
        "text": transcript.text,
        "usage": usage_of(transcript),
    }
    timestamps = transcript.timestamps or {}
    if "word" in request.granularities:
        body["words"] = [
            {"word": item["word"], "start": _round(item["start"]), "end": _round(item["end"]), **_speaker_of(item)}
            for item in timestamps.get("word", [])
        ]
    if "segment" in request.granularities:
        body["segments"] = [
            _describe_segment(number, item, transcript) for number, item in enumerate(timestamps.get("segment", []))
        ]
    return body


def _describe_segment(number: int, item: dict[str, Any], transcript: Transcript) -> dict[str, Any]:
    text = item["segment"]
    encoded = text.encode() or b" "
    return {
        "id": number,
        "seek": 0,
        "start": _round(item["start"]),
        "end": _round(item["end"]),
        "text": text,
        "tokens": _tokens_of(item, transcript),
        # Numbers that Whisper has and these models do not: constants, as clients that filter by them expect numbers.
        "temperature": 0.0,
        "avg_logprob": 0.0,
        "no_speech_prob": 0.0,
        "compression_ratio": round(len(encoded) / len(zlib.compress(encoded)), 4),
        **_speaker_of(item),
    }


def _speaker_of(item: dict[str, Any]) -> dict[str, Any]:
    return {"speaker": item["speaker"]} if "speaker" in item else {}


def _describe_diarized(
    transcript: Transcript, request: FileRequest, processor: FastConformerProcessor
) -> dict[str, Any]:
    return {
        "task": "transcribe",
        "duration": round(transcript.duration_seconds, 3),
        "text": transcript.text,
        "segments": list_turns(transcript),
        "usage": usage_of(transcript),
    }


DESCRIPTIONS = {"verbose_json": _describe_verbose, "diarized_json": _describe_diarized}


def list_turns(transcript: Transcript) -> list[dict[str, Any]]:
    """The segments of OpenAI's `diarized_json`, whose speakers are A, B... in the order in which they are heard."""
    names: dict[str, str] = {}
    segments = []
    for number, item in enumerate((transcript.timestamps or {}).get("segment", []), start=1):
        speaker = item.get("speaker")
        if speaker is not None and speaker not in names:
            names[speaker] = _letters(len(names))
        segments.append(
            {
                "type": "transcript.text.segment",
                "id": f"seg_{number:03d}",
                "start": _round(item["start"]),
                "end": _round(item["end"]),
                "text": item["segment"],
                "speaker": NOBODY if speaker is None else names[speaker],
            }
        )
    return segments


def _letters(number: int) -> str:
    """A to Z, then AA to AZ and so on."""
    rest, last = divmod(number, 26)
    return (_letters(rest - 1) if rest else "") + chr(ord("A") + last)


def _tokens_of(item: dict[str, Any], transcript: Transcript) -> list[int]:
    """Ids of the tokens of a segment, by their times; without any where they are not known one by one."""
    ids = transcript.token_ids or []
    tokens = (transcript.timestamps or {}).get("token", [])
    if len(ids) != len(tokens):
        return []
    start, end = item["start_offset"], item["end_offset"]
    return [
        token_id
        for token_id, token in zip(ids, tokens, strict=True)
        if start <= token["start_offset"] < max(end, start + 1)
    ]


def _round(seconds: float) -> float:
    return round(float(seconds), 3)


def sse(event: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


def list_events(
    transcript: Transcript, request: FileRequest, processor: FastConformerProcessor
) -> Iterator[dict[str, Any]]:
    """Events of a transcript: a delta for each segment, which together are the text; who says what; the end."""
    log_probs = list_log_probs(transcript, processor) if request.has_log_probs else None
    for delta in split_text(transcript):
        yield {"type": "transcript.text.delta", "delta": delta}
    if request.response_format == "diarized_json":
        yield from list_turns(transcript)
    done: dict[str, Any] = {"type": "transcript.text.done", "text": transcript.text, "usage": usage_of(transcript)}
    if log_probs is not None:
        done["logprobs"] = log_probs
    code = language_code(transcript, request)
    if code is not None and (request.language or request.languages):
        done["languages"] = [{"code": code}]
    yield done


def split_text(transcript: Transcript) -> list[str]:
    """The text, cut where its segments begin."""
    text, place = transcript.text, 0
    cuts = [0]
    for item in (transcript.timestamps or {}).get("segment", []):
        found = text.find(item["segment"].strip(), place)
        if found > cuts[-1]:
            cuts.append(found)
        if found >= 0:
            place = found + len(item["segment"].strip())
    pieces = [text[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(text)], strict=True)]
    return [piece for piece in pieces if piece]
