"""Counting what is used against limits, in Redis: several rules checked and counted at once, all of them or none.

A *meter* is whoever something is counted for, by a name of the caller's. It may have four limits: requests and tokens a
minute, streams open at once, tokens a month. Knows no person, no workspace and no database.

A minute is the sixty seconds before now, wherever they began: counted by the second, and a second counts until all of
it is a minute old, so that no sixty seconds ever hold more than the limit. Streams are leases, which run out by
themselves where nobody ends them. A month's sum is a copy of somebody else's books: it is asked for where there is none
(`Verdict.unknown`), and forgotten after a minute, so that it cannot drift for long.

All times are the server's own clock, so that processes on several machines count alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from webapp.core.rate_limit_scripts import ADMIT, SETTLE, WINDOW_SECONDS

_PREFIX = "fw:limit:"


class Meter(msgspec.Struct, frozen=True):
    """Whoever is counted, and their limits; 0: none of this kind."""

    key: str
    requests: int = 0  # a minute
    tokens: int = 0  # a minute
    streams: int = 0  # at once
    monthly: int = 0  # tokens
    used: int = -1  # tokens of this month so far, by the books; -1: not looked up


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """A limit that what was asked does not fit into."""

    meter: int  # which of those that were asked
    kind: str  # "requests", "tokens", "streams", "monthly"
    limit: int
    used: int
    wait_ms: int  # until it fits; -1: it never does; 0: time alone does not say


class Remaining(msgspec.Struct, frozen=True, array_like=True):
    """What is left of a minute's limit, and how long until all of it is back."""

    limit: int
    remaining: int
    reset_ms: int


class Verdict(msgspec.Struct, frozen=True):
    """Counted, if there are neither refusals nor unknown sums; else nothing was."""

    refusals: list[Refusal]
    unknown: list[int]  # meters whose month's sum has to be looked up first
    requests: Remaining | None  # of the meter that is nearest to its end
    tokens: Remaining | None


class Use(msgspec.Struct, frozen=True):
    """What a meter holds now."""

    requests: int
    tokens: int


class _Ask(msgspec.Struct):
    now: float
    slot: str
    tokens: int
    lease: int
    month: str
    meters: Sequence[Meter]


_answer = msgspec.msgpack.Decoder(tuple[list[Refusal], list[int], list[int], list[int]])


class RateLimits:
    """Thread-safe. Every method raises redis.RedisError where the server is away; `now` is for tests of the clock."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._admit = connection.register_script(ADMIT)
        self._settle = connection.register_script(SETTLE)

    def admit(
        self, *, meters: Sequence[Meter], tokens: int, slot: UUID, lease: int, month: str, now: float = 0
    ) -> Verdict:
        """Counts one request of so many tokens, and a stream named `slot` that is open for at most `lease` seconds,
        with every meter; or with none of them. A slot that was admitted already is not counted again.

        One round trip.
        """
        ask = _Ask(now, str(slot), tokens, lease, month, meters)
        refusals, unknown, requests, used = _answer.decode(self._admit(args=[msgspec.msgpack.encode(ask)]))
        return Verdict(
            refusals,
            unknown,
            Remaining(*requests) if requests else None,
            Remaining(*used) if used else None,
        )

    def use(self, *, slot: UUID, tokens: int, month: str, now: float = 0) -> None:
        """So many tokens of what a slot was admitted for were used; it stays open."""
        self._settle(args=[now, str(slot), tokens, month, "use"])

    def end(self, *, slot: UUID, tokens: int, month: str, now: float = 0) -> None:
        """The last of a slot's tokens were used: what was counted too much or too little is corrected, and its stream
        is closed. Ending what is not open does nothing."""
        self._settle(args=[now, str(slot), tokens, month, "end"])

    def close(self, *, slot: UUID, now: float = 0) -> None:
        """Closes a slot's stream; what was counted for it stays as it is."""
        self._settle(args=[now, str(slot), 0, "", "close"])

    def withdraw(self, *, slot: UUID, now: float = 0) -> None:
        """What was admitted did not happen: nothing of it stays counted."""
        self._settle(args=[now, str(slot), 0, "", "withdraw"])

    def slots_of(self, meter: str, *, lease: int, older_than: int) -> list[UUID]:
        """The streams a meter has open that were admitted, with that lease, so many seconds ago or earlier."""
        seconds, _micros = self._connection.time()
        last = seconds + lease - older_than
        members: Any = self._connection.zrangebyscore(f"{_PREFIX}{meter}:c", "-inf", last)
        return [UUID(member.decode()) for member in members]

    def uses(self, meters: Iterable[str]) -> dict[str, Use]:
        """What each of these meters counted in the minute before now, where it has limits by the minute."""
        names = list(meters)
        with self._connection.pipeline(transaction=False) as pipe:
            pipe.time()
            for name in names:
                pipe.hgetall(f"{_PREFIX}{name}:r")
                pipe.hgetall(f"{_PREFIX}{name}:t")
            (seconds, _micros), *windows = pipe.execute()
        oldest = seconds - WINDOW_SECONDS
        sums = [
            sum(int(amount) for at, amount in window.items() if at.isdigit() and int(at) >= oldest)
            for window in windows
        ]
        return {name: Use(sums[2 * i], max(sums[2 * i + 1], 0)) for i, name in enumerate(names)}


def connect(url: str) -> redis.Redis:
    """A pool for threads that gives up soon: a request would rather do without than wait."""
    return redis.Redis.from_url(
        url,
        socket_timeout=1,
        socket_connect_timeout=0.5,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 1),
    )
