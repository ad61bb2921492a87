"""The course of a run as a table and a picture, and the card of the checkpoint that came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoints.model_card import ModelCard, read_front_matter
from ..version import __version__

CURVE_FILE = "training_curve.png"
# Rows of the card's table at most; a run may have hundreds.
MAX_ROWS = 20

USE = """\
from transformers_fastconformer import transcribe

print(transcribe("clip.wav", model="{folder}").text)"""


class Point(NamedTuple):
    """
    An evaluation.

    Args:
        step: Optimiser steps before it.
        loss: Mean training loss since the last one; None before training.
        eval_loss: Loss of the evaluation data.
        wer: Word error rate there.
        cer: Character error rate there.
    """

    step: int
    loss: float | None
    eval_loss: float
    wer: float
    cer: float


def read_curve(log_history: Sequence[Mapping[str, Any]]) -> list[Point]:
    """
    Evaluations of a run, in order.

    Args:
        log_history: `trainer.state.log_history`.
    """
    points: list[Point] = []
    losses: list[float] = []
    for entry in log_history:
        if "loss" in entry:
            losses.append(float(entry["loss"]))
        if "eval_wer" in entry:
            loss = sum(losses) / len(losses) if losses else None
            point = Point(entry["step"], loss, entry["eval_loss"], entry["eval_wer"], entry["eval_cer"])
            if points and points[-1].step == point.step:
                point = point._replace(loss=points.pop().loss)  # the last step is evaluated again at the end
            points.append(point)
            losses = []
    return points


def find_best(points: Sequence[Point]) -> Point | None:
    """The first evaluation with the lowest word error rate, whose weights are kept: not that before training."""
    return min(points[1:] or points, key=lambda point: point.wer) if points else None


def format_curve(points: Sequence[Point]) -> str:
    """The evaluations as a table in Markdown; of many every so many, the best and the last."""
    best = find_best(points)
    every = -(-len(points) // MAX_ROWS)
    shown = [point for place, point in enumerate(points) if place % every == 0 or point in (best, points[-1])]
    lines = ["| step | training loss | evaluation loss | WER | CER |", "|---:|---:|---:|---:|---:|"]
    for point in shown:
        loss = "" if point.loss is None else f"{point.loss:.3f}"
        mark = " (best)" if point is best else ""
        lines.append(
            f"| {point.step}{mark} | {loss} | {point.eval_loss:.3f} | {100 * point.wer:.2f} % "
            f"| {100 * point.cer:.2f} % |"
        )
    return "\n".join(lines)


def plot_curve(points: Sequence[Point], path: Path) -> bool:
    """Draw losses and word error rate over the steps; False where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.5), layout="constrained")
    FigureCanvasAgg(figure)
    of_loss, of_wer = figure.subplots(1, 2)
    steps = [point.step for point in points]
    trained = [(point.step, point.loss) for point in points if point.loss is not None]
    of_loss.plot(*zip(*trained, strict=True) if trained else ([], []), label="training")
    of_loss.plot(steps, [point.eval_loss for point in points], label="evaluation")
    of_loss.set(xlabel="step", ylabel="loss", ylim=(0, None))
    of_loss.legend(frameon=False)
    of_wer.plot(steps, [100 * point.wer for point in points], marker=".")
    of_wer.set(xlabel="step", ylabel="word error rate, %", ylim=(0, None))
    figure.savefig(path, dpi=110)
    return True


def describe_run(
    source: str, source_card: str | None, points: Sequence[Point], has_plot: bool, facts: Mapping[str, Any]
) -> ModelCard:
    """
    The card of a fine-tuned checkpoint.

    Args:
        source: Checkpoint that the run began with.
        source_card: Its card, whose licence and languages stay.
        points: Evaluations; none: there was no evaluation data.
        has_plot: The picture of the curve is next to the card.
        facts: What else is told of the run, by name.
    """
    metadata = read_front_matter(source_card or "")
    front_matter = metadata or "library_name: transformers\npipeline_tag: automatic-speech-recognition\n"
    told = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    course = []
    if points:
        picture = f"\n\n![Losses and word error rate by step]({CURVE_FILE})" if has_plot else ""
        course = [("Course", format_curve(points) + picture)]
    return ModelCard(
        front_matter=front_matter,
        title=f"{Path(source).name}, fine-tuned",
        introduction=f"Fine-tuned from `{Path(source).name if Path(source).exists() else source}` by "
        f"transformers-fastconformer {__version__}.",
        use=USE.format(folder="."),
        sections=(("Training", told), *course),
    )
