"""The one clock by which hosts judge each other: the database's. Leases, deadlines and heartbeats are told by it.

Hosts' own clocks differ, and any of them may be set at any time; a worker taken for dead because another host's clock
is ahead would have its replies written twice. A clock can still be set while the site runs, also the database's, and a
machine may sleep: then everything looks overdue, or due in an hour. `settled` says when that can be judged again, and
`deletion_time` when what its time has run out for may go for good. Knows no model of ours.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

from django.db import connection
from django.utils import timezone

# How long the database's time is carried on by this process's own monotonic clock before it is asked again.
_ASK_EVERY = 1.0
# What an answer may be late by, and clocks may be slewed by; a clock that was set is off by more.
_JUMP_SECONDS = 5.0
# A machine that starts with a wrong clock is told the time by its network within minutes.
_PROVEN_SECONDS = 3000.0

_lock = threading.Lock()
_asked: tuple[float, datetime] | None = None  # on time.monotonic()'s clock, and what the database said
_jumped_at = float("-inf")
_watched_since: float | None = None  # on time.monotonic()'s clock, too


def now() -> datetime:
    """The database's time. Raises DatabaseError."""
    global _asked, _jumped_at, _watched_since
    with _lock:
        known = _asked
    if known is not None and connection.vendor != "sqlite" and time.monotonic() - known[0] < _ASK_EVERY:
        return known[1] + timedelta(seconds=time.monotonic() - known[0])
    at = time.monotonic()  # before: what is carried on is never behind what the database would say
    said = _ask()
    with _lock:
        if known is not None and known is _asked:
            expected = known[1] + timedelta(seconds=at - known[0])
            if abs((said - expected).total_seconds()) > _JUMP_SECONDS:
                _jumped_at = at
        if _watched_since is None:
            _watched_since = at
        _asked = (at, said)
    return said


def settled(seconds: float) -> bool:
    """Whether the clock has not been set for so long: then who is alive has said so by the time it shows now."""
    with _lock:
        return time.monotonic() - _jumped_at > seconds


def deletion_time() -> datetime | None:
    """The time, for who deletes by it what does not come back; None before this process has seen the clock go steadily
    for most of an hour: a machine that began in a wrong year looks like any other. Raises DatabaseError."""
    moment = now()
    with _lock:
        is_watched = _watched_since is not None and time.monotonic() - _watched_since > _PROVEN_SECONDS
    return moment if is_watched and settled(_PROVEN_SECONDS) else None


def _ask() -> datetime:
    if connection.vendor == "sqlite":
        return timezone.now()  # one host, and so one clock
    with connection.cursor() as cursor:
        # Not CURRENT_TIMESTAMP, which stands still in a transaction.
        cursor.execute("SELECT clock_timestamp()")
        said: datetime = cursor.fetchone()[0]
    return said.astimezone(UTC)
