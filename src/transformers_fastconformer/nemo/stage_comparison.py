"""The comparison of two sets of outputs, stage by stage, and its report."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from .stage_outputs import (
    PROBABILITIES,
    ClipHypothesis,
    StageOutputs,
)

REPORT_NAME = "verification.json"

# Largest accepted difference in float32, as a share of the largest magnitude in the reference.
FLOAT32_TOLERANCE = 5e-6
# The same for outputs that another machine stored: its Fourier transforms and matrix products round differently, so
# that even features are bit-equal only on one machine.
STORED_TOLERANCE = 1e-4
# In 16 bits: largest accepted error of ours against NeMo in float32, as a multiple of NeMo's own error.
SIXTEEN_BIT_RATIO = 1.1

# A probability nearer to 0 or 1 says no more in float32.
LEAST_PROBABILITY = 1e-7
EXACT_STAGES = ("tokens", "tokens in a batch", "frame indices", "durations", "timestamps", "text")


@dataclass
class StageResult:
    """
    One row of the table.

    Args:
        stage: Name of the output that was compared.
        max_difference: Largest difference of all values of all clips; in exact stages, the number of clips that
            differ.
        mean_difference: Mean of these differences; in exact stages, the same number.
        limit: Largest accepted `max_difference` (in 16 bits: `mean_difference`).
        passed: True if the difference is within the limit.
        clips: Number of clips that were compared.
        detail: The first difference, in words.
    """

    stage: str
    max_difference: float
    mean_difference: float
    limit: float
    passed: bool
    clips: int
    detail: str = ""


@dataclass
class VerificationReport:
    """
    All rows of a verification, and the conditions under which they were made.

    Args:
        reference: Name of the implementation that ours was compared with.
        dtype: Precision in which both ran.
        device: Device on which both ran.
        batches: Names of the batches of clips.
        rows: One for each stage.
    """

    reference: str
    dtype: str
    device: str
    batches: list[str]
    rows: list[StageResult] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """True if there are rows and every row is within its limit."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    def to_markdown(self) -> str:
        """The rows as a Markdown table."""
        lines = ["| stage | max difference | mean difference | limit | clips | |", "|---|---|---|---|---|---|"]
        for row in self.rows:
            verdict = "pass" if row.passed else f"**FAIL** {row.detail}".strip()
            lines.append("| " + " | ".join([row.stage, *describe_row(row), str(row.clips), verdict]) + " |")
        return "\n".join(lines)

    def save(self, folder: str | Path) -> Path:
        """Write `verification.json` into a folder."""
        path = Path(folder) / REPORT_NAME
        content = {**asdict(self), "passed": self.passed}
        for row in content["rows"]:
            for name, value in row.items():
                if isinstance(value, float) and not math.isfinite(value):
                    row[name] = str(value)  # JSON cannot express it
        path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return path


def describe_row(row: StageResult) -> tuple[str, str, str]:
    """Maximum, mean and limit of a row, formatted for readers."""
    if row.stage.split(": ")[-1] in EXACT_STAGES:
        return ("identical" if row.passed else f"{row.max_difference:.0f} clips differ"), "", "identical"
    return f"{row.max_difference:.2e}", f"{row.mean_difference:.2e}", f"{row.limit:.2e}"


def compare_outputs(
    reference: list[StageOutputs],
    ours: list[StageOutputs],
    reference_16_bit: list[StageOutputs] | None = None,
    is_stored: bool = False,
    are_features_exact: bool = True,
) -> list[StageResult]:
    """
    Compare all stages over all the batches; each stage gives one row.

    Args:
        reference: Outputs of NeMo in float32.
        ours: Outputs of this package on the same batches.
        reference_16_bit: Outputs of NeMo in the precision of `ours` if that has 16 bits; their error is then the
            measure.
        is_stored: True if the reference was stored, perhaps by another machine, and did not run next to ours.
        are_features_exact: False where NeMo had other clips in a batch of features than ours, which rounds otherwise.
    """
    stages = list(dict.fromkeys(stage for outputs in reference for stage in outputs.tensors))
    rows = [
        _compare_tensors(
            stage,
            _clips_of(stage, reference),
            _clips_of(stage, ours),
            None if reference_16_bit is None else _clips_of(stage, reference_16_bit),
            is_stored,
            are_features_exact,
        )
        for stage in stages
    ]
    for head in dict.fromkeys(head for outputs in reference for head in outputs.hypotheses):
        pairs = [
            pair
            for theirs, mine in zip(reference, ours, strict=True)
            for pair in zip(theirs.hypotheses[head], mine.hypotheses.get(head, []), strict=True)
        ]
        rows += _compare_hypotheses(head, pairs)
    return rows


def _clips_of(stage: str, batches: list[StageOutputs]) -> list[torch.Tensor]:
    return [clip for outputs in batches for clip in outputs.tensors.get(stage, [])]


def _largest(stage: str, expected: torch.Tensor) -> float:
    """Largest magnitude of a reference, of which a share may differ."""
    finite = expected[expected.isfinite()]
    if not finite.numel():
        return 0.0
    if stage != PROBABILITIES:
        return float(finite.abs().max())
    # The contract is on what a sigmoid is computed from, and its slope is 1/4 at most.
    logits = finite.double().clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY).logit()
    return max(float(finite.max()), float(logits.abs().max()) / 4)


def _compare_tensors(
    stage: str,
    reference: list[torch.Tensor],
    ours: list[torch.Tensor],
    reference_16_bit: list[torch.Tensor] | None,
    is_stored: bool,
    are_features_exact: bool,
) -> StageResult:
    if [clip.shape for clip in reference] != [clip.shape for clip in ours]:
        shapes = f"shapes {[tuple(clip.shape) for clip in ours]}, NeMo {[tuple(clip.shape) for clip in reference]}"
        return StageResult(stage, math.inf, math.inf, 0.0, False, len(reference), shapes)
    expected, found = (torch.cat([clip.flatten() for clip in clips]) for clips in (reference, ours))
    if expected.numel() == 0:
        return StageResult(stage, 0.0, 0.0, 0.0, True, len(reference))
    difference = (expected - found).abs()
    difference = torch.where(expected == found, 0.0, difference)  # equal infinities
    max_difference, mean_difference = float(difference.max()), float(difference.mean())
    if stage == "features" and are_features_exact and not is_stored:
        limit = 0.0
        passed = max_difference <= limit
    elif stage != "features" and reference_16_bit is not None:
        own = torch.cat([clip.flatten() for clip in reference_16_bit])
        limit = SIXTEEN_BIT_RATIO * float((expected - own).abs().mean())
        passed = mean_difference <= limit
    else:
        limit = (STORED_TOLERANCE if is_stored else FLOAT32_TOLERANCE) * _largest(stage, expected)
        passed = max_difference <= limit
    # Comparisons with NaN are false, so that it fails.
    return StageResult(stage, max_difference, mean_difference, limit, passed, len(reference))


def _compare_hypotheses(head: str, pairs: list[tuple[ClipHypothesis, ClipHypothesis]]) -> list[StageResult]:
    columns = {
        "tokens": lambda hypothesis: hypothesis.tokens,
        "tokens in a batch": lambda hypothesis: hypothesis.batch_tokens,
        "frame indices": lambda hypothesis: hypothesis.frame_indices,
        "durations": lambda hypothesis: hypothesis.durations,
        "timestamps": lambda hypothesis: hypothesis.timestamps,
        "text": lambda hypothesis: hypothesis.text,
    }
    if head != "tdt":
        del columns["durations"]
    if head == "multitask":
        del columns["frame indices"]
    if all(theirs.timestamps is None for theirs, _ in pairs):
        del columns["timestamps"]
    rows = []
    for stage, read in columns.items():
        differing = [(read(theirs), read(mine)) for theirs, mine in pairs if read(theirs) != read(mine)]
        detail = f"NeMo {differing[0][0]!r}, here {differing[0][1]!r}"[:400] if differing else ""
        count = float(len(differing))
        rows.append(StageResult(f"{head}: {stage}", count, count, 0.0, not differing, len(pairs), detail))
    return rows
