"""Commands killed at random moments: the run after equals an unbroken one and leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from forks import run_in_a_fork

from transformers_fastconformer.cli.main import main
from transformers_fastconformer.cli.transcribe_sources import RECORD_NAME
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.temporary_files import PREFIX

pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

SEED = 13
MAX_SECONDS = 1800


@dataclass(frozen=True)
class Room:
    """Where the commands read and write."""

    root: Path

    @property
    def place(self) -> Path:
        return self.root / "place"

    @property
    def out(self) -> Path:
        return self.place / "out"

    @property
    def temporary(self) -> Path:
        return self.root / "temporary"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def log(self) -> Path:
        return self.root / "log"

    def list_commands(self) -> dict[str, list[str]]:
        """Arguments by name."""
        root, checkpoint, out = self.root, str(CHECKPOINT_PATH), str(self.out)
        formats = ["--format", "txt,srt,json,jsonl", "--batch_size", "4"]
        inputs = [str(root / "in"), str(root / "m.jsonl")]
        return {
            "convert": ["convert", "--model", checkpoint, "--output_dir", out, "--overwrite"],
            "transcribe": ["transcribe", *inputs, "--model", str(root / "model"), "--output_dir", out, *formats],
            "cache": ["transcribe", str(root / "in" / "0.wav"), "--model", checkpoint, "--output_dir", out],
        }

    def prepare(self, name: str) -> None:
        for folder in (self.place, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        shutil.rmtree(self.cache, ignore_errors=True)
        if name == "convert":  # a folder that is replaced
            self.out.mkdir()
            (self.out / "old.txt").write_text("old")

    def start(self, name: str) -> int:
        """Run a command in a child."""
        child = os.fork()
        if child:
            return child
        os.dup2(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(2, 1)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
        code = 70
        try:
            sys.argv = ["fastconformer", *self.list_commands()[name]]
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def run(self, name: str) -> None:
        status = os.waitpid(self.start(name), 0)[1]
        assert status == 0, (name, status, self.log.read_text())

    def digest_files(self) -> dict[str, str]:
        found = {}
        for folder in (self.place, self.cache):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and "locks" not in path.parts:
                    content = path.read_bytes()
                    if path.name == RECORD_NAME:
                        # Lines are in the order of the work, and written before the output: a kill between may
                        # double one.
                        content = b"\n".join(sorted(set(content.splitlines())))
                    found[str(path.relative_to(self.root))] = hashlib.sha256(content).hexdigest()
        return found

    def list_leftovers(self) -> list[str]:
        names = [path for folder in (self.place, self.temporary, self.cache) for path in folder.rglob("*")]
        return [str(path) for path in names if path.name.startswith(PREFIX) or path.name.endswith(".part")]


def kill_and_run_again(room: Room, kills: int) -> dict[str, int]:
    """How often each command ended how; every run after it is compared with an unbroken one."""
    names = list(room.list_commands())
    unbroken, seconds = {}, {}
    for name in names:
        room.prepare(name)
        begin = time.monotonic()
        room.run(name)
        seconds[name] = time.monotonic() - begin
        unbroken[name] = room.digest_files()
        assert not room.list_leftovers(), (name, room.list_leftovers())
    draw = random.Random(SEED)
    counts: dict[str, int] = {}
    for number in range(kills):
        name = names[number % len(names)]
        number_of_signal = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        room.prepare(name)
        child = room.start(name)
        time.sleep(draw.uniform(0, seconds[name]))
        os.kill(child, number_of_signal)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 143, -number_of_signal), (name, code, room.log.read_text())
        left = room.list_leftovers()
        if number_of_signal == signal.SIGTERM:
            left = [path for path in left if not path.endswith(".part")]  # from which the next run goes on
            assert not left, (name, "SIGTERM", left)
        if name == "convert":
            whole = sorted(path.name for path in room.out.iterdir()) if room.out.is_dir() else []
            expected = sorted(Path(path).name for path in unbroken["convert"])
            assert whole in (["old.txt"], expected, []), whole
        outcome = f"{name} {signal.Signals(number_of_signal).name} {'left something' if left else 'left nothing'}"
        counts[f"{outcome} {code}"] = counts.get(f"{outcome} {code}", 0) + 1
        room.run(name)
        found = room.digest_files()
        assert found == unbroken[name], (name, sorted(set(found.items()) ^ set(unbroken[name].items())))
        assert not room.list_leftovers(), (name, room.list_leftovers())
    return counts


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forked")
@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=pytest.mark.long)])
def test_the_run_after_a_kill_equals_an_unbroken_one(tmp_path: Path, converted_folder: Path, kills: int) -> None:
    (tmp_path / "in").mkdir()
    num_files = 24 if kills > 3 else 6
    for number in range(num_files):
        shutil.copy(CLIP_PATHS[number % 2], tmp_path / "in" / f"{number}.wav")
    lines = [{"audio_filepath": f"in/{number}.wav", "duration": 1.0 + number / 20} for number in range(num_files // 2)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "model").symlink_to(converted_folder)
    room = Room(tmp_path)
    variables = {"TMPDIR": str(room.temporary), "TRANSFORMERS_FASTCONFORMER_CACHE": str(room.cache)}
    counts = run_in_a_fork(partial(kill_and_run_again, room, kills), variables, MAX_SECONDS)
    print(counts)
    assert sum(counts.values()) == kills
