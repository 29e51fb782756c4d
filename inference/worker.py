"""An inference worker process: its engines and the threads around them. Imported by worker processes only.

A generation's way through it: Celery's thread takes a place and claims the row (`WorkerHost.run`); the engine thread
(`engine_thread`) submits it and steps; the publisher (`emission`) logs what each step made; the finisher writes the
final row; beside them the keeper renews the lease and hears of stops.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from uuid import UUID

import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError
from redis.exceptions import RedisError

from inference import services
from inference.emission import Publisher
from inference.engine.interface import Engine, EngineFigures
from inference.engine_thread import EngineThread
from inference.finisher import BROKE, Finisher
from inference.keeper import Keeper
from inference.lease import Lease, database_work
from inference.models import Generation, ServedModel
from inference.running import Running, Slots
from webapp.core.request_ids import on_behalf_of

logger = logging.getLogger(__name__)
events = structlog.get_logger(__name__)

# How long a worker that stops waits for its last step, and for claims and final rows under way.
_STOP_SECONDS = 8.0


# What keys and values get of the memory they would have alone: the default model's where others may come, and these's.
_FIRST, _BESIDE = 0.75, 0.25


def load_engine(model: ServedModel, *, beside: Callable[[], bool] | None = None) -> Engine:
    """The real engine with this model's weights. Raises ModelLoadError, which says what is wrong with the files.

    `beside`, where it is to come and go beside the default model's, says whether anybody is being answered meanwhile:
    then it is loaded at a slower pace. It has less memory, and is not compiled: it would be gone before that gains
    anything. Raises NotEnoughMemory where there is no room for it.
    """
    from inference.engine.loader import load_engine as load
    from inference.engine.pace import Pace
    from inference.engine.room import check_room

    dtype, device = settings.INFERENCE_DTYPE, settings.INFERENCE_DEVICE
    if beside is not None:
        check_room(model.name, model.parameters, dtype=dtype, device=device)
    alone = settings.INFERENCE_MAX_MODELS == 1
    compiles = settings.INFERENCE_COMPILE and beside is None
    return load(
        model.location,
        dtype=dtype,
        device=device,
        max_running=settings.INFERENCE_MAX_RUNNING,
        kv_share=_BESIDE if beside is not None else 1.0 if alone else _FIRST,
        digest_cache=settings.FLYWHEEL_HOME / "cache",
        compiled=settings.FLYWHEEL_HOME / "cache" / "compiled" if compiles else None,
        pace=None if beside is None else Pace(beside),
    )


class WorkerHost:
    """The process's engines and everything around them. Celery's threads call `run`."""

    def __init__(self, give_up: Callable[[], None] | None = None) -> None:
        """`give_up` ends the process when its default model's engine is beyond repair; by default as a supervisor
        would."""
        self._end = give_up or _end_process
        self.log = services.token_log()
        self.publisher = Publisher(self.log)
        self.lease = Lease()
        self.leaving = threading.Event()  # claims nothing more
        self.stopping = threading.Event()  # and runs nothing more
        self._slots = Slots(settings.INFERENCE_MAX_RUNNING)
        self._finisher = Finisher(self.publisher, self._slots, self.stopping)
        self._engine = EngineThread(
            lease=self.lease,
            publisher=self.publisher,
            finisher=self._finisher,
            stopping=self.stopping,
            load=settings.INFERENCE_ENGINE,
            give_up=self._give_up,
        )
        self._keeper = Keeper(self.lease, self._slots, self._engine.stop_generation, self.loaded)
        # One thread at a time looks whose turn it is: all would find the same row, and all but one claim it in vain.
        self._claiming = threading.Lock()

    def _give_up(self) -> None:
        self.leaving.set()
        self._end()

    @property
    def wanted(self) -> list[int]:
        """The whole models whose tasks this worker should get now."""
        return [] if self.leaving.is_set() else self._engine.wanted

    @property
    def loaded(self) -> threading.Event:
        """Set when the default model's engine is there, or known not to come."""
        return self._engine.loaded

    def figures(self) -> tuple[EngineFigures, dict[str, int]]:
        """See Engines. Any thread may call it."""
        return self._engine.figures()

    def start(self, subscribe: Callable[[], bool] = lambda: True) -> None:
        """`subscribe` sees to it that tasks of `wanted` come, and says whether they do; it is called on and on."""
        self.publisher.start()
        self._engine.start()
        self._keeper.start(subscribe)

    def stop(self) -> None:
        """Ends what it runs within STOP_GRACE_SECONDS, hands the rest to other workers, which continue from the log,
        and gives up the lease."""
        self.leaving.set()
        with database_work():
            self.lease.leave()
        grace_ends = time.monotonic() + settings.STOP_GRACE_SECONDS
        while not (self.stopping.is_set() or self._slots.wait_empty(0.05) or time.monotonic() > grace_ends):
            pass
        give_up_at = time.monotonic() + _STOP_SECONDS
        self.stopping.set()
        if self._engine.join(_STOP_SECONDS):
            while True:
                # A claim that was under way puts its generation behind the engine thread's back: until nobody holds a
                # place, there may be one more.
                self._engine.hand_over_the_rest()
                if self._slots.wait_empty(0.05) or time.monotonic() > give_up_at:
                    break
        self._finisher.close()
        self.publisher.stop()
        self._keeper.end()
        with database_work():
            self.lease.end()

    # --- Celery's threads -----------------------------------------------------------------------------------
    def run(self, generation_id: str, whole: int | None = None) -> None:
        """Claims whose turn it is of those that wait for this whole model, or where none is said, for that of
        `generation_id`, and hands it to the engine thread; waits while the engine is full.

        There is a task for each generation that waits, this one for `generation_id`: they say how many are to be
        claimed, not which, or whoever sends many would hold up everybody who comes later.
        """
        task = services.task_of(generation_id) if whole is None else services.Task(generation_id, whole)
        if task is None:
            return
        while not (self.loaded.wait(0.2) or self.leaving.is_set()):
            pass
        placed = False
        while not (self.leaving.is_set() or placed):
            placed = self._slots.take(generation_id, timeout=0.2)
        if placed and self.leaving.is_set():
            # Looked at again with the place in hand: who stops looks for places first and for claims no more.
            self._slots.leave(generation_id)
            placed = False
        if not placed:
            # The row is still queued: give the task back so that another worker need not wait for the reaper.
            services.send_tasks([task])
            return
        holder = generation_id
        try:
            generation = None
            with self._claiming:
                while generation is None and (turn := self._next_queued(task.model)) is not None:
                    self._slots.pass_on(holder, to=str(turn))
                    holder = str(turn)
                    generation = self._claim(holder)
            running = self._prepare(generation) if generation is not None else None
        except BaseException:
            self._slots.leave(holder)
            raise
        if running is None:
            self._slots.leave(holder)
        else:
            self._engine.put(running)

    def _next_queued(self, whole: int) -> UUID | None:
        return services.next_queued(models=[whole]) if self._engine.may_claim(whole) else None

    def _claim(self, generation_id: str) -> Generation | None:
        """None where another worker was faster."""
        assert self.lease.worker is not None
        return services.claim_generation(generation_id=generation_id, worker_id=self.lease.worker.id)

    def _prepare(self, generation: Generation) -> Running | None:
        with on_behalf_of(generation.request_id, generation=str(generation.id)):
            events.info("generation_claimed", attempt=generation.attempt, purpose=generation.purpose)
            return self._prepared(generation)

    def _prepared(self, generation: Generation) -> Running | None:
        try:
            # Nobody logs anything before a first attempt; later ones lock out the attempts before them.
            prior = self.log.take_over(generation.id, generation.attempt) if generation.attempt > 1 else []
            running = Running.resumed(generation, prior)
            self._engine.prepare(running)
        except (RedisError, OperationalError, InterfaceError) as error:
            logger.warning("generation %s given back, it cannot be prepared now: %s", generation.id, error)
            services.release_generation(generation=generation)
        except Exception:
            logger.exception("generation %s cannot be run", generation.id)
            services.end_unprepared(
                generation=generation, state="failed", error_code="engine_error", error_message=BROKE
            )
        else:
            return running
        return None


def _end_process() -> None:
    # Celery shuts down, which gives up the lease, and the supervisor starts another.
    os.kill(os.getpid(), signal.SIGTERM)
