"""From a generation to what answers it: an engine, perhaps an adapter, perhaps a classifier's head.

A model that is not loaded is loaded by a thread of its own, which leaves the cores to whoever is answering; generations
that ask for it wait here meanwhile, whichever of them was first. Knows nothing of steps.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from functools import partial

import msgspec

from inference.engine.interface import Engine, EngineError, InvalidAdapter, NotEnoughMemory
from inference.engines import Engines, Key, Resident, key_of
from inference.formats.digest import adapted_digest
from inference.lease import database_work
from inference.local_models import NotHere, hold
from inference.models import Generation, ServedModel
from inference.running import Running

logger = logging.getLogger(__name__)

NOT_THERE = "The model of this reply is not there any more. Choose another model."
# So long after its last reply a model makes room unasked [s]: a training job may need it.
_UNUSED_AFTER, _LOOK_EVERY = 900.0, 30.0


class _Unavailable(Exception):
    """Nothing answers with this model; the message is a sentence."""


class ModelFinder:
    """Any thread may call it. The engine thread gets what had to wait by `deliver`."""

    def __init__(
        self,
        engines: Engines,
        *,
        load: Callable[..., Engine],
        most_waiting: int,
        deliver: Callable[[Running], None],
    ) -> None:
        """`load(model, beside=is_answering)` makes an engine beside the default one. With `most_waiting` generations
        that wait for models, only those that are there `may_claim`."""
        self._engines, self._load_engine, self._deliver = engines, load, deliver
        self._most_waiting = most_waiting
        self._changed = engines.changed
        self._waiting: dict[
            Key, list[Running]
        ] = {}  # by the model they wait for; the first to wait is the first
        self._loader: threading.Thread | None = None
        self._ended = False

    def prepare(self, running: Running) -> None:
        """Gives it what answers it, or says in `unavailable` why nothing does, or in `awaiting` what has to be loaded
        for it: then `wait` is what comes next. Takes its time where an adapter has to be read."""
        running.awaiting = running.prepared = running.refused = None
        if self._engines.default is None:
            return
        try:
            model = self._model_of(running.generation, self._engines.default.model)
            resident = self._engines.hold(model.base or model)
            if resident is None:
                running.awaiting = model.base or model
                return
            try:
                self._fit_out(running, resident, model)
            except BaseException:
                self._engines.release(resident)
                raise
            running.resident = resident
        except _Unavailable as error:
            running.unavailable = str(error)
            return
        try:
            running.prepared = resident.engine.prepare(running.request)
        except EngineError as error:
            running.refused = error
        except Exception:  # `submit` meets it again, and ends this one alone
            logger.exception("generation %s could not be prepared", running.request.id)

    def wait(self, running: Running) -> None:
        """Until the model it is `awaiting` is there, or known not to come; then it is delivered."""
        assert running.awaiting is not None
        with self._changed:
            self._waiting.setdefault(key_of(running.awaiting), []).append(running)
            if self._loader is None:
                self._loader = threading.Thread(target=self._load_what_is_wanted, name="loader", daemon=True)
                self._loader.start()
            self._changed.notify_all()

    def withdraw(self, ids: Collection[str]) -> list[Running]:
        """Those of these ids that wait: they wait no more, and will not be delivered."""
        return self._withdraw(lambda running: running.request.id in ids)

    def withdraw_late(self, now: float) -> list[Running]:
        """Those whose deadline is over, likewise."""
        return self._withdraw(lambda running: now > running.deadline)

    def _withdraw(self, is_meant: Callable[[Running], bool]) -> list[Running]:
        if not self._waiting:
            return []
        with self._changed:
            found = [
                running for waiting in self._waiting.values() for running in waiting if is_meant(running)
            ]
            for running in found:
                self._forget(running)
            return found

    def may_claim(self, whole: int) -> bool:
        """Whether generations may be claimed for this whole model. Those that wait for a model leave places to others,
        whose model is there."""
        with self._changed:
            waiting = sum(map(len, self._waiting.values()))
        return waiting < self._most_waiting or whole in self._engines.takers()

    def end(self) -> list[Running]:
        """Nothing is loaded any more; answers those that wait."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        return self._withdraw(lambda running: True)

    # --- what answers ---------------------------------------------------------------------------------------
    def _model_of(self, generation: Generation, default: ServedModel) -> ServedModel:
        judging = generation.purpose == "classification"
        if generation.model_id == default.pk and default.is_default and not judging:
            return default  # everybody's, of a kind that writes, and never removed
        model = ServedModel.objects.select_related("base").filter(pk=generation.model_id).first()
        if model is None or model.workspace_id not in (None, generation.workspace_id):
            raise _Unavailable(NOT_THERE)
        for one in (model, model.base or model):
            if one.removed_at is not None:
                raise _Unavailable(f"{one.name} has been removed. Choose another model.")
        if judging and model.kind != ServedModel.Kind.CLASSIFIER:
            raise _Unavailable(f"{model.name} is no classifier.")
        if model.kind == ServedModel.Kind.CLASSIFIER and not judging:
            raise _Unavailable(f"{model.name} judges texts and writes none. Choose another model.")
        return model

    def _fit_out(self, running: Running, resident: Resident, model: ServedModel) -> None:
        engine, known = resident.engine, resident.adapters.known(model)
        try:
            adapter, head = known or resident.adapters.read(model)
        except (InvalidAdapter, NotHere) as error:
            raise _Unavailable(f"{model.name} cannot be used. {error}") from error
        if known is None:
            # Nobody knew of this generation meanwhile: a stop that came is in its row only.
            _look_for_stop(running)
        running.model_name = model.name
        running.model_digest = engine.model_digest if head is None else model.digest
        running.adapter, running.head = adapter, head
        if adapter is not None:
            running.request = msgspec.structs.replace(running.request, adapter=adapter.digest)
            running.model_digest = adapted_digest(engine.model_digest, model.digest)
        if head is not None:
            # The engine's context has room for one token more than a prompt's.
            limit = min(head.card.max_length, model.context_length - 1)
            running.request = msgspec.structs.replace(running.request, prompt_limit=limit)

    # --- loading --------------------------------------------------------------------------------------------
    def _load_what_is_wanted(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._waiting, _LOOK_EVERY)
                if self._ended:
                    return
                base = next(iter(self._waiting.values()))[0].awaiting if self._waiting else None
            if base is None:
                self._engines.drop_idle(unused_for=_UNUSED_AFTER)
                continue
            with database_work():
                self._serve(base)

    def _serve(self, base: ServedModel) -> None:
        key = key_of(base)
        try:
            if not self._engines.has(base):
                self._load(base)
        except Exception as error:  # whatever is wrong with a model, the others go on
            known = isinstance(error, EngineError)
            logger.error("%s cannot be loaded: %s", base.name, error, exc_info=not known)
            why = f"{base.name} cannot be used. {error if known else type(error).__name__}"
            with self._changed:
                waiting = self._waiting.pop(key, [])
            for running in waiting:
                running.unavailable = why
                self._deliver(running)
            return
        with self._changed:
            waiting = list(self._waiting.get(key, ()))
        for running in waiting:
            self._prepare_again(running)

    def _load(self, base: ServedModel) -> None:
        """Raises what loading raises; loads nothing where nobody waits for it any more."""
        files = hold(base, lambda: self._ended)
        try:
            engine = self._engine_of(base)
        except BaseException:
            files.release()
            raise
        if engine is None:
            files.release()
        else:
            self._engines.add(Resident(base, engine, files))

    def _engine_of(self, base: ServedModel) -> Engine | None:
        key = key_of(base)
        if not self._engines.make_room(lambda: not self._ended and key in self._waiting):
            return None
        started = time.monotonic()
        engine = self._load_with_room(partial(self._load_engine, base, beside=self._engines.is_answering))
        # Of a classifier the head belongs to it: that is read, and compared, by whoever is judged by it.
        if engine.model_digest != base.digest and base.kind != ServedModel.Kind.CLASSIFIER:
            engine.close()
            raise EngineError("Its files are not the ones that were registered.")
        logger.info("model %s is loaded, in %.1f s", base.name, time.monotonic() - started)
        return engine

    def _load_with_room(self, load: Callable[[], Engine]) -> Engine:
        while True:
            try:
                return load()
            except NotEnoughMemory:
                if not self._engines.drop_idle():
                    raise

    def _prepare_again(self, running: Running) -> None:
        """And delivers it, unless it was withdrawn meanwhile."""
        try:
            self.prepare(running)
            _look_for_stop(running)
        except Exception:  # such as a database that is away: without an engine it is handed over
            logger.exception("generation %s could not be prepared", running.request.id)
        with self._changed:
            waited = self._forget(running)
        if not waited:
            self.leave(running)
        elif running.awaiting is not None:
            self.wait(running)
        else:
            self._deliver(running)

    def leave(self, running: Running) -> None:
        """It needs its engine no more."""
        with self._changed:  # the loader may be at it, where it was withdrawn meanwhile
            resident, running.resident = running.resident, None
            if resident is not None:
                self._engines.release(resident)

    def _forget(self, running: Running) -> bool:
        """Whether it was among those that wait."""
        for key, waiting in self._waiting.items():
            if running in waiting:
                waiting.remove(running)
                if not waiting:
                    del self._waiting[key]
                self._changed.notify_all()
                return True
        return False


def _look_for_stop(running: Running) -> None:
    stopped = Generation.objects.filter(pk=running.generation.pk, cancel_requested=True)
    running.generation.cancel_requested = stopped.exists()
