"""
Are all words of a live stream there, and how soon, at latencies of half a second to four?

Recorded digits with pauses, of which the checkpoint is sure, are given to a stream in pieces of 100 ms: of buffered
windows, or with `--model demo-streaming` of steps with a cache. Words are compared with what was said (lost, doubled,
added, wrong), next to one pass over the whole file, and with `--nemo` next to NeMo's own windows of the same lengths
with the decoder's state carried over (`StreamingBatchedAudioBuffer`). `first_word_s` is the time from the end of a
word to its first appearance, tentative text included, `final_word_s` that to its commitment; both in audio, to which
the time of computing comes. With `--file` a recording takes the place of the digits, and the words of one pass over
it that of what was said.

    python benchmarks/bench_live_words.py --minutes 20
    python benchmarks/bench_live_words.py --minutes 20 --nemo
    python benchmarks/bench_live_words.py --model demo-streaming --minutes 20
    python benchmarks/bench_live_words.py --model demo-streaming --hours 10 --latencies_ms 560 --heads ctc \
        --min_confidence 0.2
    python benchmarks/bench_live_words.py --file ../shared/speech/long/crimson_joined.ogg --heads transducer
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile
import torch

from common.csv_files import write_rows
from common.folders import RESULTS
from common.long_audio_systems import load_nemo
from common.machine import name_machine, use_given_threads
from common.speech import SAMPLING_RATE, SPEECH_DIR
from common.spoken_digits import MIN_CONFIDENCE, Spoken, compare_words, join_digits, keep_known, read_digits
from transformers_fastconformer import EngineOptions, StreamingEngine, StreamUpdate, load_model, transcribe_file
from transformers_fastconformer.demonstration import CHECKPOINT_PATH

PIECE_SAMPLES = SAMPLING_RATE // 10
LATENCIES_MS = {"demo": (500.0, 1000.0, 2000.0, 4000.0), "demo-streaming": (80.0, 160.0, 560.0, 1120.0)}
HEADS = ("transducer", "ctc")


def run_stream(engine: StreamingEngine, path: Path) -> list[StreamUpdate]:
    """All updates of a file."""
    stream = engine.open()
    updates = []
    for samples in soundfile.blocks(path, PIECE_SAMPLES, dtype="float32"):
        updates.append(engine.step({stream: samples})[stream])
    return [*updates, engine.finish(stream)]


def find_delays(spoken: list[Spoken], updates: list[StreamUpdate], places: dict[int, int]) -> dict[str, float]:
    """Seconds from the end of a word to its appearance and to its commitment: median and 95th percentile."""
    shown, committed = 0, 0
    first_shown: list[float] = []
    first_committed: list[float] = []
    num_before, rest = 0, ""  # words that are whole, and the text after them: of hours, all of it would be too much
    for update in updates:
        *whole, rest = (rest + update.committed).split(" ")
        num_before += sum(bool(word) for word in whole)
        while committed < num_before + len(rest.split()):
            first_committed.append(update.heard_seconds)
            committed += 1
        while shown < num_before + len((rest + update.tentative).split()):
            first_shown.append(update.heard_seconds)
            shown += 1
    delays: dict[str, float] = {}
    for name, seconds in (("first_word_s", first_shown), ("final_word_s", first_committed)):
        found = sorted(seconds[place] - spoken[index].end for index, place in places.items())
        delays[f"{name}_median"] = round(statistics.median(found), 2)
        delays[f"{name}_p95"] = round(found[int(0.95 * len(found))], 2)
    return delays


def count_words(spoken: list[Spoken], text: str) -> dict[str, Any]:
    counts, _ = compare_words(spoken, [{"word": word} for word in text.split()])
    return counts


def measure_stream(head: str, path: Path, spoken: list[Spoken], latency_ms: float, model: Any, processor: Any) -> Any:
    """The row of one latency."""
    engine = StreamingEngine(model, processor, EngineOptions(latency_ms=latency_ms))
    start = time.perf_counter()
    updates = run_stream(engine, path)
    seconds = time.perf_counter() - start
    words = [{"word": word.text} for update in updates for word in update.words]
    counts, places = compare_words(spoken, words)
    row = {"head": head, "how": engine.encoder.name, "latency_ms": latency_ms, "words": len(spoken), **counts}
    audio_seconds = updates[-1].heard_seconds
    return {**row, **find_delays(spoken, updates, places), "real_time_factor": round(seconds / audio_seconds, 3)}


def measure_recording(options: argparse.Namespace) -> None:
    """A recording as a live stream, next to one pass over the file."""
    rows = []
    for head in options.heads:
        model, processor = load_model(options.model, head)
        transcript = transcribe_file(model, processor, options.file, strategy="full", timestamps=["word"])
        words = (transcript.timestamps or {})["word"]
        expected = [Spoken(word["word"], word["start"], word["end"]) for word in words]
        for latency_ms in options.latencies_ms or LATENCIES_MS[options.model]:
            row = measure_stream(head, options.file, expected, latency_ms, model, processor)
            row |= {"file": options.file.name, "threads": torch.get_num_threads(), "machine": name_machine()}
            rows.append(row)
            print(json.dumps(row), flush=True)
            write_rows(RESULTS / f"live_words_file_{options.model}_cpu.csv", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--hours", type=float, help="in place of minutes, with a result file of its own")
    parser.add_argument(
        "--file", type=Path, help="a recording of 16 kHz in place of digits, with a result file of its own"
    )
    parser.add_argument("--model", default="demo", choices=LATENCIES_MS)
    parser.add_argument("--latencies_ms", type=float, nargs="+")
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS)
    parser.add_argument("--min_confidence", type=float, default=MIN_CONFIDENCE, help="of the words that are joined")
    parser.add_argument("--nemo", action="store_true", help="NeMo's windows of the same lengths too")
    parser.add_argument("--speech_dir", type=Path, default=SPEECH_DIR)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    use_given_threads()
    if options.file is not None:
        measure_recording(options)
        return
    minutes = options.minutes if options.hours is None else 60 * options.hours
    latencies_ms = options.latencies_ms or LATENCIES_MS[options.model]
    length = "" if options.hours is None else "hours_"
    target = RESULTS / f"live_words_{length}{options.model}_cpu.csv"
    common = {"minutes": minutes, "threads": torch.get_num_threads(), "machine": name_machine()}
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        rows.append({**row, **common})
        print(json.dumps(rows[-1]), flush=True)
        columns = list(dict.fromkeys(name for one in rows for name in one))
        write_rows(target, rows, columns)

    with tempfile.TemporaryDirectory() as folder:
        for head in options.heads:
            model, processor = load_model(options.model, head)
            path = Path(folder) / f"{head}.wav"
            digits = read_digits(options.speech_dir)
            known = keep_known(model, processor, digits, options.seed, options.min_confidence)
            spoken = join_digits(known, 60 * minutes, path, options.seed)
            if options.hours is None:
                text = transcribe_file(model, processor, path, timestamps=False).text
                add({"head": head, "how": "whole file", "words": len(spoken), **count_words(spoken, text)})
            for latency_ms in latencies_ms:
                add(measure_stream(head, path, spoken, latency_ms, model, processor))
            if options.nemo and head == "transducer":
                for latency_ms in latencies_ms:
                    half = latency_ms / 2000
                    windows = {
                        "method": "stateful",
                        "left_seconds": 10.0,
                        "chunk_seconds": half,
                        "right_seconds": half,
                    }
                    text = load_nemo(CHECKPOINT_PATH, head, **windows)(str(path))
                    row = {"head": head, "how": "NeMo's windows", "latency_ms": latency_ms, "words": len(spoken)}
                    add({**row, **count_words(spoken, text)})


if __name__ == "__main__":
    main()
