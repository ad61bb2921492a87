"""The description of the HTTP part of the server: OpenAPI, and a page of it for people."""

from __future__ import annotations

import html
from typing import Any

from ..version import __version__
from .fields import GRANULARITIES, RESPONSE_FORMATS

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": {"type": "string"}}
_FIELDS: dict[str, dict[str, Any]] = {
    "file": {"type": "string", "format": "binary", "description": "Audio or video, of any container and rate."},
    "model": {**_TEXT, "description": "A name of /v1/models; the first where none is given."},
    "language": {**_TEXT, "description": "Code of the language that is spoken."},
    "languages": {**_TEXTS, "description": "Codes of the languages that may be written; the answer says which it is."},
    "keywords": {**_TEXTS, "description": "Names and jargon that the text prefers, as the model writes them."},
    "prompt": {**_TEXT, "description": "Text that went before, for Canary models with a context."},
    "response_format": {**_TEXT, "enum": list(RESPONSE_FORMATS), "default": "json"},
    "temperature": {"type": "number", "description": "0 only: nothing is drawn at random."},
    "include": {**_TEXTS, "description": "logprobs, for json."},
    "timestamp_granularities": {
        "type": "array",
        "items": {"type": "string", "enum": list(GRANULARITIES)},
        "description": "For verbose_json; segment where none is given.",
    },
    "stream": {"type": "boolean", "description": "Server-sent events, for json, text and diarized_json."},
    "diarize": {
        "type": "boolean",
        "description": "Who said what, for verbose_json, srt and vtt; diarized_json always has it.",
    },
    "chunking_strategy": {
        **_TEXT,
        "description": 'auto, or {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, '
        '"silence_duration_ms": 200} to transcribe only the speech that is found.',
    },
}
_TRANSLATION_FIELDS = ("file", "model", "language", "prompt", "response_format", "temperature")


def _form(names: tuple[str, ...] | list[str]) -> dict[str, Any]:
    properties = {name: _FIELDS[name] for name in names}
    schema = {"type": "object", "required": ["file"], "properties": properties}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _operation(summary: str, **more: Any) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": "Done."}}, **more}


def describe_api() -> dict[str, Any]:
    """The OpenAPI description of all paths of HTTP."""
    errors = {
        "400": {"description": "A field or the audio is not accepted; error.param names it."},
        "401": {"description": "The key is missing or wrong."},
        "404": {"description": "The model is not served here."},
        "413": {"description": "The upload or the recording is too large."},
        "429": {"description": "Too much waits; Retry-After says when to try again."},
    }
    transcribe = _operation("Transcribe a file.", requestBody=_form(list(_FIELDS)))
    translate = _operation("Translate speech to English text (Canary models).", requestBody=_form(_TRANSLATION_FIELDS))
    for operation in (transcribe, translate):
        operation["responses"] = {**operation["responses"], **errors}
    return {
        "openapi": "3.1.0",
        "info": {"title": "transformers-fastconformer", "version": __version__},
        "security": [{"key": []}],
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            "/v1/audio/transcriptions": {"post": transcribe},
            "/v1/audio/translations": {"post": translate},
            "/v1/models": {"get": _operation("List the models that are served.")},
            "/v1/models/{name}": {"get": _operation("Show one model.")},
            "/health": {"get": _operation("Tell that the server lives.", security=[])},
            "/metrics": {"get": _operation("Numbers for Prometheus.")},
        },
    }


def write_docs(description: dict[str, Any]) -> str:
    """A page of the description, which loads nothing from elsewhere."""
    parts = []
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(operation['summary'])}</p>")
            if "requestBody" in operation:
                schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
                rows = [_write_row(name, field) for name, field in schema["properties"].items()]
                parts.append(f"<table><tr><th>Field<th>Type<th>Meaning{''.join(rows)}</table>")
    title = f"{description['info']['title']} {description['info']['version']}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;"
        "margin:2rem auto;padding:0 1rem}td,th{text-align:left;vertical-align:top;padding:.2rem 1rem .2rem 0}</style>"
        f'<h1>{html.escape(title)}</h1><p><a href="openapi.json">As OpenAPI</a></p>{"".join(parts)}</html>'
    )


def _write_row(name: str, field: dict[str, Any]) -> str:
    choices = field.get("enum") or field.get("items", {}).get("enum")
    meaning = field.get("description", "")
    if choices:
        meaning = f"{', '.join(choices)}. {meaning}".strip()
    return f"<tr><td><code>{name}</code><td>{field['type']}<td>{html.escape(meaning)}"
