"""The language that a text is written in, found by py3langid (extra `languages`)."""

from __future__ import annotations

import functools
import importlib.util
import unicodedata
from collections.abc import Sequence
from typing import Any

PACKAGE = "py3langid"
INSTALL_COMMAND = 'pip install "transformers-fastconformer[languages]"'


def check_text_language() -> None:
    """Raise an `ImportError` with the install command where the detector is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise ImportError(f"Finding the language of a text needs {PACKAGE}: {INSTALL_COMMAND}")


def find_language(text: str, among: Sequence[str] | None = None) -> str | None:
    """
    Find the language of a text.

    Args:
        text: A sentence or more; a few words may be taken for those of a related language.
        among: Codes of the languages that it may be; None: all that the detector knows.

    Returns:
        An ISO 639-1 code; None for a text without letters, and where the detector knows none of the languages.

    Raises:
        ImportError: when the detector is not installed; the message holds the command.
    """
    if not any(unicodedata.category(character)[0] == "L" for character in text):
        return None
    codes = None if among is None else tuple(dict.fromkeys(code.replace("_", "-").split("-")[0] for code in among))
    if codes is not None and len(codes) == 1:
        return codes[0]
    detector = _load(codes)
    return None if detector is None else str(detector.classify(text)[0])


@functools.lru_cache(maxsize=8)
def _load(codes: tuple[str, ...] | None) -> Any:
    """A detector of some languages; its model is read once for each set of them. None if it knows none of them."""
    check_text_language()
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

    detector = LanguageIdentifier.from_model_file(MODEL_FILE)
    if codes is not None:
        known = [code for code in codes if code in detector.labels]
        if not known:
            return None
        detector.set_languages(known)
    return detector
