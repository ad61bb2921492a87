"""
Clips of any length through a multitask model, whose decoder writes the text of a window as a whole.

A clip that is longer than the model was trained for is cut into windows (`pause_cuts.py`), whose texts are joined
(`overlaps.py`). Only words are kept of windows that are done, so that memory does not grow with the clip.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from ..decoding.confidence import aggregate_confidence
from ..decoding.hypotheses import Hypotheses
from ..decoding.timestamps import Span
from ..modeling.outputs import FastConformerGenerateOutput
from ..processing_fastconformer import FastConformerProcessor
from ..processing_multitask import MULTITASK, MULTITASK_LEVELS, word_of_each_token
from ..processing_outputs import FastConformerTranscription
from ..validation import require_count
from .aligner import Aligner
from .clip_features import Clip
from .multitask_plan import MultitaskPlan, plan_multitask
from .options import TranscriptionOptions
from .overlaps import HeardWindow, HeardWord, join_windows
from .pause_cuts import CutRules, PauseWindow, cut_at_pauses


class _Job(NamedTuple):
    """A window of a clip, with its features and those for the model of times."""

    clip: int
    window: PauseWindow
    rows: torch.Tensor
    rows_to_align: torch.Tensor


class _Text(NamedTuple):
    """
    Text of a window.

    Args:
        transcription: The text, with times where the model has them.
        places: About where each word is said, in encoder frames of the window; None: not known.
    """

    transcription: FastConformerTranscription
    places: Sequence[int] | None = None


@dataclass
class _Joined:
    """
    Text of the windows of a clip so far.

    Args:
        words: Words of the windows before the last one, of which no more are dropped.
        last: The last window.
        borders: For each window the number of words before it, and the encoder frame at which it begins to count.
        whole: The transcription of the only window, as long as there is one.
        num_frames: Encoder frames that are done.
    """

    words: list[HeardWord] = field(default_factory=list)
    last: HeardWindow | None = None
    borders: list[tuple[int, int]] = field(default_factory=list)
    whole: FastConformerTranscription | None = None
    num_frames: int = 0


@torch.no_grad()
def transcribe_multitask(
    model: Any,
    processor: FastConformerProcessor,
    clips: Sequence[Clip],
    rules: CutRules | None,
    batch_size: int,
    options: TranscriptionOptions,
    on_frames: Callable[[list[int]], None] | None = None,
) -> list[FastConformerTranscription]:
    """
    Transcribe or translate clips with a multitask model.

    Args:
        model: The model.
        processor: Its processor.
        clips: Features of whole clips.
        rules: Rules of the cuts; None: clips are not cut.
        batch_size: Windows, or clips, that go through the model at a time.
        options: How to transcribe.
        on_frames: Called with the encoder frames of each clip that are done.

    Returns:
        The transcription of each clip. Of clips that were cut the ids of tokens are not known, and their confidence is
        that of their words.

    Raises:
        ValueError: for options that the model does not have.
    """
    require_count("batch_size", batch_size)
    model.check_decoding(options.decoding)
    plan = plan_multitask(model, processor, options)
    joined = [_Joined() for _ in clips]
    jobs = _list_jobs(model, clips, rules, plan.aligner)
    batch: list[_Job] = []
    while (job := next(jobs, None)) is not None or batch:
        if job is not None:
            batch.append(job)
            if len(batch) < batch_size:
                continue
        texts = _transcribe_batch(model, processor, batch, plan, options.skip_special_tokens)
        for done, text in zip(batch, texts, strict=True):
            _add(joined[done.clip], done.window, text, plan.has_word_times)
        batch = []
        if on_frames is not None:
            on_frames([clip.num_frames for clip in joined])
    return [_finish(processor, clip, plan) for clip in joined]


def _list_jobs(model: Any, clips: Sequence[Clip], rules: CutRules | None, aligner: Aligner | None) -> Iterator[_Job]:
    """The windows of all clips, one clip after the other, read when they are asked for."""
    for place, clip in enumerate(clips):
        num_frames = model.config.count_encoder_frames(clip.mel_length)
        if rules is None:
            windows = iter([(PauseWindow(0, num_frames, 0, True), clip.rows(0, clip.mel_length + 1))])
        else:
            windows = cut_at_pauses(clip, num_frames, rules)
        for window, rows in windows:
            is_shared = aligner is None or aligner.extractor is None
            yield _Job(place, window, rows, rows if is_shared else _cut_to_align(clip, window, aligner))


def _cut_to_align(clip: Clip, window: PauseWindow, aligner: Aligner | None) -> torch.Tensor:
    """Features of a window for the model of times."""
    assert aligner is not None
    assert clip.to_align is not None
    mel_frames = aligner.mel_frames_per_encoder_frame
    stop = clip.to_align.mel_length + 1 if window.is_last else window.stop * mel_frames
    return clip.to_align.rows(window.start * mel_frames, stop)


def _transcribe_batch(
    model: Any,
    processor: FastConformerProcessor,
    batch: Sequence[_Job],
    plan: MultitaskPlan,
    skip_special_tokens: bool,
) -> list[_Text]:
    """Texts of some windows, with times that count from the start of each."""
    rows = torch.nn.utils.rnn.pad_sequence([job.rows for job in batch], batch_first=True).to(model.device)
    # The last window of a clip has a masked mel frame at its end.
    mel_lengths = [job.rows.shape[0] - int(job.window.is_last) for job in batch]
    lengths = torch.tensor(mel_lengths, dtype=torch.int64, device=model.device)
    encoded = model.encode(rows, input_lengths=lengths)
    hypotheses, _ = model.decode_frames(
        encoded.last_hidden_state,
        encoded.encoder_lengths,
        plan.decoding,
        prompt_ids=list(plan.prompt),
        padded_lengths=encoded.padded_lengths,
    )
    output = FastConformerGenerateOutput.of(hypotheses, encoded.encoder_lengths, MULTITASK, plan.decoding)
    transcriptions: Any = processor.batch_decode(
        output,
        skip_special_tokens=skip_special_tokens,
        timestamps=list(MULTITASK_LEVELS),
        confidence=plan.decoding.confidence is not None,
    )
    if plan.aligner is None:
        # For joins, and for sentences of texts whose words have no times.
        is_wanted = not plan.has_word_times
        is_placed = [is_wanted and (job.window.has_overlap or bool(plan.levels)) for job in batch]
        places = _place_words(model, processor, encoded, hypotheses, plan.prompt, is_placed)
        return [_Text(*pair) for pair in zip(transcriptions, places, strict=True)]
    spans_of_windows = plan.aligner.align(
        model,
        [job.rows_to_align for job in batch],
        [job.rows_to_align.shape[0] - int(job.window.is_last) for job in batch],
        [transcription.text or "" for transcription in transcriptions],
        plan.target_lang,
    )
    return [
        _Text(_with_times(processor, transcription, spans))
        for transcription, spans in zip(transcriptions, spans_of_windows, strict=True)
    ]


def _place_words(
    model: Any,
    processor: FastConformerProcessor,
    encoded: Any,
    hypotheses: Hypotheses,
    prompt: Sequence[int],
    is_placed: Sequence[bool],
) -> list[list[int] | None]:
    """About where each word of some windows is said, in encoder frames from the start of its window."""
    chosen = [row for row, is_wanted in enumerate(is_placed) if is_wanted]
    rows = torch.tensor(chosen, dtype=torch.int64, device=encoded.last_hidden_state.device)
    counts = hypotheses.token_lengths.tolist()
    texts = [hypotheses.tokens[row, : counts[row]].tolist() for row in chosen]
    found = model.place_tokens(encoded.last_hidden_state[rows], encoded.encoder_lengths[rows], prompt, texts)
    places: list[list[int] | None] = [None] * len(is_placed)
    for row, text, frames in zip(chosen, texts, found, strict=True):
        frames_of_words: dict[int, list[int]] = {}
        for word, frame in zip(word_of_each_token(processor.tokenizer, text), frames, strict=True):
            frames_of_words.setdefault(word, []).append(frame)
        places[row] = [sum(frames) // len(frames) for frames in frames_of_words.values()]
    return places


def _with_times(
    processor: FastConformerProcessor, transcription: FastConformerTranscription, words: Sequence[Span]
) -> FastConformerTranscription:
    """The same text with its words; one that could not be aligned stays one segment without words."""
    if not words:
        return transcription
    segments = processor.segment_words(words)
    items = {"word": words, "segment": segments}
    timestamps = {level: processor.timed_items(level, items[level]) for level in MULTITASK_LEVELS}
    return replace(transcription, text=" ".join(word.text for word in words), timestamps=timestamps)


# Windows to clips


def _add(joined: _Joined, window: PauseWindow, text: _Text, is_timed: bool) -> None:
    """Add the text of the next window of a clip."""
    joined.num_frames = window.stop
    is_only = joined.last is None and window.is_last
    joined.whole = text.transcription if is_only else None
    heard = HeardWindow(_list_words(text, window, is_timed), window.start, window.stop)
    last = joined.last
    if last is None:
        joined.last, joined.borders = heard, [(0, window.start)]
        return
    words = join_windows(last, heard)
    # What of the last window is in front of the join stays; the rest may still be changed by the window after.
    num_kept = _count_kept(last, words)
    joined.words += words[:num_kept]
    border = (last.stop + window.start) // 2
    joined.borders.append((len(joined.words), border))
    joined.last = HeardWindow(words[num_kept:], border, window.stop)


def _count_kept(last: HeardWindow, words: Sequence[HeardWord]) -> int:
    """Number of the first words that are the last window's."""
    for place, (word, other) in enumerate(zip(last.words, words, strict=False)):
        if word is not other:
            return place
    return min(len(last.words), len(words))


def _list_words(window_text: _Text, window: PauseWindow, is_timed: bool) -> list[HeardWord]:
    """Words of a window with their times or places in the recording, where they are known, and confidences."""
    transcription, places = window_text
    text = transcription.text or ""
    if is_timed:
        words = [
            HeardWord(item["word"], item["start_offset"] + window.start, item["end_offset"] + window.start)
            for item in (transcription.timestamps or {})["word"]
        ]
        if text and not words:
            words = [HeardWord(text, window.start, window.stop)]  # the model wrote no times in this window
    else:
        words = [HeardWord(word) for word in text.split()]
        if places is not None and len(places) == len(words):
            words = [word._replace(place=window.start + place) for word, place in zip(words, places, strict=True)]
    confidences = transcription.word_confidences
    if confidences is not None and len(confidences) == len(words):
        return [word._replace(confidence=value) for word, value in zip(words, confidences, strict=True)]
    return words


def _finish(
    processor: FastConformerProcessor,
    joined: _Joined,
    plan: MultitaskPlan,
) -> FastConformerTranscription:
    levels, confidence = plan.levels, plan.decoding.confidence
    assert joined.last is not None  # a clip without frames has a window too
    words = [*joined.words, *joined.last.words]
    if joined.whole is not None:
        found = dict(joined.whole.timestamps or {})
        if levels and not plan.has_word_times:
            found["segment"] = processor.timed_items("segment", _segments_of_windows(processor, joined, words))
        return replace(joined.whole, timestamps={level: found[level] for level in levels} or None)
    if plan.has_word_times:
        spans = [Span(word.text, word.start_offset or 0, word.end_offset or 0) for word in words]
        segments = processor.segment_words(spans)
    else:
        spans, segments = [], _segments_of_windows(processor, joined, words)
    items = {"word": spans, "segment": segments}
    fields: dict[str, Any] = {}
    if confidence is not None:
        known = [word.confidence for word in words if word.confidence is not None]
        are_known = len(known) == len(words)
        fields = {
            "word_confidences": known if are_known else None,
            "confidence": aggregate_confidence(known, confidence.aggregation) if are_known else None,
        }
    return FastConformerTranscription(
        text=" ".join(word.text for word in words),
        timestamps={level: processor.timed_items(level, items[level]) for level in levels} or None,
        events=[],
        **fields,
    )


def _segments_of_windows(processor: FastConformerProcessor, joined: _Joined, words: Sequence[HeardWord]) -> list[Span]:
    """
    Segments of words without times: the sentences of each window.

    The first begins where the window meets the one before and the last ends where it meets the next; between two
    sentences the border is in the middle of the places of their words.
    """
    segments: list[Span] = []
    ends = [*joined.borders[1:], (len(words), joined.num_frames)]
    for (first, start), (last, stop) in zip(joined.borders, ends, strict=True):
        of_window = words[first:last]
        if not of_window:
            continue
        places = [word.place for word in of_window if word.place is not None]
        if len(places) < len(of_window):
            segments.append(Span(" ".join(word.text for word in of_window), start, stop))
            continue
        placed = [Span(word.text, place, place) for word, place in zip(of_window, places, strict=True)]
        sentences = processor.segment_words(placed)
        middles = [
            min(max((one.end_offset + other.start_offset) // 2, start), stop)
            for one, other in itertools.pairwise(sentences)
        ]
        for sentence, (begin, end) in zip(sentences, itertools.pairwise([start, *middles, stop]), strict=True):
            segments.append(Span(sentence.text, begin, end))
    return segments
