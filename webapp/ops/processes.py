"""The site's processes and their command lines, the same under `make run`, in tests and in containers.

Knows nothing of who starts them. No secret is ever on a command line: settings travel in the environment.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

# Seconds that whatever still hangs after the grace gets, before the process ends anyway.
_AFTER_GRACE = 2
# Seconds that a training job has at least: `training.patience.CANCEL_SECONDS`.
_TO_SAVE = 12
# What each kind of worker consumes; inference workers a queue for each model besides.
QUEUES = {"inference": "generate", "training": "training", "worker": "default", "data": "data"}
_CELERY = (sys.executable, "-m", "webapp.ops.celery_process")


@dataclass(frozen=True)
class Process:
    """One process: its name, its command, and how many seconds it gets to stop before it is killed."""

    name: str
    command: tuple[str, ...]
    stop_seconds: int = 7
    nice: int = 0


def web(*, host: str, port: int, processes: int = 1, proxied: bool = False, grace: int = 5) -> Process:
    """`proxied`: a proxy stands in front, and what it says of who is asking is believed. `grace`: its
    STOP_GRACE_SECONDS."""
    return Process(
        "web",
        (
            *(sys.executable, "-m", "webapp.core.web_server", "webapp.asgi:application"),
            *("--host", host, "--port", str(port), "--workers", str(processes)),
            *("--http", "webapp.core.http_protocol:HttpProtocol"),
            # Deflate would cost each socket four times its memory.
            *(
                "--ws",
                "webapp.core.websocket_protocol:WebsocketProtocol",
                "--ws-per-message-deflate",
                "false",
            ),
            *("--ws-max-size", str(4 * 2**20)),
            *("--timeout-graceful-shutdown", str(grace + _AFTER_GRACE)),
            # Without one, X-Forwarded-For is whatever somebody on this machine likes it to be.
            "--proxy-headers" if proxied else "--no-proxy-headers",
            *("--no-access-log", "--no-server-header", "--log-level", "warning"),
        ),
        stop_seconds=grace + _AFTER_GRACE + 3,
    )


def _consumer(name: str, queue: str, *, threads: int) -> tuple[str, ...]:
    return (*_CELERY, "worker", "-n", f"{name}@%h", "-Q", queue, "-c", str(threads))


def inference(name: str = "inference", *, grace: int = 5) -> Process:
    """`grace`: its STOP_GRACE_SECONDS."""
    return Process(
        name,
        _consumer(name, QUEUES["inference"], threads=8),
        stop_seconds=grace + 15,
    )


def training(name: str = "training", *, grace: int = 5) -> Process:
    """One job at a time. A thread of its own for it leaves the main one to the broker and to SIGTERM, for hours.

    The trainer it starts is the nice one; whoever watches it must be heard of. It gets time to be saved
    (`training.patience`), and what has not saved by then is killed. `grace`: its STOP_GRACE_SECONDS.
    """
    return Process(
        name,
        _consumer(name, QUEUES["training"], threads=1),
        stop_seconds=max(grace, _TO_SAVE) + 8,
    )


def worker(name: str = "worker") -> Process:
    return Process(
        name,
        _consumer(name, QUEUES["worker"], threads=4),
    )


def data(name: str = "data") -> Process:
    """Apart from `worker`: a report of millions of rows must hold up neither the reaper nor mail.

    Threads, since a process of Celery's pool may not have the child processes that reading needs.
    """
    return Process(
        name,
        _consumer(name, QUEUES["data"], threads=3),
        nice=5,
    )


def beat(home: Path) -> Process:
    schedule = home / "run" / "beat-schedule"
    return Process("beat", (*_CELERY, "beat", "-s", str(schedule)))
