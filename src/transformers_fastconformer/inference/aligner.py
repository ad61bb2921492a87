"""Times of words by a second model: a CTC model next to a multitask checkpoint aligns the text with the audio."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..decoding.forced_alignment import align_tokens, count_needed_frames
from ..decoding.timestamps import Span
from ..feature_extraction_fastconformer import FastConformerFeatureExtractor
from ..modeling.multitask_times import CarriedTimesModel
from ..processing_fastconformer import FastConformerProcessor
from ..tokenization_fastconformer import FastConformerTokenizer

# Tokens that have no duration at the end of a word: NeMo 3.0.0 (`get_forced_aligned_timestamps_with_external_model`)
# narrows these four and no others.
PUNCTUATION = frozenset(",.!?")


@dataclass(frozen=True)
class Aligner:
    """
    The model that times the words of a multitask model, ready for its windows.

    Args:
        times_model: The model.
        extractor: Its feature extractor; None where it is equal to that of the multitask model.
        mel_frames_per_encoder_frame: Its mel frames of an encoder frame.
    """

    times_model: CarriedTimesModel
    extractor: FastConformerFeatureExtractor | None
    mel_frames_per_encoder_frame: int

    @classmethod
    def of(cls, times_model: CarriedTimesModel, processor: FastConformerProcessor) -> Aligner:
        """
        The aligner of a multitask model with this processor.

        Raises:
            ValueError: for a model whose frames do not last as long as those of the multitask model.
        """
        extractor, mel_frames = times_model.feature_extractor, times_model.config.mel_frames_per_encoder_frame
        found = (extractor.hop_length * mel_frames, extractor.sampling_rate)
        own = processor.feature_extractor
        expected = (own.hop_length * processor.subsampling_factor, own.sampling_rate)
        if found != expected:
            raise ValueError(
                f"{times_model.folder} has frames of {found} (samples, samples a second); expected {expected}, as the "
                "model has whose words it aligns."
            )
        is_same = extractor.to_dict() == own.to_dict()
        return cls(times_model, None if is_same else extractor, mel_frames)

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
        loaded = self.times_model.load(model)
        batch = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True).to(loaded.device)
        lengths = torch.tensor(list(mel_lengths), dtype=torch.int64, device=loaded.device)
        output = loaded(batch, input_lengths=lengths)
        log_probs = output.logits.float().log_softmax(dim=-1).cpu()  # (windows, frames, classes)
        return [
            align_words(log_probs[row, :count], text, self.times_model.tokenizer, language)
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
        before its closing punctuation. A word for which the tokenizer has no token has what is left between its
        neighbours, or no duration next to the only one. None for a text without words or tokens or with more tokens
        than the frames have place for.
    """
    words = text.split()
    if not words:
        return []
    options = {"language": language} if tokenizer.text_rule == "aggregate" else {}
    rows = tokenizer(words, **options)["input_ids"]
    token_ids = [token_id for row in rows for token_id in row]
    if not token_ids or count_needed_frames(token_ids) > log_probs.shape[0]:
        return []
    aligned = iter(align_tokens(log_probs, token_ids, tokenizer.blank_token_id))
    spans: list[Span | None] = []
    for word, row in zip(words, rows, strict=True):
        tokens = [next(aligned) for _ in row]
        if not tokens:
            spans.append(None)
            continue
        strings = tokenizer.vocabulary_tokens(row)
        count = len(row)
        while count and strings[count - 1] in PUNCTUATION:
            count -= 1
        stop = tokens[count - 1].stop_frame if count else tokens[0].start_frame
        spans.append(Span(word, tokens[0].start_frame, stop))
    return _fill_in(words, spans)


def _fill_in(words: Sequence[str], spans: Sequence[Span | None]) -> list[Span]:
    """The spans of words, of which at least one is known; those next to each other without one share the gap."""
    filled: list[Span] = []
    for is_known, group in itertools.groupby(zip(words, spans, strict=True), key=lambda pair: pair[1] is not None):
        pairs = list(group)
        if is_known:
            filled += [span for _, span in pairs if span is not None]
            continue
        following = next((span for span in spans[len(filled) :] if span is not None), None)
        start = filled[-1].end_offset if filled else None
        stop = following.start_offset if following is not None else start
        start = stop if start is None else start
        assert start is not None
        assert stop is not None
        bounds = [start + (stop - start) * place // len(pairs) for place in range(len(pairs) + 1)]
        filled += [Span(word, *bound) for (word, _), bound in zip(pairs, itertools.pairwise(bounds), strict=True)]
    return filled
