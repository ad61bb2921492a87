"""The memory of a live stream does not grow with its age."""

from __future__ import annotations

import json

import pytest

import bench_stream_memory


def measure(kind: str, chunks: list[int], capsys: pytest.CaptureFixture[str]) -> list[dict[str, float]]:
    bench_stream_memory.measure(kind, chunks)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def test_memory_is_read_after_the_chunks(capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure("cached", [2, 40], capsys)
    assert [row["chunks"] for row in rows] == [2, 40]
    assert [row["audio_s"] for row in rows] == [0.2, 3.2]
    assert rows[1]["words"] > rows[0]["words"]
    assert rows[0]["resident_mib"] > 50


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("kind", bench_stream_memory.KINDS)
def test_memory_does_not_grow(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure(kind, [1000, 10_000], capsys)
    assert rows[1]["resident_mib"] - rows[0]["resident_mib"] < 8
