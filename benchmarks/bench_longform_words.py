"""
Are all words of long files in the transcript?

Digits are joined into a long file with known times, which is transcribed whole, with local attention and in chunks of
5 s to 2 minutes; `--minutes` has the lengths for the transducer and for CTC. The digits are those of which the
checkpoint is sure, so that differences do not come from guesses; with `--least_confidence 0` all digits that it
recognises (`longform_words_any_demo_cpu.csv`). With `--multitask` the checkpoint of a multitask model, whose decoder
writes the text of a window as a whole, in windows of 10 to 40 s (`longform_words_multitask_cpu.csv`).

    python benchmarks/bench_longform_words.py --minutes 60 60
    python benchmarks/bench_longform_words.py --least_confidence 0 --minutes 20 20
    python benchmarks/bench_longform_words.py --multitask digits.nemo --minutes 20
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from common.csv_files import write_rows
from common.folders import RESULTS
from common.machine import use_given_threads
from common.speech import SAMPLING_RATE, SPEECH_DIR
from common.spoken_digits import MIN_CONFIDENCE, Spoken, compare_words, join_digits, keep_known, read_digits
from transformers_fastconformer import Transcript, load_model, transcribe_file
from transformers_fastconformer.demonstration import CHECKPOINT_PATH
from transformers_fastconformer.inference.options import ChunkOptions
from transformers_fastconformer.inference.strategy import plan_chunks

CHUNK_SECONDS = (5.0, 10.0, 30.0, 60.0, 120.0)
LOCAL_CHUNK_SECONDS = (15.0, 60.0, 120.0)
MULTITASK_CHUNK_SECONDS = (10.0, 20.0, 30.0, 40.0)


def seam_words(spoken: list[Spoken], plan: Any, num_frames: int, frame_seconds: float) -> list[int]:
    """For each seam between windows the word that it goes through, else the words on both sides."""
    indices: set[int] = set()
    starts = np.array([item.start for item in spoken])
    for window in list(plan.windows(num_frames))[:-1]:
        seam = window.keep_stop * frame_seconds
        before = int(np.searchsorted(starts, seam, side="right")) - 1
        indices.add(max(before, 0))
        if seam > spoken[before].end and before + 1 < len(spoken):
            indices.add(before + 1)
    return sorted(indices)


def measure_words(
    speech_dir: Path, minutes_of_heads: dict[str, float], seed: int, batch_size: int, min_confidence: float
) -> None:
    name_of_file = "longform_words_demo_cpu.csv" if min_confidence else "longform_words_any_demo_cpu.csv"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for head, minutes in minutes_of_heads.items():
            if minutes == 0:
                continue
            model, processor = load_model(CHECKPOINT_PATH, head)
            path = Path(folder) / f"{head}.wav"
            known = keep_known(model, processor, read_digits(speech_dir), seed, min_confidence)
            print(f"{head}: {sum(map(len, known.values()))} clips of {len(known)} speakers", flush=True)
            spoken = join_digits(known, 60 * minutes, path, seed)
            reference: Transcript | None = None
            for name, options in (
                ("full", {"strategy": "full"}),
                ("local", {"strategy": "local"}),
                *((f"chunked {length:g} s", {"chunk_length_s": length}) for length in CHUNK_SECONDS),
                *(
                    (f"local {length:g} s", {"strategy": "local", "chunk_length_s": length})
                    for length in LOCAL_CHUNK_SECONDS
                ),
            ):
                start = time.perf_counter()
                transcript = transcribe_file(
                    model, processor, path, timestamps=["word"], batch_size=batch_size, **options
                )
                seconds = time.perf_counter() - start
                reference = reference or transcript
                row = describe_words(spoken, transcript, reference, model, processor, options.get("chunk_length_s"))
                rows.append({"head": head, "how": name, "minutes": minutes, **row, "seconds": round(seconds, 1)})
                print(json.dumps(rows[-1]), flush=True)
                write_rows(RESULTS / name_of_file, rows)


def measure_multitask_words(
    checkpoint: Path, speech_dir: Path, minutes: float, seed: int, batch_size: int, min_confidence: float
) -> None:
    rows: list[dict[str, Any]] = []
    model, processor = load_model(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.wav"
        known = keep_known(model, processor, read_digits(speech_dir), seed, min_confidence, pnc=False)
        print(f"{sum(map(len, known.values()))} clips of {len(known)} speakers", flush=True)
        spoken = join_digits(known, 60 * minutes, path, seed)
        for length in MULTITASK_CHUNK_SECONDS:
            start = time.perf_counter()
            transcript = transcribe_file(
                model, processor, path, chunk_length_s=length, batch_size=batch_size, timestamps=False, pnc=False
            )
            seconds = time.perf_counter() - start
            counts, _ = compare_words(spoken, [{"word": word} for word in transcript.text.split()])
            row = {"how": f"windows of {length:g} s", "minutes": minutes, "words": len(spoken), **counts}
            rows.append({**row, "seconds": round(seconds, 1)})
            print(json.dumps(rows[-1]), flush=True)
            write_rows(RESULTS / "longform_words_multitask_cpu.csv", rows)


def describe_words(
    spoken: list[Spoken], transcript: Transcript, reference: Transcript, model: Any, processor: Any, chunk: Any
) -> dict[str, Any]:
    found, of_reference = ((item.timestamps or {})["word"] for item in (transcript, reference))
    counts, places = compare_words(spoken, found)
    _, reference_places = compare_words(spoken, of_reference)
    texts = (" ".join(item["word"] for item in items) for items in (of_reference, found))
    changed = jiwer.process_words(*texts)
    row: dict[str, Any] = {"words": len(spoken), **counts}
    row["other_words_than_one_pass"] = changed.substitutions + changed.deletions + changed.insertions
    # Times compared with those of one pass, in encoder frames, and with the recording.
    both = [index for index in places if index in reference_places]
    shifts = [
        max(
            abs(found[places[index]][side] - of_reference[reference_places[index]][side])
            for side in ("start_offset", "end_offset")
        )
        for index in both
    ]
    row["times_as_in_one_pass_percent"] = round(100 * float(np.mean([shift <= 1 for shift in shifts])), 2)
    row["most_frames_off_one_pass"] = max(shifts, default=0)
    delays = [found[place]["start"] - spoken[index].start for index, place in places.items()]
    row["median_start_after_the_spoken_s"] = round(float(np.median(delays)), 3)
    row["seam_words"] = row["seam_words_right"] = ""
    if chunk:
        mel_length = processor.feature_extractor.log_mel.mel_length(round(transcript.duration_seconds * SAMPLING_RATE))
        plan = plan_chunks(model.config, processor.frame_seconds, ChunkOptions(chunk_length_s=chunk))
        indices = seam_words(spoken, plan, model.config.count_encoder_frames(mel_length), processor.frame_seconds)
        wrong = [index for index in indices if index not in places]
        row["seam_words"], row["seam_words_right"] = len(indices), len(indices) - len(wrong)
        for index in wrong:
            print(f"  at a seam: {spoken[index].word!r} at {spoken[index].start:.2f} s is not there")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[60, 60], help="for the transducer and for CTC")
    parser.add_argument("--multitask", type=Path, metavar="CHECKPOINT", help="of a multitask model that knows digits")
    parser.add_argument("--speech_dir", type=Path, default=SPEECH_DIR)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--least_confidence", type=float, default=MIN_CONFIDENCE)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    use_given_threads()
    sizes = (options.seed, options.batch_size, options.least_confidence)
    if options.multitask is not None:
        measure_multitask_words(options.multitask, options.speech_dir, options.minutes[0], *sizes)
        return
    heads = dict(zip(("transducer", "ctc"), options.minutes, strict=False))
    measure_words(options.speech_dir, heads, *sizes)


if __name__ == "__main__":
    main()
