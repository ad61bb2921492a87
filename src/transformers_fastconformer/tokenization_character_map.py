"""Text normalisation of SentencePiece models, and bytes that become text as SentencePiece writes them."""

from __future__ import annotations

import codecs
import re
import struct

import numpy as np

from .validation import reading

MAX_REPLACEMENT_BYTES = 1024  # of one stretch of text, in a map of characters


class PrecompiledCharacterMap:
    """
    Text normalisation of a SentencePiece model, longest match first as SentencePiece does it.

    The `Precompiled` normalizer of the tokenizers library takes the shortest match and replaces whole grapheme
    clusters, so that combining accents get lost or composed where SentencePiece leaves them.

    Args:
        blob: `precompiled_charsmap` of the model: the length in bytes of a double-array trie, the trie, and the
            replacements, each ended by a zero byte.
    """

    def __init__(self, blob: bytes):
        with reading("precompiled_charsmap", "a map of characters as SentencePiece writes it"):
            self._units, self._replacements = self._parse(blob)

    @staticmethod
    def _parse(blob: bytes) -> tuple[tuple[int, ...], bytes]:
        """
        The trie and the replacements, checked.

        The tokenizers library follows every place without a look and ends the process where there is none.
        """
        trie_bytes = int.from_bytes(blob[:4], "little")
        if len(blob) < 4 or trie_bytes % 4 or not 0 < trie_bytes <= len(blob) - 4:
            raise ValueError(f"{len(blob)} bytes with a trie of {trie_bytes}; expected a trie of whole units in them.")
        units = np.frombuffer(blob, "<u4", trie_bytes // 4, 4).astype(np.int64)
        replacements = blob[4 + trie_bytes :]
        nodes = np.flatnonzero(units >> 31 == 0)  # the others hold the place of a replacement
        children = nodes ^ ((units[nodes] >> 10) << ((units[nodes] & 0x200) >> 6))
        if np.any(children | 0xFF >= len(units)):
            raise ValueError("a unit of its trie leads out of it; expected units that stay inside.")
        replacements.decode("utf-8")
        places = units[children[units[nodes] >> 8 & 1 == 1]] & 0x7FFFFFFF
        text = np.frombuffer(replacements, np.uint8)
        ends = np.flatnonzero(text == 0)
        if len(text) and (not len(ends) or ends[-1] != len(text) - 1):
            raise ValueError("its last replacement has no end; expected a zero byte after each.")
        if np.any(places >= len(text)) or np.any(text[places] & 0xC0 == 0x80):
            raise ValueError("a replacement does not begin where a character does; expected places of characters.")
        if len(ends) and np.diff(ends, prepend=-1).max() > MAX_REPLACEMENT_BYTES:
            raise ValueError(f"a replacement is longer than expected; expected at most {MAX_REPLACEMENT_BYTES} bytes.")
        return struct.unpack_from(f"<{len(units)}I", blob, 4), replacements

    def _longest_match(self, text: bytes, start: int) -> tuple[int, int] | None:
        """Number of bytes matched at `start` and the place of their replacement."""
        units = self._units
        found = None
        node = self._child_base(units[0])
        for end in range(start, len(text)):
            node ^= text[end]
            if node >= len(units):
                break
            unit = units[node]
            if unit & 0x800000FF != text[end]:  # the label, and the bit that marks a value in its place
                break
            node ^= self._child_base(unit)
            if unit >> 8 & 1:
                found = (end - start + 1, units[node] & 0x7FFFFFFF)
        return found

    @staticmethod
    def _child_base(unit: int) -> int:
        return (unit >> 10) << ((unit & 0x200) >> 6)

    def normalize(self, text: str, kept: re.Pattern[str] | None = None) -> str:
        """The mapped text; matches of `kept` stay as they are."""
        parts: list[str] = []
        position = 0
        for match in kept.finditer(text) if kept is not None else ():
            parts += [self._map(text[position : match.start()]), match.group()]
            position = match.end()
        return "".join([*parts, self._map(text[position:])])

    def _map(self, text: str) -> str:
        encoded = text.encode("utf-8", errors="replace")
        mapped = bytearray()
        position = 0
        while position < len(encoded):
            match = self._longest_match(encoded, position)
            if match is None:
                size = 1
                while position + size < len(encoded) and encoded[position + size] & 0xC0 == 0x80:
                    size += 1
                mapped += encoded[position : position + size]
            else:
                size, replacement = match
                mapped += self._replacements[replacement : self._replacements.index(0, replacement)]
            position += size
        return mapped.decode("utf-8")


def text_from_bytes(encoded: bytes | bytearray, is_last: bool = True) -> tuple[str, int]:
    """
    UTF-8 text; every byte that does not start a character becomes U+FFFD, one for each as in SentencePiece.

    Args:
        encoded: The bytes.
        is_last: No more follow. Otherwise those at the end that may begin a character are left.

    Returns:
        The text, and the number of bytes that it stands for.
    """
    text = ""
    position = 0
    while position < len(encoded):
        for size in range(1, 5):
            try:
                text += encoded[position : position + size].decode("utf-8")
            except UnicodeDecodeError:
                continue
            position += size
            break
        else:
            if not is_last and _is_beginning(encoded[position:]):
                break
            text += "\N{REPLACEMENT CHARACTER}"
            position += 1
    return text, position


def _is_beginning(encoded: bytes | bytearray) -> bool:
    """True for bytes that are the beginning of one character in UTF-8, and nothing else."""
    try:
        return not codecs.getincrementaldecoder("utf-8")().decode(bytes(encoded), final=False)
    except UnicodeDecodeError:
        return False
