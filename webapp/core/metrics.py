"""The site's Prometheus metrics: the registry, what every request counts, and what other apps register.

Knows no model of ours. An app adds figures of its own with `register(collector)`; they are asked for when somebody
scrapes, at most once in a few seconds, and a collector that fails is left out instead of failing the page.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

logger = logging.getLogger(__name__)
CACHE_SECONDS = 5.0

registry = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=registry)
PlatformCollector(registry=registry)

http_requests = Counter(
    "flywheel_http_requests", "HTTP requests answered.", ["method", "status"], registry=registry
)
http_seconds = Histogram(
    "flywheel_http_request_seconds",
    "Time from a request to its answer's first byte.",
    registry=registry,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
sockets = Gauge("flywheel_sockets", "Open websockets of this process.", registry=registry)


class _Cached:
    """Asks `collect` at most once in CACHE_SECONDS: scraping must not become load."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect, self._at, self._metrics = collect, float("-inf"), list[Metric]()
        self._lock = threading.Lock()

    def collect(self) -> list[Metric]:
        with self._lock:
            if time.monotonic() - self._at > CACHE_SECONDS:
                try:
                    self._metrics = list(self._collect())
                except Exception:
                    logger.exception("metrics_collector_failed")
                    self._metrics = []
                self._at = time.monotonic()
            return self._metrics

    def describe(self) -> list[Metric]:
        return []


def register(collect: Callable[[], Iterable[Metric]]) -> None:
    """Adds figures that are computed when somebody scrapes."""
    registry.register(_Cached(collect))


def exposition() -> tuple[bytes, str]:
    """The page of figures and its content type."""
    return generate_latest(registry), CONTENT_TYPE_LATEST
