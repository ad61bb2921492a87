"""The benchmarks of the encoder at a tiny shape: they count, compare and write what they say."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import bench_encoder
import bench_memory
import plot_results
from common.csv_files import read_rows
from common.encoder_shapes import (
    LOCAL_CONTEXT,
    ceiling_flops,
    count_flops,
    count_position_flops,
    make_features,
    our_config,
)
from common.encoder_systems import build_system, can_export, find_files, split_system
from common.encoder_workers import Worker, WorkerError, WorkerPool
from common.folders import RESULTS
from transformers_fastconformer import FastConformerModel

# Shapes and counts


@pytest.mark.parametrize("mel_frames", [8, 203, 1000])
def test_flops_are_those_of_the_plain_form(mel_frames: int) -> None:
    config = our_config("tiny")
    config._attn_implementation = "eager"
    model = FastConformerModel(config).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.zeros(1, mel_frames, config.num_mel_bins))
    frames = config.count_encoder_frames(mel_frames)
    # The plain form scores every query against the distances of all, of which a query has as many as there are keys.
    too_many = config.num_hidden_layers * 2 * config.hidden_size * frames * (frames - 1)
    assert count_flops(config, [mel_frames]) == counter.get_total_flops() - too_many


def test_flops_of_a_batch_are_those_of_its_clips_and_one_table() -> None:
    config = our_config("0.6b")
    long, short = 3000, 800
    apart = count_flops(config, [long]) + count_flops(config, [short])
    assert count_flops(config, [long, short]) == apart - count_position_flops(config, short)
    audio_flops = count_flops(config, [long]) - count_position_flops(config, long)
    assert audio_flops / 1e9 == pytest.approx(15.4 * 30, rel=0.01)


def test_flops_of_local_attention_grow_with_the_length() -> None:
    config = our_config("0.6b")
    window = sum(LOCAL_CONTEXT) + 1
    six, sixty = (count_flops(config, [6000 * minutes], window) for minutes in (6, 60))
    assert sixty / six == pytest.approx(10, rel=0.01)
    assert count_flops(config, [6000], window) < count_flops(config, [6000])


def test_shapes_are_those_of_the_published_models() -> None:
    config = our_config("0.6b")
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (1024, 24, 4096)
    assert (config.num_mel_bins, config.subsampling_conv_channels, config.conv_kernel_size) == (128, 256, 9)
    assert our_config("0.6b-2layers").num_hidden_layers == 2
    with pytest.raises(ValueError, match=r"shape='0\.7b' is not known"):
        our_config("0.7b")


def test_cases_are_read() -> None:
    uneven = bench_encoder.parse_case("8x3-30")
    assert uneven.clip_seconds == (3, 5, 7, 9, 11, 13, 18, 30)
    assert sum(uneven.clip_seconds) == sum(bench_encoder.parse_case("8x12").clip_seconds)
    local = bench_encoder.parse_case("local:1x3600")
    assert (local.kind, local.mel_lengths) == ("local", [360000])
    for name in ("1x", "0x30", "wide:1x30", "1x-3", "8x0-30"):
        with pytest.raises(ValueError, match="is not known"):
            bench_encoder.parse_case(name)


def test_minutes_are_read() -> None:
    assert bench_memory.parse_case("local:60") == ("local", 60.0)
    for name in ("60", "full:0", "wide:3", "full:"):
        with pytest.raises(ValueError, match="is not known"):
            bench_memory.parse_case(name)


# Systems


@pytest.mark.parametrize("name", ["transformers_float32", "ours_bfloat16", "ours_float32"])
def test_systems_give_the_same_for_the_same_weights(encoder_folder: Path, name: str) -> None:
    files = find_files("tiny", encoder_folder)
    features, lengths = make_features(our_config("tiny"), [3.0, 1.5])
    outputs = []
    for system_name, kind in (("ours_float32", "full"), (name, "local" if name == "ours_float32" else "full")):
        system = build_system(system_name, "tiny", files, kind, "cpu")
        with torch.inference_mode():
            outputs.append(system.encode(system.prepare(features, lengths)).float())
    count = our_config("tiny").count_encoder_frames(150)
    tolerance = 0.1 if "bfloat16" in name else 1e-5  # a clip of 3 s lies inside of the window
    assert (outputs[0][0] - outputs[1][0]).abs().max() < tolerance
    assert (outputs[0][1, :count] - outputs[1][1, :count]).abs().max() < tolerance


def test_ceiling_multiplies_what_it_counts(encoder_folder: Path) -> None:
    config = our_config("tiny")
    features, lengths = make_features(config, [2.0, 1.0])
    system = build_system("ceiling_float32", "tiny", encoder_folder, "full", "cpu")
    counter = FlopCounterMode(display=False)
    with counter:
        system.encode(system.prepare(features, lengths))
    assert ceiling_flops(config, lengths.tolist()) == counter.get_total_flops()


def test_unknown_systems_are_refused(encoder_folder: Path) -> None:
    with pytest.raises(ValueError, match="system 'transformers_int4' is not known"):
        split_system("transformers_int4")
    with pytest.raises(ValueError, match="kind='local' is not supported by transformers_float32"):
        build_system("transformers_float32", "tiny", encoder_folder, "local", "cpu")


def wait_for_state(process_id: int, state: str, max_seconds: float = 30.0) -> str:
    """The state of a process, once it is the expected one; a signal takes a moment."""
    end = time.monotonic() + max_seconds
    while True:
        text = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii")
        found = text.rpartition(")")[2].split()[0]
        if found == state or time.monotonic() > end:
            return found
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads memory as Linux tells it")
def test_a_worker_sleeps_between_its_turns_and_is_ended_when_it_takes_too_much(
    encoder_folder: Path, tmp_path: Path
) -> None:
    worker = Worker("ours_float32", "tiny", find_files("tiny", encoder_folder), threads=1)
    try:
        answer = worker.run([2.0, 1.0], save=str(tmp_path / "frames.safetensors"))
        assert len(answer["milliseconds"]) == 1
        assert wait_for_state(worker.process.pid, "T") == "T"
        assert (tmp_path / "frames.safetensors").exists()
        assert len(worker.run([1.0], turn_seconds=5.0)["milliseconds"]) > 1
        # 256 x 3000 x 8 numbers and more stand in front of the blocks of a minute.
        answer = worker.run([60.0])
        assert answer["peak_bytes"] - answer["resident_before"] > 2**20
        with pytest.raises(WorkerError, match=r"^over$"):
            worker.run([3600.0], max_bytes=2**22)
        assert not worker.is_running
    finally:
        worker.stop()


def test_the_pool_ends_the_worker_used_longest_ago() -> None:
    class Running:
        def __init__(self, system: str, last_used: float, gigabytes: int) -> None:
            self.system, self.kind, self.last_used = system, "full", last_used
            self.gigabytes, self.is_running = gigabytes, gigabytes > 0

        @property
        def resident_bytes(self) -> int:
            return self.gigabytes * 2**30 if self.is_running else 0

        def stop(self) -> None:
            self.is_running = False

    pool = WorkerPool(8 * 2**30)
    first, second, third = Running("a", 2.0, 3), Running("b", 1.0, 3), Running("c", 0.0, 0)
    for worker in (first, second):
        assert pool.find(worker, 3 * 2**30) is worker
    assert pool.find(third, 4 * 2**30) is third
    assert first.is_running
    assert not second.is_running
    pool.stop()


# Results


def test_plots_take_the_lines_that_there_are() -> None:
    row = {"batch": "1", "attention": "full", "ms_min": "5", "system": "ours_float32"}
    rows = [
        {**row, "case": "1x30", "audio_seconds": "30", "seconds_of_audio_a_second": "20"},
        {**row, "case": "1x10", "audio_seconds": "10", "seconds_of_audio_a_second": "17"},
        {**row, "case": "1x10", "audio_seconds": "10", "seconds_of_audio_a_second": "18"},
        {**row, "case": "longest:full", "audio_seconds": "3600", "seconds_of_audio_a_second": "9"},
        {**row, "case": "1x120", "audio_seconds": "120", "seconds_of_audio_a_second": "", "ms_min": ""},
    ]
    assert plot_results.collect_speed(rows) == {"ours_float32": [(10.0, 18.0), (30.0, 20.0)]}
    row = {"attention": "full", "system": "nemo_float32", "note": ""}
    rows = [
        {**row, "audio_minutes": "5", "peak_mib": "400"},
        {**row, "audio_minutes": "10", "peak_mib": "", "note": "over"},
        {**row, "audio_minutes": "20", "peak_mib": "", "note": "over, as a shorter clip was"},
    ]
    assert plot_results.collect_memory(rows, "full") == ({"nemo_float32": [(5.0, 400.0)]}, {"nemo_float32": 10.0})
    rows = [
        {"strategy": "chunked", "minutes": minutes, "added_mib": mib}
        for minutes, mib in (("20", "146"), ("1", "40"), ("10", "126"))
    ]
    lines = plot_results.collect_longform(rows)
    assert lines == {"chunked": [(1.0, 40.0), (10.0, 126.0), (20.0, 146.0)]}
    assert plot_results.slope_per_minute(lines["chunked"]) == 2.0
    assert plot_results.slope_per_minute([(1.0, 5.0), (3.0, 9.0)]) == 2.0


@pytest.mark.parametrize("path", sorted(RESULTS.glob("encoder_*.csv")), ids=lambda path: path.name)
def test_stored_speeds_stand_next_to_their_accuracy(path: Path) -> None:
    rows = read_rows(path)
    assert rows
    for row in rows:
        if row["ms_min"] and not row["case"].startswith(("chain:", "longest:")):
            assert row["max_error"], (row["case"], row["system"])


def run_main(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", [script.__name__, *options])
    script.main()


@pytest.mark.nemo
def test_the_whole_run_beside_all_others(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speed, memory and their plots, each system as in a real run; ONNX Runtime where it is installed."""
    for name in ("nemo", "matplotlib"):
        pytest.importorskip(name)
    has_onnxruntime = can_export()
    shape = ["--shape", "tiny", "--folder", str(encoder_folder), "--threads", "1"]
    speed, memory = tmp_path / "encoder_float32_cpu.csv", tmp_path / "memory_tiny_float32_cpu.csv"
    run_main(
        *(bench_encoder, monkeypatch, *shape, "--cases", "1x2", "2x1-3", "--rounds", "1"),
        *("--turn-seconds", "0", "--output", str(speed)),
    )
    rows = read_rows(speed)
    found = {(row["case"], row["system"]) for row in rows}
    names = {"ours_float32", "nemo_float32", "transformers_float32"}
    if has_onnxruntime:
        names.add("onnxruntime_float32")
    assert found == {(case, name) for case in ("1x2", "2x1-3") for name in names}
    for row in rows:
        assert not row["note"], row
        assert float(row["max_error"]) < 1e-5, row
        assert float(row["share_of_ceiling"]) > 0, row
    run_main(
        *(bench_memory, monkeypatch, *shape, "--cases", "full:0.1", "full:2", "local:0.1", "--limit-gib", "1"),
        *("--systems", "ours", "transformers", "--output", str(memory)),
    )
    peaks = {(row["system"], row["attention"], row["audio_minutes"]): row["peak_mib"] for row in read_rows(memory)}
    assert float(peaks["ours_float32", "local", "0.1"]) > 0
    for system in ("ours_float32", "transformers_float32"):
        assert 0 < float(peaks[system, "full", "0.1"]) < float(peaks[system, "full", "2"])
    run_main(plot_results, monkeypatch, "--results", str(tmp_path), "--images", str(tmp_path / "images"))
    assert len(list((tmp_path / "images").glob("*.png"))) == 2
