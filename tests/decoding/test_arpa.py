"""ARPA files: what is written is read, in both forms of tokens, and what is broken is refused with its line."""

from __future__ import annotations

import numpy as np
import pytest
from phrase_cases import random_texts

from transformers_fastconformer.decoding.arpa import read_arpa, write_arpa
from transformers_fastconformer.decoding.ngrams import END, START, count_ngrams

# More than a hundred tokens, so that some of NeMo's codes are spaces of Unicode.
VOCABULARY = [f"▁t{number}" for number in range(120)]
ARPA = """\\data\\
ngram 1=4
ngram 2=3

\\1-grams:
-1.5\t<unk>
-99\t<s>\t-0.25
-0.5\t▁t0\t-0.125
-0.75\t</s>

\\2-grams:
-0.1\t<s> ▁t0
-0.2\t▁t0 ▁t0
-0.3\t▁t0 </s>

\\end\\
"""


@pytest.mark.parametrize("form", ["nemo", "pieces"])
@pytest.mark.parametrize("order", [1, 3])
def test_what_is_written_is_read(form, order, tmp_path):
    texts = [*random_texts(0), list(range(33, 36)), list(range(60, 120))]
    tables = count_ngrams(texts, order, len(VOCABULARY))
    path = tmp_path / "model.arpa"
    path.write_text(write_arpa(tables, VOCABULARY if form == "pieces" else None), encoding="utf-8", newline="\n")
    for asked in (form, "auto"):
        found = read_arpa(path, VOCABULARY, asked)
        for ours, expected in zip(found, tables, strict=True):
            for column, values in zip(ours, expected, strict=True):
                assert np.array_equal(column, values)


def test_a_file_of_another_toolkit(tmp_path):
    path = tmp_path / "model.arpa"
    path.write_text(ARPA, encoding="utf-8")
    first, second = read_arpa(path, VOCABULARY, "auto")
    assert first.tokens[:, 0].tolist() == [-3, START, 0, END]
    assert first.backoffs.tolist() == [0, -0.25, -0.125, 0]
    assert second.tokens.tolist() == [[START, 0], [0, 0], [0, END]]
    assert second.log_probs.tolist() == pytest.approx([-0.1, -0.2, -0.3])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", "line 1"),
        ("ngram 2=3", "ngram 3=3", "line 3"),
        ("ngram 1=4", "ngram 1=x", "line 2"),
        ("ngram 1=4", "ngram 1=5", "line 11"),
        ("-0.5\t▁t0\t-0.125", "0.5\t▁t0\t-0.125", "line 8"),
        ("-0.5\t▁t0\t-0.125", "nan\t▁t0\t-0.125", "line 8"),
        ("-0.5\t▁t0\t-0.125", "-0.5 ▁t0 -0.125", "line 8"),
        ("-0.2\t▁t0 ▁t0", "-0.2\t▁t0 ▁t1", "not among the 1-grams|2-grams"),
        ("-0.2\t▁t0 ▁t0", "-0.2\t▁t0", "has 1 words; expected 2"),
        ("\\2-grams:", "\\3-grams:", "line 11"),
        ("\\end\\", "", "the file ends"),
        ("▁t0", "hello", r"1 of 1 are not tokens of this checkpoint \('hello'\)"),
    ],
)
def test_broken_files_are_refused(old, new, message, tmp_path):
    path = tmp_path / "model.arpa"
    path.write_text(ARPA.replace(old, new), encoding="utf-8")
    vocabulary = VOCABULARY[:1]
    with pytest.raises(ValueError, match=message):
        read_arpa(path, vocabulary, "auto")


def test_tokens_that_may_be_codes_are_asked_for(tmp_path):
    """A vocabulary of letters, whose letters are codes too."""
    path = tmp_path / "model.arpa"
    letters = [chr(number) for number in range(97, 123)]
    path.write_text(ARPA.replace("▁t0", "e"), encoding="utf-8")
    with pytest.raises(ValueError, match="expected tokens='pieces' or 'nemo'"):
        read_arpa(path, letters, "auto")
    assert read_arpa(path, letters, "pieces")[0].tokens[2, 0] == 4
    assert read_arpa(path, letters, "nemo")[0].tokens[2, 0] == 1


def test_tokens_with_spaces_are_not_written():
    tables = count_ngrams([[0, 1]], 2, 2)
    with pytest.raises(ValueError, match="tokens=' '"):
        write_arpa(tables, [" ", "a"])
