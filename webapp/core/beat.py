"""Beat by a clock that nobody sets: what is due in two seconds is not due in an hour because the clock went back.

Celery's own scheduler reckons by the machine's clock, when the next time is as well as which task is next.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from celery.beat import PersistentScheduler, ScheduleEntry

_began_at, _began = datetime.now(UTC), time.monotonic()


def steady_now() -> datetime:
    """The time it was when this process began, and what has passed since then."""
    return _began_at + timedelta(seconds=time.monotonic() - _began)


class SteadyEntry(ScheduleEntry):
    last_run_at: datetime

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.schedule is not None:
            self.schedule.nowfun = steady_now
        # Kept by a beat before this one, and perhaps by a clock that was ahead.
        self.last_run_at = min(self.last_run_at, steady_now())


class SteadyScheduler(PersistentScheduler):
    Entry = SteadyEntry
