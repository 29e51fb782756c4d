"""What a worker hears and says beside its work: its lease is renewed, stop requests reach the engine thread, tasks come
of the models it serves, what was claimed and then lost is given back, and what was removed leaves this host."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from django.conf import settings

from inference import local_models, services
from inference.lease import Lease, database_work
from inference.running import Slots
from inference.stream import CONTROL_CHANNEL, connect

logger = logging.getLogger(__name__)


_END_SECONDS = 6.0  # a renewal under way may wait for SQLite's lock for five


# Seconds. A model that was added is heard of within this; a worker that has just started, within the other.
_SUBSCRIBE_EVERY, _SUBSCRIBE_SOON = 1.0, 0.1
_FORGET_EVERY = 600.0


class Keeper:
    """Three threads. They go on until `ended`: a worker that hands over needs its lease until it has."""

    def __init__(
        self,
        lease: Lease,
        slots: Slots,
        stop_generation: Callable[[str], None],
        loaded: threading.Event,
    ) -> None:
        self._lease, self._slots, self._stop_generation, self._loaded = lease, slots, stop_generation, loaded
        self._ended = threading.Event()
        self._keeping = threading.Thread(target=self._keep_lease, name="keep_lease", daemon=True)
        self._hearing = threading.Thread(target=self._hear_stops, name="hear_stops", daemon=True)

    def start(self, subscribe: Callable[[], bool]) -> None:
        self._keeping.start()
        self._hearing.start()
        threading.Thread(target=self._subscribe, args=[subscribe], name="subscribe", daemon=True).start()

    def end(self) -> None:
        """Returns when the lease is not going to be renewed any more, so that it can be given up."""
        self._ended.set()
        self._keeping.join(_END_SECONDS)

    def _keep_lease(self) -> None:
        while not self._ended.wait(settings.INFERENCE_LEASE_SECONDS / 3):
            if not self._lease.registered.is_set():
                continue
            try:
                with database_work():
                    self._lease.renew()
                    self._look_at_what_is_claimed()
            except Exception:  # this thread must outlive whatever the database does
                logger.warning("lease not renewed, trying again", exc_info=True)

    def _look_at_what_is_claimed(self) -> None:
        for generation in self._lease.claimed():
            if not self._slots.holds(str(generation.id)):
                # A claim, or the end of one, that broke off halfway leaves a row that is ours and that nothing runs.
                if services.release_generation(generation=generation):
                    logger.error("generation %s was claimed and then lost: given back", generation.id)
            elif generation.cancel_requested:
                self._stop_generation(str(generation.id))

    def _subscribe(self, subscribe: Callable[[], bool]) -> None:
        self._loaded.wait()
        forget_at, pause = 0.0, 0.0
        while not self._ended.wait(pause):
            pause = _SUBSCRIBE_EVERY
            try:
                with database_work():
                    pause = _SUBSCRIBE_EVERY if subscribe() else _SUBSCRIBE_SOON
                    if time.monotonic() > forget_at:
                        local_models.forget_removed()
                        forget_at = time.monotonic() + _FORGET_EVERY
            except Exception:  # this thread must outlive whatever the database does
                logger.warning("queues not looked at, trying again", exc_info=True)

    def _hear_stops(self) -> None:
        while not self._ended.is_set():
            try:
                client = connect()
                with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    pubsub.subscribe(CONTROL_CHANNEL)
                    while not self._ended.is_set():
                        message = pubsub.get_message(timeout=1.0)
                        if message is not None:
                            self._stop_generation(message["data"].decode())
            except Exception as error:  # this thread must outlive whatever the broker does
                logger.warning("stop requests not heard, reconnecting: %s", error)
                time.sleep(0.5)
