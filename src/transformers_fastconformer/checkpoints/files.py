"""Names of the files in a checkpoint folder, and the reading of those that are JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..validation import reading

CONFIG_FILE = "config.json"
PROCESSOR_FILE = "processor_config.json"
EXTRACTOR_FILE = "preprocessor_config.json"
GENERATION_FILE = "generation_config.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CARD_FILE = "README.md"


def read_json(path: Path) -> dict[str, Any]:
    """
    The object in a JSON file; empty if there is no such file.

    Raises:
        ValueError: for a file that is not JSON, or holds something else than an object.
    """
    if not path.is_file():
        return {}
    with reading(str(path), "JSON"):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found {type(content).__name__}; expected an object.")
    return content
