"""The Celery side of inference: thin. A worker of queue `generate` owns a WorkerHost; `default` runs the reaper."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

from celery import shared_task
from celery.signals import celeryd_after_setup, worker_shutdown, worker_shutting_down
from django.conf import settings

from inference import model_services, services, serving, worker_services
from webapp.core import metrics

if TYPE_CHECKING:
    from inference.worker import WorkerHost

_host: WorkerHost | None = None
_stopper: threading.Thread | None = None


@celeryd_after_setup.connect
def _start_host(instance: Any, **_: Any) -> None:
    """A worker that consumes `generate` loads its model at once, not with the first message."""
    global _host
    if services.QUEUE in instance.app.amqp.queues.consume_from:
        from inference.subscriptions import Subscriptions
        from inference.worker import WorkerHost
        from inference.worker_metrics import collector

        if refusal := serving.wrong_names():
            sys.exit(f"flywheel: {refusal}")
        host = _host = WorkerHost()
        metrics.register_own(collector(host.figures))
        host.start(Subscriptions(instance, lambda: host.wanted).update)


@worker_shutting_down.connect
def _stop_host(**_: Any) -> None:
    """Runs inside a signal handler: the work of handing over is a thread's. Celery waits for task threads, which
    may be waiting for a slot, so it has to begin now and not when they are done."""
    global _stopper
    if _host is not None and _stopper is None:
        _stopper = threading.Thread(target=_host.stop, name="stopper")
        _stopper.start()


@worker_shutdown.connect
def _wait_for_host(**_: Any) -> None:
    _stop_host()  # Celery also gives up by itself, when it has lost its broker, and then says only this
    if _stopper is not None:
        _stopper.join(settings.STOP_GRACE_SECONDS + 30)


@shared_task(name="inference.generate")
def generate(generation_id: str, model: int | None = None) -> None:
    """Delivered once or more; all but the first delivery find the row claimed and do nothing."""
    if _host is None:
        raise RuntimeError("Queue generate is consumed by a worker that was not set up for it.")
    _host.run(generation_id, model)


@shared_task(name="inference.reap")
def reap() -> None:
    worker_services.reap()


@shared_task(name="inference.sweep")
def sweep() -> None:
    model_services.remove_orphans()
    worker_services.forget_unread()
