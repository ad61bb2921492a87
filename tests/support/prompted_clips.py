"""A small random Canary with the processor of its prompts, and clips that it can learn by heart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from multitask_models import SMALL
from sentencepiece_models import train_sentencepiece_model

from transformers_fastconformer import (
    FastConformerFeatureExtractor,
    FastConformerForMultitask,
    FastConformerMultitaskConfig,
    FastConformerProcessor,
)
from transformers_fastconformer.nemo.tokenizers import sentencepiece_tokenizer

SYMBOLS = (
    *("<|startofcontext|>", "<|startoftranscript|>", "<|endoftext|>", "<pad>", "<|en|>", "<|de|>"),
    *("<|transcribe|>", "<|translate|>", "<|pnc|>", "<|nopnc|>", "<|itn|>", "<|noitn|>", "<|timestamp|>"),
    *("<|notimestamp|>", "<|diarize|>", "<|nodiarize|>", "<|emo:undefined|>"),
    *(f"<|{frame}|>" for frame in range(10)),
)
TEXTS = ("the lazy dog", "dogs", "over the dog", "lazy lazy")


def build_prompted(
    prompt_format: str = "canary", learns_prompt: bool = True, **options: Any
) -> tuple[FastConformerForMultitask, FastConformerProcessor]:
    """Model and processor whose prompts fit one another."""
    tokenizer = sentencepiece_tokenizer(train_sentencepiece_model(user_defined_symbols=SYMBOLS, vocab_size=150))
    processor = FastConformerProcessor(
        FastConformerFeatureExtractor(feature_size=SMALL["num_mel_bins"]),
        tokenizer,
        prompt_format=prompt_format,
        learns_prompt=learns_prompt,
    )
    ids = {
        "vocab_size": 152,
        "num_tokens": len(tokenizer),
        "prompt_token_ids": tokenizer.prompt_token_ids,
        "bos_token_id": tokenizer.prompt_token_id("<|startoftranscript|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.prompt_token_id("<|startoftranscript|>"),
    }
    quiet = {"apply_spec_augment": False, "dropout": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = FastConformerMultitaskConfig(**{**SMALL, **ids, "prompt_format": prompt_format, **quiet, **options})
        return FastConformerForMultitask(config), processor


def make_rows() -> list[dict[str, Any]]:
    """Noise of several loudnesses and lengths, each with a text; the second is a translation."""
    generator = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for place, text in enumerate(TEXTS):
        waveform = generator.standard_normal(12000 + 2000 * place).astype(np.float32) * 0.1
        rows.append({"audio": {"array": waveform, "sampling_rate": 16000}, "text": text})
    rows[1] |= {"source_lang": "de", "target_lang": "en", "taskname": "ast", "pnc": "no"}
    rows[1] |= {"text": "der Hund", "answer": TEXTS[1]}
    return rows
