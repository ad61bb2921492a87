"""Reading of JSON files."""

from __future__ import annotations

from pathlib import Path

import pytest

from transformers_fastconformer.checkpoints.files import read_json


def test_objects_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"é": [1, null]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"é": [1, None]}
    assert read_json(tmp_path / "absent.json") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no json", "expected JSON"), (b"\xff", "expected JSON"), (b"[]", "found list; expected")],
)
def test_anything_else_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json.*{message}"):
        read_json(tmp_path / "a.json")
