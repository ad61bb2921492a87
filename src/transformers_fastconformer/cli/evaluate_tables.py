"""The result of an evaluation as tables on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..inference.evaluation import EvaluationReport
from ..training.word_errors import CONFIDENCE_PERCENT, ErrorRate
from .streams import escape_controls

NOTHING = "-"  # for a word that was not found, or not said


def show_report(console: Console, report: EvaluationReport, num_worst: int) -> None:
    """
    Print rates, confusions and the worst files.

    Args:
        console: Where to print.
        report: The result.
        num_worst: Files and confusions to show; 0: only the rates.
    """
    console.print(_rates(report))
    console.print(_describe(report), markup=False, soft_wrap=True)
    confusions, worst = report.confusions(num_worst), report.worst_files(num_worst)
    if confusions:
        table = Table(title="Most frequent errors", title_justify="left")
        for column in ("said", "found", "times"):
            table.add_column(column, justify="right" if column == "times" else "left")
        for edit, count in confusions:
            table.add_row(_cell(edit.reference or NOTHING), _cell(edit.hypothesis or NOTHING), str(count))
        console.print(table)
    if worst:
        table = Table(title="Files with the most errors", title_justify="left")
        for column in ("file", "errors", "WER", "said / found"):
            table.add_column(column, justify="right" if column in ("errors", "WER") else "left", overflow="fold")
        for file in worst:
            words = file.errors.words
            texts = f"{file.errors.reference or NOTHING}\n{file.errors.hypothesis or NOTHING}"
            table.add_row(_cell(file.name), str(words.num_errors), _percent(words.rate), _cell(texts))
        console.print(table)


def _rates(report: EvaluationReport) -> Table:
    table = Table()
    table.add_column("")
    for column in ("rate", f"{CONFIDENCE_PERCENT:g} % interval", "of", "wrong", "missing", "added"):
        table.add_column(column, justify="right")
    for name, rate in (("WER", report.words), ("CER", report.characters)):
        counts = rate.counts
        table.add_row(
            name,
            f"[bold]{_percent(rate.rate)}[/]",
            _interval(rate),
            str(counts.num_reference),
            *map(str, (counts.substitutions, counts.deletions, counts.insertions)),
        )
    return table


def _describe(report: EvaluationReport) -> str:
    """Number of files, their normalisation, and the speed of the run."""
    num_files = len(report.files)
    parts = [f"{num_files} file" if num_files == 1 else f"{num_files} files", f"normaliser {report.normalizer}"]
    factor = report.real_time_factor
    if report.audio_seconds is not None and report.seconds is not None and factor:
        speed = f"real-time factor {factor:.4f}, {1 / factor:.0f}x real time"
        parts.append(f"{report.audio_seconds:.0f} s of audio in {report.seconds:.1f} s ({speed})")
    return "; ".join(parts) + "."


def _interval(rate: ErrorRate) -> str:
    return NOTHING if rate.low is None else f"{_percent(rate.low)} to {_percent(rate.high)}"


def _percent(rate: float | None) -> str:
    return NOTHING if rate is None else f"{100 * rate:.2f} %"


def _cell(text: str) -> Text:
    """A text that may hold anything, in a cell."""
    return Text("\n".join(escape_controls(line) for line in text.split("\n")))
