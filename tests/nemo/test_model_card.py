"""What the card of a converted checkpoint takes over from the card of the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from transformers_fastconformer.checkpoints import model_card as card_module
from transformers_fastconformer.nemo.convert import convert_archive
from transformers_fastconformer.nemo.locate import FoundArchive

CARD = """---
license: other
license_name: nvidia-open-model-license
license_link: https://example.org/licence
language:
- en
- no
datasets:
- librispeech
model-index: []
---
# Original

---
"""


@pytest.fixture
def source_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The README.md that the Hub gives for every repository; it may be changed or removed."""
    path = tmp_path / "README.md"
    path.write_text(CARD, encoding="utf-8")

    def cached_file(hub_id: str, file_name: str, **options: Any) -> str:
        assert (hub_id, file_name, options) == ("org/name", "README.md", {"token": "t", "revision": "c" * 40})
        if not path.exists():
            raise OSError("no such file")
        return str(path)

    monkeypatch.setattr(card_module, "cached_file", cached_file)
    return path


def read_front_matter(folder: Path) -> tuple[dict[str, Any], str]:
    _, front_matter, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front_matter), text


def test_licence_languages_and_base_model(make_archive, source_card, tmp_path):
    found = FoundArchive(make_archive("hybrid_tdt_ctc"), "org/name", "deep/model.nemo", "c" * 40)
    convert_archive(found, tmp_path / "out", hub_options={"token": "t", "revision": "main"})
    metadata, text = read_front_matter(tmp_path / "out")
    assert metadata == {
        "library_name": "transformers",
        "pipeline_tag": "automatic-speech-recognition",
        "license": "other",
        "license_name": "nvidia-open-model-license",
        "license_link": "https://example.org/licence",
        "language": ["en", "no"],  # a boolean to many readers of YAML
        "base_model": "org/name",
        "tags": ["automatic-speech-recognition", "speech", "audio", "fastconformer", "nemo", "tdt", "ctc"],
    }
    assert "# name\n" in text
    assert "[org/name](https://huggingface.co/org/name) (`deep/model.nemo`)" in text
    assert "The licence is that of the original, nvidia-open-model-license." in text


def test_a_local_archive_claims_no_licence(make_archive, tmp_path):
    convert_archive(FoundArchive(make_archive("ctc", name="mine.nemo")), tmp_path / "out")
    metadata, text = read_front_matter(tmp_path / "out")
    assert not {"license", "base_model", "language"} & set(metadata)
    assert "# mine\n" in text
    assert "The licence is that of the original.\n" in text
