"""The broker: whether it lets us in, is new enough, and keeps what it is given.

One that is away is waited for; what waiting does not mend is refused at start.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from webapp.ops import room
from webapp.ops.doctor.clock import skew
from webapp.ops.doctor.finding import Finding, first_line, ok, problem, refusal, warning

TIMEOUT_SECONDS = 3
# Of the commands and the script features that we use, the newest came with it; Valkey says 7.2 here.
LEAST_VERSION = (6, 2)


def check() -> Iterator[Finding]:
    connection = redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    with connection as client:
        try:
            client.ping()
        except redis.RedisError as error:
            yield _unreachable(error)
            return
        yield ok("broker", "The broker answers.")
        try:
            yield from _look(client)
        except redis.RedisError as error:
            yield problem("broker", f"The broker answers with an error: {first_line(error)}", "See its log.")


def _unreachable(error: redis.RedisError) -> Finding:
    said = first_line(error)
    if isinstance(error, redis.AuthenticationError) or said.startswith(("NOAUTH", "WRONGPASS")):
        return refusal(
            "broker",
            "The broker does not accept the user and password in REDIS_URL.",
            "Correct them: redis://user:password@host, or redis://:password@host where it has one password.",
        )
    if isinstance(error, redis.exceptions.AuthorizationError | redis.exceptions.NoPermissionError):
        return refusal(
            "broker",
            f"The user in REDIS_URL may not do what this site has to: {said}.",
            "Give it all commands on the keys fw:* and celery:*, and all channels.",
        )
    if _is_tls(error):
        return refusal(
            "broker",
            f"The broker's TLS certificate cannot be verified: {said.rstrip('.')}.",
            "Name the authority that signed it, rediss://...?ssl_ca_certs=/path/of/ca.pem, and a host it is for.",
        )
    if "DB index" in said:
        return refusal("broker", "The broker has no database of the number in REDIS_URL.", "Choose 0 to 15.")
    advice = (
        "Correct REDIS_URL, or start that server." if settings.REDIS_GIVEN else "Start the site: make run"
    )
    return problem("broker", f"The broker does not answer: {said}", advice)


def _is_tls(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _look(client: redis.Redis) -> Iterator[Finding]:
    try:
        # Managed servers forbid CONFIG and allow INFO, which says the same.
        info: dict[str, Any] = client.info()
    except redis.ResponseError:
        yield warning(
            "broker",
            "The broker does not let its configuration be read.",
            "Allow INFO, or make sure that it has maxmemory-policy noeviction and appendonly yes.",
        )
        return
    yield from version(str(info.get("redis_version", "")))
    yield from eviction(str(info.get("maxmemory_policy", "noeviction")))
    if info.get("aof_enabled") == 0:
        yield warning(
            "broker",
            "The broker keeps no append-only file: replies being written start again when it restarts.",
            "Set appendonly yes.",
        )
    if info.get("aof_last_write_status", "ok") != "ok" or info.get("rdb_last_bgsave_status", "ok") != "ok":
        yield problem(
            "broker",
            "The broker cannot write to its disk, and refuses what it is given.",
            "Free some space on it.",
        )
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if room.is_short_of_memory(used=used, limit=most):
        yield warning(
            "broker",
            f"The broker has used {used / 1e6:,.0f} of the {most / 1e6:,.0f} MB it may use.",
            "Raise its maxmemory: when it is used up, nothing can be asked any more.",
        )
    if str(info.get("role")) == "slave":
        yield refusal(
            "broker", "The broker in REDIS_URL is a replica, which takes no writes.", "Name its primary."
        )
    seconds, microseconds = client.time()
    yield from skew("broker", "The broker's", seconds + microseconds / 1e6)


def version(said: str) -> Iterator[Finding]:
    """`said`: as in 7.0.15."""
    numbers = tuple(int(part) for part in said.split(".")[:2] if part.isdigit())
    if numbers and numbers < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        yield refusal(
            "broker",
            f"The broker is Redis {said}, too old for this site.",
            f"Use Redis {least} or newer, or any Valkey.",
        )


def eviction(policy: str) -> Iterator[Finding]:
    if policy != "noeviction":
        yield refusal(
            "broker",
            f"The broker's maxmemory-policy is {policy}: it may throw waiting tasks and replies away.",
            "Set maxmemory-policy noeviction.",
        )
