"""Prometheus metrics: what this process counts, and what is computed of the whole site when somebody asks.

Knows no model of ours. An app adds figures with `register` (the site's, computed by whichever process is asked) or
`register_own` (this process's). A collector that fails is left out instead of failing the page. How the figures of all
processes come together is `webapp.core.snapshots`' business; names and labels are in docs/monitoring.md.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from django.db import DatabaseError
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import Metric
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)
CACHE_SECONDS = 5.0

# A second series for each counter, for when it began: resets are seen without it.
disable_created_metrics()

# This process's own. What is counted here is given out with the process's name as a label.
registry = CollectorRegistry(auto_describe=True)
# The whole site's: the same whichever process is asked.
site = CollectorRegistry()
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
sockets = Gauge("flywheel_sockets", "Open websockets.", registry=registry)
errors = Counter(
    "flywheel_errors",
    "What went wrong: an http answer of 500 and above but 503, a generation or a job that failed, a log line.",
    ["kind", "code"],
    registry=registry,
)


class _Guarded:
    """Asks `collect` at most once in `cache_seconds`, since scraping must not become load; never raises."""

    def __init__(self, collect: Callable[[], Iterable[Metric]], cache_seconds: Callable[[], float]) -> None:
        self._collect, self._cache_seconds = collect, cache_seconds
        self._at, self._metrics = float("-inf"), list[Metric]()
        self._lock = threading.Lock()

    def collect(self) -> list[Metric]:
        with self._lock:
            if time.monotonic() - self._at > self._cache_seconds():
                try:
                    self._metrics = list(self._collect())
                except Exception as error:
                    # Of a part that is down everybody hears elsewhere: no traceback every few seconds.
                    known = isinstance(error, RedisError | DatabaseError)
                    logger.warning("figures are left out: %s", error, exc_info=not known)
                    self._metrics = []
                self._at = time.monotonic()
            return self._metrics

    def describe(self) -> list[Metric]:
        return []


def register(collect: Callable[[], Iterable[Metric]]) -> None:
    """Adds figures of the whole site, which are computed when somebody scrapes."""
    site.register(_Guarded(collect, lambda: CACHE_SECONDS))


def register_own(collect: Callable[[], Iterable[Metric]]) -> None:
    """Adds figures of this process, which are computed every few seconds on a thread of their own."""
    registry.register(_Guarded(collect, lambda: 0.0))
