"""Tables of an evaluation: numbers as they are written, and texts that may hold anything."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from transformers_fastconformer.cli.evaluate_tables import show_report
from transformers_fastconformer.inference.evaluation import score_hypotheses
from transformers_fastconformer.inference.evaluation_data import SpokenText


def shown(*pairs: tuple[str, str], num_worst: int = 5) -> str:
    items = [SpokenText(f"{place}.wav", said, hypothesis=found) for place, (said, found) in enumerate(pairs)]
    text = StringIO()
    show_report(Console(file=text, width=100, highlight=False), score_hypotheses(items), num_worst)
    return text.getvalue()


def test_rates_and_counts() -> None:
    out = shown(("a b c d", "a x c d e"), ("f g", "f"))
    row = next(line for line in out.splitlines() if "WER" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "WER",
        "50.00 %",
        "50.00 % to 50.00 %",
        "6",
        "1",
        "1",
        "1",
    ]
    assert "2 files; normaliser basic." in out
    assert "real-time factor" not in out


def test_marks_of_rich_are_text() -> None:
    out = shown(("[bold]a", "b"))
    assert "a" in out
    items = [SpokenText("[red]x\x1b[31m.wav", "[/] a", hypothesis="b")]
    text = StringIO()
    show_report(Console(file=text, width=100), score_hypotheses(items), 5)
    assert "[red]x" in text.getvalue()
    assert "\x1b[31m" not in text.getvalue()


def test_without_words_there_is_no_rate() -> None:
    out = shown(("", ""))
    row = next(line for line in out.splitlines() if "WER" in line)
    assert [cell.strip() for cell in row.split("│")[1:4]] == ["WER", "-", "-"]
    assert "Files with the most errors" not in out


def test_only_the_rates() -> None:
    assert "Most frequent errors" not in shown(("a", "b"), num_worst=0)
