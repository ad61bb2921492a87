"""Times of words by a second model: a CTC model next to a multitask checkpoint aligns the text with the audio."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCTC

from ..decoding.forced_alignment import align_tokens, count_needed_frames
from ..decoding.timestamps import Span
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..modeling.int8_config import FastConformerInt8Config, is_int8_config
from ..nemo.convert import TIMES_FOLDER
from ..processing_fastconformer import FastConformerProcessor
from ..tokenization_fastconformer import FastConformerTokenizer

# Tokens that have no duration at the end of a word: NeMo 3.0.0 (`get_forced_aligned_timestamps_with_external_model`)
# narrows these four and no others.
PUNCTUATION = frozenset(",.!?")


class Aligner:
    """
    The model that aligns the words of a multitask checkpoint, whose weights are loaded when they are first needed.

    Args:
        folder: Its folder.
        processor: The processor of the multitask model.

    Raises:
        ValueError: for a model whose frames do not last as long as those of the multitask model.
    """

    def __init__(self, folder: str | os.PathLike[str], processor: FastConformerProcessor) -> None:
        self.folder = Path(folder)
        self.processor: FastConformerProcessor = FastConformerProcessor.from_pretrained(self.folder)
        of_frames = [_samples_of_frame(item) for item in (self.processor, processor)]
        if of_frames[0] != of_frames[1]:
            raise ValueError(
                f"{self.folder} has frames of {of_frames[0]} (samples, samples a second); expected {of_frames[1]}, "
                "as the model has whose words it aligns."
            )
        extractor = self.processor.feature_extractor
        is_same = extractor.to_dict() == processor.feature_extractor.to_dict()
        #: Its feature extractor; None where it is equal to that of the multitask model.
        self.extractor: FastConformerFeatureExtractor | None = None if is_same else extractor
        self._model: Any = None
        self._lock = threading.Lock()

    def load(self, model: Any) -> Any:
        """The model of times, on the device and with weights of the type of a multitask model."""
        with self._lock:
            if self._model is None:
                is_int8 = is_int8_config(getattr(model.config, "quantization_config", None))
                options = {"quantization_config": FastConformerInt8Config()} if is_int8 else {}
                self._model = AutoModelForCTC.from_pretrained(self.folder, dtype=model.dtype, **options).eval()
            return self._model.to(model.device)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the model and its lock, which a copy makes anew."""
        return {**self.__dict__, "_model": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @torch.no_grad()
    def align(
        self, model: Any, rows: Sequence[torch.Tensor], mel_lengths: Sequence[int], texts: Sequence[str], language: str
    ) -> list[list[Span]]:
        """
        Align texts with a batch of windows.

        Args:
            model: The multitask model.
            rows: Features of each window by this model's extractor, (mel frames, mels).
            mel_lengths: Mel frames of each that count.
            texts: The text of each.
            language: Language of the texts.

        Returns:
            Words with encoder frames from the start of each window; none where the text cannot be aligned.
        """
        loaded = self.load(model)
        batch = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True).to(loaded.device)
        lengths = torch.tensor(list(mel_lengths), dtype=torch.int64, device=loaded.device)
        output = loaded(batch, input_lengths=lengths)
        log_probs = output.logits.float().log_softmax(dim=-1).cpu()  # (windows, frames, classes)
        return [
            align_words(log_probs[row, :count], text, self.processor.tokenizer, language)
            for row, (count, text) in enumerate(zip(output.encoder_lengths.tolist(), texts, strict=True))
        ]


def align_words(
    log_probs: torch.Tensor, text: str, tokenizer: FastConformerTokenizer, language: str | None = None
) -> list[Span]:
    """
    Align the words of a text with the frames of a clip.

    Args:
        log_probs: (frames, classes), of a CTC head.
        text: The text; its words are parted by spaces.
        tokenizer: Tokenizer of the CTC model. Characters that it does not know are its unknown token.
        language: Language of the text, for aggregate tokenizers.

    Returns:
        Words as they are written, each from the start of its first token to the end of its last one, or of the one
        before its closing punctuation; none for a text without words or with more tokens than the frames have place
        for.
    """
    words = text.split()
    if not words:
        return []
    options = {"language": language} if tokenizer.text_rule == "aggregate" else {}
    rows = tokenizer(words, **options)["input_ids"]
    token_ids = [token_id for row in rows for token_id in row]
    if not all(rows) or count_needed_frames(token_ids) > log_probs.shape[0]:
        return []
    aligned = iter(align_tokens(log_probs, token_ids, tokenizer.blank_token_id))
    spans = []
    for word, row in zip(words, rows, strict=True):
        tokens = [next(aligned) for _ in row]
        strings = tokenizer.vocabulary_tokens(row)
        count = len(row)
        while count and strings[count - 1] in PUNCTUATION:
            count -= 1
        stop = tokens[count - 1].stop_frame if count else tokens[0].start_frame
        spans.append(Span(word, tokens[0].start_frame, stop))
    return spans


def find_aligner(folder: str | os.PathLike[str] | None, processor: FastConformerProcessor) -> Aligner | None:
    """Find the model of times that a folder with a checkpoint holds; None where it holds none."""
    if folder is None or not (path := Path(folder) / TIMES_FOLDER).is_dir():
        return None
    return Aligner(path, processor)


def _samples_of_frame(processor: FastConformerProcessor) -> tuple[int, int]:
    """Samples of an encoder frame, and samples a second."""
    extractor = processor.feature_extractor
    return extractor.hop_length * processor.subsampling_factor, extractor.sampling_rate
