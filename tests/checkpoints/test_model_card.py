"""Cards: their text, the metadata of originals, and the table of a verification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from transformers_fastconformer.checkpoints import model_card as card_module
from transformers_fastconformer.checkpoints.model_card import (
    NOT_VERIFIED,
    ModelCard,
    insert_verification,
    read_card,
    read_front_matter,
    read_hub_metadata,
    verification_section,
    write_model_card,
)

PLAIN = ModelCard("license: mit\n", "A title", "An introduction.", "print(1)")


def test_a_card_is_its_parts_in_order(tmp_path: Path) -> None:
    write_model_card(tmp_path, PLAIN)
    text = (tmp_path / "README.md").read_text()
    assert text == ("---\nlicense: mit\n---\n\n# A title\n\nAn introduction.\n\n## Use\n\n```python\nprint(1)\n```\n")
    assert yaml.safe_load(str(read_front_matter(text))) == {"license": "mit"}
    card = ModelCard(
        "a: 1\n", "T", "I", "code", install="pip install x", sections=(("Left out", "Nothing."), ("More", "Text."))
    )
    text = card.to_markdown()
    assert "## Use\n\n```bash\npip install x\n```\n\n```python\ncode\n```\n\n## Left out\n\nNothing.\n" in text
    assert text.endswith("## More\n\nText.\n")


@pytest.mark.parametrize("card", ["", "# Title\n", "---\nno end", "text\n---\na: 1\n---\n"])
def test_cards_without_metadata(card: str) -> None:
    assert read_front_matter(card) is None


@pytest.fixture
def source_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The README.md that the Hub gives for every repository; it may be changed or removed."""
    path = tmp_path / "source" / "README.md"
    path.parent.mkdir()

    def cached_file(hub_id: str, file_name: str, **options: Any) -> str:
        assert (hub_id, file_name, options) == ("org/name", "README.md", {"token": "t"})
        if not path.exists():
            raise OSError("no such file")
        return str(path)

    monkeypatch.setattr(card_module, "cached_file", cached_file)
    return path


def test_metadata_are_texts(source_card: Path) -> None:
    source_card.write_text("---\nlicense: other\nlanguage:\n- en\n- no\n---\n# Original\n\n---\n")
    # The language "no" is a boolean to many readers of YAML.
    expected = {"license": "other", "language": ["en", "no"]}
    assert read_hub_metadata("org/name", {"token": "t", "dtype": "auto"}) == expected


@pytest.mark.parametrize("content", [None, "# No metadata", "---\n- a list\n---\n", "---\nlicense: [\n---\n", "---\n"])
def test_a_card_that_says_nothing_is_no_obstacle(source_card: Path, content: str | None) -> None:
    if content is not None:
        source_card.write_text(content)
    assert read_hub_metadata("org/name", {"token": "t"}) == {}


def test_verification_tables_are_inserted_and_replaced(tmp_path: Path) -> None:
    write_model_card(tmp_path, ModelCard("a: 1\n", "T", "I", "code", sections=(verification_section("Equality"),)))
    before = (tmp_path / "README.md").read_text()
    assert NOT_VERIFIED in before
    insert_verification(tmp_path, "| stage | result |")
    insert_verification(tmp_path, "| stage | other |\n")
    card = (tmp_path / "README.md").read_text()
    assert card == before.replace(NOT_VERIFIED, "| stage | other |")
    (tmp_path / "README.md").write_text("a card of someone else's")
    with pytest.raises(ValueError, match="has no place for a verification"):
        insert_verification(tmp_path, "table")


def test_the_card_of_a_checkpoint_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_card(tmp_path) is None
    (tmp_path / "README.md").write_text("# Card")
    (tmp_path / "model.nemo").touch()
    assert read_card(tmp_path) == read_card(tmp_path / "model.nemo") == "# Card"
    asked: list[tuple[str, str]] = []

    def find(name: str, file: str) -> str:
        asked.append((name, file))
        return str(tmp_path / "README.md")

    monkeypatch.setattr(card_module, "cached_file", find)
    assert read_card("nvidia/some") == "# Card"
    assert asked == [("nvidia/some", "README.md")]
