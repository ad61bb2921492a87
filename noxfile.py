"""
Tests with the oldest and newest versions that `pyproject.toml` claims: `nox`.

    nox                                 the oldest and the newest
    nox -s newest-3.13 -- tests/cli     arguments go to pytest
    nox -s nemo                         comparisons with NeMo

Sessions install the package as users do. `oldest` takes the lowest version of each dependency that is claimed, on the
lowest Python, so that what is claimed is what ran. Pythons that are missing are downloaded by uv.
"""

from __future__ import annotations

import nox

OLDEST_PYTHON = "3.10"
NEWEST_PYTHONS = ("3.12", "3.13")
# The oldest torch and the oldest Transformers do not import together: of each the oldest, with the oldest other that
# goes with it.
OLDEST_PAIRS = ("transformers>=5.11", "torch>=2.7")

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["oldest", "newest"]


def run_tests(session: nox.Session, *options: str) -> None:
    """Say which versions are there, then run the tests."""
    session.run("fastconformer", "doctor", env={"COLUMNS": "100"})
    session.run("pytest", "-q", *options, *session.posargs)


@nox.session(python=OLDEST_PYTHON)
@nox.parametrize("other", OLDEST_PAIRS)
def oldest(session: nox.Session, other: str) -> None:
    """The lowest version of every dependency that is claimed."""
    # The feature extractor of Transformers' own Parakeet wants librosa there.
    session.install("--resolution", "lowest-direct", ".[test]", "librosa>=0.10", other)
    run_tests(session)


@nox.session(python=NEWEST_PYTHONS)
def newest(session: nox.Session) -> None:
    """The newest version of every dependency that is allowed."""
    session.install("--upgrade", ".[test]")
    run_tests(session)


@nox.session(python=NEWEST_PYTHONS[0])
def nemo(session: nox.Session) -> None:
    """Comparisons with NeMo, in the newest versions that it allows."""
    session.install(".[test,nemo]")
    run_tests(session, "-m", "nemo")
