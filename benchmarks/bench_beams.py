"""
What does a beam search cost, and what does it do to words?

    python benchmarks/bench_beams.py time --output benchmarks/results/beams_time_float32_cpu.csv
    python benchmarks/bench_beams.py words --output benchmarks/results/beams_words_demo_cpu.csv

`time`: a TDT or RNN-T decoder of 0.6B shapes with random weights, as in `bench_decoding.py`, greedily and with 2, 4,
and 8 beams; ours and, where it is installed, NeMo's `malsd_batch` in the same rounds.

`words`: the demonstration checkpoint on strings of digits in noise, greedily and with 2, 4 and 8 beams, without and
with a language model of digit strings. The encoder runs once; the digits are those of the test speakers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.csv_files import write_rows
from common.decoding_systems import (
    DURATIONS,
    MAX_SYMBOLS,
    build_model,
    draw_weights,
    make_frames,
    make_nemo_networks,
)
from common.machine import name_machine
from common.speech import SAMPLING_RATE, SPEECH_DIR, read_manifest
from common.timing import minimum_and_median, seconds_of, take_turns
from transformers_fastconformer import BeamOptions, DecodingOptions, NgramLanguageModel, load_model, read_audio

TIME_COLUMNS = (
    *("family", "vocabulary", "batch", "seconds", "system", "beams", "ms_min", "ms_median", "tokens", "rounds"),
    *("same_tokens", "over_greedy", "torch", "threads", "machine"),
)
WORDS_COLUMNS = ("head", "snr_db", "language_model", "beams", "strings", "words", "wer", "ms", "machine")
BEAMS = (1, 2, 4, 8)
GAP_SECONDS = 0.15  # of silence around a digit, whose clips are cut close
STRING_DIGITS = 6
LM_ORDER, LM_WEIGHT, NUM_TEXTS = 4, 0.3, 2000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Decode = Callable[[], list[list[int]]]


def options_of(beams: int, **others: Any) -> DecodingOptions:
    """One beam is greedy decoding."""
    return DecodingOptions(beam=None if beams == 1 else BeamOptions(num_beams=beams), **others)


# Time


def ours_with(model: Any, beams: int, frames: torch.Tensor, lengths: torch.Tensor) -> Decode:
    decoding = options_of(beams, max_symbols_per_step=MAX_SYMBOLS)

    def decode() -> list[list[int]]:
        found, _ = model.decode_frames(frames, lengths, decoding)
        return [row[:count] for row, count in zip(found.tokens.tolist(), found.token_lengths.tolist(), strict=True)]

    return decode


def nemo_with(networks: tuple[Any, Any], family: str, vocabulary: int, beams: int) -> Any:
    """NeMo's greedy decoding or its beam search."""
    from nemo.collections.asr.parts.submodules.rnnt_beam_decoding import BeamBatchedRNNTInfer
    from nemo.collections.asr.parts.submodules.rnnt_greedy_decoding import (
        GreedyBatchedRNNTInfer,
        GreedyBatchedTDTInfer,
    )
    from nemo.collections.asr.parts.submodules.tdt_beam_decoding import BeamBatchedTDTInfer

    decoder, joint = networks
    shared = {"decoder_model": decoder, "joint_model": joint, "blank_index": vocabulary}
    shared["max_symbols_per_step"] = MAX_SYMBOLS
    if family == "tdt":
        shared["durations"] = DURATIONS
    if beams == 1:
        return (GreedyBatchedTDTInfer if family == "tdt" else GreedyBatchedRNNTInfer)(**shared)
    search = BeamBatchedTDTInfer if family == "tdt" else BeamBatchedRNNTInfer
    return search(**shared, beam_size=beams, search_type="malsd_batch", score_norm=True, allow_cuda_graphs=False)


def run_nemo(search: Any, frames: torch.Tensor, lengths: torch.Tensor) -> Decode:
    def decode() -> list[list[int]]:
        with torch.inference_mode():
            (found,) = search(encoder_output=frames.transpose(1, 2), encoded_lengths=lengths)
        return [[int(token) for token in hypothesis.y_sequence] for hypothesis in found]

    return decode


def measure_time(arguments: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    torch.set_num_threads(arguments.threads)
    family, vocabulary = arguments.family, arguments.vocabulary
    model = build_model(family, vocabulary)
    draw_weights(model, family, vocabulary)
    theirs = {}
    if not arguments.only_ours:
        networks = make_nemo_networks(model, family, vocabulary, torch.float32)
        theirs = {beams: nemo_with(networks, family, vocabulary, beams) for beams in arguments.beams}
    for batch in arguments.batches:
        generator = torch.Generator().manual_seed(batch)
        frames = make_frames(batch, arguments.seconds, generator)
        lengths = torch.randint(round(0.8 * frames.shape[1]), frames.shape[1] + 1, (batch,), generator=generator)
        lengths[0] = frames.shape[1]
        calls: dict[str, Decode] = {}
        for beams in arguments.beams:
            calls[f"ours/{beams}"] = ours_with(model, beams, frames, lengths)
            if beams in theirs:
                calls[f"NeMo/{beams}"] = run_nemo(theirs[beams], frames, lengths)
        tokens = {name: call() for name, call in calls.items()}  # warms up
        spent: dict[str, list[float]] = {name: [] for name in calls}
        for _, name in take_turns(calls, arguments.rounds, is_alternating=True):
            spent[name].append(1000.0 * seconds_of(calls[name]))
        rows = []
        for name, milliseconds in spent.items():
            system, number = name.split("/")
            best, median = minimum_and_median(milliseconds)
            expected = tokens.get(f"NeMo/{number}", tokens[name])
            same = sum(found == other for found, other in zip(tokens[name], expected, strict=True))
            values = (
                family, vocabulary, batch, arguments.seconds, system, number, f"{best:.2f}", f"{median:.2f}",
                sum(map(len, tokens[name])), arguments.rounds, f"{same}/{batch}",
                f"{best / min(spent[f'{system}/1']):.3f}", torch.__version__, arguments.threads, name_machine(),
            )  # fmt: skip
            rows.append(dict(zip(TIME_COLUMNS, values, strict=True)))
            print(*values[:12], flush=True)
        yield rows


# Words


def make_strings(speech: Path, count: int) -> tuple[list[np.ndarray], list[str]]:
    """Strings of test digits of one speaker after another, and their words."""
    entries = [
        entry
        for entry in read_manifest(speech)
        if entry["audio_filepath"].startswith("digits/") and entry.get("split") == "test"
    ]
    generator = np.random.default_rng(0)
    gap = np.zeros(round(GAP_SECONDS * SAMPLING_RATE), dtype=np.float32)
    waveforms, texts = [], []
    for _ in range(count):
        chosen = [entries[place] for place in generator.integers(0, len(entries), STRING_DIGITS)]
        pieces = [gap]
        for entry in chosen:
            pieces += [read_audio(speech / entry["audio_filepath"]), gap]
        waveforms.append(np.concatenate(pieces))
        texts.append(" ".join(entry["text"].lower() for entry in chosen))
    return waveforms, texts


def count_word_errors(truth: list[str], found: list[str]) -> int:
    """Fewest words that are put in, left out or replaced."""
    costs = list(range(len(found) + 1))
    for row, word in enumerate(truth, start=1):
        before, costs[0] = costs[0], row
        for column, other in enumerate(found, start=1):
            best = min(before + (word != other), costs[column] + 1, costs[column - 1] + 1)
            before, costs[column] = costs[column], best
    return costs[-1]


def measure_words(arguments: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    torch.set_num_threads(arguments.threads)
    waveforms, truth = make_strings(arguments.speech, arguments.strings)
    generator = np.random.default_rng(1)
    texts = [" ".join(generator.choice(DIGITS, STRING_DIGITS)) for _ in range(NUM_TEXTS)]
    for head in arguments.heads:
        model, processor = load_model("demo", head, "cpu")
        language_model = NgramLanguageModel.from_text(texts, processor.tokenizer, order=LM_ORDER)
        for snr_db in arguments.snr_db:
            noise = np.random.default_rng(2)
            noisy = []
            for waveform in waveforms:
                power = float(np.mean(waveform**2)) / 10 ** (snr_db / 10)
                noisy.append((waveform + noise.normal(0, power**0.5, len(waveform))).astype(np.float32))
            features = processor(noisy, sampling_rate=SAMPLING_RATE, return_tensors="pt")
            with torch.inference_mode():
                encoded = model.encode(features["input_features"], features["attention_mask"])
            rows = []
            for has_model in (False, True):
                others = {"language_model": language_model, "language_model_weight": LM_WEIGHT} if has_model else {}
                for beams in arguments.beams:
                    decoding = options_of(beams, **others)

                    def decode(model: Any = model, encoded: Any = encoded, decoding: Any = decoding) -> Any:
                        return model.decode_frames(encoded.last_hidden_state, encoded.encoder_lengths, decoding)[0]

                    found = decode()
                    spent = 1000.0 * seconds_of(decode)
                    written_texts = processor.batch_decode(found.tokens)
                    errors = sum(
                        count_word_errors(text.split(), other.split())
                        for text, other in zip(truth, written_texts, strict=True)
                    )
                    wer = errors / (len(truth) * STRING_DIGITS)
                    values = (
                        head, snr_db, LM_WEIGHT if has_model else 0.0, beams, len(truth), len(truth) * STRING_DIGITS,
                        f"{wer:.4f}", f"{spent:.1f}", name_machine(),
                    )  # fmt: skip
                    rows.append(dict(zip(WORDS_COLUMNS, values, strict=True)))
                    print(*values[:8], flush=True)
            yield rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("time", "words"))
    parser.add_argument("--family", default="tdt", choices=("tdt", "rnnt"))
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--beams", nargs="+", type=int, default=list(BEAMS))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--heads", nargs="+", default=["transducer", "ctc"])
    parser.add_argument("--speech", type=Path, default=SPEECH_DIR)
    parser.add_argument("--strings", type=int, default=100)
    parser.add_argument("--snr-db", nargs="+", type=float, default=[20.0, 5.0, 0.0])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    measure, columns = (measure_time, TIME_COLUMNS) if arguments.part == "time" else (measure_words, WORDS_COLUMNS)
    written: list[dict[str, Any]] = []
    for rows in measure(arguments):
        written += rows
        if arguments.output is not None:
            write_rows(arguments.output, written, columns)


if __name__ == "__main__":
    main()
