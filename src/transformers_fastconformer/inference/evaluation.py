"""Evaluation: recordings are transcribed, and the texts compared with what was said."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..audio.manifests import MANIFEST_SUFFIXES
from ..modeling.recognizer import FastConformerRecognizer
from ..processing_fastconformer import FastConformerProcessor
from ..temporary_files import write_whole
from ..training.word_errors import (
    CONFIDENCE_PERCENT,
    NORMALIZERS,
    ErrorCounts,
    ErrorRate,
    TextErrors,
    WordEdit,
    count_confusions,
    import_jiwer,
    make_normalizer,
    score_texts,
)
from ..validation import require, require_choice, require_count
from .evaluation_data import PREDICTION_COLUMN, EvaluationDataOptions, SpokenText, read_data
from .loading import AUTO_DEVICE, DEFAULT_MODEL
from .many_files import Progress, transcribe_clips
from .options import TranscriptionOptions
from .reading import AudioClip
from .transcribe import choose_worker

# Recordings that are sorted by length at a time: those of a data set are in memory until their turn comes.
SORT_AHEAD_CLIPS = 512
REPORT_SUFFIXES = (".jsonl", ".csv")
RATE_DIGITS = 6
SECONDS_DIGITS = 3
COUNTS = ("hits", "substitutions", "deletions", "insertions")


@dataclass(frozen=True)
class ScoringOptions:
    """
    Options of the comparison of texts.

    Args:
        normalizer: What both texts go through first: `"none"`, `"basic"` (small letters without punctuation, for any
            language) or `"english"` (Whisper's for English; numbers and spellings too).
        num_resamples: Samples of the files for confidence intervals.
        seed: Of their draws.
    """

    normalizer: str = "basic"
    num_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice("normalizer", self.normalizer, NORMALIZERS)
        require_count("num_resamples", self.num_resamples)
        require_count("seed", self.seed, 0)


@dataclass(frozen=True)
class EvaluatedFile:
    """
    A recording with what was said, what was found, and the errors.

    Args:
        name: Name of the recording.
        reference: The text that was said, as it is written.
        hypothesis: The text that was found.
        errors: The errors, between the normalised texts.
        seconds: Length of the recording; None where no model ran.
    """

    name: str
    reference: str
    hypothesis: str
    errors: TextErrors
    seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """A row of the report for each file, as plain values."""
        return {
            "audio_filepath": self.name,
            "duration": None if self.seconds is None else round(self.seconds, SECONDS_DIGITS),
            "text": self.reference,
            PREDICTION_COLUMN: self.hypothesis,
            "normalized_text": self.errors.reference,
            "normalized_pred_text": self.errors.hypothesis,
            "wer": _rounded(self.errors.words.rate),
            "cer": _rounded(self.errors.characters.rate),
            **{f"word_{name}": getattr(self.errors.words, name) for name in COUNTS},
        }


@dataclass(frozen=True)
class EvaluationReport:
    """
    The outcome of an evaluation.

    Args:
        files: The recordings in the order of the data, without those that failed.
        failures: Name of each recording that could not be read or transcribed, and the reason; they are in no rate.
        words: The word error rate.
        characters: The character error rate.
        normalizer: Name of the normaliser.
        audio_seconds: Seconds of audio that were transcribed; None where no model ran.
        seconds: Time that it took, without loading the model; None where no model ran.
    """

    files: tuple[EvaluatedFile, ...]
    failures: tuple[tuple[str, Exception], ...]
    words: ErrorRate
    characters: ErrorRate
    normalizer: str
    audio_seconds: float | None = None
    seconds: float | None = None

    @property
    def wer(self) -> float | None:
        """Word error rate; None where nothing was said."""
        return self.words.rate

    @property
    def cer(self) -> float | None:
        """Character error rate; None where nothing was said."""
        return self.characters.rate

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work for a second of audio."""
        if self.seconds is None or not self.audio_seconds:
            return None
        return self.seconds / self.audio_seconds

    def worst_files(self, number: int = 10) -> list[EvaluatedFile]:
        """Files with the most wrong words, and among equals with the largest share of them."""
        wrong = [file for file in self.files if file.errors.words.num_errors]
        wrong.sort(key=lambda file: (-file.errors.words.num_errors, -(file.errors.words.rate or 0.0)))
        return wrong[:number]

    def confusions(self, number: int = 10) -> list[tuple[WordEdit, int]]:
        """Words that were most often found as others, not found (`hypothesis` is empty) or put in, and how often."""
        counts = count_confusions(file.errors for file in self.files)
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:number]

    def to_dict(self) -> dict[str, Any]:
        """All but the files, as plain values."""
        return {
            "wer": _describe_rate(self.words),
            "cer": _describe_rate(self.characters),
            "normalizer": self.normalizer,
            "num_files": len(self.files),
            "num_failed": len(self.failures),
            "audio_seconds": None if self.audio_seconds is None else round(self.audio_seconds, SECONDS_DIGITS),
            "seconds": None if self.seconds is None else round(self.seconds, SECONDS_DIGITS),
            "real_time_factor": _rounded(self.real_time_factor),
            "confusions": [
                {"reference": edit.reference, "hypothesis": edit.hypothesis, "count": count}
                for edit, count in self.confusions()
            ],
            "worst_files": [file.to_dict() for file in self.worst_files()],
            "failures": [{"audio_filepath": name, "error": str(error)} for name, error in self.failures],
        }

    def save_files(self, path: str | os.PathLike[str]) -> None:
        """
        Write a row for each file: a `.jsonl`, whose lines a manifest has too, or a `.csv`.

        Raises:
            ValueError: for another ending.
        """
        path = Path(path)
        check_report_path(path)
        rows = [file.to_dict() for file in self.files]
        if path.suffix.lower() == ".csv":
            text = io.StringIO(newline="")
            names = list(rows[0]) if rows else ["audio_filepath"]
            writer = csv.DictWriter(text, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            content = text.getvalue()
        else:
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(path, content.encode("utf-8", errors="surrogateescape"))


def check_report_path(path: Path) -> None:
    """Raise a `ValueError` for a path that no report for each file can be written to."""
    accepted = " or ".join(REPORT_SUFFIXES)
    require(path.suffix.lower() in REPORT_SUFFIXES, "output", str(path), f"a file name that ends in {accepted}")
    require(path.parent.is_dir(), "output", str(path), "a file in a folder that exists")


def evaluate(
    model: str | Path | tuple[FastConformerRecognizer, FastConformerProcessor] = DEFAULT_MODEL,
    data: Any = None,
    *,
    head: str = "auto",
    device: str = AUTO_DEVICE,
    dtype: str = "auto",
    options: TranscriptionOptions | None = None,
    data_options: EvaluationDataOptions | None = None,
    scoring: ScoringOptions | None = None,
    on_progress: Progress | None = None,
    **keywords: Any,
) -> EvaluationReport:
    r"""
    Transcribe recordings and compare the texts with what was said.

    ```python
    report = evaluate("demo", "test.jsonl")
    print(report.wer, report.words.low, report.words.high)
    ```

    Args:
        model (`str`, `Path` or what [`load_model`] returns): A checkpoint by name, or a loaded one.
        data: A manifest (`.jsonl`), a folder of audio with texts, the name of a data set on the Hub, or rows with
            audio and text, see [`EvaluationDataOptions`].
        head, device, dtype (`str`): For a checkpoint by name, as in [`load_model`].
        options ([`TranscriptionOptions`], *optional*): How to transcribe.
        data_options ([`EvaluationDataOptions`], *optional*): How to read the data.
        scoring ([`ScoringOptions`], *optional*): How to compare texts.
        on_progress (*optional*): Called with the number of a recording, from 0, and the seconds of it that are done.
        keywords: Fields of [`TranscriptionOptions`], [`DecodingOptions`] and [`ChunkOptions`] by name.

    Returns:
        An [`EvaluationReport`]. A recording that fails is told there, and stops no other.

    Raises:
        ValueError: for data without recordings, an unknown option, and what [`load_model`] refuses.
        ImportError: when the extra `train` is not installed; the message holds the command.
    """
    scoring = scoring or ScoringOptions()
    options = TranscriptionOptions.of(options, keywords)
    check_scoring(scoring)
    items = read_data(data, data_options)
    worker = choose_worker(model, head, device, dtype)
    return evaluate_items([worker], items, options, scoring, on_progress)


def check_scoring(scoring: ScoringOptions) -> None:
    """Raise an `ImportError` for what scoring needs and is not installed, before anything is transcribed."""
    import_jiwer()
    make_normalizer(scoring.normalizer)


def evaluate_items(
    workers: Sequence[tuple[FastConformerRecognizer, FastConformerProcessor]],
    items: Sequence[SpokenText],
    options: TranscriptionOptions | None = None,
    scoring: ScoringOptions | None = None,
    on_progress: Progress | None = None,
    lengths_seconds: Sequence[float | None] | None = None,
) -> EvaluationReport:
    """
    Transcribe recordings by the engine of [`transcribe_clips`], and compare the texts.

    Args:
        workers: Model and processor of each device.
        items: The recordings, as `read_data` finds them.
        options: How to transcribe.
        scoring: How to compare.
        on_progress: Called with the number of a recording and the seconds of it that are done.
        lengths_seconds: Length of each recording, where they are known already.
    """
    failures: dict[int, Exception] = {place: item.error for place, item in enumerate(items) if item.error is not None}
    places = [place for place in range(len(items)) if place not in failures]
    known = None if lengths_seconds is None else [lengths_seconds[place] for place in places]

    def open_clips() -> Iterator[AudioClip]:
        for place in places:
            open_clip = items[place].open_clip
            assert open_clip is not None
            yield open_clip()

    def report(number: int, seconds: float) -> None:
        if on_progress is not None:
            on_progress(places[number], seconds)

    hypotheses: dict[int, str] = {}
    seconds: dict[int, float] = {}
    start = time.perf_counter()
    results = transcribe_clips(workers, open_clips(), options, known, SORT_AHEAD_CLIPS, report)
    with closing(results):
        for number, transcript, error in results:
            if transcript is None:
                assert error is not None
                failures[places[number]] = error
            else:
                hypotheses[places[number]] = transcript.text
                seconds[places[number]] = transcript.duration_seconds
    elapsed = time.perf_counter() - start
    return _make_report(items, hypotheses, failures, scoring or ScoringOptions(), seconds, elapsed)


def score_hypotheses(items: Sequence[SpokenText], scoring: ScoringOptions | None = None) -> EvaluationReport:
    """
    Compare texts that were found before with what was said; no model runs.

    Args:
        items: The recordings, each with its `hypothesis`; one without fails.
        scoring: How to compare.
    """
    failures: dict[int, Exception] = {}
    hypotheses = {}
    for place, item in enumerate(items):
        if item.error is not None:
            failures[place] = item.error
        elif item.hypothesis is None:
            failures[place] = ValueError(
                f"{item.name} has no {PREDICTION_COLUMN!r}; expected the text that was found."
            )
        else:
            hypotheses[place] = item.hypothesis
    return _make_report(items, hypotheses, failures, scoring or ScoringOptions())


def join_hypotheses(items: Sequence[SpokenText], path: str | os.PathLike[str]) -> list[SpokenText]:
    """
    Give recordings the texts that a file has for them, by their names (`audio_filepath`, and the part).

    Args:
        items: The recordings with what was said.
        path: A manifest with `pred_text`, as `fastconformer transcribe --format jsonl` writes it.

    Raises:
        ValueError: for a name that the file has twice.
    """
    require(str(path).lower().endswith(MANIFEST_SUFFIXES), "hypotheses", str(path), "a .jsonl or .json file")
    found: dict[str, str | None] = {}
    for item in read_data(path, EvaluationDataOptions(text_column=PREDICTION_COLUMN)):
        require(item.name not in found, "hypotheses", item.name, "each recording once")
        found[item.name] = item.hypothesis
    return [SpokenText(item.name, item.reference, item.open_clip, found.get(item.name), item.error) for item in items]


def _make_report(
    items: Sequence[SpokenText],
    hypotheses: Mapping[int, str],
    failures: Mapping[int, Exception],
    scoring: ScoringOptions,
    seconds: Mapping[int, float] | None = None,
    elapsed: float | None = None,
) -> EvaluationReport:
    places = sorted(hypotheses)
    references = [items[place].reference or "" for place in places]
    scored = score_texts(references, [hypotheses[place] for place in places], scoring.normalizer)
    files = [
        EvaluatedFile(items[place].name, reference, hypotheses[place], errors, (seconds or {}).get(place))
        for place, reference, errors in zip(places, references, scored, strict=True)
    ]

    def rate_of(counts: list[ErrorCounts]) -> ErrorRate:
        return ErrorRate.of(counts, scoring.num_resamples, scoring.seed)

    return EvaluationReport(
        files=tuple(files),
        failures=tuple((items[place].name, failures[place]) for place in sorted(failures)),
        words=rate_of([errors.words for errors in scored]),
        characters=rate_of([errors.characters for errors in scored]),
        normalizer=scoring.normalizer,
        audio_seconds=None if seconds is None else sum(seconds.values()),
        seconds=elapsed,
    )


def _describe_rate(rate: ErrorRate) -> dict[str, Any]:
    counts = rate.counts
    return {
        "rate": _rounded(rate.rate),
        "interval": [_rounded(rate.low), _rounded(rate.high)],
        "confidence_percent": CONFIDENCE_PERCENT,
        "num_reference": counts.num_reference,
        "num_errors": counts.num_errors,
        **{name: getattr(counts, name) for name in COUNTS},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, RATE_DIGITS)
