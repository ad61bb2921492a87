"""Names of the files in a checkpoint folder, the reading of those that are JSON, and files that only look like one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..validation import reading

CONFIG_FILE = "config.json"
PROCESSOR_FILE = "processor_config.json"
EXTRACTOR_FILE = "preprocessor_config.json"
GENERATION_FILE = "generation_config.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CARD_FILE = "README.md"

# What macOS keeps of a file `name` on disks of other systems: `._name`, of any content.
APPLE_DOUBLE_PREFIX = "._"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


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


def path_of_name(name: str | os.PathLike[str]) -> Path:
    """The path that a name means, which may be a `file://` address."""
    text = os.fspath(name)
    return Path(url2pathname(urlsplit(text).path)) if text.lower().startswith("file://") else Path(text)


def is_apple_double(name: str) -> bool:
    """Tell whether a file's name is that of the attributes which macOS keeps next to another file."""
    return name.startswith(APPLE_DOUBLE_PREFIX)


def refuse_lfs_pointer(path: Path) -> None:
    """Raise a `ValueError` for a file that holds the place of its content, which Git LFS did not download."""
    with open(path, "rb") as file:
        is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    if is_pointer:
        raise ValueError(
            f"{path} is a pointer of Git LFS, without the content of the file; expected the file itself. Run `git lfs "
            "pull` in the repository's folder, or download the file from its page."
        )
