"""Ends of sentences between words, by punctuation and a table of abbreviations: no model, and no state."""

from __future__ import annotations

# Marks that end a sentence wherever they stand, a line for each family of scripts.
MARKS = (
    "?!\u203c\u203d\u2047\u2048\u2049\u037e"  # Latin, Greek
    "\u3002\uff01\uff0e\uff1f\uff61"  # Chinese, Japanese
    "\u061f\u06d4\u0964\u0965\u0589\u1362\u1367"  # Arabic, Urdu, Devanagari, Armenian, Ethiopic
    "\u17d4\u104b\u0f0d"  # Khmer, Burmese, Tibetan
)
ELLIPSES = ("\u2026", "...")
# Quotation marks and brackets, which may stand after the mark, and before a word.
CLOSING = "\"'\u2019\u201d\u201c\u00bb\u00ab\u203a\u2039)]}\u3009\u300b\u300d\u300f\u3011\uff09\uff3d"
OPENING = (
    "\"'\u2018\u201c\u201d\u201e\u201a\u00ab\u00bb\u2039\u203a([{\u00a1\u00bf"
    "\u3008\u300a\u300c\u300e\u3010\uff08\uff3b-\u2013\u2014"
)
# Abbreviations after which a sentence goes on, without their last period and in lower case. Only such that are not
# words too; before a lower case letter no word with a period ends a sentence, so "etc." and "Inc." are not here.
# Titles, which begin with a capital letter where they are one.
TITLES = frozenset(
    (
        # English
        *(
            "mr",
            "mrs",
            "messrs",
            "dr",
            "prof",
            "rev",
            "gen",
            "col",
            "capt",
            "cpt",
            "cmdr",
            "lt",
            "maj",
            "sgt",
            "cpl",
            "pvt",
        ),
        *("adm", "sen", "rep", "gov", "pres", "supt", "insp", "st", "mt"),
        # German and Dutch
        *("hr", "fr", "frl", "dipl", "ing", "dhr", "mevr", "mw", "drs"),
        # French
        *("mme", "mmes", "mlle", "mlles", "mgr"),
        # Spanish, Portuguese and Italian
        *(
            "sr",
            "sra",
            "sres",
            "sras",
            "srta",
            "dra",
            "ud",
            "uds",
            "vd",
            "vds",
            "exmo",
            "exma",
            "sig",
            "sigg",
            "dott",
            "avv",
        ),
        *("geom", "egr"),
        # Polish, Czech and Slovak
        *("inż", "ks", "płk", "kpt", "mudr", "judr", "phdr", "rndr"),
        # Russian
        *("г", "гр", "проф"),  # noqa: RUF001
    )
)
OTHERS = frozenset(
    (
        # English
        *("vs", "viz", "cf", "approx", "ca"),
        # German and Dutch
        *("bzw", "ggf", "evtl", "inkl", "exkl", "vgl", "sog", "zzgl", "geb", "verh", "bijv"),
        # Polish and Czech
        *("tzw", "tzn", "śp", "ul", "dr", "prof", "mgr", "tzv", "např"),
        # Russian and Ukrainian
        *("г", "гг", "ул", "им", "тов", "гр", "проф", "доц", "акад", "см", "ср", "просп", "пер", "пл", "вул", "ім"),  # noqa: RUF001
    )
)
# Those that belong to a number after them, and are words or ends of sentences elsewhere.
BEFORE_NUMBERS = frozenset(
    (
        # Latin script
        *(
            "no",
            "nos",
            "nr",
            "nrs",
            "num",
            "núm",
            "fig",
            "figs",
            "vol",
            "vols",
            "p",
            "pp",
            "art",
            "arts",
            "sec",
            "sect",
            "ch",
        ),
        *(
            "chap",
            "par",
            "para",
            "op",
            "ed",
            "eq",
            "ex",
            "tel",
            "ext",
            "abs",
            "kap",
            "s",
            "bd",
            "t",
            "pág",
            "págs",
            "cap",
            "str",
            "č",
        ),
        *("čl", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"),
        # Cyrillic
        *("рис", "табл", "стр", "гл", "ч", "вып"),
    )
)
# Abbreviations of several periods after which a sentence may begin.
HOURS = frozenset(("a.m", "p.m"))
MAX_ORDINAL_DIGITS = 2
MAX_ACRONYM_LETTERS = 2


def ends_sentence(word: str, following: str) -> bool:
    """
    Tell whether a sentence ends between two words.

    A period ends none after a title ("Mr."), an initial ("J."), an acronym ("U.S.", "e.g."), a short number ("3.", as
    ordinals are written) or an abbreviation before its number ("No. 5"), and before a lower case letter.

    Args:
        word: The word before, with its punctuation.
        following: The word after it.
    """
    text = word.rstrip(CLOSING)
    if not text:
        return False
    if text[-1] in MARKS:
        return True
    next_word = following.lstrip(OPENING)
    if text.endswith(ELLIPSES):
        return not next_word[:1].islower()
    if text[-1] != "." or next_word[:1].islower():
        return False
    return not _is_abbreviated(text[:-1].lstrip(OPENING), next_word)


def _is_abbreviated(core: str, next_word: str) -> bool:
    """Tell whether a word without its last period is one after which a sentence goes on."""
    lower = core.lower()
    if (
        lower in OTHERS
        or (lower in TITLES and core[0].isupper())
        or (lower in BEFORE_NUMBERS and next_word[:1].isdigit())
    ):
        return True
    if core.isdigit():
        return len(core) <= MAX_ORDINAL_DIGITS
    if len(core) == 1:
        return core.isalpha() and core != "I" and (core.isupper() or core.islower())
    parts = core.split(".")
    is_acronym = len(parts) > 1 and all(part.isalpha() and len(part) <= MAX_ACRONYM_LETTERS for part in parts)
    return is_acronym and lower not in HOURS
