"""Languages to tokens: the pieces of a vocabulary that a language is written with, for models without prompts."""

from __future__ import annotations

import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from weakref import WeakKeyDictionary

import torch

from .decoding.language_mask import CompiledLanguages, build_language_mask
from .tokenization_fastconformer import FastConformerTokenizer

LATIN = "abcdefghijklmnopqrstuvwxyz"
GREEK = "αβγδεζηθικλμνξοπρσςτυφχψω"
# Letters that a language is written with, without those of the Latin alphabet where it is written in that: ISO 639-1
# code, script, further letters. Letters of names and of words from elsewhere are not among them, except where the
# spelling of common words needs them.
WRITING: dict[str, tuple[str, str]] = {
    "bg": ("", "абвгдежзийклмнопрстуфхцчшщъьюя"),
    "ca": (LATIN, "àçèéíïòóúü·"),
    "cs": (LATIN, "áčďéěíňóřšťúůýž"),
    "da": (LATIN, "æøåé"),
    "de": (LATIN, "äöüß"),
    "el": (GREEK, "άέήίόύώϊϋΐΰ"),
    "en": (LATIN, ""),
    "es": (LATIN, "áéíóúüñ"),
    "et": (LATIN, "äöõüšž"),
    "fi": (LATIN, "äöå"),
    "fr": (LATIN, "àâæçéèêëîïôœùûüÿ"),
    "ga": (LATIN, "áéíóú"),
    "hr": (LATIN, "čćđšž"),
    "hu": (LATIN, "áéíóöőúüű"),
    "is": (LATIN, "áðéíóúýþæö"),
    "it": (LATIN, "àèéìíîòóùú"),
    "lt": (LATIN, "ąčęėįšųūž"),
    "lv": (LATIN, "āčēģīķļņšūž"),
    "mt": (LATIN, "ċġħżàèìòù"),
    "nl": (LATIN, "éëïóöüè"),
    "no": (LATIN, "æøåéòô"),
    "pl": (LATIN, "ąćęłńóśźż"),
    "pt": (LATIN, "áâãàçéêíóôõúü"),
    "ro": (LATIN, "ăâîșțşţ"),
    "ru": ("", "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"),
    "sk": (LATIN, "áäčďéíĺľňóôŕšťúýž"),
    "sl": (LATIN, "čšž"),
    "sr": ("", "абвгдђежзијклљмнњопрстћуфхцчџш"),
    "sv": (LATIN, "åäöé"),
    "tr": (LATIN, "çğıöşüâî"),
    "uk": ("", "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя"),
}
# A letter may lack in a vocabulary that was trained on texts without it; most of the others must be there.
MIN_WRITABLE_SHARE = 0.8
MAX_KEPT = 16

_kept: WeakKeyDictionary[FastConformerTokenizer, OrderedDict[tuple[str, ...], CompiledLanguages]] = WeakKeyDictionary()
_lock = threading.Lock()


def letters_of(code: str) -> frozenset[str]:
    """
    Letters that a language is written with, small and capital.

    Args:
        code: ISO 639-1 code; a region after it (`"pt-BR"`) changes nothing.

    Raises:
        ValueError: for a language that is not in the table; the message lists those that are.
    """
    name = _base_of(code)
    if name not in WRITING:
        raise ValueError(f"language={code!r} is not known; expected one of {sorted(WRITING)}.")
    script, further = WRITING[name]
    return frozenset(form for letter in script + further for form in (letter, letter.upper()) if len(form) == 1)


def _base_of(code: str) -> str:
    """The code of a language without that of a region."""
    return code.replace("_", "-").split("-")[0].lower()


def writable_languages(tokenizer: FastConformerTokenizer) -> list[str]:
    """Codes of the languages whose own letters are nearly all in the pieces of a tokenizer."""
    written = frozenset().union(*map(_letters_in, _texts_of(tokenizer)))
    found = []
    for code, (script, further) in WRITING.items():
        # What all languages of the script share says nothing about this one, unless it has nothing of its own.
        is_writable = len(written & set(further)) >= MIN_WRITABLE_SHARE * len(further) if further else True
        if is_writable and (not script or written & set(script)):
            found.append(code)
    return sorted(found)


def compile_languages(languages: str | Sequence[str], tokenizer: FastConformerTokenizer) -> CompiledLanguages:
    """
    Find the tokens of a checkpoint that languages are written with. Made once for each tokenizer and languages.

    A token may be written if each of its letters belongs to one of the languages; digits, punctuation, bytes and
    special tokens always may.

    Args:
        languages: ISO 639-1 codes, such as `"pl"` or `["de", "fr"]`.
        tokenizer: The checkpoint's tokenizer.

    Returns:
        What `model.generate(..., languages=...)` takes.

    Raises:
        ValueError: for a language that is not known or that the vocabulary cannot write; the message lists those that
            it can.
    """
    codes = (languages,) if isinstance(languages, str) else tuple(languages)
    with _lock:
        kept = _kept.setdefault(tokenizer, OrderedDict())
        if codes not in kept:
            kept[codes] = _compile(codes, tokenizer)
        kept.move_to_end(codes)
        while len(kept) > MAX_KEPT:
            kept.popitem(last=False)
        return next(reversed(kept.values()))


def _compile(codes: tuple[str, ...], tokenizer: FastConformerTokenizer) -> CompiledLanguages:
    writable = writable_languages(tokenizer)
    letters: frozenset[str] = frozenset()
    for code in codes:
        own = letters_of(code)
        if _base_of(code) not in writable:
            raise ValueError(
                f"language={code!r} cannot be written with the vocabulary of this checkpoint; expected one of "
                f"{writable}."
            )
        letters |= own
    allowed = [_letters_in(text) <= letters for text in _texts_of(tokenizer)]
    return CompiledLanguages(codes, build_language_mask(torch.tensor(allowed, dtype=torch.bool, device="cpu")))


def _texts_of(tokenizer: FastConformerTokenizer) -> list[str]:
    """The text of each token before the blank; empty for special tokens and bytes, which write no letters."""
    ids = range(tokenizer.blank_token_id)
    silent = {*tokenizer.all_special_ids, *tokenizer.unknown_token_ids}
    texts = tokenizer.vocabulary_tokens(ids)
    is_tag = [text.startswith("<") and text.endswith(">") and len(text) > 1 for text in texts]
    pairs = enumerate(zip(texts, is_tag, strict=True))
    return ["" if number in silent or tag else text for number, (text, tag) in pairs]


def _letters_in(text: str) -> frozenset[str]:
    """Letters of a text, accents that stand by themselves included."""
    return frozenset(_letters(unicodedata.normalize("NFC", text)))


def _letters(text: str) -> Iterable[str]:
    return (character for character in text if unicodedata.category(character)[0] in "LM")
