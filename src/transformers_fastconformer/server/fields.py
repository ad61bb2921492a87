"""Fields of the requests for files: read, checked and turned into the options of the package, or refused by name."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..audio.voice_activity import VoiceActivityOptions, check_voice_activity
from ..decoding.confidence import ConfidenceOptions
from ..decoding.options import DecodingOptions
from ..decoding.phrase_boosting import PhraseBoosting
from ..inference.options import TranscriptionOptions
from ..inference.text_language import PACKAGE as LANGUAGE_DETECTOR
from ..validation import is_number
from .errors import ApiError, refused_field
from .options import ServerOptions

RESPONSE_FORMATS = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")
# Formats that have a place for speakers, which `diarize` asks for; the first always has them.
SPEAKER_FORMATS = ("diarized_json", "verbose_json", "srt", "vtt")
STREAM_FORMATS = ("json", "text", "diarized_json")
GRANULARITIES = ("word", "segment")
LIST_FIELDS = ("languages", "keywords", "include", "timestamp_granularities")
TEXT_FIELDS = ("model", "language", "prompt", "response_format", "temperature", "stream", "chunking_strategy",
               "diarize")  # fmt: skip
REFUSED = {
    "known_speaker_names": "speakers are told apart, and not recognised.",
    "known_speaker_references": "speakers are told apart, and not recognised.",
}
CHUNKING_PART = re.compile(r"chunking_strategy\[(\w+)\]")
MAX_KEYWORDS = 1000
MAX_KEYWORD_CHARACTERS = 200
# With these, the confidence in a token is a function of its probability, see `probability_of`.
PROBABILITIES = ConfidenceOptions(method="max_prob", alpha=1.0)


@dataclass(frozen=True)
class FileRequest:
    """
    What a client asks for.

    Args:
        model: Name of the model, or None.
        language: Code of the language that is spoken, or None.
        languages: Codes that the text may be in.
        keywords: Phrases that the text prefers.
        prompt: Text that went before.
        response_format: One of `RESPONSE_FORMATS`.
        granularities: Of `GRANULARITIES`, for `verbose_json`.
        has_log_probs: Log-probabilities of tokens are wanted.
        is_stream: Server-sent events are wanted.
        voice_activity: Find speech first.
        is_translation: English text is wanted, whatever is spoken.
        has_speakers: Who said what is wanted.
    """

    model: str | None = None
    language: str | None = None
    languages: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    prompt: str = ""
    response_format: str = "json"
    granularities: tuple[str, ...] = ("segment",)
    has_log_probs: bool = False
    is_stream: bool = False
    voice_activity: VoiceActivityOptions | None = None
    is_translation: bool = False
    has_speakers: bool = False

    @classmethod
    def parse(cls, fields: Sequence[tuple[str, str]], is_translation: bool = False) -> FileRequest:
        """
        Read the fields of a form, file left out.

        Args:
            fields: Names and values, in order; names of lists with or without `[]`.
            is_translation: Those of `/v1/audio/translations`.

        Raises:
            ApiError: for a field that is not known or not honoured, and for a value that is not accepted.
        """
        lists, texts = _sort_fields(fields)
        response_format = texts.get("response_format") or "json"
        _require_choice("response_format", response_format, RESPONSE_FORMATS)
        include = lists["include"]
        for name in include:
            _require_choice("include", name, ("logprobs",))
        if include and response_format != "json":
            raise refused_field("include", "logprobs belong to response_format=json.")
        granularities = lists["timestamp_granularities"]
        for name in granularities:
            _require_choice("timestamp_granularities", name, GRANULARITIES)
        if granularities and response_format != "verbose_json":
            raise refused_field("timestamp_granularities", "they belong to response_format=verbose_json.")
        _check_temperature(texts.get("temperature"))
        is_stream = _parse_flag("stream", texts.get("stream"))
        if is_stream and response_format not in STREAM_FORMATS:
            expected = ", ".join(STREAM_FORMATS)
            raise refused_field("stream", f"expected a response_format of {expected}; found {response_format}.")
        has_speakers = _parse_flag("diarize", texts.get("diarize"))
        if has_speakers and response_format not in SPEAKER_FORMATS:
            expected = ", ".join(SPEAKER_FORMATS)
            raise refused_field("diarize", f"expected a response_format of {expected}; found {response_format}.")
        if texts.get("language") and lists["languages"]:
            raise refused_field("languages", "expected it or language, not both.")
        if is_translation:
            if response_format == "diarized_json":
                raise refused_field("response_format", "diarized_json is not a format of translations.")
            for name in ("languages", "keywords", "stream", "include", "chunking_strategy", "diarize"):
                if name in {key.removesuffix("[]") for key, _ in fields}:
                    raise refused_field(name, "it is not a field of translations.")
        return cls(
            model=texts.get("model") or None,
            language=texts.get("language") or None,
            languages=lists["languages"],
            keywords=check_keywords(lists["keywords"]),
            prompt=texts.get("prompt", ""),
            response_format=response_format,
            granularities=granularities or ("segment",),
            has_log_probs=bool(include),
            is_stream=is_stream,
            voice_activity=_parse_chunking(texts.get("chunking_strategy")),
            is_translation=is_translation,
            has_speakers=has_speakers or response_format == "diarized_json",
        )

    def to_options(self, server: ServerOptions, is_multitask: bool) -> TranscriptionOptions:
        """
        The options of the transcription.

        Args:
            server: Options of the server.
            is_multitask: The model takes prompts.

        Raises:
            ApiError: for what such a model does not have.
        """
        if self.has_speakers and server.diarize is None:
            name = "response_format" if self.response_format == "diarized_json" else "diarize"
            raise refused_field(name, "this server does not tell speakers apart: `serve --diarize MODEL` does.")
        decoding: dict[str, Any] = {}
        if is_multitask:
            if self.has_log_probs:
                raise refused_field("include", "this model gives no logprobs of its tokens.")
            if len(self.languages) > 1:
                raise refused_field("languages", "this model is told one language; expected language, or one code.")
            decoding["language"] = self.language or next(iter(self.languages), None)
            decoding["context"] = self.prompt or None
        elif self.prompt:
            raise refused_field("prompt", "this model takes none; expected keywords for names and jargon.")
        elif self.languages:
            decoding["languages"] = self.languages
        else:
            decoding["language"] = self.language
        if self.is_translation:
            if not is_multitask:
                raise refused_field("model", "it does not translate; expected a Canary model.")
            decoding |= {"language": None, "source_lang": self.language, "target_lang": "en", "task": "translate"}
        if self.keywords:
            decoding["boosting"] = PhraseBoosting(self.keywords)
        if self.has_log_probs:
            decoding["confidence"] = PROBABILITIES
        return TranscriptionOptions(
            decoding=DecodingOptions(**decoding),
            timestamps=self._levels(is_multitask),
            voice_activity=self.voice_activity,
            batch_size=server.batch_size,
            batch_seconds=server.batch_seconds,
            detect_language=self.is_language_reported and has_language_detector(),
        )

    @property
    def is_language_reported(self) -> bool:
        """True where the answer has a language that the text must be asked for."""
        return self.response_format == "verbose_json" or bool(self.languages)

    def _levels(self, is_multitask: bool) -> bool | tuple[str, ...]:
        if not is_multitask:
            # The same for all, so that requests of all formats go through the model together.
            return ("token", "char", "word", "segment")
        if self.response_format in ("srt", "vtt", "diarized_json"):
            return ("word", "segment")
        return tuple(self.granularities) if self.response_format == "verbose_json" else False


def has_language_detector() -> bool:
    """Tell whether the extra `languages` is installed."""
    return importlib.util.find_spec(LANGUAGE_DETECTOR) is not None


def probability_of(confidence: float, num_classes: int) -> float:
    """The probability of a token by its confidence under `PROBABILITIES`, above 0."""
    return min(max((confidence * (num_classes - 1) + 1) / num_classes, 1e-12), 1.0)


def log_prob_of(confidence: float, num_classes: int) -> float:
    """Its natural logarithm."""
    return math.log(probability_of(confidence, num_classes))


def _sort_fields(fields: Sequence[tuple[str, str]]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    lists: dict[str, list[str]] = {name: [] for name in LIST_FIELDS}
    texts: dict[str, str] = {}
    chunking: dict[str, Any] = {}
    for key, value in fields:
        name = key[:-2] if key.endswith("[]") else key
        if (found := CHUNKING_PART.fullmatch(key)) is not None:
            # Clients with types write an object of a form so.
            chunking[found[1]] = value if found[1] == "type" else _parse_number(key, value)
        elif name in REFUSED:
            raise refused_field(name, REFUSED[name])
        elif name in lists:
            lists[name].append(value.strip())
        elif key in texts:
            raise ApiError(f"{key} is given twice; expected it once.", parameter=key, code="invalid_value")
        elif key in TEXT_FIELDS:
            texts[key] = value if key == "prompt" else value.strip()
        else:
            accepted = ", ".join(("file", *TEXT_FIELDS, *LIST_FIELDS))
            raise ApiError(
                f"{key[:100]} is not a field of this server; expected some of {accepted}.",
                400,
                key[:100],
                "unknown_parameter",
            )
    if chunking:
        texts["chunking_strategy"] = json.dumps(chunking)
    return {name: tuple(dict.fromkeys(filter(None, values))) for name, values in lists.items()}, texts


def _require_choice(name: str, value: str, accepted: Sequence[str]) -> None:
    if value not in accepted:
        raise ApiError(
            f"{name}={value[:100]!r} is not supported; expected one of {', '.join(accepted)}.",
            400,
            name,
            "invalid_value",
        )


def check_keywords(keywords: tuple[str, ...]) -> tuple[str, ...]:
    """
    The keywords, if they are not too many or too long.

    Raises:
        ApiError: otherwise.
    """
    if len(keywords) > MAX_KEYWORDS or any(len(one) > MAX_KEYWORD_CHARACTERS for one in keywords):
        raise ApiError(
            f"keywords: expected at most {MAX_KEYWORDS} of {MAX_KEYWORD_CHARACTERS} characters each.",
            parameter="keywords",
            code="invalid_value",
        )
    return keywords


def _check_temperature(text: str | None) -> None:
    try:
        is_zero = not text or float(text) == 0
    except ValueError:
        is_zero = False
    if not is_zero:
        raise refused_field("temperature", f"expected 0, as nothing is drawn at random; found {str(text)[:50]}.")


def _parse_flag(name: str, text: str | None) -> bool:
    value = (text or "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise ApiError(f"{name}={value[:50]!r} is not supported; expected true or false.", 400, name, "invalid_value")
    return value in ("true", "1")


def _parse_number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ApiError(f"{name}={text[:50]!r} is not supported; expected a number.", 400, name, "invalid_value")
    return number


def _parse_chunking(text: str | None) -> VoiceActivityOptions | None:
    if not text or text == "auto":
        return None
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    name = "chunking_strategy"
    if not isinstance(given, Mapping) or given.get("type") != "server_vad":
        raise ApiError(f'{name}: expected auto, or {{"type": "server_vad"}}.', 400, name, "invalid_value")
    return parse_server_vad(given, name)


def parse_server_vad(given: Mapping[str, Any], name: str) -> VoiceActivityOptions:
    """
    OpenAI's `server_vad` as the package's own options.

    Raises:
        ApiError: for a field that is not known and a value that is not a number.
        ImportError: the extra `vad` is not installed.
    """
    options = server_vad_numbers(given, name)
    found = VoiceActivityOptions(
        threshold=options["threshold"],
        min_silence_seconds=options["silence_duration_ms"] / 1000,
        padding_seconds=options["prefix_padding_ms"] / 1000,
    )
    check_voice_activity(found)
    return found


def server_vad_numbers(given: Mapping[str, Any], name: str, silence_ms: float = 200.0) -> dict[str, float]:
    """The numbers of `server_vad`, with OpenAI's defaults, of which that of the silence differs."""
    numbers = {"threshold": 0.5, "prefix_padding_ms": 300.0, "silence_duration_ms": silence_ms}
    for key, value in given.items():
        if key == "type":
            continue
        if key not in numbers:
            raise refused_field(f"{name}.{key}", f"expected some of {', '.join(numbers)}.")
        if not is_number(value):
            raise ApiError(f"{name}.{key}: expected a number.", 400, f"{name}.{key}", "invalid_value")
        numbers[key] = float(value)
    return numbers
