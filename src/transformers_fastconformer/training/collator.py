"""Batches of features and labels from rows with audio and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..decoding.prompts import PromptOptions
from ..processing_fastconformer import FastConformerProcessor
from ..tokenization_fastconformer import IGNORED_LABEL
from .prompted_rows import PromptedRows
from .training_clips import RowForm


class FastConformerDataCollator:
    """
    Make a batch of rows, for `Trainer` or a `DataLoader`.

    Features are computed here, in the workers of the `DataLoader` if it has some: for a model of 114 million
    parameters they take 0.4 % of the processor time of a training step, and less for larger ones. Texts become labels
    by the processor, padded with -100.

    Args:
        processor ([`FastConformerProcessor`]): The model's.
        audio_column (`str`, defaults to `"audio"`): Column of a row with audio in any form: what an `Audio` column of
            `datasets` gives (a decoder, or a mapping with `"array"` and `"sampling_rate"`, or with `"path"` or
            `"bytes"`), a path, bytes, an array at the model's rate. Rows without it may be lines of a manifest of
            NeMo: `audio_filepath`, and `offset` and `duration` of a part.
        text_column (`str`, defaults to `"text"`): Column with what is said.
        language (`str`, *optional*): Language of the texts, for tokenizers and prompts that ask for it.
        prompt ([`PromptOptions`], *optional*): For models with prompts (Canary): options for rows that do not say
            them, as lines of NeMo's manifests do (`source_lang`, `target_lang`, `taskname`, `pnc`..., and the text
            in `answer`).

    Raises:
        ValueError: in a call, for rows without these columns, and for audio that cannot be read.
    """

    def __init__(
        self,
        processor: FastConformerProcessor,
        audio_column: str = "audio",
        text_column: str = "text",
        language: str | None = None,
        prompt: PromptOptions | None = None,
    ) -> None:
        self.processor = processor
        self.form = RowForm(audio_column, text_column)
        self.language = language
        self.prompted = PromptedRows.of(processor, self.form, prompt, language)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Args:
            rows: A row of training data for each clip.

        Returns:
            `input_features` (clips, mel frames, mels), `attention_mask`, `input_lengths` and `labels` (clips, tokens);
            for models with prompts `decoder_input_ids` of the same shape, too.
        """
        sampling_rate = self.processor.feature_extractor.sampling_rate
        waveforms = [self.form.waveform_of(row, sampling_rate) for row in rows]
        if self.prompted is not None:
            written = [self.prompted.write(row) for row in rows]
            return {
                **self.processor(waveforms, sampling_rate=sampling_rate, return_tensors="pt"),
                "decoder_input_ids": pad_rows(
                    [row.decoder_input_ids for row in written], self.processor.tokenizer.pad_token_id
                ),
                "labels": pad_rows([row.labels for row in written], IGNORED_LABEL),
            }
        texts = [self.form.text_of(row) for row in rows]
        options: dict[str, Any] = {} if self.language is None else {"language": self.language}
        return dict(self.processor(waveforms, text=texts, sampling_rate=sampling_rate, return_tensors="pt", **options))


def pad_rows(rows: Sequence[Sequence[int]], padding: int) -> torch.Tensor:
    """Rows of ids as a tensor, (rows, longest)."""
    longest = max(map(len, rows), default=0)
    padded = [[*row, *[padding] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device="cpu")
