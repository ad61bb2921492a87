"""Small SentencePiece models of every kind, trained when a test asks for one."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Speech is turned into features, features into frames, frames into tokens; tokens make the text.",
    "Where does the road lead? It leads to the river, past the mill and the old stone bridge!",
    "She said: it's a model's job to listen, isn't it? Yes (and to write down what was said).",
    "He bought 12 apples, 3 pears and 45 plums for 6.70 at the well-known market...",
    "Ça va? ¿Qué tal? Über den Fluss, naïve façade — “quoted” words.",
    "Quiet voices, loud voices, voices far away: the machine hears them all.",
)
SYMBOLS = ("<EOU>", "<EOB>")
VARIANTS: dict[str, dict[str, Any]] = {
    "bpe": {},
    "unigram": {"model_type": "unigram"},
    "character": {"model_type": "char"},
    "bpe with pad, bos, eos": {"pad_id": 3, "bos_id": 1, "eos_id": 2, "control_symbols": ("<|start|>",)},
    "bpe with symbols": {"user_defined_symbols": SYMBOLS},
    "unigram with symbols and pad": {"model_type": "unigram", "user_defined_symbols": SYMBOLS, "pad_id": 1},
    "character with symbols": {"model_type": "char", "user_defined_symbols": SYMBOLS},
    "case-folding bpe with symbols": {"normalization_rule_name": "nmt_nfkc_cf", "user_defined_symbols": SYMBOLS},
    "bpe with bytes": {"byte_fallback": True, "character_coverage": 0.98, "vocab_size": 400},
    "unigram with bytes": {"model_type": "unigram", "byte_fallback": True, "vocab_size": 400},
    "unnormalised bpe": {"normalization_rule_name": "identity"},
    "bpe that keeps spaces": {"remove_extra_whitespaces": False},
    "unigram that keeps spaces": {"model_type": "unigram", "remove_extra_whitespaces": False},
    "bpe without prefix": {"add_dummy_prefix": False},
    "bpe without prefix that keeps spaces": {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
    "bpe across spaces": {"split_by_whitespace": False},
}


@cache
def train_sentencepiece_model(**options: Any) -> bytes:
    """A model trained on `SENTENCES`; `options` are those of SentencePiece's trainer."""
    import sentencepiece

    options = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    settings = {"vocab_size": 150, "model_type": "bpe", "character_coverage": 1.0, "bos_id": -1, "eos_id": -1}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        **settings | options,
    )
    return model.getvalue()
