"""The README.md of a checkpoint written for Transformers' own classes."""

from __future__ import annotations

import re
from pathlib import Path

from ..version import __version__
from .families import Family

CARD_FILE = "README.md"
FRONT_MATTER = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)

RECOGNISER_USE = """\
from transformers import AutoProcessor, {name}

processor = AutoProcessor.from_pretrained("{folder}")
model = {name}.from_pretrained("{folder}").eval()
inputs = processor(audio, sampling_rate=processor.feature_extractor.sampling_rate)  # audio: float samples, one clip
output = model.generate(**inputs)
print(processor.batch_decode({sequences}, skip_special_tokens=True))"""

ENCODER_USE = """\
from transformers import AutoFeatureExtractor, {name}

feature_extractor = AutoFeatureExtractor.from_pretrained("{folder}")
model = {name}.from_pretrained("{folder}").eval()
inputs = feature_extractor(audio, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt")
print(model(**inputs).last_hidden_state.shape)"""


def write_card(folder: Path, family: Family, source_card: str | None) -> None:
    """
    Write the card.

    Args:
        folder: Folder of the checkpoint.
        family: What it holds.
        source_card: The card of the checkpoint that it was made from, whose licence, languages and base model stay.
    """
    found = FRONT_MATTER.match(source_card or "")
    task = "feature-extraction" if family.is_encoder_alone else "automatic-speech-recognition"
    front_matter = found[1] if found else f"library_name: transformers\npipeline_tag: {task}\n"
    is_ctc = family.model_type == "parakeet_ctc"
    use = (ENCODER_USE if family.is_encoder_alone else RECOGNISER_USE).format(
        name=family.class_name, folder=".", sequences="output" if is_ctc else "output.sequences"
    )
    card = f"""\
---
{front_matter}---

# A checkpoint for `{family.class_name}`

Written by transformers-fastconformer {__version__} for the class of that name in Transformers, which loads it without
this package. The licence is that of the original.

## Use

```python
{use}
```
"""
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
