"""
How much memory does a file take by its length, and are the words of long files all there?

`memory`: a file of noise and digits from one minute to ten hours, each length and strategy in a process of its own.
One pass is left out where it would take more than `--most_gigabytes`, by the estimate that "auto" goes by, and with
full attention beyond `--most_full_minutes`, as its time grows with the square of the length.

`words`: digits joined into a long file with known times, whole, with local attention and in chunks of 5 to 30 s;
`--minutes` for the transducer and for CTC. Digits that the checkpoint is sure of, so that what differs is not its
guessing; with `--least_confidence 0` any that it recognises (`longform_words_any_demo_cpu.csv`).

    python benchmarks/bench_longform.py memory
    python benchmarks/bench_longform.py words --minutes 60 60
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import numpy as np
import soundfile
import torch

from transformers_fastconformer.audio.files import read_audio
from transformers_fastconformer.decoding.confidence import ConfidenceOptions
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.inference.file import split_batches, transcribe_file, transcribe_waveforms
from transformers_fastconformer.inference.loading import load_model
from transformers_fastconformer.inference.strategy import count_encoder_frames, estimate_one_pass_bytes, plan_chunks
from transformers_fastconformer.inference.transcript import Transcript

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).resolve().parent.parent
SAMPLING_RATE = 16000
MEMORY_MINUTES = (1, 5, 20, 60, 180, 600)
CHUNK_SECONDS = (5.0, 10.0, 20.0, 30.0)
EDGE = np.zeros(round(0.3 * SAMPLING_RATE), dtype=np.float32)
PAUSE_SECONDS = (0.05, 0.5)
# Digits that one speaker says before the next one does.
TURN_DIGITS = 60
# Loudness that all clips are brought to: speakers differ by 30 dB, as no recording of a conversation does.
LEVEL = 0.05
# Longest clip that is taken for one digit.
MOST_DIGIT_SECONDS = 1.2
# Confidence (NeMo's default measure; half of the digits are below 0.43) of a word that the checkpoint is sure of.
LEAST_CONFIDENCE = 0.35


# Memory


def write_long_file(path: Path, seconds: float) -> None:
    """The demonstration clips again and again, in noise, as 16-bit FLAC."""
    speech = np.concatenate([np.pad(read_audio(clip), (0, SAMPLING_RATE)) for clip in CLIP_PATHS])
    generator = np.random.default_rng(0)
    missing = round(seconds * SAMPLING_RATE)
    with soundfile.SoundFile(path, "w", SAMPLING_RATE, 1, format="FLAC", subtype="PCM_16") as file:
        while missing:
            samples = speech[:missing] + generator.normal(0.0, 1e-3, min(len(speech), missing))
            file.write(samples)
            missing -= len(samples)


def measure_one(path: str, strategy: str, minutes: float, batch_size: int) -> dict[str, Any]:
    """In a process of its own: what one file adds to the memory of a loaded model."""
    model, processor = load_model(CHECKPOINT_PATH)
    transcribe_file(model, processor, CLIP_PATHS[0], strategy=strategy)
    before = resident_bytes()
    start = time.perf_counter()
    transcript = transcribe_file(model, processor, path, strategy=strategy, timestamps=["word"], batch_size=batch_size)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "strategy": transcript.strategy,
        "minutes": minutes,
        "loaded_mib": round(before / 2**20),
        "peak_mib": round(peak / 2**20),
        "added_mib": round((peak - before) / 2**20),
        "seconds": round(seconds, 1),
        "words": len(transcript.text.split()),
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure_memory(most_gigabytes: float, most_full_minutes: float, batch_size: int, lengths: list[float]) -> None:
    model, processor = load_model(CHECKPOINT_PATH)
    hop_samples = processor.feature_extractor.hop_length
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for strategy in ("chunked", "local", "full"):
            for minutes in lengths:
                mel_length = round(60 * minutes * SAMPLING_RATE) // hop_samples
                estimate = estimate_one_pass_bytes(model.config, mel_length, is_local=strategy == "local")
                is_left_out = estimate > most_gigabytes * 2**30 or (strategy == "full" and minutes > most_full_minutes)
                if strategy != "chunked" and is_left_out:
                    print(f"{strategy:8} {minutes:5} min: left out, about {estimate / 2**30:.1f} GiB", flush=True)
                    continue
                path = Path(folder) / f"{minutes}.flac"
                if not path.exists():
                    write_long_file(path, 60 * minutes)
                arguments = ["measure", str(path), "--strategy", strategy, "--minutes", str(minutes)]
                output = subprocess.run(
                    [sys.executable, __file__, *arguments, "--batch_size", str(batch_size)],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                ).stdout
                row = json.loads(output.splitlines()[-1])
                row["estimated_mib"] = "" if strategy == "chunked" else round(estimate / 2**20)
                rows.append(row)
                print(
                    f"{strategy:8} {minutes:5} min: {row['added_mib']:5} MiB more than {row['loaded_mib']} MiB, "
                    f"{row['seconds']:.1f} s, {row['words']} words",
                    flush=True,
                )
                write_rows("longform_memory_cpu.csv", rows)


# Words


class Spoken(NamedTuple):
    """A word of the joined file and where it stands, in seconds."""

    word: str
    start: float
    end: float


def read_clips(speech_dir: Path) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Word and samples of every digit, by speaker, all equally loud."""
    clips = defaultdict(list)
    for line in (speech_dir / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["audio_filepath"].startswith("digits/"):
            samples = read_audio(speech_dir / entry["audio_filepath"])
            loudness = float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))
            clips[entry["speaker"]].append((entry["text"].lower(), (samples * (LEVEL / loudness)).clip(-1, 1)))
    return clips


def keep_known(
    model: Any,
    processor: Any,
    clips: dict[str, list[tuple[str, np.ndarray]]],
    seed: int,
    least_confidence: float = LEAST_CONFIDENCE,
) -> dict[str, list[tuple[str, np.ndarray]]]:
    """
    The clips that a head recognises for sure: alone and in several short strings of digits, all of which it got right
    with more than that confidence (0: any) in the word. Clips with room for more than a digit are left out: some
    speakers were recorded with something behind it.

    Raises:
        ValueError: when too few are left to join.
    """
    generator = random.Random(seed)
    kept = {
        speaker: [clip for clip in spoken if len(clip[1]) <= MOST_DIGIT_SECONDS * SAMPLING_RATE]
        for speaker, spoken in sorted(clips.items())
    }
    for num_digits in (1, 6, 6, 6, 6):
        for speaker, spoken in kept.items():
            strings = list(split_batches(generator.sample(spoken, len(spoken)), num_digits))
            kept[speaker] = [
                clip
                for batch in split_batches(strings, 16)
                for string in _recognise(model, processor, batch, least_confidence)
                for clip in string
            ]
        kept = {speaker: spoken for speaker, spoken in kept.items() if len({word for word, _ in spoken}) > 1}
    if not kept:
        raise ValueError(f"least_confidence={least_confidence} leaves no digits; expected less.")
    return kept


def _recognise(
    model: Any, processor: Any, strings: Sequence[Sequence[tuple[str, np.ndarray]]], least_confidence: float
) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Of each string that is recognised as it was said the clips with enough confidence."""
    waveforms = [np.concatenate([EDGE, *(part for _, clip in string for part in (clip, EDGE))]) for string in strings]
    transcripts = transcribe_waveforms(model, processor, waveforms, confidence=ConfidenceOptions())
    for string, transcript in zip(strings, transcripts, strict=True):
        if transcript.text == " ".join(word for word, _ in string):
            sure = transcript.word_confidences or []
            yield [clip for clip, confidence in zip(string, sure, strict=True) if confidence > least_confidence]


def join_digits(clips: dict[str, list[tuple[str, np.ndarray]]], seconds: float, path: Path, seed: int) -> list[Spoken]:
    """Write digits with pauses in turns of speakers, none twice in a row, and return what is where."""
    generator = random.Random(seed)
    spoken: list[Spoken] = []
    position = 0
    with soundfile.SoundFile(path, "w", SAMPLING_RATE, 1, format="WAV", subtype="FLOAT") as file:
        for word, samples in _draw(clips, generator):
            pause = round(generator.uniform(*PAUSE_SECONDS) * SAMPLING_RATE)
            if spoken and spoken[-1].word == word:
                continue
            if position + len(samples) + pause > seconds * SAMPLING_RATE:
                return spoken
            start = position / SAMPLING_RATE
            spoken.append(Spoken(word, start, start + len(samples) / SAMPLING_RATE))
            file.write(np.concatenate([samples, np.zeros(pause, dtype=np.float32)]))
            position += len(samples) + pause
    return spoken


def _draw(
    clips: dict[str, list[tuple[str, np.ndarray]]], generator: random.Random
) -> Iterator[tuple[str, np.ndarray]]:
    while True:
        for speaker in generator.sample(sorted(clips), len(clips)):
            yield from generator.choices(clips[speaker], k=TURN_DIGITS)


def compare_words(spoken: list[Spoken], found: list[dict[str, Any]]) -> tuple[dict[str, int], dict[int, int]]:
    """Words lost, doubled, added and wrong, and for each spoken word that is right the place of the found one."""
    expected, words = [item.word for item in spoken], [item["word"] for item in found]
    counts = dict.fromkeys(("lost", "doubled", "added", "wrong"), 0)
    places: dict[int, int] = {}
    (alignment,) = jiwer.process_words(" ".join(expected), " ".join(words)).alignments
    for chunk in alignment:
        ours = range(chunk.hyp_start_idx, chunk.hyp_end_idx)
        if chunk.type == "equal":
            places.update(zip(range(chunk.ref_start_idx, chunk.ref_end_idx), ours, strict=True))
        elif chunk.type == "delete":
            counts["lost"] += chunk.ref_end_idx - chunk.ref_start_idx
        elif chunk.type == "substitute":
            counts["wrong"] += len(ours)
        else:
            for place in ours:
                neighbours = words[max(place - 1, 0) : place] + words[place + 1 : place + 2]
                counts["doubled" if words[place] in neighbours else "added"] += 1
    return counts, places


def seam_words(spoken: list[Spoken], plan: Any, num_frames: int, frame_seconds: float) -> list[int]:
    """For each seam between windows the word that it goes through, else the ones on both sides."""
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
    speech_dir: Path, minutes_of_heads: dict[str, float], seed: int, batch_size: int, least_confidence: float
) -> None:
    name_of_file = "longform_words_demo_cpu.csv" if least_confidence else "longform_words_any_demo_cpu.csv"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for head, minutes in minutes_of_heads.items():
            if minutes == 0:
                continue
            model, processor = load_model(CHECKPOINT_PATH, head)
            path = Path(folder) / f"{head}.wav"
            known = keep_known(model, processor, read_clips(speech_dir), seed, least_confidence)
            print(f"{head}: {sum(map(len, known.values()))} clips of {len(known)} speakers", flush=True)
            spoken = join_digits(known, 60 * minutes, path, seed)
            reference: Transcript | None = None
            for name, options in (
                ("full", {"strategy": "full"}),
                ("local", {"strategy": "local"}),
                *((f"chunked {length:g} s", {"chunk_length_s": length}) for length in CHUNK_SECONDS),
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
                write_rows(name_of_file, rows)


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
    # Times beside those of one pass, in encoder frames, and beside the recording.
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
        plan = plan_chunks(model.config, processor.frame_seconds, chunk)
        indices = seam_words(spoken, plan, count_encoder_frames(model.config, mel_length), processor.frame_seconds)
        wrong = [index for index in indices if index not in places]
        row["seam_words"], row["seam_words_right"] = len(indices), len(indices) - len(wrong)
        for index in wrong:
            print(f"  at a seam: {spoken[index].word!r} at {spoken[index].start:.2f} s is not there")
    return row


def write_rows(name: str, rows: list[dict[str, Any]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / name, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    default = os.environ.get("FASTCONFORMER_SPEECH_DIR", ROOT / ".." / "shared" / "speech")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "words", "measure"))
    parser.add_argument("path", nargs="?", help="for `measure`, which `memory` starts")
    parser.add_argument("--strategy", default="chunked")
    parser.add_argument("--minutes", type=float, nargs="+")
    parser.add_argument("--most_gigabytes", type=float, default=2.5)
    parser.add_argument("--most_full_minutes", type=float, default=20)
    parser.add_argument("--speech_dir", type=Path, default=Path(default))
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--least_confidence", type=float, default=LEAST_CONFIDENCE)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    if options.what == "measure":
        print(json.dumps(measure_one(options.path, options.strategy, options.minutes[0], options.batch_size)))
    elif options.what == "memory":
        lengths = options.minutes or list(MEMORY_MINUTES)
        measure_memory(options.most_gigabytes, options.most_full_minutes, options.batch_size, lengths)
    else:
        heads = dict(zip(("transducer", "ctc"), options.minutes or [60, 60], strict=False))
        measure_words(options.speech_dir, heads, options.seed, options.batch_size, options.least_confidence)


if __name__ == "__main__":
    main()
