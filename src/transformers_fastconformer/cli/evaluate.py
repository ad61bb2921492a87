"""`fastconformer evaluate`: error rates of a checkpoint on recordings with known texts, or of texts found before."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..audio.recordings import names_recordings
from ..checkpoints.hub import is_hub_id
from ..decoding.options import DecodingOptions
from ..inference.evaluation import (
    EvaluationReport,
    ScoringOptions,
    check_report_path,
    check_scoring,
    evaluate_items,
    join_hypotheses,
    score_hypotheses,
)
from ..inference.evaluation_data import EvaluationDataOptions, SpokenText, read_data
from ..inference.loading import AUTO_DEVICE
from ..inference.options import ChunkOptions, TranscriptionOptions
from ..inference.reading import measure_clip
from .errors import say, show_error
from .evaluate_tables import show_report
from .exit_codes import ExitCode, failing_as_input
from .model_options import (
    ContextOption,
    DtypeOption,
    Head,
    HeadOption,
    ItnOption,
    KeywordCasesOption,
    KeywordsOption,
    KeywordStrengthOption,
    LanguageOption,
    LmOption,
    LmWeightOption,
    ModelOption,
    NumBeamsOption,
    PncOption,
    Precision,
    SourceLangOption,
    TargetLangOption,
    TaskOption,
    check_lm,
    make_boosting,
    read_language,
)
from .transcribe import BatchSecondsOption, BatchSizeOption, DeviceOption, NumWorkersOption, Strategy, StrategyOption
from .transcribe_progress import TranscriptionProgress
from .transcribe_run import HEADER_THREADS, Checkpoint

DATA_PANEL = "Data"
SCORING_PANEL = "Scoring"
DATA_FORMS = (
    "Manifest (.jsonl: audio_filepath, text, and offset and duration of parts; or .csv), folder of audio with "
    "metadata.jsonl, metadata.csv or texts (.txt next to each file, or *.trans.txt), or data set of the Hub (name, or "
    "name:configuration)"
)


def check_data(option: str, name: str | Path) -> None:
    """
    Refuse data that do not exist before anything is loaded; a name that a data set of the Hub may have passes.

    Args:
        option: The option that names them, for the message.
        name: Its value.

    Raises:
        ValueError: for a file or folder that does not exist.
    """
    name = os.fspath(name)
    is_local = names_recordings(name) or not is_hub_id(name.partition(":")[0])
    if is_local and not os.path.exists(name):
        raise ValueError(
            f"{option} {name!r} does not exist; expected a manifest (.jsonl, .json, .csv), a folder of audio with "
            "texts, or the name of a data set of the Hub."
        )


class NormalizerName(str, Enum):
    """Normaliser of texts."""

    NONE = "none"
    BASIC = "basic"
    ENGLISH = "english"


DataOption = Annotated[
    str | None,
    typer.Option(
        help=f"{DATA_FORMS}.",
        rich_help_panel=DATA_PANEL,
    ),
]
HypothesesOption = Annotated[
    Path | None,
    typer.Option(
        help="Manifest with pred_text, as transcribe --format jsonl writes it: its texts are scored, no model runs. "
        "Texts that were said come from --data, without it from text in the same lines.",
        rich_help_panel=DATA_PANEL,
    ),
]
SplitOption = Annotated[str, typer.Option(help="Split of a data set of the Hub.", rich_help_panel=DATA_PANEL)]
TextColumnOption = Annotated[
    str, typer.Option("--text_column", help="Name of the text that was said.", rich_help_panel=DATA_PANEL)
]
AudioColumnOption = Annotated[
    str, typer.Option("--audio_column", help="Name of the audio in a data set.", rich_help_panel=DATA_PANEL)
]
LimitOption = Annotated[
    int | None, typer.Option(min=1, help="Only the first recordings, that many.", rich_help_panel=DATA_PANEL)
]
NormalizerOption = Annotated[
    NormalizerName,
    typer.Option(
        help="none, basic (small letters, no punctuation; any language), english (Whisper's: numbers and spellings "
        "too).",
        rich_help_panel=SCORING_PANEL,
    ),
]
SeedOption = Annotated[
    int, typer.Option(min=0, help="Of the draws for confidence intervals.", rich_help_panel=SCORING_PANEL)
]
ResamplesOption = Annotated[
    int, typer.Option(min=1, help="Draws for confidence intervals.", rich_help_panel=SCORING_PANEL)
]
OutputOption = Annotated[
    list[Path] | None,
    typer.Option(help="Write a row for each file: .jsonl or .csv; may be given several times."),
]
WorstOption = Annotated[int, typer.Option(min=0, help="Files and confusions to show.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write the result as JSON.")]


def evaluate(
    data: DataOption = None,
    model: ModelOption = None,
    hypotheses: HypothesesOption = None,
    split: SplitOption = "test",
    text_column: TextColumnOption = "text",
    audio_column: AudioColumnOption = "audio",
    limit: LimitOption = None,
    normalizer: NormalizerOption = NormalizerName.BASIC,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 1000,
    output: OutputOption = None,
    worst: WorstOption = 5,
    as_json: JsonOption = False,
    strategy: StrategyOption = Strategy.AUTO,
    head: HeadOption = Head.AUTO,
    language: LanguageOption = None,
    source_lang: SourceLangOption = None,
    target_lang: TargetLangOption = None,
    task: TaskOption = None,
    pnc: PncOption = None,
    itn: ItnOption = None,
    context: ContextOption = None,
    num_beams: NumBeamsOption = None,
    keywords: KeywordsOption = None,
    keyword_strength: KeywordStrengthOption = None,
    keyword_cases: KeywordCasesOption = False,
    lm: LmOption = None,
    lm_weight: LmWeightOption = None,
    device: DeviceOption = AUTO_DEVICE,
    dtype: DtypeOption = Precision.AUTO,
    batch_size: BatchSizeOption = 8,
    batch_seconds: BatchSecondsOption = 240.0,
    num_workers: NumWorkersOption = 1,
) -> None:
    """Word and character error rates with confidence intervals, worst files and confusions.

    A recording that cannot be read, or has no text, is named at the end and is in no rate; the exit code is then 1.
    """
    scoring = ScoringOptions(normalizer.value, resamples, seed)
    data_options = EvaluationDataOptions(text_column, audio_column, split, limit)
    for path in output or ():
        check_report_path(path)
    check_scoring(scoring)
    boosting = make_boosting(keywords, keyword_strength, keyword_cases)
    check_lm(lm, lm_weight)
    if hypotheses is not None:
        of_model = {
            "--model": model,
            "--language": language,
            "--source_lang": source_lang,
            "--target_lang": target_lang,
            "--task": task,
            "--pnc": pnc,
            "--itn": itn,
            "--context": context,
            "--num_beams": num_beams,
            "--keywords": keywords,
            "--lm": lm,
        }
        for name, value in of_model.items():
            if value is not None:
                raise ValueError(
                    f"{name} and --hypotheses exclude one another: texts that were found before are scored."
                )
        check_data("--hypotheses", hypotheses)
        if data is not None:
            check_data("--data", data)
        report = _score(data, hypotheses, data_options, scoring)
    else:
        if data is None:
            raise ValueError("--data is missing; expected a manifest, a folder, or the name of a data set.")
        check_data("--data", data)
        options = TranscriptionOptions(
            decoding=DecodingOptions(
                **read_language(language),
                source_lang=source_lang,
                target_lang=target_lang,
                task=None if task is None else task.value,
                pnc=pnc,
                itn=itn,
                context=context,
                num_beams=num_beams,
                boosting=boosting,
            ),
            chunking=ChunkOptions(strategy.value),
            batch_size=batch_size,
            batch_seconds=batch_seconds,
            num_workers=num_workers,
        )
        checkpoint = Checkpoint(model, head.value, device, dtype.value, lm, lm_weight)
        with failing_as_input():
            items = read_data(data, data_options)
        report = _transcribe(checkpoint, items, options, scoring, is_local=os.path.exists(data))
    for path in output or ():
        report.save_files(path)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1, ensure_ascii=False))
    else:
        show_report(Console(highlight=False), report, worst)
    for _, error in report.failures:
        show_error(error)
    if report.failures:
        num_items = len(report.files) + len(report.failures)
        say(f"{len(report.failures)} of {num_items} could not be evaluated, and are in no rate.")
        raise typer.Exit(ExitCode.INPUTS_FAILED)


def _score(
    data: str | None, hypotheses: Path, data_options: EvaluationDataOptions, scoring: ScoringOptions
) -> EvaluationReport:
    with failing_as_input():
        items = read_data(str(hypotheses) if data is None else data, data_options)
        if data is not None:
            items = join_hypotheses(items, hypotheses)
    return score_hypotheses(items, scoring)


def _transcribe(
    checkpoint: Checkpoint,
    items: Sequence[SpokenText],
    options: TranscriptionOptions,
    scoring: ScoringOptions,
    is_local: bool,
) -> EvaluationReport:
    workers = checkpoint.load()
    options = replace(options, decoding=checkpoint.complete(options.decoding, workers[0].processor))
    lengths: list[float | None] = [None] * len(items)
    if is_local:  # a data set would give its audio twice
        with ThreadPoolExecutor(HEADER_THREADS) as pool:
            lengths = list(pool.map(_measure, items))
    with TranscriptionProgress(lengths, Console(stderr=True).is_terminal) as progress:
        return evaluate_items(workers, items, options, scoring, progress.update, lengths if is_local else None)


def _measure(item: SpokenText) -> float | None:
    return None if item.open_clip is None else measure_clip(item.open_clip())
