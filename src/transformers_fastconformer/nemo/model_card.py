"""The words of the card of a checkpoint that was converted from NeMo's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..checkpoints.model_card import INHERITED_METADATA, ModelCard, read_hub_metadata, verification_section
from ..version import __version__
from .config_map import MappedConfig
from .locate import FoundArchive

FAMILY_WORDS = {
    "encoder": "no head",
    "pretraining": "the head of its self-supervised pre-training",
    "diarization": "a head for the activities of speakers",
    "ctc": "a CTC head",
    "rnnt": "an RNN transducer head",
    "tdt": "a token-and-duration transducer (TDT) head",
    "hybrid_rnnt_ctc": "two heads, an RNN transducer and CTC",
    "hybrid_tdt_ctc": "two heads, a token-and-duration transducer (TDT) and CTC",
    "multitask": "a prompted transformer decoder",
}
FAMILY_TAGS: dict[str, list[str]] = {
    "encoder": [],
    "pretraining": ["self-supervised"],
    "diarization": ["speaker-diarization"],
    "ctc": ["ctc"],
    "rnnt": ["rnnt"],
    "tdt": ["tdt"],
    "hybrid_rnnt_ctc": ["rnnt", "ctc"],
    "hybrid_tdt_ctc": ["tdt", "ctc"],
    "multitask": ["canary", "translation"],
}
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(-\w+)*")
# From here on a model has whole millions of parameters: one of 300 thousand should not have "0 million".
MIN_ROUNDED_PARAMETERS = 10e6
INSTALL = 'pip install "transformers-fastconformer[audio]"'

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

DIARIZATION_USE = """\
from transformers_fastconformer import diarize

folder = "."  # this folder, or the id of its repository
for turn in diarize("meeting.wav", model=folder).turns:
    print(turn.speaker, turn.start, turn.end)"""

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


PRETRAINING_USE = ENCODER_USE.replace(
    "print(model(**features).last_hidden_state.shape)  # (clips, frames, {size})",
    """output = model(**features)
print(output.token_ids)  # (clips, frames, codebooks), what it would learn to predict
print(model.encoder(**features).last_hidden_state.shape)  # (clips, frames, {size})""",
)


# Family: what it is called, and how it is used; others are recognisers.
KINDS = {
    "encoder": ("encoder", ENCODER_USE),
    "pretraining": ("self-supervised encoder", PRETRAINING_USE),
    "diarization": ("diariser", DIARIZATION_USE),
}
TASKS = {
    "encoder": "feature-extraction",
    "pretraining": "feature-extraction",
    "diarization": "voice-activity-detection",
}


def describe_conversion(
    mapped: MappedConfig,
    *,
    source: FoundArchive,
    source_card: Mapping[str, Any],
    num_parameters: int,
    parts_left_out: Mapping[str, str],
) -> ModelCard:
    """
    The card of a converted checkpoint, with a place for the table of a verification.

    Args:
        mapped: The configuration.
        source: The archive.
        source_card: Metadata of the card of its repository, see [`read_source_card`].
        num_parameters: Weights of the model.
        parts_left_out: Parts of NeMo's model that are not converted, and what they hold.
    """
    config, hub_id = mapped.config, source.hub_id
    archive_name = source.file_name or source.path.name
    languages = sorted(getattr(config, "prompt_languages", None) or {})
    metadata = _describe_metadata(mapped, hub_id, source_card, languages)
    millions = f"{num_parameters / 1e6:.{0 if num_parameters >= MIN_ROUNDED_PARAMETERS else 2}f}"
    origin = f"[{hub_id}](https://huggingface.co/{hub_id}) (`{archive_name}`)" if hub_id else f"`{archive_name}`"
    licence = metadata.get("license_name") or metadata.get("license")
    kind, use = KINDS.get(mapped.family, ("recogniser", RECOGNISER_USE))
    introduction = (
        f"A FastConformer speech {kind} with {FAMILY_WORDS[mapped.family]}: "
        f"{config.num_hidden_layers} blocks of width {config.hidden_size}, {millions} million parameters.\n"
        f"Converted from {origin} with transformers-fastconformer {__version__}. The licence is that of the original"
        f"{f', {licence}' if licence else ''}."
    )
    left_out = (("Not converted", _describe_left_out(mapped, parts_left_out)),) if parts_left_out else ()
    use = use.format(
        name=mapped.architecture,
        size=config.output_size,
        # A model with language prompts is told the language.
        arguments=f', language="{languages[0]}"' if languages else "",
    )
    return ModelCard(
        front_matter=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True),
        title=hub_id.rsplit("/", 1)[-1] if hub_id else Path(archive_name).stem,
        introduction=introduction,
        use=use,
        install=INSTALL,
        sections=(*left_out, verification_section("Equality with NeMo")),
    )


def _describe_metadata(
    mapped: MappedConfig, hub_id: str | None, source_card: Mapping[str, Any], languages: list[str]
) -> dict[str, Any]:
    task = TASKS.get(mapped.family, "automatic-speech-recognition")
    metadata: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": task}
    metadata |= {key: source_card[key] for key in INHERITED_METADATA if source_card.get(key)}
    if "language" not in metadata and languages:
        metadata["language"] = sorted({code.split("-")[0] for code in languages if LANGUAGE_CODE.fullmatch(code)})
    if hub_id:
        metadata["base_model"] = hub_id
    metadata["tags"] = [task, "speech", "audio", "fastconformer", "nemo", *FAMILY_TAGS[mapped.family]]
    return metadata


def _describe_left_out(mapped: MappedConfig, parts_left_out: Mapping[str, str]) -> str:
    listed = "\n".join(f"- `{part}`: {content}" for part, content in parts_left_out.items())
    whole = f"`{mapped.nemo_class}`" if mapped.nemo_class else "The original"
    return f"{whole} has more parts than the encoder. Left out are:\n\n{listed}"


def read_source_card(source: FoundArchive, hub_options: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata on top of the card of the repository that an archive comes from; empty without a card."""
    if source.hub_id is None:
        return {}
    return read_hub_metadata(source.hub_id, {**hub_options, "revision": source.commit})
