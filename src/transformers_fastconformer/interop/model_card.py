"""The words of the card of a checkpoint that is written for Transformers' own classes."""

from __future__ import annotations

from ..checkpoints.model_card import ModelCard, read_front_matter
from ..version import __version__
from .families import Family

RECOGNISER_USE = """\
from transformers import AutoProcessor, {name}

processor = AutoProcessor.from_pretrained("{folder}")
model = {name}.from_pretrained("{folder}").eval()
inputs = processor(audio, sampling_rate=processor.feature_extractor.sampling_rate)  # audio: float samples, one clip
output = model.generate(**inputs)
print(processor.batch_decode({sequences}, skip_special_tokens=True))"""

MULTITASK_USE = """\
from transformers import AutoProcessor, {name}

processor = AutoProcessor.from_pretrained("{folder}")
model = {name}.from_pretrained("{folder}").eval()
inputs = processor.apply_transcription_request(audio, source_language="en")  # audio: float samples, one clip
output = model.generate(**inputs)
print(processor.batch_decode({sequences}, skip_special_tokens=True))"""

ENCODER_USE = """\
from transformers import AutoFeatureExtractor, {name}

feature_extractor = AutoFeatureExtractor.from_pretrained("{folder}")
model = {name}.from_pretrained("{folder}").eval()
inputs = feature_extractor(audio, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt")
print(model(**inputs).last_hidden_state.shape)"""


def describe_export(family: Family, source_card: str | None) -> ModelCard:
    """
    The card of a checkpoint of theirs.

    Args:
        family: What it holds.
        source_card: The card of the checkpoint that it was made from, whose licence, languages and base model stay.
    """
    task = "feature-extraction" if family.is_encoder_alone else "automatic-speech-recognition"
    use = RECOGNISER_USE
    if family.is_encoder_alone or family.is_multitask:
        use = MULTITASK_USE if family.is_multitask else ENCODER_USE
    gives_ids = family.is_multitask or family.model_type == "parakeet_ctc"
    use = use.format(name=family.class_name, folder=".", sequences="output" if gives_ids else "output.sequences")
    return ModelCard(
        front_matter=read_front_matter(source_card or "") or f"library_name: transformers\npipeline_tag: {task}\n",
        title=f"A checkpoint for `{family.class_name}`",
        introduction=f"Written by transformers-fastconformer {__version__} for the class of that name in "
        "Transformers, which loads it without\nthis package. The licence is that of the original.",
        use=use,
    )
