"""`docs/supported-checkpoints.md` says what the table of families says, and holds what the contract allows."""

from __future__ import annotations

import re

import pytest
from families import COLUMNS, FAMILIES, TABLE_PATH, WITHOUT_TEXT, fixed_cells
from tolerances import FLOAT32_SHARE, SIXTEEN_BIT_RATIO, STORED_SHARE

from transformers_fastconformer.nemo import stage_comparison


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    lines = [line for line in TABLE_PATH.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    assert cells[0] == list(COLUMNS)
    return cells[2:]


def test_the_page_has_the_rows_of_the_table(rows: list[list[str]]) -> None:
    assert [row[:4] for row in rows] == [fixed_cells(family) for family in FAMILIES]
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_the_errors_are_within_the_contract(rows: list[list[str]]) -> None:
    for name, *_, errors, decoded in rows:
        found = [float(number) for number in re.findall(r"\d+e-?\d+", errors)]
        assert errors.startswith("encoder ")
        assert max(found) <= FLOAT32_SHARE, name
        architecture = next(family.architecture for family in FAMILIES if family.name == name)
        writes_text = architecture not in WITHOUT_TEXT
        assert ("tokens, tokens in a batch" in decoded) == writes_text


def test_the_verification_of_users_holds_the_contract() -> None:
    assert (stage_comparison.FLOAT32_TOLERANCE, stage_comparison.SIXTEEN_BIT_RATIO) == (
        FLOAT32_SHARE,
        SIXTEEN_BIT_RATIO,
    )
    assert stage_comparison.STORED_TOLERANCE == STORED_SHARE
