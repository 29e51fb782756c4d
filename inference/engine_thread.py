"""The one thread that drives a worker's engines: takes generations in, steps, and sends on what each step made.

It waits for nobody: the log is the publisher's, rows are the finisher's. Knows nothing of Celery.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseFailure
from django.utils import timezone
from django.utils.module_loading import import_string

from inference import local_models, worker_metrics
from inference.emission import NewText, Publisher
from inference.engine import allocator
from inference.engine.interface import EngineBusy, EngineError, EngineFigures, StepOutput
from inference.engines import Engines, Resident
from inference.extras import logprob_items, packed_vector
from inference.finisher import BROKE, Finisher
from inference.lease import Lease, database_work
from inference.model_finder import ModelFinder
from inference.models import ServedModel, Worker
from inference.running import Running
from inference.serving import Serving, chosen, whole_models, without_ready_worker
from webapp.core.errors import UserError
from webapp.core.interpreter import settle
from webapp.core.request_ids import on_behalf_of

logger = logging.getLogger(__name__)

_RELOAD_SECONDS = 5.0
_DEADLINES_EVERY = 0.5
# So long after the last reply, the memory that steps used goes back to the machine.
_REST_AFTER = 5.0
# A step of a thousand replies makes ten thousand objects, and drops them all again without the collector's help.
_COLLECT_AFTER = (20_000, 20, 50)
_TOO_SLOW = "This reply took too long and was stopped. What was written so far is kept."


class EngineThread:
    """Owns the engines and every Running that was submitted to one. Others only `prepare`, `put` and stop."""

    def __init__(
        self,
        *,
        lease: Lease,
        publisher: Publisher,
        finisher: Finisher,
        stopping: threading.Event,
        load: str,
        give_up: Callable[[], None],
    ) -> None:
        """`load` names the callable(ServedModel, beside=None) that makes an engine, as `worker.load_engine` does;
        `give_up` ends the process when the default model's is beyond repair."""
        self._lease, self._publisher, self._finisher = lease, publisher, finisher
        self._stopping, self._load_path, self._give_up = stopping, load, give_up
        self.loaded = threading.Event()  # the engine is there, or known not to come
        self._serving: Serving | None = None  # once it is registered
        # The default model that could not be loaded last, and where its files lay in the shared storage.
        self._failed_with: tuple[int, str] | None = None
        self._broken = False
        self._engines = Engines(settings.INFERENCE_MAX_MODELS)
        self._finder = ModelFinder(
            self._engines,
            load=lambda model, beside: import_string(load)(model, beside=beside),
            most_waiting=max(settings.INFERENCE_MAX_RUNNING // 2, 1),
            deliver=self._take,
        )
        self._inbox: queue.SimpleQueue[Running | str] = queue.SimpleQueue()  # to start; ids to stop
        self._wake = threading.Event()
        self._running: dict[str, Running] = {}
        self._deadlines_checked = 0.0
        self._rest_at: float | None = None  # once, after work
        self._thread = threading.Thread(target=self._drive_or_give_up, name="engine", daemon=True)

    # --- other threads --------------------------------------------------------------------------------------
    def start(self) -> None:
        self._thread.start()

    def prepare(self, running: Running) -> None:
        """What may take long is done here and not by the thread everybody waits for. Call it before `put`."""
        self._finder.prepare(running)

    def put(self, running: Running) -> None:
        if running.awaiting is None:
            self._take(running)
        else:
            self._finder.wait(running)

    def may_claim(self, whole: int) -> bool:
        """Whether a generation may be claimed for this whole model now."""
        return self._serving is not None and self._serving.includes(whole) and self._finder.may_claim(whole)

    @property
    def wanted(self) -> list[int]:
        """The whole models whose generations this worker should hear of now."""
        if self._serving is None or not self.loaded.is_set():
            return []
        served = self._serving.models if self._serving.models is not None else whole_models()
        if self._engines.default is None:
            # It can only say what is wrong: others may do better.
            return without_ready_worker(served)
        return [model for model in served if self._finder.may_claim(model)]

    def figures(self) -> tuple[EngineFigures, dict[str, int]]:
        """See Engines."""
        return self._engines.figures()

    def _take(self, running: Running) -> None:
        self._inbox.put(running)
        self._wake.set()

    def stop_generation(self, generation_id: str) -> None:
        """Within one step, if it runs here."""
        self._inbox.put(generation_id)
        self._wake.set()

    def join(self, timeout: float) -> bool:
        """Whether it has ended, and as it should: what a broken engine ran is not handed over."""
        self._wake.set()
        self._thread.join(timeout)
        return not (self._thread.is_alive() or self._broken)

    def hand_over_the_rest(self) -> None:
        """What was put after the thread had ended. Call it when it has."""
        for item in [*self._finder.end(), *self._drain()]:
            if isinstance(item, Running):
                self._finisher.hand_over(item)

    # --- the thread -----------------------------------------------------------------------------------------
    def _drive_or_give_up(self) -> None:
        try:
            self._drive()
        except BaseException:
            # Without this thread the process would look alive and answer nobody. What it ran is found by the
            # reaper, which counts the crash: a request that breaks every engine is not handed round for ever.
            logger.critical("the engine thread broke: this worker ends", exc_info=True)
            self._broken = True
            self._stopping.set()
            self._give_up()

    def _drive(self) -> None:
        while not (self._register() or self._stopping.wait(1)):
            pass
        if self._stopping.is_set():
            return
        self._load()
        self.loaded.set()
        while self._engines.default is None and not self._stopping.is_set():
            self._refuse_for_a_while()
        settle(_COLLECT_AFTER)
        while not self._stopping.is_set():
            self._take_in()
            self._check_deadlines()
            resident = self._engines.turn()
            if resident is not None:
                self._step(resident)
                self._rest_at = time.monotonic() + _REST_AFTER
            else:
                self._wait()
                self._rest()
        # What we emitted is in the log before another worker can read it.
        self._publisher.flush()
        for running in self._running.values():
            self._finisher.hand_over(running)
        self._running.clear()

    def _wait(self) -> None:
        # Woken by a new generation or a stop; the timeout is for deadlines only.
        self._wake.wait(_DEADLINES_EVERY)
        self._wake.clear()

    def _rest(self) -> None:
        if self._rest_at is not None and time.monotonic() > self._rest_at:
            self._rest_at = None
            allocator.give_back()

    def _drain(self) -> list[Running | str]:
        items: list[Running | str] = []
        while True:
            try:
                items.append(self._inbox.get_nowait())
            except queue.Empty:
                return items

    # --- loading --------------------------------------------------------------------------------------------
    def _register(self) -> bool:
        try:
            with database_work():
                try:
                    serves = chosen().models
                except UserError:  # `_load` says it
                    serves = None
                self._lease.register(serves)
        except (DatabaseFailure, OSError) as error:
            logger.warning("no lease yet, trying again: %s", error)
            return False
        return True

    def _load(self) -> None:
        assert self._lease.worker is not None
        wanted: tuple[int, str] | None = None
        with database_work():
            try:
                self._serving = chosen()
                self._lease.worker.serves = self._serving.models
                model = self._serving.resident
                wanted = model.pk, model.manifest
                if self._lease.worker.state == Worker.State.BROKEN and wanted != self._failed_with:
                    # What it lacked has come: there is nothing to mend any more, only to wait for.
                    self._lease.report(Worker.State.LOADING)
                resident = self._made_resident(model)
            except Exception as error:  # whatever is wrong with a model, the process stays up and says so
                self._failed_with = wanted
                known = isinstance(error, EngineError | UserError)
                if str(error) not in self._lease.worker.error:  # said once, not with every try
                    is_young = isinstance(error, UserError) and error.code == "no_model"  # the site
                    level = logging.WARNING if is_young else logging.ERROR
                    logger.log(level, "the model cannot be loaded: %s", error, exc_info=not known)
                said = str(error) if known else f"{type(error).__name__}: {error}"
                self._lease.report(Worker.State.BROKEN, error=said)
            else:
                self._engines.add(resident, default=True)
                self._lease.report(Worker.State.READY, model=resident.model.name)

    def _made_resident(self, model: ServedModel) -> Resident:
        files = local_models.hold(model, self._stopping.is_set)
        started = time.monotonic()
        try:
            engine = import_string(self._load_path)(model)
        except BaseException:
            files.release()
            raise
        logger.info("model %s is loaded, in %.1f s", model.name, time.monotonic() - started)
        return Resident(model, engine, files)

    def _refuse_for_a_while(self) -> None:
        """Without a model every reply fails with the reason; now and then the model is tried again, since the way
        to mend it (a file put back, `models pull`) does not go through this process."""
        try_again_at = time.monotonic() + _RELOAD_SECONDS
        while time.monotonic() < try_again_at and not self._stopping.is_set():
            self._wait()
            for item in self._drain():
                if isinstance(item, Running):
                    assert self._lease.worker is not None
                    why = self._lease.worker.error
                    self._finish(item, "failed", error_code="model_unavailable", error_message=why)
        if not self._stopping.is_set():
            self._load()

    # --- taking in ------------------------------------------------------------------------------------------
    def _take_in(self) -> None:
        for item in self._drain():
            if isinstance(item, Running):
                self._submit(item)
            elif item in self._running:
                self._end(self._running[item], "cancelled")
            else:
                for waiting in self._finder.withdraw([item]):
                    self._finish(waiting, "cancelled")

    def _submit(self, running: Running) -> None:
        generation, resident = running.generation, running.resident
        before = self._running.get(running.request.id)
        if before is not None:
            # We lost our lease and came upon the same reply again: once the attempt before has left, it goes on here.
            self._end(before, "handed_over")
            self._hand_over(running)
            return
        if running.unavailable:
            self._finish(running, "failed", error_code="model_unavailable", error_message=running.unavailable)
            return
        if resident is None or resident.is_broken:
            self._hand_over(running)  # it was prepared before there was an engine, or for one that broke
            return
        try:
            if running.refused is not None:
                raise running.refused
            if running.adapter is not None:
                resident.engine.add_adapter(running.request.adapter, running.adapter)
            admission = resident.engine.submit(running.request, running.prepared)
            running.prepared = None
        except EngineBusy:
            self._hand_over(running)
        except EngineError as error:
            state = "refused" if not running.request.prior_token_ids else "failed"
            running.extras.refusal = error.figures
            self._finish(running, state, error_code=error.code, error_message=str(error))
        except Exception:
            with on_behalf_of(generation.request_id, generation=str(generation.id)):
                logger.exception("generation %s could not be submitted", generation.id)
            self._finish(running, "failed", error_code="engine_error", error_message=BROKE)
        else:
            self._running[running.request.id] = running
            running.fields = {"prompt_tokens": admission.prompt_tokens, "admitted_at": timezone.now()}
            self._finisher.say_admitted(running)
            worker_metrics.prompt_tokens.inc(admission.prompt_tokens)
            if not running.emission.started:
                data = {
                    "prompt_tokens": admission.prompt_tokens,
                    "max_tokens": admission.max_tokens,
                    "model": running.model_name,
                    "dropped_messages": admission.dropped_messages,
                }
                self._publisher.emit(running.emission, "admitted", data)
            if generation.cancel_requested:
                self._end(running, "cancelled")

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        if now - self._deadlines_checked > _DEADLINES_EVERY:
            self._deadlines_checked = now
            for running in self._running.values():
                if now > running.deadline and not running.ending:
                    self._end(running, "deadline_exceeded")
            for running in self._finder.withdraw_late(now):
                self._finish(running, "failed", error_code="deadline_exceeded", error_message=_TOO_SLOW)

    def _end(self, running: Running, why: str) -> None:
        assert running.resident is not None
        running.ending = running.ending or why
        running.resident.engine.cancel(running.request.id)

    # --- stepping -------------------------------------------------------------------------------------------
    def _step(self, resident: Resident) -> None:
        started = time.monotonic()
        try:
            outputs = resident.engine.step()
        except Exception:
            if resident is self._engines.default:
                raise
            logger.exception("the engine of %s broke", resident.model.name)
            outputs = self._broken_off(resident)
        took = time.monotonic() - started
        resident.computed += took
        worker_metrics.step_seconds.observe(took)
        if outputs:
            worker_metrics.batch_size.observe(len(outputs))
        self._put_out(outputs)

    def _broken_off(self, resident: Resident) -> list[StepOutput]:
        """The end of all that ran in it; others go on. It is loaded anew when it is asked for again."""
        self._engines.discard(resident)
        ran = [id_ for id_, running in self._running.items() if running.resident is resident]
        return [StepOutput(id_, [], finish_reason="error", error=BROKE) for id_ in ran]

    def _put_out(self, outputs: list[StepOutput]) -> None:
        """Logs one step, and sends what it finished to the finisher."""
        texts: list[NewText] = []
        finished = []
        made = 0
        for output in outputs:
            running = self._running.get(output.request_id)
            if running is None:
                continue
            # PostgreSQL stores no NUL, and the row and the log must hold the same text.
            text = output.text.replace("\x00", "\ufffd")
            running.text.append(text)
            if output.cached_tokens:
                running.fields["cached_tokens"] = output.cached_tokens
            if output.prompt_logprobs is not None or output.embedding is not None:
                self._put_out_reading(running, output)
            if output.token_ids:
                if "first_token_at" not in running.fields:
                    self._first_token(running)
                running.tokens += len(output.token_ids)
                made += len(output.token_ids)
                logprobs = None
                if output.logprobs is not None:
                    logprobs = logprob_items(output.logprobs)
                    running.extras.add_logprobs(logprobs)
                texts.append(NewText(running.emission, text, output.token_ids, logprobs))
            elif text:
                # What was held back and came free at the end belongs to no token, so an attempt that took over would
                # find it in the log and make it again: it is logged together with the end.
                running.last_text = text
            if output.finish_reason is not None:
                finished.append((running, output))
            elif running.emission.stale:
                self._end(running, "handed_over")
        if texts:
            self._publisher.emit_texts(texts)
        if made:
            worker_metrics.completion_tokens.inc(made)
        for running, output in finished:
            del self._running[output.request_id]
            self._send_off(running, output)

    def _first_token(self, running: Running) -> None:
        running.fields["first_token_at"] = now = timezone.now()
        if not running.tokens:  # otherwise an earlier attempt had the first
            waited = (now - running.generation.created_at).total_seconds()
            # Two machines' clocks may differ.
            worker_metrics.time_to_first_token.labels(running.generation.purpose).observe(max(waited, 0.0))

    def _put_out_reading(self, running: Running, output: StepOutput) -> None:
        """What was read off the prompt. Of its logprobs the log is told before the first text, and once: a later
        attempt reads them again."""
        if output.embedding is not None and running.head is not None:
            running.extras.result = {"scores": running.head.scores(output.embedding)}
        elif output.embedding is not None:
            running.extras.result = {"embedding": packed_vector(output.embedding)}
        if output.prompt_logprobs is not None and running.extras.prompt_logprobs is None:
            running.extras.prompt_logprobs = logprob_items(output.prompt_logprobs)
            data = {"logprobs": running.extras.prompt_logprobs}
            self._publisher.emit(running.emission, "prompt", data)

    def _send_off(self, running: Running, output: StepOutput) -> None:
        reason = output.finish_reason or ""
        if reason == "cancelled" and running.ending == "handed_over":
            self._finder.leave(running)
            self._finisher.drop(running)
        elif reason == "cancelled" and running.ending == "deadline_exceeded":
            self._finish(running, "failed", error_code="deadline_exceeded", error_message=_TOO_SLOW)
        elif reason == "cancelled":
            self._finish(running, "cancelled")
        elif reason == "error":
            self._finish(running, "failed", error_code="engine_error", error_message=output.error or BROKE)
        else:
            self._finish(running, "complete", finish_reason=reason)

    def _finish(self, running: Running, state: str, **fields: Any) -> None:
        self._finder.leave(running)
        self._finisher.finish(running, state, model_digest=running.model_digest, **fields)

    def _hand_over(self, running: Running) -> None:
        self._finder.leave(running)
        self._finisher.hand_over(running)
