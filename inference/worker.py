"""An inference worker process: one resident engine, the thread that drives it, and the lease it works under.

Celery's task threads claim generations and hand them over; the engine thread steps; the publisher thread logs; the
finisher thread writes final rows; the keeper thread renews the lease and hears of stops. Imported by worker
processes only.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psutil
from django.conf import settings
from django.db import Error as DatabaseFailure
from django.db import InterfaceError, OperationalError, close_old_connections, connection
from django.utils import timezone
from django.utils.module_loading import import_string
from redis.exceptions import RedisError

from inference import services
from inference.emission import Emission, Publisher
from inference.engine.interface import Engine, EngineBusy, EngineError, Request, StepOutput
from inference.models import Generation, ServedModel, Worker
from inference.parameters import SamplingParams
from inference.stream import CONTROL_CHANNEL, Event, connect, encode_event

logger = logging.getLogger(__name__)


def load_engine(model: ServedModel) -> Engine:
    """The real engine with this model's weights. Raises ModelLoadError, which says what is wrong with the files."""
    from inference.engine.loader import load_engine as load

    return load(
        settings.MODELS_DIR / model.path,
        dtype=settings.INFERENCE_DTYPE,
        max_running=settings.INFERENCE_MAX_RUNNING,
        digest_cache=settings.FLYWHEEL_HOME / "cache",
    )


@dataclass
class Running:
    """A generation this worker has claimed, until its row is final."""

    generation: Generation
    request: Request
    emission: Emission
    deadline: float  # on time.monotonic()'s clock
    text: list[str]
    tokens: int
    fields: dict[str, Any] = field(default_factory=dict)  # of the final row
    last_text: str = ""  # came free at the end and is not in the log yet
    ending: str = ""  # why it was cancelled: "cancelled", "deadline_exceeded", "handed_over"


class WorkerHost:
    """The process's one engine and everything around it. Thread-safe where Celery's threads call it."""

    def __init__(self, give_up: Callable[[], None] | None = None) -> None:
        """`give_up` ends the process when its engine is beyond repair; by default as a supervisor would."""
        self._give_up = give_up or _end_process
        self.log = services.token_log()
        self.publisher = Publisher(self.log)
        self.engine: Engine | None = None
        self.model: ServedModel | None = None
        self.worker: Worker | None = None
        self.stopping = threading.Event()
        self.registered = threading.Event()  # the lease is there
        self.loaded = threading.Event()  # the engine is there, or known not to come
        self._inbox: queue.SimpleQueue[Running | str] = (
            queue.SimpleQueue()
        )  # generations to start, ids to stop
        self._running: dict[str, Running] = {}  # touched by the engine thread only
        self._slots = threading.BoundedSemaphore(settings.INFERENCE_MAX_RUNNING)
        self._held: Counter[str] = (
            Counter()
        )  # generations that have a slot: what we claim is always among them
        self._held_lock = threading.Lock()
        self._failed_steps = 0
        self._wake = threading.Event()
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finisher")
        self._engine_thread = threading.Thread(target=self._drive_or_give_up, name="engine", daemon=True)

    # --- start and stop -------------------------------------------------------------------------------------
    def start(self) -> None:
        # Each time the publisher comes back from the broker it waits for the interpreter for as long as the engine
        # thread may keep it, which is 5 ms by default: with many replies, longer than everything else it does.
        sys.setswitchinterval(_SWITCH_SECONDS)
        self.publisher.start()
        self._engine_thread.start()
        for run in (self._keep_lease, self._hear_stops):
            threading.Thread(target=run, name=run.__name__.strip("_"), daemon=True).start()

    def stop(self) -> None:
        """Hands every running generation to other workers, which continue from the log, and gives up the lease."""
        self.stopping.set()
        self._wake.set()
        self._engine_thread.join(30)
        self._finisher.shutdown(wait=True)
        self.publisher.stop()
        if self.worker is not None:
            with _database():
                services.end_lease(worker_ids=[self.worker.id])

    # --- Celery's threads -----------------------------------------------------------------------------------
    def run(self, generation_id: str) -> None:
        """Claims a queued generation and hands it to the engine thread; waits while the engine is full."""
        while not (self.loaded.wait(0.2) or self.stopping.is_set()):
            pass
        while not (self.stopping.is_set() or self._slots.acquire(timeout=0.2)):
            pass
        if self.stopping.is_set() or self.worker is None:
            # The row is still queued: give the task back so that another worker need not wait for the reaper.
            services.send_task(generation_id)
            return
        with self._held_lock:
            self._held[generation_id] += 1
        try:
            running = self._claim(generation_id)
        except BaseException:
            self._let_go(generation_id)
            raise
        if running is None:
            self._let_go(generation_id)
            return
        self._inbox.put(running)
        self._wake.set()

    def _let_go(self, generation_id: str) -> None:
        with self._held_lock:
            self._held[generation_id] -= 1
            self._held += Counter()  # drops what is at zero
        self._slots.release()

    def _claim(self, generation_id: str) -> Running | None:
        assert self.worker is not None
        generation = services.claim_generation(generation_id=generation_id, worker_id=self.worker.id)
        if generation is None:
            return None
        try:
            # Nobody logs anything before a first attempt; later ones lock out the attempts before them.
            prior = self.log.take_over(generation.id, generation.attempt) if generation.attempt > 1 else []
            return _resumed(generation, prior)
        except RedisError as error:
            logger.warning("generation %s given back, its log cannot be read: %s", generation.id, error)
            services.release_generation(generation=generation)
        except Exception:
            logger.exception("generation %s cannot be run", generation.id)
            services.finish_generation(
                generation=generation, state="failed", error_code="engine_error", error_message=_BROKE
            )
        return None

    # --- the engine thread ----------------------------------------------------------------------------------
    def _drive_or_give_up(self) -> None:
        try:
            self._drive()
        except BaseException:
            # Without this thread the process would look alive and answer nobody. What it ran is found by the
            # reaper, which counts the crash: a request that breaks every engine is not handed round for ever.
            logger.critical("the engine thread broke: this worker ends", exc_info=True)
            self.stopping.set()
            self._give_up()

    def _drive(self) -> None:
        while self.worker is None and not self.stopping.is_set():
            try:
                with _database():
                    self.worker = _register()
            except DatabaseFailure as error:
                logger.warning("no lease yet, trying again: %s", error)
                self.stopping.wait(1)
        if self.worker is None:
            return
        self.registered.set()
        with _database():
            self._load()
        self.loaded.set()
        while self.engine is None and not self.stopping.is_set():
            self._refuse_for_a_while()
        deadlines_checked = 0.0
        while not self.stopping.is_set():
            self._take_in()
            now = time.monotonic()
            if now - deadlines_checked > 0.5:
                deadlines_checked = now
                for running in self._running.values():
                    if now > running.deadline and not running.ending:
                        self._end(running, "deadline_exceeded")
            if self.engine is not None and self.engine.has_work:
                self._put_out(self._step())
            else:
                # Woken by a new generation or a stop; the timeout is for deadlines only.
                self._wake.wait(0.5)
                self._wake.clear()
        # What we emitted is in the log before another worker can read it.
        self.publisher.flush()
        for left in [*self._running.values(), *_drain(self._inbox)]:
            self._finisher.submit(self._hand_over, left)

    def _load(self) -> None:
        assert self.worker is not None
        try:
            self.model = services.default_model()
            started = time.monotonic()
            self.engine = import_string(settings.INFERENCE_ENGINE)(self.model)
            logger.info("model %s is loaded, in %.1f s", self.model.name, time.monotonic() - started)
            self.worker.state, self.worker.model, self.worker.error = Worker.State.READY, self.model.name, ""
        except Exception as error:  # whatever is wrong with a model, the process stays up and says so
            known = isinstance(error, EngineError | services.UserError)
            if str(error) not in self.worker.error:  # said once, not with every try
                logger.error("the model cannot be loaded: %s", error, exc_info=not known)
            self.worker.state = Worker.State.BROKEN
            self.worker.error = str(error) if known else f"{type(error).__name__}: {error}"
        try:
            services.renew_lease(worker=self.worker)
        except DatabaseFailure as error:
            logger.warning("lease not renewed, the keeper will: %s", error)

    def _refuse_for_a_while(self) -> None:
        """Without a model every reply fails with the reason; now and then the model is tried again, since the way
        to mend it (a file put back, `models pull`) does not go through this process."""
        assert self.worker is not None
        try_again_at = time.monotonic() + _RELOAD_SECONDS
        while time.monotonic() < try_again_at and not self.stopping.is_set():
            self._wake.wait(0.5)
            self._wake.clear()
            for running in _drain(self._inbox):
                if isinstance(running, Running):
                    self._finish(
                        running, "failed", error_code="model_unavailable", error_message=self.worker.error
                    )
        with _database():
            self._load()

    def _take_in(self) -> None:
        for item in _drain(self._inbox):
            if isinstance(item, Running):
                self._submit(item)
            elif item in self._running:
                self._end(self._running[item], "cancelled")

    def _submit(self, running: Running) -> None:
        assert self.engine is not None
        generation = running.generation
        if generation.model_id != self.model_id:
            message = f"No worker serves {generation.model.name} right now."
            self._finish(running, "failed", error_code="model_unavailable", error_message=message)
            return
        try:
            admission = self.engine.submit(running.request)
        except EngineBusy:
            self._finisher.submit(self._hand_over, running)
        except EngineError as error:
            state = "refused" if not running.request.prior_token_ids else "failed"
            self._finish(running, state, error_code=error.code, error_message=str(error))
        except Exception:
            logger.exception("generation %s could not be submitted", generation.id)
            self._finish(running, "failed", error_code="engine_error", error_message=_BROKE)
        else:
            self._running[running.request.id] = running
            running.fields = {"prompt_tokens": admission.prompt_tokens, "admitted_at": timezone.now()}
            if not running.emission.events:
                data = {
                    "prompt_tokens": admission.prompt_tokens,
                    "max_tokens": admission.max_tokens,
                    "model": generation.model.name,
                    "dropped_messages": admission.dropped_messages,
                }
                self.publisher.emit([(running.emission, "admitted", data)])
            if generation.cancel_requested:
                self._end(running, "cancelled")

    @property
    def model_id(self) -> int:
        assert self.model is not None
        return self.model.id

    def _end(self, running: Running, why: str) -> None:
        assert self.engine is not None
        running.ending = running.ending or why
        self.engine.cancel(running.request.id)

    def _step(self) -> list[StepOutput]:
        assert self.engine is not None
        try:
            outputs = self.engine.step()
            self._failed_steps = 0
            return outputs
        except Exception:
            # One step failed as a whole: end what was running with a sentence, and go on serving. A device that
            # is lost fails every step from then on, and only a new process gets it back.
            logger.exception("an engine step failed")
            self._failed_steps += 1
            if self._failed_steps >= _MAX_FAILED_STEPS:
                raise
            outputs = []
            for request_id in self._running:
                self.engine.cancel(request_id)
                outputs.append(StepOutput(request_id, [], finish_reason="error", error=_BROKE))
            return outputs

    def _put_out(self, outputs: list[StepOutput]) -> None:
        """Logs one step, and sends what it finished to the finisher."""
        events: list[tuple[Emission, str, dict[str, Any]]] = []
        finished = []
        for output in outputs:
            running = self._running.get(output.request_id)
            if running is None:
                continue
            # PostgreSQL stores no NUL, and the row and the log must hold the same text.
            text = output.text.replace("\x00", "\ufffd")
            running.text.append(text)
            running.tokens += len(output.token_ids)
            if output.token_ids:
                running.fields.setdefault("first_token_at", timezone.now())
                events.append((running.emission, "text", {"text": text, "ids": output.token_ids}))
            elif text:
                # What was held back and came free at the end belongs to no token, so an attempt that took over would
                # find it in the log and make it again: it is logged together with the end.
                running.last_text = text
            if output.finish_reason is not None:
                finished.append((running, output))
            elif running.emission.stale:
                self._end(running, "handed_over")
        if events:
            self.publisher.emit(events)
        for running, output in finished:
            del self._running[output.request_id]
            self._finish_output(running, output)

    def _finish_output(self, running: Running, output: StepOutput) -> None:
        reason = output.finish_reason or ""
        if reason == "cancelled" and running.ending == "handed_over":
            self._let_go(running.request.id)  # another worker runs it now
        elif reason == "cancelled" and running.ending == "deadline_exceeded":
            self._finish(running, "failed", error_code="deadline_exceeded", error_message=_TOO_SLOW)
        elif reason == "cancelled":
            self._finish(running, "cancelled")
        elif reason == "error":
            self._finish(running, "failed", error_code="engine_error", error_message=output.error or _BROKE)
        else:
            self._finish(running, "complete", finish_reason=reason)

    # --- the finisher thread --------------------------------------------------------------------------------
    def _finish(self, running: Running, state: str, **fields: Any) -> None:
        self._finisher.submit(self._write_final, running, state, fields)

    def _write_final(self, running: Running, state: str, fields: dict[str, Any]) -> None:
        generation = running.generation
        fields |= running.fields
        fields |= {"text": "".join(running.text), "completion_tokens": running.tokens}
        fields["model_digest"] = self.engine.model_digest if self.engine else ""
        try:
            with _database():
                if services.finish_generation(generation=generation, state=state, **fields):
                    last_text = {"text": running.last_text, "ids": []}
                    events = [(running.emission, "text", last_text)] if running.last_text else []
                    self.publisher.emit(
                        [*events, (running.emission, *generation.last_event())], finished=True
                    )
        except (OperationalError, InterfaceError):
            # The lease will be renewed on and on, so nobody else would end this row: it is tried again.
            logger.exception("generation %s could not be finished, trying again", generation.id)
            if not self.stopping.is_set():
                time.sleep(0.5)
                self._finisher.submit(self._write_final, running, state, fields)
                return
        except Exception:
            # What cannot be stored now cannot be stored later either.
            logger.exception("generation %s could not be finished", generation.id)
            self._fail(running)
        self._let_go(running.request.id)

    def _fail(self, running: Running) -> None:
        """Ends what could not be ended as it should: without its text, but not never."""
        generation = running.generation
        try:
            with _database():
                if services.finish_generation(
                    generation=generation, state="failed", error_code="engine_error", error_message=_BROKE
                ):
                    self.publisher.emit([(running.emission, *generation.last_event())], finished=True)
        except Exception:
            logger.exception(
                "generation %s could not even be failed; the keeper gives it back", generation.id
            )

    def _hand_over(self, running: Running | str) -> None:
        if isinstance(running, Running):
            try:
                with _database():
                    services.release_generation(generation=running.generation)
            finally:  # where the row could not be written, the keeper finds that nobody holds it
                self._let_go(running.request.id)

    # --- the keeper threads ---------------------------------------------------------------------------------
    def _keep_lease(self) -> None:
        self.registered.wait()
        while not self.stopping.wait(settings.INFERENCE_LEASE_SECONDS / 3):
            assert self.worker is not None
            try:
                with _database():
                    if not services.renew_lease(worker=self.worker):
                        self._start_afresh()
                    stopped = Generation.objects.filter(
                        worker=self.worker, state="running", cancel_requested=True
                    )
                    for generation_id in stopped.values_list("id", flat=True):
                        self._stop(str(generation_id))
                    self._give_back_what_nobody_holds()
            except Exception:  # this thread must outlive whatever the database does
                logger.warning("lease not renewed, trying again", exc_info=True)

    def _give_back_what_nobody_holds(self) -> None:
        """A claim, or the end of one, that broke off halfway leaves a row that is ours and that nothing runs."""
        assert self.worker is not None
        for generation in Generation.objects.filter(worker=self.worker, state="running"):
            with self._held_lock:
                lost = str(generation.id) not in self._held
            if lost and services.release_generation(generation=generation):
                logger.error("generation %s was claimed and then lost: given back", generation.id)

    def _start_afresh(self) -> None:
        """The lease ran out while we were not looking: what we run may be run elsewhere. Stale ones are refused
        by the log's fence and by the rows' compare-and-set; we go on under a new lease."""
        assert self.worker is not None
        logger.error("this worker's lease ran out: it starts a new one")
        fresh = services.register_worker(hostname=self.worker.hostname, pid=self.worker.pid)
        fresh.state, fresh.model, fresh.error = self.worker.state, self.worker.model, self.worker.error
        services.renew_lease(worker=fresh)
        self.worker = fresh

    def _hear_stops(self) -> None:
        while not self.stopping.is_set():
            try:
                client = connect()
                with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    pubsub.subscribe(CONTROL_CHANNEL)
                    while not self.stopping.is_set():
                        message = pubsub.get_message(timeout=1.0)
                        if message is not None:
                            self._stop(message["data"].decode())
            except Exception as error:  # this thread must outlive whatever the broker does
                logger.warning("stop requests not heard, reconnecting: %s", error)
                time.sleep(0.5)

    def _stop(self, generation_id: str) -> None:
        self._inbox.put(generation_id)
        self._wake.set()


def _end_process() -> None:
    # Celery shuts down, which gives up the lease, and the supervisor starts another.
    os.kill(os.getpid(), signal.SIGTERM)


_SWITCH_SECONDS = 0.0005
_RELOAD_SECONDS = 5.0
_MAX_FAILED_STEPS = 3  # in a row
_BROKE = "The model broke off because of an error on our side. What was written so far is kept; try again."
_TOO_SLOW = "This reply took too long and was stopped. What was written so far is kept."


class _database:
    """A unit of work on a thread of ours: connections that died are replaced, as after a request."""

    def __enter__(self) -> None:
        if not connection.in_atomic_block:
            close_old_connections()

    def __exit__(self, *_: object) -> None:
        if not connection.in_atomic_block:
            close_old_connections()


def _drain(inbox: queue.SimpleQueue[Running | str]) -> list[Running | str]:
    items: list[Running | str] = []
    while True:
        try:
            items.append(inbox.get_nowait())
        except queue.Empty:
            return items


def _resumed(generation: Generation, prior: list[Event]) -> Running:
    """A claimed generation, with what earlier attempts logged fed back in."""
    texts = [event for event in prior if event.type == "text"]
    request = Request(
        id=str(generation.id),
        messages=generation.messages,
        sampling=msgspec.convert(generation.params, SamplingParams),
        seed=generation.seed,
        prior_token_ids=[token for event in texts for token in event.data["ids"]],
        truncate_oldest=generation.purpose == "reply",
        cache_salt=str(generation.workspace.cache_salt),
    )
    entries = [encode_event(event.attempt, event.type, event.data) for event in prior]
    return Running(
        generation=generation,
        request=request,
        emission=Emission(request.id, generation.attempt, entries),
        deadline=time.monotonic() + (generation.deadline - timezone.now()).total_seconds(),
        text=[event.data["text"] for event in texts],
        tokens=len(request.prior_token_ids),
    )


def _register() -> Worker:
    """A new lease; those of this machine's dead workers end now, so that nobody waits for them to run out."""
    hostname, pid = socket.gethostname(), os.getpid()
    dead = [
        worker.id
        for worker in Worker.objects.filter(hostname=hostname, lease_expires_at__gt=timezone.now())
        if worker.pid == pid or not psutil.pid_exists(worker.pid)
    ]
    if dead:
        services.end_lease(worker_ids=dead)
        services.reap()
    return services.register_worker(hostname=hostname, pid=pid)
