"""The figures of all processes of a site, given out by any of them: each keeps a snapshot of its own in the broker.

    registry of a process --every 5 s--> fw:figures:{process}, which expires --> /metrics of any web process

A thread of its own does it, so nobody waits for the broker. Who is asked writes its own snapshot before it reads them
all: what one process gave out is never newer than what the next one reads, so no counter goes backwards. Knows no
model of ours, and not what is counted.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import redis
from django.conf import settings
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from redis.backoff import NoBackoff
from redis.retry import Retry

from webapp.core import metrics, recent_errors

logger = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
# Four are missed before a process is taken for gone; one that ends as it should says so.
EXPIRE_SECONDS = 20
# Nothing of ours makes as many; a bound all the same on what one process can make every scrape carry.
MAX_SAMPLES = 2000
_NAMES = "fw:figures"


class Family(msgspec.Struct, array_like=True):
    """One metric: its samples are (name, labels, value)."""

    name: str
    kind: str  # "counter", "gauge", "histogram", ...
    help: str
    samples: list[tuple[str, dict[str, str], float]]


class Snapshot(msgspec.Struct, array_like=True):
    """What a process has counted. Times are seconds since 1970 by its own clock."""

    process: str  # "inference@gpu-host-1234"
    kind: str  # "web", "inference", "training", "worker", "data", "beat"
    host: str
    pid: int
    started_at: float
    families: list[Family]

    def samples(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """Labels and values of the samples of that name, as in `flywheel_tokens_total`."""
        for family in self.families:
            for sample, labels, value in family.samples:
                if sample == name:
                    yield labels, value

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that have these labels; 0 where there are none."""
        return sum(v for found, v in self.samples(name) if labels.items() <= found.items())


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Snapshot)


class Reporter:
    """Keeps this process's snapshot in the broker."""

    def __init__(self, kind: str) -> None:
        self.kind, self._host, self._pid, self._started_at = (
            kind,
            socket.gethostname(),
            os.getpid(),
            time.time(),
        )
        self.process = f"{kind}@{self._host}-{self._pid}"
        self._key = f"{_NAMES}:{self.process}"
        self._broker = connect()
        self._writing = threading.Lock()  # snapshots are written in the order they are taken in
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="figures", daemon=True)
        self._is_said = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Nobody has to wait for the snapshot to expire."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(3)
        try:
            with self._writing:
                self._broker.delete(self._key)
                self._broker.srem(_NAMES, self.process)
        except redis.RedisError:
            pass  # it expires

    def snapshot(self) -> Snapshot:
        left, families = MAX_SAMPLES, []
        for metric in metrics.registry.collect():
            samples = [(s.name, s.labels, s.value) for s in metric.samples[:left]]
            left -= len(samples)
            families.append(Family(metric.name, metric.type, metric.documentation, samples))
        return Snapshot(self.process, self.kind, self._host, self._pid, self._started_at, families)

    def publish(self) -> None:
        """Raises redis.RedisError."""
        with self._writing:
            with self._broker.pipeline(transaction=False) as pipe:
                pipe.set(self._key, _encode(self.snapshot()), ex=EXPIRE_SECONDS)
                pipe.sadd(_NAMES, self.process)
                pipe.execute()
            recent_errors.publish(self._broker, self.process)

    def everybody(self) -> list[Snapshot]:
        """The snapshots of all processes that live, this one's as it is now; by name. Without a broker it is alone."""
        try:
            self.publish()
            return read_all(self._broker)
        except redis.RedisError:
            return [self.snapshot()]

    def _run(self) -> None:
        while True:
            try:
                self.publish()
                self._is_said = False
            except redis.RedisError as error:
                if not self._is_said:
                    logger.warning("this process's figures are not given out, trying again: %s", error)
                self._is_said = True
            except Exception:  # this thread must outlive whatever is wrong with a figure
                logger.exception("this process's figures could not be given out")
            if self._stopping.wait(EVERY_SECONDS):
                return


def read_all(broker: redis.Redis) -> list[Snapshot]:
    """Those that have not expired; the names of those that have are forgotten. Raises redis.RedisError."""
    answer: Any = broker.smembers(_NAMES)
    names: list[str] = sorted(name.decode() for name in answer)
    if not names:
        return []
    found, gone = [], []
    values: Any = broker.mget([f"{_NAMES}:{name}" for name in names])
    for name, stored in zip(names, values, strict=True):
        if stored is None:
            gone.append(name)
            continue
        try:
            found.append(_decoder.decode(stored))
        except msgspec.DecodeError:
            logger.warning("the figures of %s are of another version of the site, and left out", name)
    if gone:
        broker.srem(_NAMES, *gone)
    return found


def connect() -> redis.Redis:
    """It gives up soon: figures are told without a broker, too."""
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 1)
    )


# --- this process's ------------------------------------------------------------------------------------------

_reporter: Reporter | None = None
_lock = threading.Lock()


def reporter() -> Reporter:
    """This process's; one that nobody started is a web process's that is not served by uvicorn, as in tests."""
    global _reporter
    with _lock:
        if _reporter is None:
            _reporter = Reporter("web")
        return _reporter


def of_the_site() -> list[Snapshot]:
    """The snapshots of all processes that live, for a command, which is none of them. Without a broker its own."""
    try:
        return read_all(connect())
    except redis.RedisError:
        return [reporter().snapshot()]


def start(kind: str) -> None:
    global _reporter
    with _lock:
        if _reporter is None:
            _reporter = Reporter(kind)
            _reporter.start()


def stop() -> None:
    if _reporter is not None:
        _reporter.stop()


# --- /metrics ------------------------------------------------------------------------------------------------


class _Together:
    """As a registry: the site's figures, and those of each process with its name as the label `process`."""

    def __init__(self, snapshots: Iterable[Snapshot], own: str) -> None:
        # The version that is asked says of what type a metric is.
        self._snapshots = sorted(snapshots, key=lambda snapshot: snapshot.process != own)

    def collect(self) -> Iterator[Metric]:
        yield from metrics.site.collect()
        up = Metric("flywheel_process_up", "Processes of the site that give out figures.", "gauge")
        together: dict[str, Metric] = {}
        for snapshot in self._snapshots:
            up.add_sample(up.name, {"process": snapshot.process, "kind": snapshot.kind}, 1)
            for family in snapshot.families:
                metric = together.setdefault(family.name, Metric(family.name, family.help, family.kind))
                if metric.type != family.kind:
                    continue  # of another version of the site: one metric has one type
                for name, labels, value in family.samples:
                    metric.add_sample(name, {"process": snapshot.process, **labels}, value)
        yield up
        yield from together.values()


def exposition() -> tuple[bytes, str]:
    """The page of figures and its content type."""
    own = reporter()
    together: Any = _Together(own.everybody(), own.process)
    registry: CollectorRegistry = together  # generate_latest asks it for `collect` alone
    return generate_latest(registry), CONTENT_TYPE_LATEST
