"""Which of the broker's queues this worker gets tasks from: those of the whole models it serves, as they come and go.

Celery's worker reads what it was started with (`-Q generate`); everything else is added while it runs. Knows nothing of
what a task is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

from inference.services import QUEUE, queue_of

logger = logging.getLogger(__name__)


class Subscriptions:
    """Any thread may call `update`; what it finds wanted is done by Celery's own, whose connection it is."""

    def __init__(self, worker: Any, wanted: Callable[[], Collection[int]]) -> None:
        """`worker`: Celery's WorkController. `wanted`: the whole models whose tasks it should get now."""
        self._worker, self._wanted = worker, wanted

    def update(self) -> bool:
        """Whether there is nothing to change."""
        wanted = {queue_of(model) for model in self._wanted()}
        if wanted == self._subscribed():
            return True
        consumer = getattr(self._worker, "consumer", None)
        if consumer is not None:  # else it is only being started
            consumer.call_soon(self._subscribe, consumer, wanted)
        return False

    def _subscribed(self) -> set[str]:
        return {name for name in [*self._queues.consume_from] if name.startswith(f"{QUEUE}.")}

    @property
    def _queues(self) -> Any:
        return self._worker.app.amqp.queues

    def _subscribe(self, consumer: Any, wanted: set[str]) -> None:
        if consumer.task_consumer is None:
            return  # it has lost its broker
        try:
            for name in wanted - self._subscribed():
                consumer.add_task_queue(name)
            for name in self._subscribed() - wanted:
                consumer.cancel_task_queue(name)
        except consumer.connection_errors as error:
            # Celery finds that out itself and connects anew, with all that it was told to consume.
            logger.warning("queues were not changed: %s", error)
