"""A worker process's lease: the row that says it lives. While it runs, what the process claimed is its own.

Leases belong to workers, not to single generations: one small update renews what any number of them depend on.
"""

from __future__ import annotations

import logging
import os
import socket
import threading

import psutil
from django.db import Error as DatabaseFailure
from django.db import close_old_connections, connection

from inference import services
from inference.models import Generation, Worker

logger = logging.getLogger(__name__)


class database_work:
    """A unit of work on a thread of ours: connections that died are replaced, as after a request."""

    def __enter__(self) -> None:
        if not connection.in_atomic_block:
            close_old_connections()

    def __exit__(self, *_: object) -> None:
        if not connection.in_atomic_block:
            close_old_connections()


class Lease:
    """This process's `Worker` row. `worker` is there once `registered` is set; one that is lost is replaced."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.registered = threading.Event()

    def register(self, serves: list[int] | None) -> None:
        """A new lease, of a worker that `serves` these whole models (None: any). Those of this machine's dead workers
        end now, so that nobody waits for them to run out."""
        hostname, pid = socket.gethostname(), os.getpid()
        dead = [
            worker.id
            for worker in Worker.objects.alive().filter(hostname=hostname)
            if worker.pid == pid or not psutil.pid_exists(worker.pid)
        ]
        if dead:
            services.end_lease(worker_ids=dead)
            services.reap()
        self.worker = services.register_worker(hostname=hostname, pid=pid, serves=serves)
        self.registered.set()

    def report(self, state: Worker.State, *, model: str = "", error: str = "") -> None:
        """What the rest of the site reads about this process; said again with every renewal."""
        assert self.worker is not None
        self.worker.state, self.worker.model, self.worker.error = state, model, error
        try:
            services.renew_lease(worker=self.worker)
        except DatabaseFailure as error_:
            logger.warning("lease not renewed, the keeper will: %s", error_)

    def leave(self) -> None:
        """Says that this process claims nothing more."""
        if self.worker is not None:
            self.report(Worker.State.STOPPING, model=self.worker.model, error=self.worker.error)

    def renew(self) -> None:
        """Where it ran out while we were not looking, what we run may be run elsewhere: those attempts of ours are
        refused by the log's fence and by the rows' compare-and-set. A row that is gone is made again."""
        worker = self.worker
        assert worker is not None
        if services.renew_lease(worker=worker):
            return
        logger.error("nobody has heard of this worker for long: it starts a new lease")
        fresh = services.register_worker(hostname=worker.hostname, pid=worker.pid, serves=worker.serves)
        fresh.state, fresh.model, fresh.error = worker.state, worker.model, worker.error
        services.renew_lease(worker=fresh)
        self.worker = fresh

    def claimed(self) -> list[Generation]:
        """What runs under this lease, as the database has it; of each only what a keeper looks at."""
        mine = Generation.objects.filter(worker=self.worker, state=Generation.State.RUNNING)
        return list(mine.only("attempt", "cancel_requested"))

    def end(self) -> None:
        if self.worker is not None:
            services.end_lease(worker_ids=[self.worker.id])
