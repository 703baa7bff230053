"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
"""Bounds of the histogram of latencies."""


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "crnn_search_requests",
            "Requests by path and status",
            ("path", "status"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "crnn_search_request_seconds",
            "Time from a request's head to its answer, its body's transfer included",
            ("path",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self.in_progress = Gauge(
            "crnn_search_requests_in_progress", "Requests without answer", registry=self._registry
        )
        self._sequences = Counter(
            "crnn_search_sequences", "Sequences predicted", registry=self._registry
        )
        self._images = Counter("crnn_search_images", "Images predicted", registry=self._registry)
        self._warnings = Counter(
            "crnn_search_warnings", "Warnings by kind", ("kind",), registry=self._registry
        )
        ProcessCollector(registry=self._registry)

    def predicted(self, images: Iterable[int], warnings: Iterable[str]) -> None:
        """Count predictions. images: of each sequence. warnings: their kinds."""
        for count in images:
            self._sequences.inc()
            self._images.inc(count)
        for kind in warnings:
            self._warnings.labels(kind).inc()

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
