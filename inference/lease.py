"""A worker process's lease: the row that says it lives. While it runs, what the process claimed is its own.

Leases belong to workers, not to single generations: one small update renews what any number of them depend on.
"""

from __future__ import annotations

import logging
import os
import socket
import threading

from django.db import Error as DatabaseFailure
from django.db import close_old_connections, connection

from inference import life_signs, worker_services
from inference.life_signs import LifeSign
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
    """This process's `Worker` row. `worker` is there once `registered` is set; one that is lost is replaced.

    Beside each row there is a file that its process holds locked, under $FLYWHEEL_HOME: one that nobody holds is of a
    process of this host that died, whatever hosts and processes are called.
    """

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.registered = threading.Event()
        self._life: LifeSign | None = None

    def register(self, serves: list[int] | None) -> None:
        """A new lease, of a worker that `serves` these whole models (None: any). Those of this host's dead workers
        end now, so that nobody waits for them to run out."""
        dead = life_signs.dead()
        if dead and worker_services.end_leases(worker_ids=dead):
            worker_services.reap()
        life_signs.forget(dead)
        self.worker = self._registered(serves)
        self.registered.set()

    def _registered(self, serves: list[int] | None) -> Worker:
        life = LifeSign()
        try:
            worker = worker_services.register_worker(
                id=life.id, hostname=socket.gethostname(), pid=os.getpid(), serves=serves
            )
        except BaseException:
            life.end()
            raise
        if self._life is not None:
            self._life.end()
        self._life = life
        return worker

    def report(self, state: Worker.State, *, model: str = "", error: str = "") -> None:
        """What the rest of the site reads about this process; said again with every renewal."""
        assert self.worker is not None
        self.worker.state, self.worker.model, self.worker.error = state, model, error
        try:
            worker_services.renew_lease(worker=self.worker)
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
        if worker_services.renew_lease(worker=worker):
            return
        logger.error("nobody has heard of this worker for long: it starts a new lease")
        fresh = self._registered(worker.serves)
        fresh.state, fresh.model, fresh.error = worker.state, worker.model, worker.error
        self.worker = fresh
        worker_services.renew_lease(worker=fresh)

    def claimed(self) -> list[Generation]:
        """What runs under this lease, as the database has it; of each only what a keeper looks at."""
        mine = Generation.objects.filter(worker=self.worker, state=Generation.State.RUNNING)
        return list(mine.only("attempt", "cancel_requested"))

    def end(self) -> None:
        if self.worker is not None:
            worker_services.end_leases(worker_ids=[self.worker.id])
        if self._life is not None:
            self._life.end()
