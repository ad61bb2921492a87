"""The kinds of cases: a module each, with the mutations of its inputs by name."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import fuzz_archives
import fuzz_audio
import fuzz_folders
import fuzz_manifests
import fuzz_options
from fuzz_cases import Case, Room

KINDS: dict[str, ModuleType] = {
    "archive": fuzz_archives,
    "folder": fuzz_folders,
    "audio": fuzz_audio,
    "manifest": fuzz_manifests,
    "options": fuzz_options,
}


def prepare(kinds: Sequence[str]) -> None:
    """Make what the cases of these kinds begin with, before any process is forked."""
    for kind in kinds:
        KINDS[kind].prepare()


def make_case(kind: str, seed: int, room: Room) -> Case:
    """The case of a seed; seeds go through the mutations of their kind in turn."""
    return KINDS[kind].make_case(seed, room)
