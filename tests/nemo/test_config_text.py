"""YAML as NeMo reads it, references, and limits on what a few bytes may stand for."""

from __future__ import annotations

import pytest

from transformers_fastconformer.nemo import config_text
from transformers_fastconformer.nemo.config_text import is_unresolved, read_config_text, resolve_interpolations

NAME = "a.nemo: model_config.yaml"


def nine_levels(join: str) -> str:
    """A list of nine, nine levels of nine aliases deep."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} {join % ', '.join([f'*a{level - 1}'] * 9)}" for level in range(1, 9)]
    return "\n".join(lines)


HOSTILE = {
    "code": ("a: !!python/object/apply:os.system ['true']", "is not plain YAML"),
    "cut off": ("a: [1", "is not plain YAML"),
    "a list": ("- 1", "holds list; expected a mapping"),
    "aliases": (nine_levels("[%s]"), "stands for more than 500000 values"),
    "merged aliases": ("a0: &a0 {a: 1}\n" + nine_levels("{<<: [%s]}").partition("\n")[2], "more than 500000 values"),
    "an alias to itself": ("a: &a [1, *a]", r"the alias \*a stands inside of what it names"),
    "many levels": (f"a: {'[' * 200}", "nested more than 64 levels deep"),
    "a long integer": (f"a: {'9' * 5000}", "an integer has 5000 characters; expected 80"),
    "a long hexadecimal integer": (f"a: 0x{'f' * 20000}", "an integer has 20002 characters"),
    "a key twice": ("a: 1\nb: 2\na: 3", "the key 'a' is there twice"),
    "no key": ("~: 1", "a key is NoneType; expected text or a number"),
    "a set": ("a: !!set {b}", "is not plain YAML"),
    "no number": ("a: !!int x", "cannot be read"),
    "doubled references": (
        "i25: xx\n" + "\n".join(f"i{n}: '${{i{n + 1}}}${{i{n + 1}}}'" for n in range(25)),
        "references stand for more than",
    ),
    "references side by side": (
        f"long: {'x' * 10**5}\nall: '{'${long}' * 10**4}'",
        "references stand for more than 16777216 characters",
    ),
    "a ring": (
        "\n".join(f"k{n}: '{' '.join(f'${{k{m}}}' for m in range(12))}'" for n in range(12)),
        "references stand for more than",
    ),
    "a chain": ("\n".join(f"k{n}: ${{k{n + 1}}}" for n in range(2000)), "references lead more than 64 levels deep"),
    "repeated sections": (
        f"s: [{'1, ' * 1000}]\n" + "\n".join(f"t{n}: ${{s}}" for n in range(600)),
        "stand for more than 500000 values",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_texts_are_refused_before_they_are_expanded(case):
    text, message = HOSTILE[case]
    with pytest.raises(ValueError, match=message) as caught:
        read_config_text(text.encode(), NAME)
    assert NAME in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_large_texts_and_other_encodings_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="is not plain YAML"):
        read_config_text(b"\xff\xfe\x00", NAME)
    monkeypatch.setattr(config_text, "MAX_CONFIG_BYTES", 4)
    with pytest.raises(ValueError, match="has 5 bytes; expected at most 4"):
        read_config_text(b"a: 12", NAME)


def test_values_are_those_of_omegaconf():
    """As OmegaConf 2.3 gives them, which NeMo 3.0 reads its archives with."""
    text = """
    no date: 2020-99-99
    date: 2020-01-01
    small: 1e-5
    large: 1.5e3
    infinite: .inf
    octal: 017
    merged: {<<: &base {a: 1}, b: 2}
    alias: *base
    1: a number for a key
    """
    assert read_config_text(text.encode(), NAME) == {
        "no date": "2020-99-99",
        "date": "2020-01-01",
        "small": 1e-5,
        "large": 1500.0,
        "infinite": float("inf"),
        "octal": 15,
        "merged": {"a": 1, "b": 2},
        "alias": {"a": 1},
        1: "a number for a key",
    }


def test_interpolations():
    config = {
        "width": 8,
        "list": [1, "${width}"],
        "a": {"b": "${width}", "c": "${.b}", "d": {"e": "${..b}", "text": "w=${width}, ${a.b}"}},
        "chain": "${a.c}",
        "whole": "${a.d}",
        "nested_model": "${model.width}",
        "resolver": "${oc.env:HOME}",
        "nothing": "${no.such}",
        "circle": "${circle}",
    }
    resolved = resolve_interpolations(config)
    assert resolved["list"] == [1, 8]
    assert resolved["a"] == {"b": 8, "c": 8, "d": {"e": 8, "text": "w=8, 8"}}
    assert resolved["chain"] == resolved["nested_model"] == 8
    assert resolved["whole"] == {"e": 8, "text": "w=8, 8"}
    for key in ("resolver", "nothing", "circle"):
        assert resolved[key] == config[key]
        assert is_unresolved(resolved[key])
    assert is_unresolved("???")
    assert not is_unresolved("plain")
