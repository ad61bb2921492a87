"""Counts of a fuzz run, a row for each mutation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fuzz_cases import ERROR, FAULTS, RESULT, Outcome

VERDICTS = (RESULT, ERROR, *FAULTS)


@dataclass
class Table:
    """
    Counts by kind and mutation.

    Args:
        rows: Kind and mutation to counts and extremes.
        faults: All outcomes that are faults.
    """

    rows: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    faults: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        empty = {"cases": 0, **dict.fromkeys(VERDICTS, 0), "slowest_seconds": 0.0, "most_megabytes": 0.0}
        row = self.rows.setdefault((outcome.kind, outcome.mutation), empty)
        row["cases"] += 1
        row[outcome.verdict] += 1
        row["slowest_seconds"] = max(row["slowest_seconds"], outcome.seconds)
        row["most_megabytes"] = max(row["most_megabytes"], outcome.megabytes)
        if outcome.is_fault:
            self.faults.append(outcome)

    def to_rows(self, **constants: Any) -> list[dict[str, Any]]:
        """Rows for a CSV file; `constants` are the same in each."""
        return [
            {
                **constants,
                "kind": kind,
                "mutation": mutation,
                **row,
                "slowest_seconds": f"{row['slowest_seconds']:.2f}",
                "most_megabytes": f"{row['most_megabytes']:.0f}",
            }
            for (kind, mutation), row in self.rows.items()
        ]


def describe_faults(faults: Iterable[Outcome]) -> str:
    """A line for each sort of fault: how many, a case that shows it, and its message."""
    sorts: dict[tuple[str, str, str], list[Outcome]] = {}
    for outcome in faults:
        sorts.setdefault((outcome.kind, outcome.verdict, outcome.message[:50]), []).append(outcome)
    lines = [
        f"{len(found)} x {verdict} ({kind}:{found[0].seed}, {found[0].mutation}): {found[0].message[:240]}"
        for (kind, verdict, _), found in sorted(sorts.items())
    ]
    return "\n".join(lines)
