"""The clock by which hosts judge each other, set while a test runs; how time passes stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from webapp.core import clock

SetClock = Callable[[timedelta], None]
HOUR = timedelta(hours=1)
LONG_AGO = float("-inf")


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Sets it, as all processes see it, by so much from what it is."""
    usual, by = clock._ask, timedelta()
    monkeypatch.setattr(clock, "_asked", None)
    monkeypatch.setattr(clock, "_jumped_at", LONG_AGO)
    monkeypatch.setattr(clock, "_ASK_EVERY", 0.0)
    monkeypatch.setattr(clock, "_ask", lambda: usual() + by)

    def set_it(more: timedelta) -> None:
        nonlocal by
        clock.now()  # processes have looked at it before
        by += more

    return set_it


@pytest.fixture
def time_passes(set_clock: SetClock, monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """So much of it, and not because the clock was set."""

    def pass_(more: timedelta) -> None:
        set_clock(more)
        monkeypatch.setattr(clock, "_asked", None)
        monkeypatch.setattr(clock, "_jumped_at", LONG_AGO)

    return pass_
