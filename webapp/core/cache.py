"""The site's cache: in Redis as JSON, so that reading a value can never run code; in memory while Redis is away."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)
_SAY_EVERY_SECONDS = 60.0
_said_at = float("-inf")


class JsonSerializer:
    """The serializer of django.core.cache.backends.redis; its default is pickle."""

    def dumps(self, value: Any) -> bytes | int:
        # Plain whole numbers stay numbers, so that Redis itself can increment them.
        if type(value) is int:
            return value
        return json.dumps(value, separators=(",", ":")).encode()

    def loads(self, data: bytes | int) -> Any:
        return json.loads(data) if isinstance(data, bytes) else data


def _or_in_memory(name: str) -> Callable[..., Any]:
    redis_method = getattr(RedisCache, name)

    @functools.wraps(redis_method)
    def method(self: SteadyRedisCache, *args: Any, **kwargs: Any) -> Any:
        try:
            return redis_method(self, *args, **kwargs)
        except RedisError as error:
            _say(error)
            return getattr(self.in_memory, name)(*args, **kwargs)

    return method


def _say(error: RedisError) -> None:
    """Once in a while: every page asks, and whoever runs the site should know that limits are not what they were."""
    global _said_at
    if monotonic() - _said_at >= _SAY_EVERY_SECONDS:
        _said_at = monotonic()
        logger.warning("cache and log-in limits are each process's own while the broker is away: %s", error)


class SteadyRedisCache(RedisCache):
    """Redis, or this process's memory while Redis does not answer: pages open, and log-ins stay throttled."""

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self.in_memory = LocMemCache(
            "while redis is away", {key: params[key] for key in params if key != "OPTIONS"}
        )

    add = _or_in_memory("add")
    get = _or_in_memory("get")
    set = _or_in_memory("set")
    touch = _or_in_memory("touch")
    delete = _or_in_memory("delete")
    get_many = _or_in_memory("get_many")
    has_key = _or_in_memory("has_key")
    incr = _or_in_memory("incr")
    set_many = _or_in_memory("set_many")
    delete_many = _or_in_memory("delete_many")
