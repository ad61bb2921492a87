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
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch

from common.decoding_systems import DURATIONS, MAX_SYMBOLS, build_model, draw_weights, make_nemo_networks
from common.machine import name_machine
from common.search_runs import (
    DIGITS,
    Decode,
    add_noise,
    decode_all,
    draw_batch,
    encode,
    make_parser,
    ours_with,
    read_test_digits,
    run,
    run_nemo,
)
from common.speech import SAMPLING_RATE
from common.timing import minimum_and_median, seconds_of, take_turns
from transformers_fastconformer import BeamOptions, DecodingOptions, NgramLanguageModel, load_model

TIME_COLUMNS = (
    *("family", "vocabulary", "batch", "seconds", "system", "beams", "ms_min", "ms_median", "tokens", "rounds"),
    *("same_tokens", "over_greedy", "torch", "threads", "machine"),
)
WORDS_COLUMNS = ("head", "snr_db", "language_model", "beams", "strings", "words", "wer", "ms", "machine")
BEAMS = (1, 2, 4, 8)
GAP_SECONDS = 0.15  # of silence around a digit, whose clips are cut close
STRING_DIGITS = 6
LM_ORDER, LM_WEIGHT, NUM_TEXTS = 4, 0.3, 2000


def options_of(beams: int, **others: Any) -> DecodingOptions:
    """One beam is greedy decoding."""
    return DecodingOptions(beam=None if beams == 1 else BeamOptions(num_beams=beams), **others)


# Time


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


def measure_time(arguments: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    family, vocabulary = arguments.family, arguments.vocabulary
    model = build_model(family, vocabulary)
    draw_weights(model, family, vocabulary)
    theirs = {}
    if not arguments.only_ours:
        networks = make_nemo_networks(model, family, vocabulary, torch.float32)
        theirs = {beams: nemo_with(networks, family, vocabulary, beams) for beams in arguments.beams}
    for batch in arguments.batches:
        frames, lengths = draw_batch(batch, arguments.seconds)
        calls: dict[str, Decode] = {}
        for beams in arguments.beams:
            calls[f"ours/{beams}"] = ours_with(
                model, options_of(beams, max_symbols_per_step=MAX_SYMBOLS), frames, lengths
            )
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


def make_strings(speech_dir: Path, count: int) -> tuple[list[np.ndarray], list[str]]:
    """Strings of random test digits, and their words."""
    digits = read_test_digits(speech_dir)
    generator = np.random.default_rng(0)
    gap = np.zeros(round(GAP_SECONDS * SAMPLING_RATE), dtype=np.float32)
    waveforms, texts = [], []
    for _ in range(count):
        chosen = [digits[place] for place in generator.integers(0, len(digits), STRING_DIGITS)]
        waveforms.append(np.concatenate([gap, *(part for _, waveform in chosen for part in (waveform, gap))]))
        texts.append(" ".join(word for word, _ in chosen))
    return waveforms, texts


def measure_words(arguments: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    waveforms, truth = make_strings(arguments.speech_dir, arguments.strings)
    generator = np.random.default_rng(1)
    texts = [" ".join(generator.choice(DIGITS, STRING_DIGITS)) for _ in range(NUM_TEXTS)]
    for head in arguments.heads:
        model, processor = load_model("demo", head, "cpu")
        language_model = NgramLanguageModel.from_text(texts, processor.tokenizer, order=LM_ORDER)
        for snr_db in arguments.snr_db:
            noise = np.random.default_rng(2)
            encoded = encode(model, processor, [add_noise(waveform, snr_db, noise) for waveform in waveforms])
            rows = []
            for has_model, beams in itertools.product((False, True), arguments.beams):
                others = {"language_model": language_model, "language_model_weight": LM_WEIGHT} if has_model else {}
                decode = partial(decode_all, model, encoded, options_of(beams, **others))
                written = [processor.tokenizer.decode(row) for row in decode()]
                values = (
                    head, snr_db, LM_WEIGHT if has_model else 0.0, beams, len(truth), len(truth) * STRING_DIGITS,
                    f"{jiwer.wer(truth, written):.4f}", f"{1000.0 * seconds_of(decode):.1f}", name_machine(),
                )  # fmt: skip
                rows.append(dict(zip(WORDS_COLUMNS, values, strict=True)))
                print(*values[:8], flush=True)
            yield rows


def main() -> None:
    parser = make_parser(__doc__, seconds=10.0)
    parser.add_argument("--beams", nargs="+", type=int, default=list(BEAMS))
    parser.add_argument("--heads", nargs="+", default=["transducer", "ctc"])
    parser.add_argument("--strings", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.part == "time":
        run(measure_time, TIME_COLUMNS, arguments)
    else:
        run(measure_words, WORDS_COLUMNS, arguments)


if __name__ == "__main__":
    main()
