"""
Graphs for programs of one's own, with the processor and the configuration of the checkpoint next to them.

Nothing is assumed about features, tokens or decoding: `preprocessor_config.json` says how features are computed,
`tokenizer.json` holds the tokens, and `config.json` the durations and the limits of decoding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from ..validation import require
from .graphs import GraphPart, ctc_part, decoder_joint_part, encoder_part


def graph_parts(model: FastConformerRecognizer) -> dict[str, GraphPart]:
    """The graphs by the names of their files."""
    if model.decoder_type == "ctc":
        return {"model.onnx": ctc_part(model)}
    transducer: Any = model
    return {"encoder.onnx": encoder_part(model), "decoder_joint.onnx": decoder_joint_part(transducer)}


def metadata(model: FastConformerRecognizer, processor: FastConformerProcessor) -> dict[str, dict[str, str]]:
    """Entries of the graphs by the names of their files: none."""
    return {}


def check_expressible(model: FastConformerRecognizer, processor: FastConformerProcessor) -> None:
    """Raise a `ValueError` for a model that has no graphs."""
    config = model.config
    kinds = ("ctc", "rnnt", "tdt")
    require(model.decoder_type in kinds, "head", model.decoder_type, f"one of {kinds} for an export to ONNX")
    num_prompts = getattr(config, "num_prompts", 0)
    require(num_prompts == 0, "num_prompts", num_prompts, "0, as graphs are not told a language")
    if model.decoder_type != "ctc":
        require(config.decoder_type == "lstm", "decoder_type", config.decoder_type, "'lstm' for an export to ONNX")


def write_settings(folder: Path, model: FastConformerRecognizer, processor: FastConformerProcessor) -> None:
    """Write the configuration and the processor as `save_pretrained` does."""
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
