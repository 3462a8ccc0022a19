"""What a server counts and measures, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

#: Bounds in seconds: from a small network on a GPU to a large one on a CPU.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
_BATCHES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "resdet_requests", "Answered requests.", ["path", "status"], registry=self.registry
        )
        self.images = Counter(
            "resdet_images",
            "Images by outcome: ok, bad, refused, gone.",
            ["outcome"],
            registry=self.registry,
        )
        self.decoding = self._histogram("decoding_seconds", "Decoding and resizing of an image.")
        self.model = self._histogram("model_seconds", "The networks, for one batch.")
        self.answering = self._histogram("answering_seconds", "From a whole body to its answer.")
        self.batch = Histogram(
            "resdet_batch_images",
            "Images in a batch.",
            buckets=_BATCHES,
            registry=self.registry,
        )
        self.queue = Gauge(
            "resdet_queue_images", "Images accepted and unanswered.", registry=self.registry
        )

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"resdet_{name}", text, buckets=_SECONDS, registry=self.registry)

    def watch(self, pending: Callable[[], int]) -> None:
        """Ask ``pending`` for the length of the queue."""
        self.queue.set_function(pending)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return bytes(generate_latest(self.registry))
