"""A file whose age says whether a worker or beat is alive and hears the broker: FLYWHEEL_PULSE, for health checks.

Asking the worker itself would take a second of a core each time, to import Django and Celery and to go through the
broker; looking at a file takes a millisecond. The web process is asked at /healthz instead. Knows nothing of tasks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery, bootsteps, signals

EVERY_SECONDS = 5.0


def beat_into(file: Path, app: Celery) -> None:
    """From now on the process that runs `app` touches `file`: a worker while it waits for tasks, beat with each task it
    has sent. The one stops when the loop that waits for the broker does, the other when the broker takes nothing."""

    def touch(**_: Any) -> None:
        # Not through a link that somebody put into a folder that all may write.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        os.utime(descriptor)
        os.close(descriptor)

    class Pulse(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            touch()
            self.entry = parent.timer.call_repeatedly(EVERY_SECONDS, touch)

        def stop(self, parent: Any) -> None:
            if hasattr(self, "entry"):
                self.entry.cancel()

    app.steps["consumer"].add(Pulse)

    @signals.beat_init.connect(weak=False)
    def _with_each_task(**_: Any) -> None:
        signals.after_task_publish.connect(touch, weak=False)
