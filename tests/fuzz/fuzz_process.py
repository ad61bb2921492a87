"""
A server that runs cases, each in a limited process.

The server imports everything and makes the inputs that are to be damaged, once; then it forks. A child runs cases one
after another, in folders of its own, and tells each outcome as it ends; after one that ended the child, or did not
end, the server makes another child for the rest. `ForkServer` is the end that tests and tools hold, `main` the server.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from fuzz_cases import ERROR, RESULT, Case, Outcome, Room, judge_error

from transformers_fastconformer.cli.transcribe_sources import RECORD_NAME

LIMIT_SECONDS = 15.0
LIMIT_BYTES = 4 * 2**30
LIMIT_FILE_BYTES = 2**30
# Inputs of cases are some kilobytes, so that whoever takes so much more took it because the input said so.
MAX_MEGABYTES = 1024.0
CASES_A_CHILD = 25
CANNOT_BE_MADE = 71  # exit code of a child for a fault of the fuzzer itself
TREE = Path(__file__).resolve().parents[2]
PATHS = ("tests/support", "tests/reference", "tests/fuzz")


# The end that tests and tools hold


class ForkServer:
    """
    A running server. Use it in a `with` statement.

    Args:
        kinds: Kinds of cases to prepare.
        folder: Folder for the rooms of cases; made, and removed at the end.
    """

    def __init__(self, kinds: Sequence[str], folder: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=folder))
        paths = [str(TREE / name) for name in PATHS]
        if "PYTHONPATH" in os.environ:
            paths.append(os.environ["PYTHONPATH"])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.folder / "home"),
            "TRANSFORMERS_FASTCONFORMER_CACHE": str(self.folder / "unused"),
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder), *kinds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, cases: Sequence[tuple[str, int]], keep: Path | None = None) -> Iterator[Outcome]:
        """
        Run cases.

        Args:
            cases: Kinds and seeds.
            keep: Folder to which the input of the last case is copied.

        Returns:
            The outcomes in the same order.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for start in range(0, len(cases), CASES_A_CHILD):
            batch = cases[start : start + CASES_A_CHILD]
            self._process.stdin.write(json.dumps(batch) + "\n")
            self._process.stdin.flush()
            for _ in batch:
                line = self._process.stdout.readline()
                if not line:
                    raise RuntimeError(f"the server of the fuzzer ended with {self._process.wait()}")
                yield Outcome(**json.loads(line))
        if keep is not None:
            shutil.copytree(Room(self.folder / "room").input, keep, symlinks=True, dirs_exist_ok=True)


# The server


def main() -> None:
    """Prepare, then answer each line of the standard input (cases) with a line for each case."""
    folder, kinds = Path(sys.argv[1]), sys.argv[2:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # messages of loggers are no chatter, whoever writes them

    import fuzz_kinds
    import torch
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    fuzz_kinds.prepare(kinds)
    transformers_logging.enable_progress_bar()  # its state in a program that has only imported the package
    for line in sys.stdin:
        for outcome in run_batch([(kind, seed) for kind, seed in json.loads(line)], folder):
            answers.write(json.dumps(asdict(outcome)) + "\n")
            answers.flush()


def run_batch(cases: list[tuple[str, int]], folder: Path) -> Iterator[Outcome]:
    """Outcomes of cases, by as many children as are needed."""
    while cases:
        reader, writer = os.pipe()
        root = folder / "room"
        shutil.rmtree(root, ignore_errors=True)
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                run_in_child(cases, root, writer)
            except BaseException:
                traceback.print_exc()
                os._exit(70)
            os._exit(0)
        os.close(writer)
        how = "hang"
        with os.fdopen(reader, "rb", buffering=0) as lines:
            for answer in read_answers(lines, LIMIT_SECONDS + 2.0):
                if answer is None:
                    break
                yield Outcome(**json.loads(answer))
                cases = cases[1:]
            else:
                how = "end"
        if how == "hang":
            kill_group(child)
        _, status = os.waitpid(child, 0)
        kill_group(child)
        if not cases:
            break
        kind, seed = cases[0]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == CANNOT_BE_MADE:
            raise RuntimeError((root / "chatter").read_text(errors="replace")[-3000:])
        noted = json.loads((root / "case.json").read_text()) if (root / "case.json").is_file() else {}
        if how == "hang":
            outcome = Outcome(kind, seed, verdict="hang", message=f"no end within {LIMIT_SECONDS:g} s", **noted)
        else:
            ended_by = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
            said = (root / "chatter").read_bytes()[-400:].decode(errors="replace") if root.is_dir() else ""
            outcome = Outcome(kind, seed, verdict="signal", message=f"{ended_by}: {' '.join(said.split())}", **noted)
        yield outcome
        cases = cases[1:]


def read_answers(lines: Any, seconds: float) -> Iterator[bytes | None]:
    """Lines as they come; None where one takes longer than that."""
    rest = b""
    while True:
        ready, _, _ = select.select([lines], [], [], seconds)
        if not ready:
            yield None
            return
        piece = lines.read(65536)
        if not piece:
            return
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole


def kill_group(child: int) -> None:
    """End a child and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


# A child


def run_in_child(cases: Sequence[tuple[str, int]], root: Path, writer: int) -> None:
    """Run cases under limits; each outcome is a line."""
    os.setsid()
    limit_process()
    room = Room(root)
    root.mkdir(parents=True)
    os.environ["TMPDIR"] = str(room.temporary)
    os.environ["TRANSFORMERS_FASTCONFORMER_CACHE"] = str(room.cache)
    tempfile.tempdir = None
    nothing, chatter = (
        os.open(os.devnull, os.O_RDONLY),
        os.open(root / "chatter", os.O_RDWR | os.O_CREAT | os.O_APPEND),
    )
    os.dup2(nothing, 0)
    os.dup2(chatter, 1)
    os.dup2(chatter, 2)
    for kind, seed in cases:
        outcome = run_case(kind, seed, room)
        os.write(writer, json.dumps(asdict(outcome)).encode() + b"\n")


def limit_process() -> None:
    """Bound memory and files; no core is dumped, and a file that grows too large is an error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_FILE_BYTES, LIMIT_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))


def run_case(kind: str, seed: int, room: Room) -> Outcome:
    """Make a case, run its steps and judge them."""
    import fuzz_kinds

    for folder in room.folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    os.chdir(room.outside)
    (room.root / "case.json").unlink(missing_ok=True)
    try:
        case = fuzz_kinds.make_case(kind, seed, room)
    except Exception:
        traceback.print_exc()
        print(f"{kind}:{seed} cannot be made", file=sys.stderr, flush=True)
        os._exit(CANNOT_BE_MADE)
    noted = {"mutation": case.mutation, "base": case.base}
    (room.root / "case.json").write_text(json.dumps(noted))
    os.truncate(room.root / "chatter", 0)
    before = digest_of(room.input)
    start_bytes = reset_peak()
    start = time.perf_counter()
    verdict, message, trace = run_steps(case)
    seconds = time.perf_counter() - start
    megabytes = (peak_bytes() - start_bytes) / 2**20
    sys.stdout.flush()
    sys.stderr.flush()
    said = (room.root / "chatter").read_bytes().decode(errors="replace").strip()
    if verdict in (RESULT, ERROR):
        found = find_leftovers(room)
        if digest_of(room.input) != before:
            verdict, message = "leftover", "the input was changed"
        elif found:
            verdict, message = found
        elif megabytes > MAX_MEGABYTES:
            verdict, message = "memory", f"{megabytes:.0f} MB more than before; {message}"
        elif case.is_loud and "Traceback (most recent call last)" in said:
            verdict, message, trace = "raw", said.splitlines()[-1][:400], said[-4000:]
        elif said and not case.is_loud:
            verdict, message = "chatter", " ".join(said.split())[:400]
    message = message.replace(str(room.root), "ROOM")
    return Outcome(
        kind,
        seed,
        verdict=verdict,
        message=message,
        trace=trace,
        seconds=seconds,
        megabytes=megabytes,
        digest=before,
        **noted,
    )


def run_steps(case: Case) -> tuple[str, str, str]:
    """Verdict, message and traceback of the first fault, else of the first error; a result where all steps return."""
    first = (RESULT, "", "")
    for step in case.steps:
        try:
            step()
        except BaseException as error:
            verdict, message = judge_error(error, case.names, case.is_keyed)
            told = verdict, message, "".join(traceback.format_exception(error))[-8000:]
            if verdict != ERROR:
                return told
            first = told if first[0] == RESULT else first
    return first


def find_leftovers(room: Room) -> tuple[str, str] | None:
    """What lies where nothing should be."""
    for folder, fault in ((room.outside, "outside"), (room.temporary, "leftover")):
        names = sorted(path.relative_to(room.root).as_posix() for path in folder.rglob("*"))
        if names:
            return fault, f"left: {', '.join(names)[:300]}"
    # A whole conversion may stay, whatever comes after it; half a one has a hidden name. So has the record of sources.
    outputs = [path for path in room.output.rglob("*") if path.name != RECORD_NAME]
    written = [path for path in outputs if path.name.startswith(".") or path.suffix == ".unpacked"]
    kept = [*written, *room.cache.glob("v*/.*")]
    if kept:
        return "leftover", f"left: {', '.join(path.relative_to(room.root).as_posix() for path in kept)[:300]}"
    return None


def digest_of(folder: Path) -> str:
    """Digest of all names and bytes in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(os.fsencode(path.relative_to(folder)) + b"\0")
        if path.is_file() and path.stat().st_size < 2**24:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def reset_peak() -> int:
    """Begin to measure the peak of the memory; the bytes that are in use now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return memory_of("VmRSS")


def peak_bytes() -> int:
    """The peak since `reset_peak`."""
    return memory_of("VmHWM")


def memory_of(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
