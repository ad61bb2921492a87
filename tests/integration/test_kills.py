"""Commands killed at random moments: the run after equals an unbroken one and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.nemo.convert import convert_nemo_checkpoint

pytest.importorskip("soundfile", reason="the extra `audio` is not installed")

# Run in a process of its own, which imports everything once and forks a child for every run of a command.
KILLER = """
import hashlib, json, os, pathlib, random, shutil, signal, sys, time

import torch

from transformers_fastconformer.cli.main import main
from transformers_fastconformer.cli.transcribe_sources import RECORD_NAME
from transformers_fastconformer.temporary_files import PREFIX

torch.set_num_threads(1)  # no threads, so that forking is safe
root, checkpoint, kills, seed = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
place, temporary, cache = root / "place", root / "temporary", root / "cache"
random.seed(seed)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
SCENARIOS = {
    "convert": ["convert", "--model", checkpoint, "--output_dir", str(place / "out"), "--overwrite"],
    "transcribe": ["transcribe", str(root / "in"), str(root / "m.jsonl"), "--model", str(root / "model"),
                   "--output_dir", str(place / "out"), "--format", "txt,srt,json,jsonl", "--batch_size", "4"],
    "cache": ["transcribe", str(root / "in" / "0.wav"), "--model", checkpoint, "--output_dir", str(place / "out")],
}


def start(name):
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(2, 1)
    code = 70
    try:
        sys.argv = ["fastconformer", *SCENARIOS[name]]
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        os._exit(code)


def tree():
    found = {}
    for folder in (place, cache):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "locks" not in path.parts:
                content = path.read_bytes()
                if path.name == RECORD_NAME:
                    # Lines are in the order of the work, and written before the output: a kill between may double one.
                    content = b"\\n".join(sorted(set(content.splitlines())))
                found[str(path.relative_to(root))] = hashlib.sha256(content).hexdigest()
    return found


def leftovers():
    folders = (place, temporary, cache)
    names = [path for folder in folders for path in folder.rglob("*")]
    return [str(path) for path in names if path.name.startswith(PREFIX) or path.name.endswith(".part")]


def prepare(name):
    for folder in (place, temporary):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    shutil.rmtree(cache, ignore_errors=True)
    if name == "convert":  # a folder that is replaced
        (place / "out").mkdir()
        (place / "out" / "old.txt").write_text("old")


def run(name):
    status = os.waitpid(start(name), 0)[1]
    assert status == 0, (name, status, (root / "log").read_text())


unbroken, seconds = {}, {}
for name in SCENARIOS:
    prepare(name)
    begin = time.monotonic()
    run(name)
    seconds[name] = time.monotonic() - begin
    unbroken[name] = tree()
    assert not leftovers(), (name, leftovers())
counts = {}
for number in range(kills):
    name = list(SCENARIOS)[number % len(SCENARIOS)]
    number_of_signal = random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
    prepare(name)
    pid = start(name)
    time.sleep(random.uniform(0, seconds[name]))
    os.kill(pid, number_of_signal)
    status = os.waitpid(pid, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 143, -number_of_signal), (name, code, (root / "log").read_text())
    left = leftovers()
    if number_of_signal == signal.SIGTERM:
        left = [path for path in left if not path.endswith(".part")]  # of a manifest, from which the next run goes on
        assert not left, (name, "SIGTERM", left)
    if name == "convert":
        out = place / "out"
        whole = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
        expected = sorted(pathlib.PurePath(path).name for path in unbroken["convert"])
        assert whole in (["old.txt"], expected, []), whole
    outcome = f"{name} {signal.Signals(number_of_signal).name} {'left something' if left else 'left nothing'} {code}"
    counts[outcome] = counts.get(outcome, 0) + 1
    run(name)
    assert tree() == unbroken[name], (name, sorted(set(tree().items()) ^ set(unbroken[name].items())))
    assert not leftovers(), (name, leftovers())
print(json.dumps(counts))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forked")
@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_the_run_after_a_kill_equals_an_unbroken_one(tmp_path: Path, kills: int) -> None:
    (tmp_path / "in").mkdir()
    for number in range(24):
        shutil.copy(CLIP_PATHS[number % 2], tmp_path / "in" / f"{number}.wav")
    lines = [{"audio_filepath": f"in/{number}.wav", "duration": 1.0 + number / 20} for number in range(12)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    convert_nemo_checkpoint(CHECKPOINT_PATH, tmp_path / "model")
    arguments = [sys.executable, "-c", KILLER, str(tmp_path), str(CHECKPOINT_PATH), str(kills), "13"]
    environment = {
        **os.environ,
        "TMPDIR": str(tmp_path / "temporary"),
        "TRANSFORMERS_FASTCONFORMER_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    (tmp_path / "temporary").mkdir()
    finished = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=1800, env=environment)
    assert finished.returncode == 0, finished.stderr[-3000:]
    counts = json.loads(finished.stdout.splitlines()[-1])
    print(counts)
    assert sum(counts.values()) == kills
