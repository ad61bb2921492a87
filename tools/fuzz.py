"""
Feed damaged, dishonest and hostile inputs to the package, each case in a limited process, and count what happens.

    python tools/fuzz.py --archive 10000 --folder 1000 --audio 5000 --options 2000 --manifest 500 --write
    python tools/fuzz.py --archive 300 --first_seed 5000
    python tools/fuzz.py --case archive:12345

A seed gives the same case on every machine. With `--write` the counts by mutation go to `benchmarks/results/fuzz.csv`,
from which `tools/render_tables.py` writes `docs/robustness.md`. The exit code is 1 if there are faults;
`tests/fuzz/fuzz_cases.py` says what one is. With `--case` the traceback is shown, and `--keep` keeps the input.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for place in ("benchmarks", "tests/fuzz"):
    sys.path.insert(0, str(ROOT / place))

from fuzz_process import ForkServer  # noqa: E402
from fuzz_table import Table, describe_faults  # noqa: E402

from common.csv_files import write_rows  # noqa: E402

KINDS = ("archive", "folder", "audio", "manifest", "options")
RESULTS = ROOT / "benchmarks" / "results" / "fuzz.csv"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=0, metavar="N", help=f"number of {kind} cases")
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--case", help="one case, as kind:seed")
    parser.add_argument("--keep", type=Path, help="folder that the input of the case is copied to")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    return parser.parse_args()


def show_case(label: str, keep: Path | None) -> int:
    """Run one case and print all about it."""
    kind, _, seed = label.partition(":")
    if kind not in KINDS or not seed.isdecimal():
        sys.exit(f"--case {label} is not supported; expected kind:seed with a kind of {', '.join(KINDS)}.")
    with ForkServer([kind]) as server:
        (outcome,) = server.run([(kind, int(seed))], keep)
    print(f"{label}: {outcome.mutation}; {outcome.base}")
    print(f"{outcome.verdict} after {outcome.seconds:.2f} s and {outcome.megabytes:.0f} MB: {outcome.message}")
    print(outcome.trace)
    return int(outcome.is_fault)


def main() -> int:
    options = parse_arguments()
    if options.case:
        return show_case(options.case, options.keep)
    counts = {kind: getattr(options, kind) for kind in KINDS if getattr(options, kind)}
    if not counts:
        sys.exit("nothing to do; give a number of cases, such as --archive 100, or --case archive:0")
    table = Table()
    for kind, count in counts.items():
        start = time.monotonic()
        first = options.first_seed
        with ForkServer([kind]) as server:
            for number, outcome in enumerate(server.run([(kind, seed) for seed in range(first, first + count)]), 1):
                table.add(outcome)
                if number % 500 == 0 or number == count:
                    passed = time.monotonic() - start
                    print(
                        f"{kind}: {number} of {count}, {len(table.faults)} faults so far, {passed:.0f} s", flush=True
                    )
    print(describe_faults(table.faults) or "no faults")
    if options.write:
        date = datetime.date.today().isoformat()
        write_rows(RESULTS, table.to_rows(date=date, first_seed=options.first_seed))
    return int(bool(table.faults))


if __name__ == "__main__":
    sys.exit(main())
