"""
The form that the package sherpa-onnx loads for whole recordings, checked against its version 2.0: files and metadata.

It computes features of its own that are close to NeMo's but not the same, so that text may differ; stages are the
model's. It binds inputs and outputs by their places, and takes a transducer for a TDT model if the metadata `url`
holds the letters "tdt".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..configuration_fastconformer import FastConformerTDTConfig
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from ..validation import require
from .graphs import GraphPart, ctc_part, encoder_part, joint_part, prediction_part
from .int8 import int8_name
from .onnx_asr import FEATURES, INSTEAD, vocabulary_lines

TOKENS_FILE = "tokens.txt"
# Features whose values it is told, or which it makes as it pleases.
NORMALIZATIONS = {"per_feature": "per_feature", None: ""}
PROJECT = "https://github.com/k2-fsa/sherpa-onnx"


def graph_parts(model: FastConformerRecognizer) -> dict[str, GraphPart]:
    """The graphs by the names of their files."""
    if model.decoder_type == "ctc":
        return {"model.onnx": ctc_part(model)}
    transducer: Any = model
    parts = (encoder_part(model), prediction_part(transducer), joint_part(transducer))
    return dict(zip(graph_files(model), parts, strict=True))


def graph_files(model: FastConformerRecognizer) -> list[str]:
    """The names of the graphs' files."""
    return ["model.onnx"] if model.decoder_type == "ctc" else ["encoder.onnx", "decoder.onnx", "joiner.onnx"]


def check_expressible(model: FastConformerRecognizer, processor: FastConformerProcessor) -> None:
    """
    Refuse a model that sherpa-onnx would not load, or would transcribe wrongly.

    Raises:
        ValueError: with the name of what it cannot express, its value and what is accepted.
    """
    config, extractor = model.config, processor.feature_extractor
    kinds = ("ctc", "rnnt", "tdt")
    require(model.decoder_type in kinds, "head", model.decoder_type, f"one of {kinds} for target 'sherpa-onnx'")
    for name, accepted in {**FEATURES, "normalize": tuple(NORMALIZATIONS)}.items():
        value = getattr(extractor, name)
        is_accepted = value is None if accepted == (None,) else value in accepted
        choices = " or ".join(map(repr, accepted))
        require(is_accepted, f"feature_extractor.{name}", value, f"{choices}, which sherpa-onnx has; {INSTEAD}")
    num_prompts = getattr(config, "num_prompts", 0)
    require(num_prompts == 0, "num_prompts", num_prompts, "0, as sherpa-onnx tells no language for whole recordings")
    if model.decoder_type != "ctc":
        require(config.decoder_type == "lstm", "decoder_type", config.decoder_type, "'lstm' for target 'sherpa-onnx'")
    if isinstance(config, FastConformerTDTConfig) and model.decoder_type == "tdt":
        indices = list(range(len(config.durations)))
        require(
            config.durations == indices,
            "durations",
            config.durations,
            f"{indices}, as sherpa-onnx takes the index of a duration for its frames",
        )
    vocabulary_lines(processor.tokenizer)


def metadata(model: FastConformerRecognizer, processor: FastConformerProcessor) -> dict[str, dict[str, str]]:
    """Entries that sherpa-onnx reads off the first graph, by the name of its file."""
    config, extractor = model.config, processor.feature_extractor
    entries: dict[str, Any] = {
        "vocab_size": config.vocab_size - 1,
        "normalize_type": NORMALIZATIONS[extractor.normalize],
        "subsampling_factor": config.subsampling_factor,
        "feat_dim": extractor.feature_size,
        "version": 1,
        "model_author": "",
        "comment": "",
        "url": f"{PROJECT}#{model.decoder_type}",
    }
    if model.decoder_type == "ctc":
        entries["model_type"] = "EncDecCTCModelBPE"
        return {"model.onnx": {name: str(value) for name, value in entries.items()}}
    entries |= {
        "model_type": "EncDecRNNTBPEModel",
        "pred_rnn_layers": config.num_decoder_layers,
        "pred_hidden": config.decoder_hidden_size,
    }
    return {"encoder.onnx": {name: str(value) for name, value in entries.items()}}


def write_settings(folder: Path, model: FastConformerRecognizer, processor: FastConformerProcessor) -> None:
    """Write the tokens."""
    lines = [f"{token} {number}\n" for number, token in enumerate(vocabulary_lines(processor.tokenizer))]
    (folder / TOKENS_FILE).write_text("".join(lines), encoding="utf-8", newline="\n")


def transcribe(
    folder: Path, model: FastConformerRecognizer, processor: FastConformerProcessor, waveforms: Any, is_int8: bool
) -> list[str]:
    """The texts that sherpa-onnx gives, of waveforms at 16 kHz."""
    import sherpa_onnx

    graphs = [str(folder / (int8_name(name) if is_int8 else name)) for name in graph_files(model)]
    tokens = str(folder / TOKENS_FILE)
    if model.decoder_type == "ctc":
        recognizer = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(model=graphs[0], tokens=tokens)
    else:
        size = processor.feature_extractor.feature_size
        recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
            *graphs, tokens, model_type="nemo_transducer", feature_dim=size
        )
    texts = []
    for waveform in waveforms:
        stream = recognizer.create_stream()
        stream.accept_waveform(processor.feature_extractor.sampling_rate, waveform)
        recognizer.decode_stream(stream)
        texts.append(stream.result.text)
    return texts
