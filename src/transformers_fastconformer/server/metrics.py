"""Numbers for operators, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LAG_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServerMetrics:
    """
    Counters of one server.

    Args:
        count_jobs: Number of files that wait or are worked on.
        count_streams: Number of open live streams.
        count_loaded: Number of models in memory.
    """

    def __init__(
        self, count_jobs: Callable[[], int], count_streams: Callable[[], int], count_loaded: Callable[[], int]
    ) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "fastconformer_requests", "Requests that were answered.", ["path", "status"], registry=self.registry
        )
        self.audio_seconds = Counter(
            "fastconformer_audio_seconds", "Audio that was transcribed.", ["kind"], registry=self.registry
        )
        self.busy_seconds = Counter(
            "fastconformer_file_busy_seconds", "Time of computing for files.", registry=self.registry
        )
        self.refused_streams = Counter(
            "fastconformer_refused_streams", "Live streams that were refused.", registry=self.registry
        )
        self.lag = Histogram(
            "fastconformer_stream_lag_seconds",
            "Seconds by which a step of a live stream was late.",
            buckets=LAG_BUCKETS,
            registry=self.registry,
        )
        for name, text, count in (
            ("fastconformer_files", "Files that wait or are worked on.", count_jobs),
            ("fastconformer_streams", "Live streams that are open.", count_streams),
            ("fastconformer_loaded_models", "Models in memory.", count_loaded),
        ):
            Gauge(name, text, registry=self.registry).set_function(count)

    def count_work(self, audio_seconds: float, busy_seconds: float) -> None:
        """Count a batch of files."""
        self.audio_seconds.labels("file").inc(audio_seconds)
        self.busy_seconds.inc(busy_seconds)

    def write(self) -> bytes:
        """All numbers, as Prometheus reads them."""
        return generate_latest(self.registry)
