"""
How do this package, Transformers' pipeline and NeMo's buffered inference transcribe one long file?

Compares words, time and memory. All run the demonstration checkpoint. The file `digits` is made of recorded digits
that both of its heads recognise by themselves and in short strings, so that all words are known; `crimson` is a
recording of stories, in which the checkpoint hears digits too, and there words are counted against this package's one
pass over the whole file with the same head.

    python benchmarks/bench_longform_systems.py
    python benchmarks/bench_longform_systems.py --files digits --systems nemo --heads ctc

Every measurement has a process of its own with a limit of time and memory; one that fails leaves a row that says why.
Rows that are not measured again stay in the result. Transformers and NeMo take part where they are installed.
`--folder` keeps the inputs for the next run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import soundfile

from common.csv_files import read_rows, write_rows
from common.folders import RESULTS
from common.machine import GIB
from common.processes import module_command, run_limited
from common.speech import SAMPLING_RATE, SPEECH_DIR, STORIES
from common.spoken_digits import COUNTS, Spoken, compare_words, join_digits, keep_known, read_digits
from transformers_fastconformer import load_model
from transformers_fastconformer.demonstration import CHECKPOINT_PATH, CLIP_PATHS
from transformers_fastconformer.interop.writing import export_to_transformers

RESULT = RESULTS / "longform_comparison_demo_cpu.csv"
FILES = ("digits", "crimson")
HEADS = ("transducer", "ctc")
SYSTEMS = {"transformers_fastconformer": "transformers", "transformers": "transformers", "nemo": "nemo"}
KEYS = ("file", "head", "system", "how")
COLUMNS = (
    *(*KEYS, "minutes", "words", *COUNTS, "error_percent", "seconds", "peak_mib", "loaded_mib", "note"),
    *("version", "torch", "threads"),
)


class Case(NamedTuple):
    """
    A way to transcribe a file.

    Args:
        how: Description, with the lengths of chunks and buffers.
        options: Options of the system's loader in `common/long_audio_systems.py`.
        files: Files that it is measured on.
    """

    system: str
    head: str
    how: str
    options: dict[str, Any]
    files: tuple[str, ...] = FILES


def list_cases() -> list[Case]:
    ours, theirs, nemo = SYSTEMS
    cases = []
    for head in HEADS:
        cases += [
            Case(ours, head, "full", {"strategy": "full"}),
            Case(ours, head, "local", {"strategy": "local"}),
            Case(ours, head, "chunked, 30 s", {"strategy": "chunked", "chunk_length_s": 30}),
            Case(theirs, head, "whole file", {}, ("digits",)),
            Case(theirs, head, "chunk_length_s=30", {"chunk_length_s": 30}),
        ]
        if head == "ctc":
            how = "chunk_length_s=30, inputs_to_logits_ratio=1280"
            cases.append(Case(theirs, head, how, {"chunk_length_s": 30, "has_ratio": True}))
        else:
            how = "chunk_length_s=30, stride_length_s=0"
            cases.append(Case(theirs, head, how, {"chunk_length_s": 30, "stride_length_s": 0}))
        cases += [
            Case(nemo, head, "transcribe", {"method": "whole"}, ("digits",)),
            Case(nemo, head, "transcribe, local attention 128", {"method": "whole", "local_context": 128}),
        ]
        name = "FrameBatchASR" if head == "ctc" else "BatchedFrameASRTDT"
        for chunk, buffer in ((1.6, 4.0), (20.0, 30.0)):
            options = {"chunk_seconds": chunk, "buffer_seconds": buffer}
            how = f"{name}, chunk {chunk:g} s, buffer {buffer:g} s"
            cases.append(Case(nemo, head, how, {"method": "middle", **options}))
            if head == "transducer":
                how = f"LongestCommonSubsequence..., chunk {chunk:g} s, buffer {buffer:g} s"
                cases.append(Case(nemo, head, how, {"method": "lcs", **options}, ("digits",)))
        if head == "transducer":
            for left, chunk, right, files in ((10.0, 2.0, 2.0, ("digits",)), (5.0, 20.0, 5.0, FILES)):
                sides = {"left_seconds": left, "chunk_seconds": chunk, "right_seconds": right}
                how = f"StreamingBatchedAudioBuffer, {left:g} + {chunk:g} + {right:g} s"
                cases.append(Case(nemo, head, how, {"method": "stateful", **sides}, files))
    return cases


# Inputs


class Inputs(NamedTuple):
    """
    Inputs of all measurements.

    Args:
        audio: Path of each file, by name.
        spoken: The words of `digits`.
        checkpoints: Checkpoint of each system and head.
    """

    audio: dict[str, Path]
    spoken: list[str]
    checkpoints: dict[tuple[str, str], Path]


def make_inputs(folder: Path, speech_dir: Path, minutes: float, seed: int) -> Inputs:
    """Write the joined digits and the checkpoints in Transformers' form, or take those of the run before."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"digits-{minutes:g}-{seed}"
    audio, words = folder / f"{name}.wav", folder / f"{name}.json"
    if not words.exists():
        clips = read_digits(speech_dir)
        for head in HEADS:
            clips = keep_known(*load_model(CHECKPOINT_PATH, head), clips, seed)
        spoken = join_digits(clips, 60 * minutes, audio, seed)
        words.write_text(json.dumps([item.word for item in spoken]), encoding="utf-8")
    checkpoints = {}
    for head in HEADS:
        path = folder / f"parakeet-{head}"
        if not path.exists():
            export_to_transformers(CHECKPOINT_PATH, path, head=head)
        for system in SYSTEMS:
            checkpoints[system, head] = path if system == "transformers" else CHECKPOINT_PATH
    files = {"digits": audio, "crimson": speech_dir / STORIES}
    return Inputs(files, json.loads(words.read_text(encoding="utf-8")), checkpoints)


# Measurements


def run_worker(request: dict[str, Any], max_bytes: int, max_seconds: float) -> dict[str, Any]:
    """Answer of `common/long_audio_systems.py` to a request, or an `error`."""
    return run_limited([*module_command("common.long_audio_systems"), json.dumps(request)], max_bytes, max_seconds)


def count_words(expected: list[str], found: list[str]) -> dict[str, Any]:
    """Count the expected words and those that were lost, doubled, added and wrong, with their share in percent."""
    if not found:
        counts = {**dict.fromkeys(COUNTS, 0), "lost": len(expected)}
    else:
        counts, _ = compare_words([Spoken(word, 0.0, 0.0) for word in expected], [{"word": word} for word in found])
    return {"words": len(expected), **counts, "error_percent": round(100 * sum(counts.values()) / len(expected), 2)}


def merge_rows(old: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replace old rows by new ones of the same file, head and case, and sort all by these."""
    rows = {tuple(row[key] for key in KEYS): row for row in (*old, *new)}
    order = [(name, case.head, case.system, case.how) for name in FILES for case in list_cases() if name in case.files]
    return [rows[key] for key in order if key in rows]


class Comparison:
    """
    Measures case by case and writes every row at once.

    Args:
        inputs: Files and checkpoints.
        options: Options of the command line.
    """

    def __init__(self, inputs: Inputs, options: argparse.Namespace) -> None:
        self.inputs = inputs
        self.options = options
        self.one_pass: dict[str, list[str]] = {}

    def expected(self, name: str, head: str) -> list[str]:
        """The spoken words or, where these are not known, the words of one pass."""
        if name == "digits":
            return self.inputs.spoken
        if head not in self.one_pass:
            kept = self.options.folder / f"{name}-{head}-one-pass.json"
            if not kept.exists():
                print(f"  the words of {name}, {head}, in one pass, to count by", flush=True)
                case = next(case for case in list_cases() if case.head == head)
                self.keep_one_pass(name, head, self.transcribe(name, case))
            self.one_pass[head] = json.loads(kept.read_text(encoding="utf-8"))
        return self.one_pass[head]

    def keep_one_pass(self, name: str, head: str, answer: dict[str, Any]) -> None:
        if "error" in answer:
            raise RuntimeError(f"one pass over {name}: {answer['error']}; there is nothing to count words by")
        kept = self.options.folder / f"{name}-{head}-one-pass.json"
        kept.write_text(json.dumps(answer["text"].split()), encoding="utf-8")

    def transcribe(self, name: str, case: Case) -> dict[str, Any]:
        request = {
            "system": case.system,
            "head": case.head,
            "checkpoint": str(self.inputs.checkpoints[case.system, case.head]),
            "clip": str(CLIP_PATHS[0]),
            "path": str(self.inputs.audio[name]),
            "options": case.options,
        }
        return run_worker(request, round(self.options.most_gigabytes * GIB), self.options.most_seconds)

    def measure(self, name: str, case: Case) -> dict[str, Any]:
        answer = self.transcribe(name, case)
        row: dict[str, Any] = {"file": name, "head": case.head, "system": case.system, "how": case.how}
        row["minutes"] = round(self._seconds(name) / 60, 1)
        if "error" in answer:
            return {**row, "note": answer["error"]}
        if (name, case.options) == ("crimson", {"strategy": "full"}):
            self.keep_one_pass(name, case.head, answer)
        row |= count_words(self.expected(name, case.head), answer["text"].split())
        return {**row, **{key: answer[key] for key in answer if key in COLUMNS}}

    def _seconds(self, name: str) -> float:
        about = soundfile.info(self.inputs.audio[name])
        if about.samplerate != SAMPLING_RATE:
            raise ValueError(f"{self.inputs.audio[name]} has {about.samplerate} Hz, and {SAMPLING_RATE} are needed")
        return about.duration


def describe(row: dict[str, Any]) -> str:
    head = f"{row['file']:8} {row['head']:11} {row['system']:27} {row['how']}: "
    if row.get("note"):
        return head + row["note"]
    counts = ", ".join(f"{row[name]} {name}" for name in COUNTS)
    return head + f"{row['words']} words, {counts}; {row['seconds']} s, {row['peak_mib']} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--how", default="", help="only cases with this in their name")
    parser.add_argument("--minutes", type=float, default=29.5, help="length of `digits`")
    parser.add_argument("--most_gigabytes", type=float, default=6.0, help="that a process may take")
    parser.add_argument("--most_seconds", type=float, default=900.0, help="that a process may take")
    parser.add_argument("--speech_dir", type=Path, default=SPEECH_DIR)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or Path(folder)
        inputs = make_inputs(options.folder, options.speech_dir, options.minutes, options.seed)
        comparison = Comparison(inputs, options)
        for name in options.files:
            for case in list_cases():
                is_chosen = case.system in options.systems and case.head in options.heads and options.how in case.how
                if not is_chosen or name not in case.files:
                    continue
                if importlib.util.find_spec(SYSTEMS[case.system]) is None:
                    print(f"{case.system} is not installed", flush=True)
                    continue
                row = comparison.measure(name, case)
                write_rows(options.output, merge_rows(read_rows(options.output), [row]), COLUMNS)
                print(describe(row), flush=True)


if __name__ == "__main__":
    main()
