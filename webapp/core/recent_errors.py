"""The latest errors of all processes: what each logs as one, kept in the broker for the operator's page.

As in the logs: events and ids, never the content of messages. Knows nothing of what went wrong.
"""

from __future__ import annotations

import logging
from collections import deque

import msgspec
import redis
import structlog

from webapp.core import metrics
from webapp.core.logs import DJANGOS, on_one_line, without_opaque

_KEY = "fw:errors"
KEPT, KEPT_SECONDS = 100, 86_400
_LONGEST = 300  # characters


class RecentError(msgspec.Struct):
    at: float  # seconds since 1970
    process: str
    event: str  # what was logged, and of what kind an exception was
    request_id: str


# What the broker has not been told yet.
_pending: deque[RecentError] = deque(maxlen=KEPT)
_decoder = msgspec.json.Decoder(RecentError)


class Collector(logging.Handler):
    """Counts lines of the level ERROR and above, and keeps them for `publish`."""

    def emit(self, record: logging.LogRecord) -> None:
        metrics.errors.labels("log", record.levelname.lower()).inc()
        context = structlog.contextvars.get_contextvars()
        if isinstance(record.msg, dict):  # structlog's
            said = (record.msg.get(part) for part in ("event", "request", "code"))
            event, context = " ".join(str(part) for part in said if part), context | record.msg
        else:
            try:
                event = record.getMessage()
            except (TypeError, ValueError):  # arguments that do not fit, which the other handler tells
                event = str(record.msg)
            if record.name == DJANGOS:
                event = without_opaque(event)
        if record.exc_info and record.exc_info[0] is not None:
            event += f" ({record.exc_info[0].__name__})"
        event = on_one_line(None, "", {"event": event[:_LONGEST]})["event"]
        _pending.append(RecentError(record.created, "", event, str(context.get("request_id", ""))))


def publish(broker: redis.Redis, process: str) -> None:
    """Raises redis.RedisError, and then they are kept for the next time."""
    told = list(_pending)
    if not told:
        return
    for error in told:
        error.process = process
    with broker.pipeline(transaction=False) as pipe:
        pipe.lpush(_KEY, *(msgspec.json.encode(error) for error in told))
        pipe.ltrim(_KEY, 0, KEPT - 1)
        pipe.expire(_KEY, KEPT_SECONDS)
        pipe.execute()
    for error in told:
        # More may have come meanwhile, and pushed out what was told.
        if _pending and _pending[0] is error:
            _pending.popleft()


def read(broker: redis.Redis) -> list[RecentError]:
    """The latest first. Raises redis.RedisError."""
    found = []
    for stored in broker.lrange(_KEY, 0, KEPT - 1):
        try:
            found.append(_decoder.decode(stored))
        except msgspec.DecodeError:
            continue  # of another version of the site
    return sorted(found, key=lambda error: -error.at)
