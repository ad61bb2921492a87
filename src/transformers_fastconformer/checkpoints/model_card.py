"""The README.md of a checkpoint folder: metadata for the Hub, use of the checkpoint, and more sections of text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers.utils import logging
from transformers.utils.hub import cached_file

from .files import CARD_FILE
from .hub import download_options

logger = logging.get_logger(__name__)

FRONT_MATTER = re.compile(r"\A\s*---\s*\n(.*?\n)---\s*(\n|\Z)", re.DOTALL)
# Metadata that a converted checkpoint has in common with the original.
INHERITED_METADATA = ("license", "license_name", "license_link", "language")
TABLE_START = "<!-- verification -->"
TABLE_END = "<!-- end of verification -->"
NOT_VERIFIED = "Not verified yet: run the conversion with `--verify`."


@dataclass(frozen=True)
class ModelCard:
    """
    A card before it is written.

    Args:
        front_matter: Metadata in YAML, with a line break at the end.
        title: The heading.
        introduction: A paragraph on what the checkpoint is.
        use: Python that runs in the folder.
        install: The command that installs what `use` imports; empty to leave it out.
        sections: Headings and texts of the sections that follow.
    """

    front_matter: str
    title: str
    introduction: str
    use: str
    install: str = ""
    sections: tuple[tuple[str, str], ...] = ()

    def to_markdown(self) -> str:
        """The text of the file."""
        install = [f"```bash\n{self.install}\n```"] if self.install else []
        blocks = [
            f"---\n{self.front_matter}---",
            f"# {self.title}",
            self.introduction,
            "## Use",
            *install,
            f"```python\n{self.use}\n```",
            *(block for heading, text in self.sections for block in (f"## {heading}", text)),
        ]
        return "\n\n".join(blocks) + "\n"


def write_model_card(folder: Path, card: ModelCard) -> None:
    """Write the card into the folder of a checkpoint."""
    (folder / CARD_FILE).write_text(card.to_markdown(), encoding="utf-8")


# Cards of originals


def read_front_matter(card: str) -> str | None:
    """The metadata at the top of a card, as text; None for a card without metadata."""
    found = FRONT_MATTER.match(card)
    return found[1] if found else None


def read_card(name: str | Path) -> str | None:
    """
    The card of a checkpoint; None for one without a card, or whose card cannot be reached.

    Args:
        name: A folder, a `.nemo` archive, whose card is next to it, or a repository.
    """
    path = Path(name)
    try:
        if path.exists():
            path = path / CARD_FILE if path.is_dir() else path.with_name(CARD_FILE)
        else:
            path = Path(str(cached_file(str(name), CARD_FILE)))
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        logger.debug(f"The card of {name} cannot be read.", exc_info=True)
        return None


def read_hub_metadata(hub_id: str, hub_options: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata at the top of the card of a repository; empty for a card without metadata."""
    try:
        path = cached_file(hub_id, CARD_FILE, **download_options(hub_options))
        front_matter = read_front_matter(Path(str(path)).read_text(encoding="utf-8"))
        # Only texts and lists of texts: other loaders read the language "no" as false.
        metadata = yaml.load(front_matter, Loader=yaml.BaseLoader) if front_matter else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # a missing card must not end a conversion
        logger.debug(f"The card of {hub_id} cannot be read.", exc_info=True)
        return {}
    return metadata if isinstance(metadata, dict) else {}


# The table of a verification


def verification_section(heading: str) -> tuple[str, str]:
    """Make a section with a place for the table of a verification, see [`insert_verification`]."""
    return heading, f"{TABLE_START}\n{NOT_VERIFIED}\n{TABLE_END}"


def insert_verification(folder: Path, table: str) -> None:
    """Put the table of a verification, as Markdown, into the card of a converted checkpoint."""
    path = folder / CARD_FILE
    card = path.read_text(encoding="utf-8")
    before, start, rest = card.partition(TABLE_START)
    _, end, after = rest.partition(TABLE_END)
    if not start or not end:
        raise ValueError(f"{path} has no place for a verification; expected {TABLE_START} and {TABLE_END}.")
    replacement = path.with_name(f".{path.name}.new")
    replacement.write_text(f"{before}{start}\n{table.strip()}\n{end}{after}", encoding="utf-8")
    replacement.replace(path)
