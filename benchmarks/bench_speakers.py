"""
Who speaks when, and who said what, in conversations of spoken digits that no model has heard?

Conversations are mixed from the test part of the Free Spoken Digit Dataset, with turns that overlap, as
`tools/speaker_mixtures.py` does it. The diarisation error rate is that of pyannote.metrics over all conversations of a
row, without a collar and with 0.25 s to each side of every border; overlaps count. `cpwer_percent` is MeetEval's
concatenated minimum-permutation word error rate of the words of `--words_model`, given to the speakers who were found;
`cpwer_known_turns_percent` that of the same words with the true turns: what is left there is what recognition lost,
which hears one speaker at a time.

    pip install 'transformers-fastconformer[audio,bench]'
    python benchmarks/bench_speakers.py --model demo-speakers --output speakers.csv
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import meeteval
import numpy as np
import torch
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate

from common.csv_files import write_rows
from common.folders import ROOT
from common.machine import use_given_threads
from common.speech import SPEECH_DIR
from transformers_fastconformer import (
    DiarizationOptions,
    SpeakerTurn,
    SpeakerTurnOptions,
    add_speakers,
    diarize,
    load_model,
    transcribe,
)
from transformers_fastconformer.diarization.recordings import load_diarizer

sys.path.insert(0, str(ROOT / "tools"))

from digit_data import read_digit_clips
from speaker_mixtures import Conversation, make_conversation

# Conversations, speakers, seconds, share of turns that overlap.
SETS = {
    "1 speaker": (6, 1, 24.0, 0.0),
    "2 speakers": (12, 2, 24.0, 0.3),
    "3 speakers": (12, 3, 24.0, 0.3),
    "4 speakers": (12, 4, 24.0, 0.3),
    "2 speakers, no overlaps": (12, 2, 24.0, 0.0),
    "3 speakers, 3 minutes": (3, 3, 180.0, 0.3),
}
COLLAR_SECONDS = 0.25  # to each side; pyannote.metrics counts both sides together


def annotate(turns: Sequence[tuple[Any, float, float]]) -> Annotation:
    """Turns as the metric takes them."""
    annotation = Annotation()
    for number, (speaker, start, end) in enumerate(turns):
        annotation[Segment(start, end), number] = str(speaker)
    return annotation


def words_of_speakers(timestamps: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """The text of each speaker of a transcript."""
    words: dict[str, list[str]] = defaultdict(list)
    for word in timestamps["word"]:
        words[word.get("speaker", "nobody")].append(word["word"])
    return {name: " ".join(spoken) for name, spoken in words.items()}


def true_words(talk: Conversation) -> dict[str, str]:
    """The words of each speaker of a conversation."""
    words: dict[str, list[str]] = defaultdict(list)
    for turn in talk.turns:
        words[turn.speaker] += turn.words
    return {name: " ".join(spoken) for name, spoken in words.items()}


def measure(
    name: str, talks: Sequence[Conversation], diarizer: Any, recognizer: Any, options: DiarizationOptions
) -> dict[str, Any]:
    """A row: the errors over all conversations of a set."""
    rates = {collar: DiarizationErrorRate(collar=2 * collar) for collar in (0.0, COLLAR_SECONDS)}
    errors: dict[str, list[Any]] = {"found": [], "known": []}
    for talk in talks:
        found = diarize(talk.waveform, diarizer, options)
        reference = annotate([(turn.speaker, turn.start, turn.end) for turn in talk.turns])
        heard = Timeline([Segment(0.0, found.duration_seconds)])
        for rate in rates.values():
            rate(reference, annotate(found.turns), uem=heard)
        transcript = transcribe(talk.waveform, model=recognizer, timestamps=["word"])
        speakers = sorted({turn.speaker for turn in talk.turns})
        known = [SpeakerTurn(speakers.index(turn.speaker), turn.start, turn.end) for turn in talk.turns]
        for key, turns in (("found", found.turns), ("known", known)):
            said = words_of_speakers(add_speakers(transcript, turns).timestamps or {"word": []})
            errors[key].append(meeteval.wer.cp_word_error_rate(true_words(talk), said))
    strict = rates[0.0]
    total = strict.accumulated_["total"]
    word_rates = {
        key: sum(one.errors for one in each) / sum(one.length for one in each) for key, each in errors.items()
    }
    return {
        "conversations": name,
        "number": len(talks),
        "seconds": round(sum(len(talk.waveform) for talk in talks) / 16000),
        "der_collar_0_percent": round(100 * abs(strict), 2),
        "missed_percent": round(100 * strict.accumulated_["missed detection"] / total, 2),
        "false_alarm_percent": round(100 * strict.accumulated_["false alarm"] / total, 2),
        "confusion_percent": round(100 * strict.accumulated_["confusion"] / total, 2),
        "der_collar_0.25_percent": round(100 * abs(rates[COLLAR_SECONDS]), 2),
        "words": sum(one.length for one in errors["found"]),
        "cpwer_percent": round(100 * word_rates["found"], 2),
        "cpwer_known_turns_percent": round(100 * word_rates["known"], 2),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the Sortformer")
    parser.add_argument("--words_model", default="demo")
    parser.add_argument("--speech_dir", type=Path, default=SPEECH_DIR)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--only", nargs="+", choices=tuple(SETS), default=tuple(SETS), help="some of the sets")
    parser.add_argument("--output", type=Path, required=True, help="a CSV file")
    arguments = parser.parse_args()
    use_given_threads()
    # The metric warns of the borders that it makes itself.
    warnings.filterwarnings("ignore", module="pyannote")
    diarizer, recognizer = load_diarizer(arguments.model, "cpu"), load_model(arguments.words_model, device="cpu")
    options = DiarizationOptions(turns=SpeakerTurnOptions(min_silence_seconds=0.2, min_speech_seconds=0.1))
    clips = read_digit_clips(arguments.speech_dir, "test")
    speakers = sorted({clip.speaker for clip in clips})
    by_speaker = {name: [clip for clip in clips if clip.speaker == name] for name in speakers}
    rows = []
    for place, (name, (number, num_speakers, seconds, overlap)) in enumerate(SETS.items()):
        if name not in arguments.only:
            continue
        generator = np.random.default_rng(arguments.seed + place)
        talks = [make_conversation(by_speaker, generator, num_speakers, seconds, overlap) for _ in range(number)]
        rows.append(measure(name, talks, diarizer, recognizer, options))
        print(rows[-1], flush=True)
    write_rows(arguments.output, rows)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
