"""
What do phrases and language models cost in greedy decoding, and what do they do to words?

    python benchmarks/bench_search.py time --output benchmarks/results/search_time_float32_cpu.csv
    python benchmarks/bench_search.py words --output benchmarks/results/search_words_demo_cpu.csv

`time`: a TDT or RNN-T decoder of 0.6B shapes with random weights, as in `bench_decoding.py`, with 0, 100 and 20,000
random phrases and with a language model of random texts; ours and, where it is installed, NeMo in the same rounds.

`words`: the demonstration checkpoint on single digits in noise, each of the ten digits boosted in turn: precision,
recall and F of the boosted digit over all ten, and how often it is written in speech that is not digits. The encoder
runs once; the digits are those of the test speakers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.decoding_systems import DURATIONS, MAX_SYMBOLS, build_model, draw_weights, make_nemo_networks
from common.machine import name_machine
from common.search_lists import LM_WEIGHT, list_scores, random_phrases
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
from common.speech import SAMPLING_RATE, read_manifest
from common.timing import minimum_and_median, take_turns
from transformers_fastconformer import (
    DecodingOptions,
    PhraseBoosting,
    compile_phrases,
    load_model,
    read_audio,
)

TIME_COLUMNS = (
    *(
        "family",
        "vocabulary",
        "batch",
        "seconds",
        "system",
        "scores",
        "cpu_ms_min",
        "cpu_ms_median",
        "tokens",
        "rounds",
    ),
    *("same_tokens", "over_plain", "per_token_over_plain", "torch", "machine"),
)
WORDS_COLUMNS = (
    *("snr_db", "strength", "digits", "precision", "recall", "f_score", "other_errors"),
    *("other_speech_minutes", "false_alarms", "false_alarms_plain", "machine"),
)
EDGE_SECONDS = 0.3  # of silence around a digit, whose clips are cut close


# Time


def nemo_with(
    networks: tuple[Any, Any], family: str, vocabulary: int, kinds: dict[str, dict[str, Any]], folder: Path
) -> dict[str, Any]:
    """NeMo's greedy decoders with the same scores."""
    from nemo.collections.asr.parts.context_biasing.boosting_graph_batched import GPUBoostingTreeModel
    from nemo.collections.asr.parts.context_biasing.context_graph_universal import ContextGraph
    from nemo.collections.asr.parts.submodules.ngram_lm import NGramGPULanguageModel
    from nemo.collections.asr.parts.submodules.rnnt_greedy_decoding import (
        GreedyBatchedRNNTInfer,
        GreedyBatchedTDTInfer,
    )

    decoder, joint = networks
    made = {}
    for name, options in kinds.items():
        fusion: dict[str, Any] = {}
        if "boosting" in options:
            graph = ContextGraph(context_score=1.0, depth_scaling=2.0)
            phrases = random_phrases(int(name.split()[0]), vocabulary)
            graph.build(token_ids=phrases, phrases=[""] * len(phrases), scores=[0.0] * len(phrases))
            tree = GPUBoostingTreeModel.from_context_graph(graph, vocabulary, use_triton=False, uniform_weights=False)
            fusion = {"fusion_models": [tree], "fusion_models_alpha": [1.0]}
        elif "language_model" in options:
            path = folder / "model.arpa"
            options["language_model"].save_arpa(path)
            theirs = NGramGPULanguageModel.from_file(path, vocab_size=vocabulary, use_triton=False)
            fusion = {"fusion_models": [theirs], "fusion_models_alpha": [LM_WEIGHT]}
        shared = {"decoder_model": decoder, "joint_model": joint, "blank_index": vocabulary, **fusion}
        if family == "tdt":
            made[name] = GreedyBatchedTDTInfer(**shared, durations=DURATIONS, max_symbols_per_step=MAX_SYMBOLS)
        else:
            made[name] = GreedyBatchedRNNTInfer(**shared, max_symbols_per_step=MAX_SYMBOLS)
    return made


def measure_time(arguments: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    family, vocabulary = arguments.family, arguments.vocabulary
    model = build_model(family, vocabulary)
    draw_weights(model, family, vocabulary)
    kinds = list_scores(vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        theirs = {}
        if not arguments.only_ours:
            networks = make_nemo_networks(model, family, vocabulary, torch.float32)
            theirs = nemo_with(networks, family, vocabulary, kinds, Path(folder))
    for batch in arguments.batches:
        frames, lengths = draw_batch(batch, arguments.seconds)
        calls: dict[str, Decode] = {}
        for name, options in kinds.items():
            calls[f"ours/{name}"] = ours_with(model, DecodingOptions(**options), frames, lengths)
            if name in theirs:
                calls[f"NeMo/{name}"] = run_nemo(theirs[name], frames, lengths)
        tokens = {name: call() for name, call in calls.items()}  # warms up
        spent: dict[str, list[float]] = {name: [] for name in calls}
        for _, name in take_turns(calls, arguments.rounds, is_alternating=True):
            # Of the processor: other work of the machine takes turns with this one thread, but adds nothing to it.
            start = time.process_time()
            calls[name]()
            spent[name].append(1000.0 * (time.process_time() - start))
        rows = []
        for name, milliseconds in spent.items():
            system, scores = name.split("/")
            best, median = minimum_and_median(milliseconds)
            expected = tokens.get(f"NeMo/{scores}", tokens[name])
            same = sum(found == other for found, other in zip(tokens[name], expected, strict=True))
            over = best / min(spent[f"{system}/none"])
            per_token = sum(map(len, tokens[f"{system}/none"])) / max(sum(map(len, tokens[name])), 1)
            values = (
                family, vocabulary, batch, arguments.seconds, system, scores, f"{best:.2f}", f"{median:.2f}",
                sum(map(len, tokens[name])), arguments.rounds, f"{same}/{batch}",
                f"{over:.3f}", f"{over * per_token:.3f}", torch.__version__, name_machine(),
            )  # fmt: skip
            rows.append(dict(zip(TIME_COLUMNS, values, strict=True)))
            print(*values[:13], flush=True)
        yield rows


# Words


def texts_of(
    model: Any, processor: Any, encoded: list[Any], decodings: Sequence[DecodingOptions]
) -> Iterator[list[list[str]]]:
    """Words of each clip, with each of the options; options that come twice are used once."""
    kept: dict[DecodingOptions, list[list[str]]] = {}
    for decoding in decodings:
        if decoding not in kept:
            kept[decoding] = [processor.tokenizer.decode(row).split() for row in decode_all(model, encoded, decoding)]
        yield kept[decoding]


def read_other_speech(speech_dir: Path, minutes: float) -> list[np.ndarray]:
    """Pieces of 20 s of read speech and stories, up to so many minutes; some digits are said in it too."""
    pieces: list[np.ndarray] = []
    for entry in read_manifest(speech_dir):
        if entry["audio_filepath"].startswith("digits/"):
            continue
        waveform = read_audio(speech_dir / entry["audio_filepath"])
        size = 20 * SAMPLING_RATE
        pieces += [waveform[start : start + size] for start in range(0, len(waveform), size)]
        if sum(map(len, pieces)) >= minutes * 60 * SAMPLING_RATE:
            break
    return [piece for piece in pieces if len(piece) > SAMPLING_RATE]


def measure_words(arguments: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    model, processor = load_model("demo", arguments.head, "cpu")
    spoken_digits = read_test_digits(arguments.speech_dir)[: arguments.clips]
    truth = [word for word, _ in spoken_digits]
    edge = np.zeros(round(EDGE_SECONDS * SAMPLING_RATE), dtype=np.float32)
    clean = [np.concatenate([edge, waveform, edge]) for _, waveform in spoken_digits]
    others = read_other_speech(arguments.speech_dir, arguments.minutes)
    minutes = sum(map(len, others)) / SAMPLING_RATE / 60
    encoded_others = encode(model, processor, others, 4)
    options: dict[float, list[DecodingOptions]] = {0.0: [DecodingOptions()] * len(DIGITS)}
    for strength in arguments.strengths:
        options[strength] = [
            DecodingOptions(boosting=compile_phrases(PhraseBoosting([digit], strength=strength), processor.tokenizer))
            for digit in DIGITS
        ]
    written_elsewhere = {
        strength: sum(
            words.count(digit)
            for digit, texts in zip(DIGITS, texts_of(model, processor, encoded_others, each), strict=True)
            for words in texts
        )
        for strength, each in options.items()
    }
    for snr_db in arguments.snr_db:
        generator = np.random.default_rng(0)
        encoded = encode(model, processor, [add_noise(waveform, snr_db, generator) for waveform in clean])
        rows = []
        for strength, each in options.items():
            hits = written = spoken = other_errors = 0
            for digit, texts in zip(DIGITS, texts_of(model, processor, encoded, each), strict=True):
                for word, words in zip(truth, texts, strict=True):
                    hits += word == digit and digit in words
                    written += words.count(digit)
                    spoken += word == digit
                    other_errors += word != digit and words != [word]
            precision, recall = hits / max(written, 1), hits / max(spoken, 1)
            f_score = 2 * precision * recall / max(precision + recall, 1e-9)
            values = (
                snr_db, strength, len(truth), f"{precision:.4f}", f"{recall:.4f}", f"{f_score:.4f}",
                f"{other_errors / max(len(truth) * len(DIGITS) - spoken, 1):.4f}", f"{minutes:.1f}",
                written_elsewhere[strength], written_elsewhere[0.0], name_machine(),
            )  # fmt: skip
            rows.append(dict(zip(WORDS_COLUMNS, values, strict=True)))
            print(*values[:10], flush=True)
        yield rows


def main() -> None:
    parser = make_parser(__doc__, seconds=15.0)
    parser.add_argument("--head", default="transducer")
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--strengths", nargs="+", type=float, default=[0.5, 1.0, 2.0, 4.0])
    arguments = parser.parse_args()
    if arguments.part == "time":
        run(measure_time, TIME_COLUMNS, arguments)
    else:
        run(measure_words, WORDS_COLUMNS, arguments)


if __name__ == "__main__":
    main()
