"""Options of a search: kept as they are said, and refused where nothing would read them."""

from __future__ import annotations

from typing import Any

import pytest

from transformers_fastconformer import DecodingOptions, SearchOptions


def test_what_is_said_is_handed_on() -> None:
    options = SearchOptions(num_beams=4, length_penalty=0.5)
    assert options.arguments == {"num_beams": 4, "length_penalty": 0.5}
    assert not options.is_greedy
    assert SearchOptions().is_greedy
    assert SearchOptions(num_beams=1, do_sample=False).is_greedy
    assert not SearchOptions(repetition_penalty=1.2).is_greedy
    assert DecodingOptions(search=options).asked_for() == {"num_beams": 4, "search": options}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams=0"),
        ({"num_beams": True}, "num_beams=True"),
        ({"do_sample": "yes"}, "do_sample='yes'"),
        ({"temperature": 0.0, "do_sample": True}, "temperature=0.0 is not supported; expected a number above 0"),
        ({"top_p": 1.5, "do_sample": True}, "top_p=1.5"),
        ({"temperature": 0.5}, "temperature=0.5 is not supported; expected None without do_sample=True"),
        ({"top_k": 3, "do_sample": False}, "top_k=3 is not supported; expected None without do_sample=True"),
        ({"length_penalty": 2.0}, "length_penalty=2.0 is not supported; expected None without num_beams of 2 or more"),
        ({"early_stopping": True, "num_beams": 1}, "early_stopping=True"),
        ({"length_penalty": "long", "num_beams": 2}, "length_penalty='long' is not supported; expected a number"),
    ],
)
def test_values_that_nothing_reads_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchOptions(**options)
    with pytest.raises(ValueError, match="search='beam' is not supported; expected SearchOptions or None"):
        DecodingOptions(search="beam")  # type: ignore[arg-type]
