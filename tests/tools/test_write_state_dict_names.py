"""The stored names and shapes of weights are what the script writes today."""

from __future__ import annotations

from write_state_dict_names import FIXTURE, collect_names, format_names


def test_the_fixture_is_what_the_script_writes() -> None:
    assert format_names(collect_names()) == FIXTURE.read_text(encoding="utf-8")
