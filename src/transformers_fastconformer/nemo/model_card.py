"""The README.md of a converted checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..version import __version__
from .config_map import MappedConfig

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


RECOGNISER_USE = """\
from transformers import AutoProcessor
from transformers_fastconformer import {name}
from transformers_fastconformer.audio import read_audio

folder = "."  # this folder, or the id of its repository
processor = AutoProcessor.from_pretrained(folder)
model = {name}.from_pretrained(folder).eval()

sampling_rate = processor.feature_extractor.sampling_rate
inputs = processor(read_audio("speech.wav", sampling_rate), sampling_rate=sampling_rate, return_tensors="pt")
print(processor.batch_decode(model.generate(**inputs{arguments})))"""

ENCODER_USE = """\
from transformers_fastconformer import FastConformerFeatureExtractor, {name}
from transformers_fastconformer.audio import read_audio

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
    hub_id: str | None,
    archive_name: str,
    num_parameters: int,
    parts_left_out: Mapping[str, str],
) -> None:
    """
    Write the card, with a place for the table of a verification.

    Args:
        folder: Folder of the checkpoint.
        mapped: The configuration.
        hub_id: Hub repository that the archive came from, if any.
        archive_name: Name of the archive.
        num_parameters: Weights of the model.
        parts_left_out: Parts of NeMo's model that are not converted, and what they hold.
    """
    config = mapped.config
    is_encoder = mapped.family == "encoder"
    task = "feature-extraction" if is_encoder else "automatic-speech-recognition"
    tags = [task, "speech", "audio", "fastconformer", "nemo", *FAMILY_TAGS[mapped.family]]
    front_matter = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {task}",
        *([f"base_model: {hub_id}"] if hub_id else []),
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
    ]
    origin = f"[{hub_id}](https://huggingface.co/{hub_id}) (`{archive_name}`)" if hub_id else f"`{archive_name}`"
    title = hub_id.rsplit("/", 1)[-1] if hub_id else Path(archive_name).stem
    name = mapped.architecture
    # A model of 300 thousand parameters should not have "0 million".
    millions = f"{num_parameters / 1e6:.0f}" if num_parameters >= 10e6 else f"{num_parameters / 1e6:.2f}"
    languages = sorted(getattr(config, "prompt_languages", None) or {})
    # A model with language prompts is told the language.
    arguments = f', language="{languages[0]}"' if languages else ""
    use = (ENCODER_USE if is_encoder else RECOGNISER_USE).format(
        name=name, size=config.output_size, arguments=arguments
    )
    kind = "encoder" if is_encoder else "recogniser"
    left_out = ""
    if parts_left_out:
        listed = "\n".join(f"- `{part}`: {content}" for part, content in parts_left_out.items())
        whole = f"`{mapped.nemo_class}`" if mapped.nemo_class else "The original"
        left_out = f"\n## Not converted\n\n{whole} has more parts than the encoder. Left out are:\n\n{listed}\n"
    card = f"""\
{chr(10).join(front_matter)}

# {title}

A FastConformer speech {kind} with {FAMILY_WORDS[mapped.family]}: {config.num_hidden_layers} blocks of width \
{config.hidden_size}, {millions} million parameters.
Converted from {origin} with transformers-fastconformer {__version__}. The licence is that of the original.

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
