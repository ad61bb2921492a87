"""The README.md of a converted checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers.utils import logging
from transformers.utils.hub import cached_file

from ..version import __version__
from .config_map import MappedConfig
from .hub import FoundArchive, download_options

logger = logging.get_logger(__name__)

CARD_FILE = "README.md"
TABLE_START = "<!-- verification -->"
TABLE_END = "<!-- end of verification -->"
NOT_VERIFIED = "Not verified yet: run the conversion with `--verify`."

FAMILY_WORDS = {
    "encoder": "no head",
    "ctc": "a CTC head",
    "rnnt": "an RNN transducer head",
    "tdt": "a token-and-duration transducer (TDT) head",
    "hybrid_rnnt_ctc": "two heads, an RNN transducer and CTC",
    "hybrid_tdt_ctc": "two heads, a token-and-duration transducer (TDT) and CTC",
}
FAMILY_TAGS: dict[str, list[str]] = {
    "encoder": [],
    "ctc": ["ctc"],
    "rnnt": ["rnnt"],
    "tdt": ["tdt"],
    "hybrid_rnnt_ctc": ["rnnt", "ctc"],
    "hybrid_tdt_ctc": ["tdt", "ctc"],
}
# What a converted checkpoint has in common with the original.
INHERITED_METADATA = ("license", "license_name", "license_link", "language")
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(-\w+)*")
FRONT_MATTER = re.compile(r"\A\s*---\s*\n(.*?\n)---\s*(\n|\Z)", re.DOTALL)

RECOGNISER_USE = """\
from transformers import AutoProcessor
from transformers_fastconformer import {name}
from transformers_fastconformer.audio.files import read_audio

folder = "."  # this folder, or the id of its repository
processor = AutoProcessor.from_pretrained(folder)
model = {name}.from_pretrained(folder).eval()

sampling_rate = processor.feature_extractor.sampling_rate
inputs = processor(read_audio("speech.wav", sampling_rate), sampling_rate=sampling_rate, return_tensors="pt")
print(processor.batch_decode(model.generate(**inputs{arguments})))"""

ENCODER_USE = """\
from transformers_fastconformer import FastConformerFeatureExtractor, {name}
from transformers_fastconformer.audio.files import read_audio

folder = "."  # this folder, or the id of its repository
feature_extractor = FastConformerFeatureExtractor.from_pretrained(folder)
model = {name}.from_pretrained(folder).eval()

sampling_rate = feature_extractor.sampling_rate
audio = read_audio("speech.wav", sampling_rate)
features = feature_extractor(audio, sampling_rate=sampling_rate, return_tensors="pt")
print(model(**features).last_hidden_state.shape)  # (clips, frames, {size})"""


def write_model_card(
    folder: Path,
    mapped: MappedConfig,
    *,
    source: FoundArchive,
    source_card: Mapping[str, Any],
    num_parameters: int,
    parts_left_out: Mapping[str, str],
) -> None:
    """
    Write the card, with a place for the table of a verification.

    Args:
        folder: Folder of the checkpoint.
        mapped: The configuration.
        source: The archive.
        source_card: What the card of its repository says, see [`read_source_card`].
        num_parameters: Weights of the model.
        parts_left_out: Parts of NeMo's model that are not converted, and what they hold.
    """
    config = mapped.config
    is_encoder = mapped.family == "encoder"
    task = "feature-extraction" if is_encoder else "automatic-speech-recognition"
    tags = [task, "speech", "audio", "fastconformer", "nemo", *FAMILY_TAGS[mapped.family]]
    hub_id, archive_name = source.hub_id, source.file_name or source.path.name
    languages = sorted(getattr(config, "prompt_languages", None) or {})
    metadata: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": task}
    metadata |= {key: source_card[key] for key in INHERITED_METADATA if source_card.get(key)}
    if "language" not in metadata and languages:
        metadata["language"] = sorted({code.split("-")[0] for code in languages if LANGUAGE_CODE.fullmatch(code)})
    if hub_id:
        metadata["base_model"] = hub_id
    metadata["tags"] = tags
    front_matter = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    origin = f"[{hub_id}](https://huggingface.co/{hub_id}) (`{archive_name}`)" if hub_id else f"`{archive_name}`"
    title = hub_id.rsplit("/", 1)[-1] if hub_id else Path(archive_name).stem
    name = mapped.architecture
    # A model of 300 thousand parameters should not have "0 million".
    millions = f"{num_parameters / 1e6:.0f}" if num_parameters >= 10e6 else f"{num_parameters / 1e6:.2f}"
    # A model with language prompts is told the language.
    arguments = f', language="{languages[0]}"' if languages else ""
    use = (ENCODER_USE if is_encoder else RECOGNISER_USE).format(
        name=name, size=config.output_size, arguments=arguments
    )
    licence = metadata.get("license_name") or metadata.get("license")
    licence = f", {licence}" if licence else ""
    kind = "encoder" if is_encoder else "recogniser"
    left_out = ""
    if parts_left_out:
        listed = "\n".join(f"- `{part}`: {content}" for part, content in parts_left_out.items())
        whole = f"`{mapped.nemo_class}`" if mapped.nemo_class else "The original"
        left_out = f"\n## Not converted\n\n{whole} has more parts than the encoder. Left out are:\n\n{listed}\n"
    card = f"""\
---
{front_matter}---

# {title}

A FastConformer speech {kind} with {FAMILY_WORDS[mapped.family]}: {config.num_hidden_layers} blocks of width \
{config.hidden_size}, {millions} million parameters.
Converted from {origin} with transformers-fastconformer {__version__}. The licence is that of \
the original{licence}.

## Use

```bash
pip install "transformers-fastconformer[audio]"
```

```python
{use}
```
{left_out}
## Equality with NeMo

{TABLE_START}
{NOT_VERIFIED}
{TABLE_END}
"""
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def read_source_card(source: FoundArchive, hub_options: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata on top of the README of the repository that an archive comes from; empty where there is none."""
    if source.hub_id is None:
        return {}
    options = {**download_options(hub_options), "revision": source.commit}
    try:
        path = cached_file(source.hub_id, CARD_FILE, **options)
        found = FRONT_MATTER.match(Path(str(path)).read_text(encoding="utf-8"))
        # Texts and lists of texts alone: to the other loaders the language "no" is false.
        metadata = yaml.load(found[1], Loader=yaml.BaseLoader) if found else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # a card is no reason to fail
        logger.debug(f"The card of {source.hub_id} cannot be read.", exc_info=True)
        return {}
    return metadata if isinstance(metadata, dict) else {}


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
