"""Tasks as Celery's Redis transport keeps them in a queue, written without Celery: to put one together takes it ten
times as long as the broker takes to queue it, and every request waits for that. Knows no task of ours.

Celery's message protocol, version 2 (docs.celeryq.dev/en/stable/internals/protocol.html), in the envelope of kombu's
virtual transports. Workers read it as any other.
"""

from __future__ import annotations

import time
import uuid
from base64 import b64encode
from collections.abc import Iterable, Sequence
from functools import lru_cache
from time import monotonic

import msgspec
from django.conf import settings
from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeout

from webapp.core.rate_limits import connect
from webapp.core.task_headers import SENT_AT

_EMBEDDED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_encode = msgspec.json.Encoder().encode
# A broker that did not answer in time is left alone for so long: not everybody is to wait for it.
_DEAF_SECONDS = 5.0
_deaf_until = 0.0


def push(task: str, each: Iterable[Sequence[str | int]], queue: str) -> None:
    """Queues a task for each of these arguments. A person waits for it, so it gives up soon.

    Raises redis.RedisError.
    """
    global _deaf_until
    if monotonic() < _deaf_until:
        raise RedisTimeout("it did not answer a moment ago")
    try:
        _broker(settings.REDIS_URL).lpush(
            queue_key(queue), *(task_message(task, arguments, queue) for arguments in each)
        )
    except RedisTimeout:
        _deaf_until = monotonic() + _DEAF_SECONDS
        raise


@lru_cache(maxsize=4)
def _broker(url: str) -> Redis:
    return connect(url)


def queue_key(queue: str) -> str:
    """The list in Redis that is a queue of Celery's."""
    return f"{settings.CELERY_BROKER_TRANSPORT_OPTIONS.get('global_keyprefix', '')}{queue}"


def task_message(task: str, arguments: Sequence[str | int], queue: str) -> bytes:
    """A message to be pushed to the left of `queue_key(queue)`."""
    id_ = str(uuid.uuid4())
    return _encode(
        {
            "body": b64encode(_encode([arguments, {}, _EMBEDDED])).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "lang": "py",
                "task": task,
                "id": id_,
                "root_id": id_,
                "parent_id": None,
                "group": None,
                "retries": 0,
                "eta": None,
                "expires": None,
                "timelimit": [None, None],
                "argsrepr": repr(list(arguments)),
                "kwargsrepr": "{}",
                "ignore_result": True,
                SENT_AT: time.time(),
            },
            "properties": {
                "correlation_id": id_,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )
