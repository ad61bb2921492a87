from __future__ import annotations

from transformers_fastconformer.server.metrics import ServerMetrics


def test_numbers_are_written_as_prometheus_reads_them() -> None:
    metrics = ServerMetrics(lambda: 3, lambda: 2, lambda: 1)
    metrics.count_work(60.0, 1.5)
    text = metrics.write().decode()
    for line in (
        "fastconformer_files 3.0",
        "fastconformer_streams 2.0",
        "fastconformer_loaded_models 1.0",
        'fastconformer_audio_seconds_total{kind="file"} 60.0',
        "fastconformer_file_busy_seconds_total 1.5",
    ):
        assert f"\n{line}\n" in text
