"""Beat when the clock is set: what is due every two seconds stays due every two seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery import Celery

from webapp.core import beat


class Clock(datetime):
    """The machine's, as Celery reads it."""

    ahead = timedelta()

    @classmethod
    def now(cls, tz: object = None) -> datetime:
        return datetime.now(UTC) + cls.ahead


def test_nothing_waits_for_an_hour_because_the_clock_went_back_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Celery("test", set_as_current=False, broker="memory://")
    app.conf.beat_schedule = {
        name: {"task": name, "schedule": seconds} for name, seconds in (("often", 0.01), ("seldom", 0.02))
    }
    sent: list[str] = []

    def scheduler() -> beat.SteadyScheduler:
        made = beat.SteadyScheduler(app=app, schedule_filename=str(tmp_path / "schedule"))
        monkeypatch.setattr(made, "apply_entry", lambda entry, producer=None: sent.append(entry.task))
        return made

    def beats(made: beat.SteadyScheduler) -> set[str]:
        sent.clear()
        for _ in range(2000):
            made.tick()
            if {"often", "seldom"} <= set(sent):
                break
        return set(sent) & {"often", "seldom"}

    monkeypatch.setattr("celery.app.base.datetime", Clock)
    first = scheduler()
    assert beats(first) == {"often", "seldom"}
    Clock.ahead = -timedelta(hours=1)
    assert beats(first) == {"often", "seldom"}
    Clock.ahead = timedelta(hours=1)
    assert beats(first) == {"often", "seldom"}
    # One that is started again finds what was kept by a clock that was an hour ahead.
    for entry in first.schedule.values():
        entry.last_run_at = entry.last_run_at + timedelta(hours=1)
    first.close()
    Clock.ahead = timedelta()
    assert beats(scheduler()) == {"often", "seldom"}
