"""
Write names and shapes of the weights of every tiny model of the tests: the checkpoint format.

    python tools/write_state_dict_names.py

Writes `tests/fixtures/state_dict_names.json`. Its content must not change for models that exist: folders that users
have saved would not load any more. So run it when a kind of model is added, and read the difference.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
FIXTURE = TESTS / "fixtures" / "state_dict_names.json"


def collect_names() -> dict[str, dict[str, list[int]]]:
    """Shape of each weight, by kind of model and name."""
    sys.path.insert(0, str(TESTS / "support"))
    from models import KINDS, build_model

    return {
        kind: {name: list(tensor.shape) for name, tensor in build_model(kind).state_dict().items()} for kind in KINDS
    }


def format_names(kinds: dict[str, dict[str, list[int]]]) -> str:
    """JSON with a line for each weight, so that a difference is read easily."""
    blocks = [
        f"{json.dumps(kind)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(shape)}" for name, shape in names.items())
        + "\n}"
        for kind, names in kinds.items()
    ]
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    FIXTURE.write_text(format_names(collect_names()), encoding="utf-8")


if __name__ == "__main__":
    main()
