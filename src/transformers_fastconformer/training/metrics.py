"""Word and character error rates of an evaluation, for `Trainer(compute_metrics=...)`; needs the extra `train`."""

from __future__ import annotations

from typing import Any

from ..processing_fastconformer import FastConformerProcessor
from .packages import require_package


class WordErrors:
    """
    Word and character error rate of token ids, as [`FastConformerTrainer`] and `Seq2SeqTrainer` predict them.

    Texts are compared as they are: with their case and punctuation.

    Args:
        processor ([`FastConformerProcessor`]): The model's, which turns ids into text.

    Raises:
        ImportError: jiwer is not installed; the message holds the command.
    """

    def __init__(self, processor: FastConformerProcessor) -> None:
        require_package("jiwer")
        self.processor = processor

    def __call__(self, prediction: Any) -> dict[str, float]:
        """
        Args:
            prediction: `EvalPrediction` with `predictions` and `label_ids`, both (clips, tokens), padded with -100.

        Returns:
            `wer` and `cer`, of all clips together.
        """
        ids = (prediction.label_ids, prediction.predictions)
        expected, found = (self.processor.tokenizer.batch_decode(rows, group_tokens=False) for rows in ids)
        return count_errors(expected, found)


def count_errors(expected: list[str], found: list[str]) -> dict[str, float]:
    """
    Word and character error rate of texts.

    Args:
        expected: What is said; some of it must not be empty.
        found: What was heard.
    """
    import jiwer

    words, characters = jiwer.process_words(expected, found), jiwer.process_characters(expected, found)
    return {"wer": float(words.wer), "cer": float(characters.cer)}
