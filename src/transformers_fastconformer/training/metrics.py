"""Word and character error rates of an evaluation, for `Trainer(compute_metrics=...)`; needs the extra `train`."""

from __future__ import annotations

from typing import Any

from ..processing_fastconformer import FastConformerProcessor
from ..processing_multitask import text_of_multitask
from ..tokenization_fastconformer import IGNORED_LABEL
from .word_errors import ErrorCounts, import_jiwer, make_normalizer, score_texts


class WordErrors:
    """
    Word and character error rate of token ids, as [`FastConformerTrainer`] and `Seq2SeqTrainer` predict them.

    Args:
        processor ([`FastConformerProcessor`]): The model's, which turns ids into text.
        normalizer (`str`, defaults to `"none"`): What both texts go through first, as in `evaluate`: `"none"`,
            `"basic"` or `"english"`.

    Raises:
        ImportError: the extra `train` is not installed; the message holds the command.
    """

    def __init__(self, processor: FastConformerProcessor, normalizer: str = "none") -> None:
        import_jiwer()
        self.processor = processor
        self.normalizer = make_normalizer(normalizer)

    def __call__(self, prediction: Any) -> dict[str, float]:
        """
        Args:
            prediction: `EvalPrediction` with `predictions` and `label_ids`, both (clips, tokens), padded with -100.

        Returns:
            `wer` and `cer`, of all clips together.

        Raises:
            ValueError: where the normaliser leaves no word of what is said.
        """
        ids = (prediction.label_ids, prediction.predictions)
        expected, found = map(self._read, ids)
        scored = score_texts(expected, found, self.normalizer)
        rates = {
            "wer": sum((text.words for text in scored), ErrorCounts()).rate,
            "cer": sum((text.characters for text in scored), ErrorCounts()).rate,
        }
        if rates["wer"] is None or rates["cer"] is None:
            raise ValueError(f"{expected[:3]!r} have no words; expected texts with some to compare with.")
        return {name: float(rate) for name, rate in rates.items() if rate is not None}

    def _read(self, rows: Any) -> list[str]:
        """Texts of rows of ids; of a multitask model without the times that it may write."""
        tokenizer = self.processor.tokenizer
        if self.processor.prompt_format is None:
            return list(tokenizer.batch_decode(rows, group_tokens=False))
        tokens = ([int(token_id) for token_id in row if token_id != IGNORED_LABEL] for row in rows)
        return [text_of_multitask(tokenizer, row, None) for row in tokens]
