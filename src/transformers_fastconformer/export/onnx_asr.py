"""
The form that the package onnx-asr loads, checked against its version 0.12: its files, and what it has no form for.

It computes features of its own, the same for all models, decodes greedily by its own loops, and says nothing where a
model wants something else: so whatever it cannot express is refused here, by name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..configuration_fastconformer import FastConformerTDTConfig
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from ..tokenization_fastconformer import FastConformerTokenizer
from ..tokenization_piece_text import WORD_MARK
from ..validation import require
from .graphs import GraphPart, ctc_part, decoder_joint_part, encoder_part

CONFIG_FILE = "config.json"
VOCABULARY_FILE = "vocab.txt"
BLANK = "<blk>"

# Its features, whatever the model: all fields of the feature extractor that change a number.
FEATURES: dict[str, tuple[Any, ...]] = {
    "feature_size": (80, 128),
    "sampling_rate": (16000,),
    "n_fft": (512,),
    "win_length": (400,),
    "hop_length": (160,),
    "preemphasis": (0.97,),
    "window": ("hann",),
    "normalize": ("per_feature",),
    "mag_power": (2.0,),
    "log": (True,),
    "log_zero_guard_type": ("add",),
    "log_zero_guard_value": (2**-24,),
    "exact_pad": (False,),
    "frame_splicing": (1,),
    "min_frequency": (0.0,),
    "max_frequency": (None, 8000.0),
    "mel_norm": ("slaney",),
    "filterbank_dtype": ("float32",),
    "peak_scaling": (None,),
    "mel_filters": (None,),
    "window_values": (None,),
}
INSTEAD = "target='plain' exports the graphs for a program that computes these"


def graph_parts(model: FastConformerRecognizer) -> dict[str, GraphPart]:
    """The graphs by the names of their files."""
    if model.decoder_type == "ctc":
        return {"model.onnx": ctc_part(model)}
    transducer: Any = model
    return {"encoder-model.onnx": encoder_part(model), "decoder_joint-model.onnx": decoder_joint_part(transducer)}


def metadata(model: FastConformerRecognizer, processor: FastConformerProcessor) -> dict[str, dict[str, str]]:
    """Entries of the graphs by the names of their files: none."""
    return {}


def check_expressible(model: FastConformerRecognizer, processor: FastConformerProcessor) -> None:
    """
    Refuse a model that onnx-asr would load and transcribe wrongly.

    Raises:
        ValueError: with the name of what it cannot express, its value and what is accepted.
    """
    config, extractor = model.config, processor.feature_extractor
    kinds = ("ctc", "rnnt", "tdt")
    require(model.decoder_type in kinds, "head", model.decoder_type, f"one of {kinds} for target 'onnx-asr'")
    for name, accepted in FEATURES.items():
        value = getattr(extractor, name)
        is_accepted = value is None if accepted == (None,) else value in accepted
        choices = " or ".join(map(repr, accepted))
        require(is_accepted, f"feature_extractor.{name}", value, f"{choices}, which onnx-asr computes; {INSTEAD}")
    num_prompts = getattr(config, "num_prompts", 0)
    require(num_prompts == 0, "num_prompts", num_prompts, "0, as onnx-asr cannot tell a model the language")
    if model.decoder_type == "ctc":
        _check_frames(config)
    else:
        require(config.decoder_type == "lstm", "decoder_type", config.decoder_type, "'lstm' for target 'onnx-asr'")
    if isinstance(config, FastConformerTDTConfig) and model.decoder_type == "tdt":
        indices = list(range(len(config.durations)))
        require(
            config.durations == indices,
            "durations",
            config.durations,
            f"{indices}, as onnx-asr takes the index of a duration for its frames; the CTC head of a hybrid has none",
        )
    vocabulary_lines(processor.tokenizer)


def _check_frames(config: Any) -> None:
    """onnx-asr counts the frames of a CTC model by a rule of its own."""
    factor = config.subsampling_factor
    for mel_frames in range(1, 4 * factor + 2):
        frames = config.count_encoder_frames(mel_frames)
        expected = (mel_frames - 1) // factor + 1
        require(
            frames == expected,
            f"the number of encoder frames of {mel_frames} mel frames",
            frames,
            f"{expected}, as onnx-asr counts them; a transducer head tells it the number",
        )


def vocabulary_lines(tokenizer: FastConformerTokenizer) -> list[str]:
    """
    The tokens in the order of their ids, as onnx-asr writes them; the blank is the last one.

    Raises:
        ValueError: for a vocabulary whose tokens do not simply follow one another in the text.
    """
    rules = ("sentencepiece", "character", "aggregate")
    rule = tokenizer.text_rule
    require(rule in rules, "text_rule", rule, f"one of {rules}, as onnx-asr only joins tokens")
    require(not tokenizer.byte_tokens, "byte_tokens", tokenizer.byte_tokens, "False, as onnx-asr joins no bytes")
    tokens = tokenizer.vocabulary_tokens(range(tokenizer.blank_token_id))
    if rule == "character" and WORD_MARK not in tokens:
        # It writes a space where the word mark stands; a line is split at spaces.
        tokens = [WORD_MARK if token == " " else token for token in tokens]
    for number, token in enumerate(tokens):
        is_a_word = token not in ("", BLANK) and not any(character in token for character in " \r\n")
        require(is_a_word, f"token {number}", token, f"one without spaces, not empty, and not {BLANK!r}")
    return [*tokens, BLANK]


def write_settings(folder: Path, model: FastConformerRecognizer, processor: FastConformerProcessor) -> None:
    """Write what onnx-asr reads next to the graphs."""
    config = model.config
    settings: dict[str, Any] = {
        "model_type": f"nemo-conformer-{model.decoder_type}",
        "features_size": processor.feature_extractor.feature_size,
        "subsampling_factor": config.subsampling_factor,
    }
    if model.decoder_type != "ctc":
        settings["max_tokens_per_step"] = config.max_symbols_per_step
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    lines = [f"{token} {number}\n" for number, token in enumerate(vocabulary_lines(processor.tokenizer))]
    (folder / VOCABULARY_FILE).write_text("".join(lines), encoding="utf-8", newline="\n")


def transcribe(
    folder: Path, model: FastConformerRecognizer, processor: FastConformerProcessor, waveforms: Any, is_int8: bool
) -> list[str]:
    """The texts that onnx-asr gives, of waveforms at 16 kHz."""
    import onnx_asr

    name = f"nemo-conformer-{model.decoder_type}"
    recognizer = onnx_asr.load_model(name, folder, quantization="int8" if is_int8 else None)
    return [recognizer.recognize(waveform) for waveform in waveforms]
