"""
How much does a server give of what the machine can, and does it stay within its limits under load?

    python benchmarks/bench_server.py [--part files|streams|hostile] [--model demo] [--seconds 60]

A server in a process of its own, on the loopback address; its clients are in this one, so both share the cores.

- `files`: files a minute at 1, 8 and 32 clients, next to `transcribe_clips` on the same files with the model loaded,
  as the command does them. Rounds in turns, the best of each.
- `streams`: live streams at the speed of the clock, one more every two seconds, until one is refused or ended; the
  99th percentile of the lag that the server reports, over the steps with each number of streams.
- `hostile`: clients that vanish, stall, send rubbish, text, too much and half a request, next to one whose texts must
  stay right; the memory of the server over that time. Clients hold up to 40 stalled connections open (`held`); the
  last row is after they have closed them. Half an hour: `--seconds 1800`.

Rows go into `results/server_<part>_cpu.csv`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
from websockets.sync.client import connect

from common.csv_files import write_rows
from common.folders import RESULTS
from common.machine import MIB, name_machine, read_memory
from transformers_fastconformer import load_model, read_audio
from transformers_fastconformer.demonstration import CLIP_PATHS
from transformers_fastconformer.inference.many_files import transcribe_clips
from transformers_fastconformer.inference.reading import AudioClip

CLIENTS = (1, 8, 32)
NUM_FILES = 64
STEP_SECONDS = 0.1
SECONDS_OF_EACH = 2.0


@contextmanager
def running(model: str, *options: str) -> Iterator[tuple[str, int]]:
    """A server: its address and the number of its process."""
    command = [sys.executable, "-m", "transformers_fastconformer.cli.main", "serve", "--port", "0", "--model", model]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("Serving"), line
        try:
            yield line.split(" at ")[1].split()[0], process.pid
        finally:
            process.terminate()


def write_files(folder: Path) -> list[Path]:
    """Files of 4 to 16 s of the clips of the demonstration."""
    clips = [read_audio(clip) for clip in CLIP_PATHS]
    generator = np.random.default_rng(0)
    paths = []
    for number in range(NUM_FILES):
        pieces = [clips[int(place)] for place in generator.integers(0, len(clips), int(generator.integers(2, 6)))]
        paths.append(folder / f"{number}.flac")
        soundfile.write(paths[-1], np.concatenate(pieces), 16000)
    return paths


def ask(client: httpx.Client, address: str, path: Path) -> str:
    """The text of a file."""
    with path.open("rb") as file:
        answer = client.post(f"{address}/v1/audio/transcriptions", files={"file": file}, timeout=120)
    answer.raise_for_status()
    return str(answer.json()["text"])


def time_of(work: Callable[[], Any]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bench_files(model: str, rounds: int) -> list[dict[str, Any]]:
    """Files a minute, by number of clients."""
    with tempfile.TemporaryDirectory() as name, running(model) as (address, _), httpx.Client() as client:
        paths = write_files(Path(name))
        pair = load_model(model)
        texts: dict[int, str] = {}

        def in_process() -> None:
            for finished in transcribe_clips([pair], [AudioClip(str(path)) for path in paths]):
                assert finished.transcript is not None
                texts[finished.place] = finished.transcript.text

        def served(num_clients: int) -> None:
            with ThreadPoolExecutor(num_clients) as pool:
                found = list(pool.map(lambda path: ask(client, address, path), paths))
            assert found == [texts[place] for place in range(len(paths))]

        in_process()
        served(1)
        best: dict[str, float] = {}
        for _ in range(rounds):
            best["command"] = min(best.get("command", np.inf), time_of(in_process))
            for number in CLIENTS:
                seconds = time_of(lambda: served(number))  # noqa: B023
                best[str(number)] = min(best.get(str(number), np.inf), seconds)
        per_minute = {key: 60 * len(paths) / seconds for key, seconds in best.items()}
        return [
            {
                "clients": key,
                "files_per_minute": round(value, 1),
                "of_command": round(value / per_minute["command"], 3),
                "machine": name_machine(),
                "threads": os.environ.get("OMP_NUM_THREADS", ""),
                "model": model,
            }
            for key, value in per_minute.items()
        ]


def bench_streams(model: str, max_seconds: float) -> list[dict[str, Any]]:
    """The lag by number of streams, until no more are taken."""
    samples = np.concatenate([np.pad(read_audio(clip), (0, 8000)) for clip in CLIP_PATHS] * 40)
    size = int(STEP_SECONDS * 16000)
    pieces = [(samples[i : i + size] * 32767).astype("<i2").tobytes() for i in range(0, len(samples), size)]
    lags: dict[int, list[float]] = {}
    refused: list[str] = []
    ended = threading.Event()
    num_open = 0
    lock = threading.Lock()

    def stream(address: str) -> None:
        nonlocal num_open
        url = address.replace("http", "ws") + "/stream"
        with suppress(OSError), connect(url, open_timeout=30) as client:
            client.send(json.dumps({"type": "start", "model": model}))
            first = json.loads(client.recv())
            if first["type"] == "error":
                refused.append(first["error"]["message"])
                return
            with lock:
                num_open += 1

            def listen() -> None:
                with suppress(Exception):
                    for message in client:
                        update = json.loads(message)
                        if update["type"] == "error":
                            refused.append(update["error"]["message"])
                            return
                        lags.setdefault(num_open, []).append(update["lag_ms"])

            threading.Thread(target=listen, daemon=True).start()
            started = time.monotonic()
            with suppress(Exception):
                for number, piece in enumerate(pieces):
                    if ended.wait(max(started + number * STEP_SECONDS - time.monotonic(), 0.0)):
                        return
                    client.send(piece)

    with running(model, "--max_streams", "1000") as (address, _):
        started = time.monotonic()
        while not refused and time.monotonic() - started < max_seconds:
            threading.Thread(target=stream, args=(address,), daemon=True).start()
            time.sleep(SECONDS_OF_EACH)
        time.sleep(2 * SECONDS_OF_EACH)  # those that are there go on
        ended.set()
        time.sleep(0.5)
    return [
        {
            "streams": number,
            "steps": len(values),
            "lag_ms_median": round(float(np.median(values)), 1),
            "lag_ms_p99": round(float(np.percentile(values, 99)), 1),
            "refusal": refused[0] if refused and number == max(lags) else "",
            "machine": name_machine(),
            "threads": os.environ.get("OMP_NUM_THREADS", ""),
            "model": model,
        }
        for number, values in sorted(lags.items())
    ]


def bench_hostile(model: str, seconds: float) -> list[dict[str, Any]]:
    """The memory of a server among clients that mean it no good."""
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    silence = np.zeros(3 * 3600 * 8000, dtype=np.int16)
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as name,
        running(model, "--max_audio_seconds", "3600", "--max_upload_mb", "20") as (address, process_id),
        httpx.Client() as client,
    ):
        paths = write_files(Path(name))[:4]
        bomb = Path(name) / "bomb.flac"
        soundfile.write(bomb, silence, 8000)
        port = int(address.rpartition(":")[2])
        expected = [ask(client, address, path) for path in paths]
        stalled: list[socket.socket] = []

        def raw(content: bytes, is_kept: bool = False) -> None:
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            connection.sendall(content)
            if is_kept:
                stalled.append(connection)
            else:
                connection.close()

        def vanish() -> None:
            with suppress(httpx.HTTPError), paths[0].open("rb") as file:
                httpx.post(f"{address}/v1/audio/transcriptions", files={"file": file}, timeout=0.02)

        def stream() -> None:
            with connect(address.replace("http", "ws") + "/stream", open_timeout=10) as client:
                client.send(json.dumps({"type": "start", "sampling_rate": 44100}))
                client.recv()
                client.send(os.urandom(88_201))
                client.socket.shutdown(socket.SHUT_RDWR)

        attacks: list[Callable[[], Any]] = [
            lambda: raw(os.urandom(2000)),
            lambda: raw(head + b"Content-Length: 100000\r\n\r\n--x\r\n"),
            lambda: raw(head + b"Content-Length: 100000\r\n\r\n--x\r\n", is_kept=True),
            lambda: raw(b"GET / HTTP/1.1\r\nA: ", is_kept=True),
            lambda: raw(head + b"Content-Length: 99999999999\r\n\r\n"),
            lambda: httpx.post(f"{address}/v1/audio/transcriptions", files={"file": b"not audio" * 1000}),
            lambda: httpx.post(f"{address}/v1/audio/transcriptions", files={"file": bomb.read_bytes()}, timeout=60),
            lambda: httpx.post(f"{address}/v1/audio/transcriptions", data={f"a{i}": "x" for i in range(200)}),
            vanish,
            stream,
        ]

        def row(now: float) -> dict[str, Any]:
            return {
                "seconds": round(now, 1),
                "attacks": num_attacks,
                "right_texts": num_right,
                "held": len(stalled),
                "memory_mib": round(read_memory(process_id, "VmRSS") / MIB, 1),
                "open_files": len(os.listdir(f"/proc/{process_id}/fd")),
                "threads_of_server": len(os.listdir(f"/proc/{process_id}/task")),
                "machine": name_machine(),
                "model": model,
            }

        started, num_attacks, num_right = time.monotonic(), 0, 0
        while (now := time.monotonic() - started) < seconds:
            for attack in attacks:
                with suppress(OSError, httpx.HTTPError):
                    attack()
                num_attacks += 1
            for path, text in zip(paths, expected, strict=True):
                assert ask(client, address, path) == text
                num_right += 1
            while len(stalled) > 40:
                stalled.pop(0).close()
            rows.append(row(now))
        while stalled:
            stalled.pop().close()
        # The server sees at once that they are closed; keep-alive connections of this client end with it.
        client.close()
        time.sleep(2.0)
        rows.append(row(time.monotonic() - started))
    step = max(len(rows) // 20, 1)
    return [*rows[:-1:step], rows[-1]]


def main() -> None:
    """Run parts and write their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("files", "streams", "hostile"), required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--seconds", type=float, default=60.0, help="time of streams and of hostile clients, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.part == "files":
        rows = bench_files(options.model, options.rounds)
    elif options.part == "streams":
        rows = bench_streams(options.model, options.seconds)
    else:
        rows = bench_hostile(options.model, options.seconds)
    write_rows(options.results / f"server_{options.part}_cpu.csv", rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
